"""Replies written, and read by eye, by somebody who had not seen the parser: it agrees with that reader or reads nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from roborl.rewards.parsing import parse_flag, parse_percent, parse_score, parse_signed_percent

CORPUS = json.loads(Path(__file__).with_name("replies_of_another_hand.json").read_text())
ONE_HUNDREDTH = ("pair", "percent")
"""Questions whose answers the reader wrote down in percent."""


def read(contract: str, reply: str) -> float | None:
    parsers: dict[str, Callable[[str], float | None]] = {
        "grade": parse_score,
        "hop": lambda text: parse_signed_percent(text, tag="score", after_words=True),
        "pair": lambda text: parse_signed_percent(text, unit=False),
        "done": parse_flag,
        "percent": lambda text: parse_percent(text, tag="answer", after_words=True),
        "stage": lambda text: parse_score(text, high=6),
    }
    found = parsers[contract](reply)
    return None if found is None else found * (100.0 if contract in ONE_HUNDREDTH else 1.0)


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: f"{entry['contract']}-{entry['why'][:40]}")
def test_no_number_is_read_that_the_reader_did_not_see(entry: dict) -> None:
    found = read(entry["contract"], entry["reply"])
    assert found is None or found == pytest.approx(entry["value"])


def test_the_plain_ones_are_read() -> None:
    """The parser is strict: of the readable replies it takes those of the asked form."""
    assert sum(entry["value"] is None for entry in CORPUS) >= 90
    for contract in {entry["contract"] for entry in CORPUS}:
        replies = [entry["reply"] for entry in CORPUS if entry["contract"] == contract]
        assert sum(read(contract, reply) is not None for reply in replies) >= 2, contract
