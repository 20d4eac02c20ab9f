"""Replies of the critic as they come: each is either the one number that it plainly states, or missing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.rewards.judges.queries import Token, VlmReply
from roborl.rewards.recurrences import Change
from roborl.rewards.vlac.replies import read_change, read_done, read_percent, write_percent

STATED = {
    "+60": 0.6,
    "-15": -0.15,
    "0": 0.0,
    "60": 0.6,
    "+0": 0.0,
    "-0": 0.0,
    "+1": 0.01,
    "-1": -0.01,
    "100": 1.0,
    "+100": 1.0,
    "-100": -1.0,
    "7": 0.07,
    "12.5": 0.125,
    "+12.5": 0.125,
    "-0.5": -0.005,
    "33.333": 0.33333,
    "+100.0": 1.0,
    "0.0": 0.0,
    "+60%": 0.6,
    "-15 %": -0.15,
    " +60": 0.6,
    "+60\n": 0.6,
    "\t-8 \n": -0.08,
    "+60</score>": 0.6,
    "-15% </score>": -0.15,
    "0 </score>\n": 0.0,
}

LOST = [
    # nothing
    "",
    " ",
    "\n",
    "+",
    "-",
    ".",
    "%",
    "</score>",
    "<score>",
    "<score></score>",
    # prose, and numbers within prose
    "none",
    "N/A",
    "nan",
    "inf",
    "-inf",
    "infinity",
    "zero",
    "sixty",
    "yes",
    "I cannot tell.",
    "The second image is closer to the goal.",
    "about 20",
    "+20 or so",
    "approximately +20%",
    "It is +20.",
    "score: +20",
    "Image-2: +20",
    "The answer is 60",
    "60 percent",
    "+60 points",
    "20% closer",
    # runaway digits, and numbers put together from several tokens
    "1.02.0",
    "+33.3.0.5",
    "60606060",
    "1000",
    "+1234",
    "0000",
    "+07",
    "007",
    "-00",
    "+60+60",
    "-15-15",
    "+-5",
    "--5",
    "++5",
    "-+5",
    "5-",
    "5+",
    "+ 60",
    "- 15",
    "6 0",
    "6\n0",
    "12,5",
    "1,000",
    "12.",
    ".5",
    "+.5",
    "12..5",
    "33.33333",
    "1e1",
    "1e-2",
    "0x10",
    "1_0",
    "½",
    "٦٠",
    "６０",
    "−15",
    "–15",
    "±15",
    "~15",
    ">15",
    "15/100",
    "3/5",
    # out of range
    "101",
    "+101",
    "-101",
    "100.1",
    "-999",
    "150%",
    # two answers
    "+60 -15",
    "+60, -15",
    "+60\n-15",
    "+60</score><score>-15",
    "+60 to +70",
    "60%%",
    "60% 40%",
    "0 or 1",
    # other wrappings
    "<score>+60",
    "<score>+60</score>",
    "+60</score></score>",
    "+60 </task>",
    "+60<done>",
    "(+60)",
    "[60]",
    "{60}",
    '"60"',
    "**60**",
    "$60",
    "#60",
    "60;",
    "60.0.",
    "+60!",
    "<think>the gripper moved</think>+60",
    "first image progressing: 20%, second image progressing: 40%",
    "first image progressing: 20% second image progressing: 40% </think> 25",
    "+60\x00",
    "+60\u200b",
    "\ufeff+60",
]


@pytest.mark.parametrize(("text", "change"), STATED.items())
def test_a_plain_number_is_read(text, change):
    assert read_percent(text) == pytest.approx(change)


@pytest.mark.parametrize("text", LOST)
def test_whatever_else_is_missing_and_never_a_number(text):
    assert read_percent(text) is None
    for probabilities in (False, True):
        assert read_change(VlmReply(text=text), probabilities=probabilities) is None


def test_the_corpus_is_large_enough_and_names_nothing_twice():
    assert len(STATED) + len(LOST) >= 130
    assert len(set(STATED) | set(LOST)) == len(STATED) + len(LOST)


@given(st.text(max_size=12))
def test_any_text_is_a_number_in_range_or_missing(text):
    change = read_percent(text)
    assert change is None or -1.0 <= change <= 1.0


@given(st.text("0123456789+-.%e <>/scoreNaN\n", max_size=9))
def test_what_looks_like_a_number_is_read_as_exactly_that_one(text):
    change = read_percent(text)
    if change is not None:
        bare = text.strip().removesuffix("</score>").replace("%", "")
        assert change == pytest.approx(float(bare) / 100.0)


@given(st.integers(-100, 100))
def test_what_is_written_is_read_back(percent):
    assert read_percent(write_percent(percent / 100)) == pytest.approx(percent / 100)


@pytest.mark.parametrize("text", ["+60", "6", "0", "100"])
def test_a_reply_that_was_cut_short_is_missing(text):
    assert read_change(VlmReply(text=text, ended=False), probabilities=False) is None


def token(text, **alternatives):
    names = {"plus": "+", "minus": "-", "nought": "0"}
    found = [(names.get(name, name.removeprefix("n")), p) for name, p in alternatives.items()]
    return Token(text=text, alternatives=tuple(found))


def test_probabilities_give_the_expected_change_over_sign_and_number():
    tokens = (token("+", plus=0.75, minus=0.25), token("20", n20=1.0))
    change = read_change(VlmReply(text="+20", tokens=tokens), probabilities=True)
    assert change.mean == pytest.approx(0.1)
    assert change.error == pytest.approx(np.sqrt(0.75 * 0.25) * 0.4)
    sure = read_change(VlmReply(text="+20", tokens=tokens), probabilities=False)
    assert sure == Change(mean=0.2, error=0.0)


def test_numbers_beside_the_likeliest_count_by_their_probability():
    tokens = (token("60", n60=0.5, n40=0.25, n80=0.25),)
    change = read_change(VlmReply(text="60", tokens=tokens), probabilities=True)
    assert change.mean == pytest.approx(0.6)
    assert change.error == pytest.approx(np.sqrt(0.5) * 0.2)


def test_alternatives_that_are_no_numbers_or_out_of_range_leave_the_mean_alone_and_count_as_doubt():
    tokens = (Token(text="60", alternatives=(("60", 0.5), ("about", 0.3), ("999", 0.2))),)
    change = read_change(VlmReply(text="60", tokens=tokens), probabilities=True)
    assert change.mean == pytest.approx(0.6)
    assert change.error == pytest.approx(np.sqrt(0.5 * (1 / 3 + 0.6**2)))


def test_tokens_that_do_not_spell_the_reply_are_not_used():
    tokens = (token("-", plus=0.1, minus=0.9), token("20", n20=1.0))
    assert read_change(VlmReply(text="+20", tokens=tokens), probabilities=True) == Change(mean=0.2)


def test_a_number_in_two_tokens_is_read_as_it_stands():
    """Averaging each token by itself, as the published code does, would write 1.02.0 here."""
    tokens = (token("1", n1=1.0), token("2", n2=0.9, n3=0.1))
    change = read_change(VlmReply(text="12", tokens=tokens), probabilities=True)
    assert change.mean == pytest.approx(0.121)


def test_a_reply_that_might_have_ended_is_not_read_on():
    """The token that ends a reply has no text: what was written behind its place is no part of such a reply."""
    signed = (
        Token(text="-", alternatives=(("-", 0.9), ("", 0.1))),
        Token(text="60", alternatives=(("60", 1.0),)),
    )
    change = read_change(VlmReply(text="-60", tokens=signed), probabilities=True)
    assert change.mean == pytest.approx(-0.6)
    assert change.error == pytest.approx(np.sqrt(0.1 * (1 / 3 + 0.6**2)))
    digits = (
        Token(text="6", alternatives=(("6", 1.0),)),
        Token(text="0", alternatives=(("0", 0.75), ("", 0.25))),
    )
    assert read_change(VlmReply(text="60", tokens=digits), probabilities=True).mean == pytest.approx(0.465)


@pytest.mark.parametrize(
    ("text", "share"),
    [("1", 1.0), ("0", 0.0), (" 1\n", 1.0), ("0</done>", 0.0), ("1 </done>", 1.0)],
)
def test_done_is_read_from_the_text_where_there_are_no_probabilities(text, share):
    assert read_done(VlmReply(text=text), least_mass=0.5) == share


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        "no",
        "true",
        "2",
        "-1",
        "+1",
        "10",
        "01",
        "11",
        "1.0",
        "0.5",
        "1 0",
        "1\n0",
        "<done>1",
        "1%",
        "1.",
        "١",
    ],
)
def test_other_texts_are_neither_yes_nor_no(text):
    assert read_done(VlmReply(text=text), least_mass=0.5) is None


def test_done_is_the_probability_of_yes_if_the_network_means_to_say_either():
    sure = VlmReply(text="1", probabilities=(0.93, 0.07), mass=0.9)
    assert read_done(sure, least_mass=0.5) == pytest.approx(0.93)
    assert read_done(sure, least_mass=0.95) is None
    assert read_done(VlmReply(text="", probabilities=(np.nan, np.nan), mass=1.0), least_mass=0.5) is None
    assert read_done(VlmReply(text="1", ended=False), least_mass=0.5) is None
    assert (
        read_done(VlmReply(text="what", ended=False, probabilities=(0.2, 0.8), mass=0.7), least_mass=0.5)
        == 0.2
    )
