"""Replies of a judge of hops as they come: each is either the number it plainly states, or missing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.rewards.hop_replies import read_hop, write_hop

STATED = {
    "<score>+33%</score>": 0.33,
    "<score>-25%</score>": -0.25,
    "<score>0%</score>": 0.0,
    "<score>+0%</score>": 0.0,
    "<score>-0%</score>": 0.0,
    "<score>0.0%</score>": 0.0,
    "<score>+0.0%</score>": 0.0,
    "<score>+33.3%</score>": 0.333,
    "<score>+66.7%</score>": 0.667,
    "<score>-66.7%</score>": -0.667,
    "<score>+100%</score>": 1.0,
    "<score>+100.0%</score>": 1.0,
    "<score>-100%</score>": -1.0,
    "<score>-100.00%</score>": -1.0,
    "<score>12%</score>": 0.12,
    "<score>7.5%</score>": 0.075,
    "<score>+0.4%</score>": 0.004,
    "<score>+99.9%</score>": 0.999,
    "<score>+33.3333%</score>": 0.333333,
    " <score>+8%</score>": 0.08,
    "<score>+8%</score>\n": 0.08,
    "\n<score>\n+8%\n</score>\n": 0.08,
    "<score> +8 % </score>": 0.08,
    "<score>\t-12.5%</score>": -0.125,
}

LOST = [
    # nothing, or no answer
    "",
    " ",
    "\n\n",
    "0",
    "none",
    "N/A",
    "I cannot tell.",
    "The robot has moved closer to the goal.",
    "<score></score>",
    "<score>%</score>",
    "<score>+%</score>",
    "<score>-</score>",
    "<score>N%</score>",
    "<score>nan%</score>",
    "<score>inf%</score>",
    "<score>+inf%</score>",
    "<score>None</score>",
    "<score>ten%</score>",
    "<score>unchanged</score>",
    # cut, or never closed
    "<score>",
    "<score>+",
    "<score>+3",
    "<score>+33",
    "<score>+33.",
    "<score>+33.3",
    "<score>+33.3%",
    "<score>+33.3%<",
    "<score>+33.3%</score",
    "<score>+33.3%</scor>",
    "+33.3%</score>",
    "score>+33.3%</score>",
    # numbers without their tag or unit
    "+33%",
    "33",
    "-0.25",
    "<score>+33</score>",
    "<score>0.33</score>",
    "<score>+0.33</score>",
    "33% closer",
    "<answer>+33%</answer>",
    "<Score>+33%</Score>",
    "<SCORE>+33%</SCORE>",
    '{"score": 33}',
    "score: +33%",
    "**+33%**",
    "```<score>+33%</score>```",
    # runaway digits
    "<score>-25.0.0.5.6.6.6",
    "<score>-25.0.0.5%</score>",
    "<score>+333333333333333333333333",
    "<score>+3333%</score>",
    "<score>+" + "3" * 1000 + "%</score>",
    "<score>+05%</score>",
    "<score>+0000033%</score>",
    "<score>+33.333333333333%</score>",
    "<score>33.%</score>",
    "<score>.33%</score>",
    "<score>3 3%</score>",
    "<score>1e1%</score>",
    "<score>1_0%</score>",
    "<score>0x10%</score>",
    # out of range
    "<score>+101%</score>",
    "<score>-101%</score>",
    "<score>+100.1%</score>",
    "<score>-250%</score>",
    "<score>999%</score>",
    # signs
    "<score>++33%</score>",
    "<score>--33%</score>",
    "<score>+-33%</score>",
    "<score>±33%</score>",
    "<score>\u221233%</score>",  # a typographic minus
    "<score>\u201333%</score>",  # an en dash
    "<score>+ 33%</score>",
    "<score>33+%</score>",
    "<score>(33)%</score>",
    # other digits and units
    "<score>+\u0663\u0663%</score>",
    "<score>+\uff13\uff13%</score>",
    "<score>+33\uff05</score>",
    "<score>+33,3%</score>",
    "<score>+33%%</score>",
    "<score>+33 percent</score>",
    "<score>+33\u2030</score>",
    "<score>1/3%</score>",
    "<score>30-40%</score>",
    "<score>30% to 40%</score>",
    "<score>~33%</score>",
    "<score>>33%</score>",
    "<score>about 33%</score>",
    # two answers, or words around one
    "<score>+33%</score><score>+33%</score>",
    "<score>+33%</score>\n<score>-20%</score>",
    "<score>+33%</score> or <score>+40%</score>",
    "<score><score>+33%</score></score>",
    "<score>+33%</score></score>",
    "<score>+33%-20%</score>",
    "<score>+33%</score>%",
    "The answer is <score>+33%</score>",
    "<score>+33%</score>, because the cup was lifted.",
    "<think>The cup is lifted.</think><score>+33%</score>",
    "BEFORE 20%, AFTER 40%: <score>+25%</score>",
    "<score>+33%</score><|im_end|>",
    "<score>+33%\x00</score>",
    "<score>{task}%</score>",
]


@pytest.mark.parametrize(("reply", "hop"), STATED.items())
def test_a_number_that_is_plainly_stated_is_read(reply, hop):
    assert read_hop(reply) == pytest.approx(hop, abs=1e-12)


@pytest.mark.parametrize("reply", LOST)
def test_what_is_not_plainly_a_number_is_missing(reply):
    assert read_hop(reply) is None


def test_the_corpus_is_large_and_says_nothing_twice():
    assert len(STATED) + len(set(LOST)) == len(STATED) + len(LOST) >= 110
    assert not STATED.keys() & set(LOST)


@given(st.text())
def test_text_of_any_kind_is_missing_unless_it_is_a_reply(text):
    hop = read_hop(text)
    assert hop is None or text.strip().startswith("<score>")


@given(st.text(alphabet="<score>/+-.0123456789% \n", max_size=30))
def test_text_of_the_right_letters_gives_a_hop_in_range_or_none(text):
    hop = read_hop(text)
    assert hop is None or -1.0 <= hop <= 1.0


@given(st.floats(-1.0, 1.0))
def test_a_reply_as_taught_reads_back_to_a_tenth_of_a_percent(hop):
    assert read_hop(write_hop(hop)) == pytest.approx(hop, abs=0.00051)


def test_replies_as_taught():
    assert [write_hop(hop) for hop in (1 / 3, -2 / 3, 1.0, -1.0, 0.0, -0.0004)] == [
        "<score>+33.3%</score>",
        "<score>-66.7%</score>",
        "<score>+100.0%</score>",
        "<score>-100.0%</score>",
        "<score>0.0%</score>",
        "<score>0.0%</score>",
    ]
    assert {write_hop(hop) for hop in np.linspace(-1, 1, 2001)} == {
        write_hop(percent / 1000) for percent in range(-1000, 1001)
    }
