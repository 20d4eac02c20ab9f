"""A plan's arithmetic, by hand."""

from __future__ import annotations

import pytest

from roborl.errors import ConfigError
from roborl.loops.planning.memory_plan import (
    GIB,
    HOST,
    Candidate,
    PlanLine,
    Process,
    check_devices,
    largest_batch,
    largest_that_fits,
    over,
    table,
    used_bytes,
)


def part(gib: float, device: str = "cuda:0", *, measured: bool = True) -> PlanLine:
    return Process("judge", device).part("weights", int(gib * GIB), measured, "by hand")


def candidate(name: str, parameters: int, bits: float, gib: float) -> Candidate:
    return Candidate(name=name, parameters=parameters, precision=bits, parts=(part(gib),))


def test_each_card_bears_its_own_parts_and_no_card_those_of_the_host() -> None:
    parts = [part(3), part(4), part(9, "cuda:1"), part(99, HOST)]
    assert used_bytes(parts) == {"cuda:0": 7 * GIB, "cuda:1": 9 * GIB, HOST: 99 * GIB}
    assert over(parts, {"cuda:0": 7 * GIB, "cuda:1": 8 * GIB}) == {"cuda:1": GIB}
    assert over(parts, {"cuda:0": 7 * GIB - 1, "cuda:1": 9 * GIB}) == {"cuda:0": 1}


def test_the_largest_judge_wins_and_among_its_formats_the_most_precise() -> None:
    ladder = [
        candidate("small", 4, 16, 8),
        candidate("large packed most", 8, 4.5, 5),
        candidate("large packed", 8, 8, 9),
        candidate("large", 8, 16, 16),
    ]

    def best(card_gib: float, others: float) -> str | None:
        found = largest_that_fits(ladder, [part(others)], {"cuda:0": int(card_gib * GIB)})
        return found and found.name

    assert best(24, 2) == "large"
    assert best(17, 2) == "large packed"
    assert best(10, 2) == "large packed most"
    assert best(6, 2) is None


@pytest.mark.parametrize(("card_gib", "batch"), [(3, 0), (4, 0), (5, 1), (11, 7), (12, 8), (99, 8)])
def test_the_largest_batch_is_found(card_gib: int, batch: int) -> None:
    cards = {"cuda:0": card_gib * GIB}
    assert largest_batch(lambda questions: [part(4), part(questions)], 8, cards) == batch


def test_a_card_of_unknown_size_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="No card was found") as caught:
        check_devices([part(1)], {})
    assert "--card_gib" in str(caught.value)
    with pytest.raises(ConfigError, match="not there"):
        check_devices([part(1, "cuda:1")], {"cuda:0": GIB})
    check_devices([part(1, HOST)], {})


def test_the_table_says_what_is_measured_and_what_is_left() -> None:
    text = table([part(3), part(1.5, measured=False), part(1, HOST)], {"cuda:0": 4 * GIB, "cuda:1": GIB})
    lines = text.splitlines()
    assert ["measured" in line for line in lines[1:4]] == [True, False, True]
    assert "estimated" in lines[2]
    assert "cuda:0: 4.50 GiB, 3.00 of them measured; the card has 4.00: 0.50 TOO LITTLE" in lines
    assert "cpu: 1.00 GiB, 1.00 of them measured" in lines
    roomy = table([part(3)], {"cuda:0": 4 * GIB})
    assert "1.00 left" in roomy
