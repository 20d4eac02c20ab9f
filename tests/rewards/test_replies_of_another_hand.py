"""Replies written, and read by eye, by somebody who had not seen the readers: they agree with that person or read nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from roborl.rewards.hop_replies import read_hop
from roborl.rewards.judges.queries import VlmReply
from roborl.rewards.parsing import parse_score
from roborl.rewards.sole import parse_answer
from roborl.rewards.vlac.replies import read_done, read_percent

CORPUS = json.loads(Path(__file__).with_name("replies_of_another_hand.json").read_text())
ONE_HUNDREDTH = ("pair", "percent")
"""Questions whose answers the person wrote down in percent."""
READERS: dict[str, Callable[[str], float | None]] = {
    "grade": parse_score,
    "hop": read_hop,
    "pair": read_percent,
    "done": lambda text: read_done(VlmReply(text=text), least_mass=0.5),
    "percent": parse_answer,
}
"""What the reward models read their judges' replies with."""


def read(contract: str, reply: str) -> float | None:
    found = READERS[contract](reply)
    return None if found is None else found * (100.0 if contract in ONE_HUNDREDTH else 1.0)


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: f"{entry['contract']}-{entry['why'][:40]}")
def test_no_number_is_read_that_the_person_did_not_see(entry: dict) -> None:
    found = read(entry["contract"], entry["reply"])
    assert found is None or found == pytest.approx(entry["value"])


def test_an_answer_below_zero_is_read_with_its_sign() -> None:
    """SOLE-R1's authors clamp its answers to -100 and 100, so one below 0 is an answer, and no reply of wrong form."""
    (entry,) = (entry for entry in CORPUS if entry["reply"] == "<answer>-10%</answer>")
    assert read("percent", entry["reply"]) == pytest.approx(-10) == entry["value"]


def test_the_plain_ones_are_read() -> None:
    """The readers are strict: of the readable replies they take those of the asked form."""
    for contract in READERS:
        replies = [entry["reply"] for entry in CORPUS if entry["contract"] == contract]
        assert sum(read(contract, reply) is not None for reply in replies) >= 2, contract


def test_the_corpus_is_large_and_half_of_it_says_nothing() -> None:
    assert len({(entry["contract"], entry["reply"]) for entry in CORPUS}) >= 150
    assert sum(entry["value"] is None for entry in CORPUS) >= 75
