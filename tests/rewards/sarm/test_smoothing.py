"""The smoothing of published inference, on examples worked out by hand from its rule."""

from __future__ import annotations

import pytest

from roborl.rewards.sarm.smoothing import SureMean


def read(*readings: tuple[float, float]) -> list[float]:
    mean = SureMean()
    return [mean.read(value, confidence) for value, confidence in readings]


def test_sure_readings_are_averaged_by_the_third_power_and_unsure_ones_hold_the_last_mean() -> None:
    means = read((0.2, 1.0), (0.8, 0.89), (0.4, 0.9), (0.0, 0.0), (0.6, 1.0))
    second = (0.2 + 0.729 * 0.4) / (1.0 + 0.729)
    third = (0.2 + 0.729 * 0.4 + 0.6) / (1.0 + 0.729 + 1.0)
    assert means == pytest.approx([0.2, 0.2, second, second, third], abs=1e-6)


def test_before_the_first_sure_reading_the_first_one_is_held_and_then_forgotten() -> None:
    assert read((0.3, 0.5), (0.9, 0.5), (0.1, 0.95)) == pytest.approx([0.3, 0.3, 0.1], abs=1e-6)


def test_the_eleventh_sure_reading_drives_out_the_first() -> None:
    *_, tenth, eleventh = read((1.0, 1.0), *[(0.0, 1.0)] * 10)
    assert tenth == pytest.approx(0.1, abs=1e-6)
    assert eleventh == 0.0
