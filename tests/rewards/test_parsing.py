"""Replies of every kind, and the number in each or that there is none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.rewards.hop_replies import read_hop
from roborl.rewards.judges.queries import VlmReply
from roborl.rewards.parsing import (
    parse_flag,
    parse_score,
    parse_signed_percent,
    tag_content,
)
from roborl.rewards.sole import parse_answer
from roborl.rewards.vlac.replies import read_done, read_percent

NONE_EVER = [
    "",
    " ",
    "\n\n",
    "None",
    "null",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "Infinity",
    "unknown",
    "N/A",
    "?",
    "-",
    "+",
    "%",
    "--",
    "...",
    "I cannot tell from these pictures.",
    "The gripper has closed around the cube and is lifting it.",
    "Sure! Here is my evaluation of the robot's progress:",
    "<score>",
    "</score>",
    "<score></score>",
    "<score> </score>",
    "<answer></answer>",
    "ANSWER:",
    "ANSWER: ",
    "Answer: none",
    "1e1",
    "1e400",
    "0x3",
    "1_0",
    "１",
    "٣",
    "²",
    "½",
    "Ⅳ",
    "1,5",
    "1.2.3",
    "-25.0.0.5.6.6.6.6.6.6.6.6.6.6.6.6.6.6.6",
    "333333333333333333333333333333333333",
    "0.33333333333333333333333333333333",
    "<|im_end|>",
    "assistant",
    '{"score": 4}',
    "[4]",
    "(4)",
    "\x00",
    "\ufffd",
    "4\x00",
    "one",
    "vier",
    "four or five",
    "between 3 and 4",
    "3-4",
    "3~4",
    "4/5",
    "4 out of 5",
    "4 of 5",
    "about 4",
    "4ish",
    "4 4",
    "4\n5",
    "++4",
    "+-4",
    "--4",
    "4-",
    "4+",
    "= 4",
    "~4",
    "$4",
    "4°",
    "<4>",
    "04",
    "007",
    "00",
]

SCORES = {
    "ANSWER: 1": 1,
    "ANSWER: 5": 5,
    "ANSWER:3": 3,
    "ANSWER:  2": 2,
    "answer: 4": 4,
    "Answer: 4": 4,
    "ANSWER: 4.": 4,
    "ANSWER: 4 .": 4,
    "ANSWER: 4\n": 4,
    " ANSWER: 4 ": 4,
    "ANSWER:\n4": 4,
    "ANSWER: **4**": 4,
    "2": 2,
    "5.": 5,
    " 3\n": 3,
    "**3**": 3,
    "The cube is in the bowl.\nANSWER: 5": 5,
    "Rows 1 to 3 are wrong, so it is nearly done. Answer: 2": 2,
    "ANSWER: 3\nANSWER: 3": 3,
    "**ANSWER: 4": 4,
    "ANSWER: 0": None,
    "ANSWER: 6": None,
    "ANSWER: 10": None,
    "ANSWER: 45": None,
    "ANSWER: 444444444444": None,
    "ANSWER: -3": None,
    "ANSWER: +3": None,
    "ANSWER: 3.5": None,
    "ANSWER: 3.0": None,
    "ANSWER: 4,": None,
    "ANSWER: 4!": None,
    "ANSWER: 4?": None,
    "ANSWER: 4 or 5": None,
    "ANSWER: 4-5": None,
    "ANSWER: 4/5": None,
    "ANSWER: 4 out of 5": None,
    "ANSWER: 4 because the cube is in": None,
    "ANSWER: 2\nANSWER: 4": None,
    "ANSWER: 2 ANSWER: 4": None,
    "ANSWER: 4\nANSWER:": None,
    "ANSWER: ANSWER: 4": None,
    "ANSWER: four": None,
    "ANSWER: (4)": None,
    "ANSWER: '4'": None,
    "ANSWER: <4>": None,
    "ANSWER: **4": None,
    "ANSWER: 4**": None,
    "ANSWER 4": None,
    "ANSWER = 4": None,
    "SCORE: 4": None,
    "My answer is 4": None,
    "4 because the cube is in": None,
    "The score is 4.": None,
    "4%": None,
    "+4": None,
    "-4": None,
    "0": None,
    "6": None,
    "100": None,
    "4.0": None,
}

PERCENTS = {
    "0%": 0.0,
    "100%": 1.0,
    "62%": 0.62,
    "62 %": 0.62,
    " 62% ": 0.62,
    "62.5%": 0.625,
    "0.5%": 0.005,
    "99.9%": 0.999,
    "100.0%": 1.0,
    "62": None,
    "0.62": None,
    "101%": None,
    "100.1%": None,
    "620%": None,
    "1000%": None,
    "-5%": -0.05,
    "+5%": 0.05,
    "-0%": 0.0,
    "5%%": None,
    "%5": None,
    "5% 6%": None,
    "5%-10%": None,
    "~5%": None,
    "62.%": None,
    ".5%": None,
    "62.55555%": None,
    "6 2%": None,
    "062%": None,
    "62%.": None,
    "62 percent": None,
    "progress: 62%": None,
    "62% done": None,
}

SIGNED = {
    "<score>+33.3%</score>": 0.333,
    "<score>-33.3%</score>": -0.333,
    "<score>0.0%</score>": 0.0,
    "<score>0%</score>": 0.0,
    "<score>-0%</score>": 0.0,
    "<score>+0.0%</score>": 0.0,
    "<score>25%</score>": 0.25,
    "<score>+66.7%</score>": 0.667,
    "<score>+100%</score>": 1.0,
    "<score>-100.0%</score>": -1.0,
    "<score> +5 % </score>": 0.05,
    " <score>+5%</score>\n": 0.05,
    "<score>+100.1%</score>": None,
    "<score>-101%</score>": None,
    "<score>+1000%</score>": None,
    "<score>+5</score>": None,
    "<score>5 percent</score>": None,
    "<score>+5%</score": None,
    "<score>+5%": None,
    "+5%</score>": None,
    "+5%": None,
    "<score>+5%</score></score>": None,
    "<score><score>+5%</score>": None,
    "<score><score>+5%</score></score>": None,
    "<score>+5%</score><score>+5%</score>": None,
    "<score>+5%</score><score>-5%</score>": None,
    "<score>+5% <score>": None,
    "<SCORE>+5%</SCORE>": None,
    "<score>+5%</answer>": None,
    "<score>+ 5%</score>": None,
    "<score>−5%</score>": None,
    "<score>±5%</score>": None,
    "<score>+-5%</score>": None,
    "<score>+5%-10%</score>": None,
    "<score>+5% or +10%</score>": None,
    "<score>-25.0.0.5.6.6%</score>": None,
    "<score>+33.33333333333%</score>": None,
    "<score>+333333333%</score>": None,
    "<score>+05%</score>": None,
    "<score>nan%</score>": None,
    "<score>inf%</score>": None,
    "<score>better</score>": None,
    "The arm moved closer. <score>+5%</score>": None,
    "<score>+5%</score> The arm moved closer.": None,
}

BARE = {
    "+60": 0.6,
    "-15": -0.15,
    "0": 0.0,
    "-0": 0.0,
    "60": 0.6,
    "100": 1.0,
    "-100": -1.0,
    "+12.5": 0.125,
    " +60\n": 0.6,
    "101": None,
    "-101": None,
    "999": None,
    "+60%": None,
    "60 cm": None,
    "+60 -15": None,
    "+60\n+60": None,
    "1.02.0": None,
    "+60</score>": None,
}


def test_the_corpus_is_large_enough():
    assert len(NONE_EVER) + len(SCORES) + len(PERCENTS) + len(SIGNED) + len(BARE) >= 200


@pytest.mark.parametrize("reply", NONE_EVER)
def test_what_is_no_answer_to_anything_is_missing(reply):
    assert parse_score(reply) is None
    assert parse_signed_percent(reply) is None
    assert read_hop(reply) is None
    assert parse_answer(reply) is None
    assert read_percent(reply) is None
    assert read_done(VlmReply(text=reply), least_mass=0.5) is None


@pytest.mark.parametrize("reply", SCORES)
def test_scores(reply):
    assert parse_score(reply) == SCORES[reply]


@pytest.mark.parametrize("reply", PERCENTS)
def test_percentages(reply):
    assert parse_signed_percent(reply) == PERCENTS[reply]


@pytest.mark.parametrize("reply", SIGNED)
def test_signed_percentages_in_tags(reply):
    value = parse_signed_percent(reply, tag="score")
    assert value == SIGNED[reply]
    assert value is None or math.copysign(1, value) == math.copysign(1, SIGNED[reply]), "a negative zero"


@pytest.mark.parametrize("reply", BARE)
def test_bare_signed_percentages(reply):
    assert parse_signed_percent(reply, unit=False) == BARE[reply]


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("I see the cube lifted. <answer>62%</answer>", 0.62),
        ("<think>10% at first</think><answer>62%</answer>\n", 0.62),
        ("<answer>62%</answer> so <answer>62%</answer>", 0.62),
        ("<answer>62%</answer> or <answer>70%</answer>", None),
        ("<answer>62%</answer> I think", None),
        ("I see it. 62%", None),
    ],
)
def test_words_before_the_tags_are_let_be_where_a_network_reasons_first(reply, value):
    assert parse_signed_percent(reply, tag="answer", after_words=True) == value
    if reply.startswith("I see the"):
        assert parse_signed_percent(reply, tag="answer") is None


@given(st.floats(-100, 100))
def test_every_number_in_range_comes_back(value):
    spelt = f"{value:+.1f}"
    read = parse_signed_percent(f"<score>{spelt}%</score>", tag="score")
    assert read == pytest.approx(float(spelt) / 100)


@given(st.text())
def test_no_text_raises_and_no_number_is_out_of_range(text):
    in_tags = parse_signed_percent(f"<a>{text}</a>", tag="a")
    for value in (parse_signed_percent(text), parse_signed_percent(text, unit=False), in_tags):
        assert value is None or -1 <= value <= 1
    assert parse_score(text) in (None, 1, 2, 3, 4, 5)
    assert parse_score(f"ANSWER: {text}") in (None, 1, 2, 3, 4, 5)
    assert parse_flag(text) in (None, True, False)
    assert tag_content(text, "") == text
