"""The number that a judge writes token by token: its mean and its doubt."""

import pytest

from roborl.rewards.judges.queries import Token
from roborl.rewards.written_numbers import expected_number


def mean_and_variance(*alternatives: tuple[str, float]) -> tuple[float, float] | None:
    return expected_number([Token(text=alternatives[0][0], alternatives=alternatives)], float)


def test_tokens_that_read_alike_count_together() -> None:
    summed = mean_and_variance(("0.6", 0.94), ("-0.6", 0.06))
    assert summed is not None
    assert mean_and_variance(("0.6", 0.9), ("0.6", 0.04), ("-0.6", 0.06)) == pytest.approx(summed)
    assert mean_and_variance(("0.6", 0.94), ("-0.6", 0.05), ("-0.6", 0.01)) == pytest.approx(summed)
    assert summed[0] == pytest.approx(0.528)


def test_a_reply_that_is_not_among_its_alternatives_has_no_mean() -> None:
    assert expected_number([Token(text="1", alternatives=(("0", 1.0),))], float) is None
