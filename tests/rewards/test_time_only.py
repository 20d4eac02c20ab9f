"""What the model of time alone knows of a task."""

import pytest

from roborl.rewards.time_only import Clock


def test_time_alone_takes_a_task_in_other_spellings_for_the_same() -> None:
    clock = Clock(
        [("Fold the towel", [0.0, 0.2, 1.0]), ("fold the towel", [0.0, 0.4, 1.0]), ("press", [0.0, 1.0])]
    )
    for words in ("fold the towel", "Fold the towel.", "fold towel"):
        assert clock.at(words, [1]) == pytest.approx([0.3])
    assert clock.at("pour", [1]) == pytest.approx([1.6 / 3])
