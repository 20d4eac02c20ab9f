"""The smoothing of published inference, on examples worked out by hand from its rule."""

from __future__ import annotations

import pytest

from roborl.rewards.sarm.smoothing import SureMean, smoothing_span


def read(*readings: tuple[float, float]) -> list[float]:
    """As opensarm reads: every tenth frame, at the rate of its training."""
    mean = SureMean(smoothing_span(trained_hz=30.0, observation_hz=30.0))
    return [mean.read(10 * place, *reading) for place, reading in enumerate(readings)]


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


@pytest.mark.parametrize("rate_hz", [10, 30])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_step_is_half_seen_after_half_of_the_span_and_wholly_after_all_of_it_at_any_rate(
    rate_hz: int, stride: int
) -> None:
    mean = SureMean(smoothing_span(trained_hz=30.0, observation_hz=float(rate_hz)))
    step = 5 * rate_hz
    means = {i: mean.read(i, float(i >= step), 1.0) for i in range(0, 10 * rate_hz, stride)}

    def after_s(seconds: float) -> float:
        return next(value for i, value in means.items() if i >= step + seconds * rate_hz)

    assert after_s(10 / 6) == pytest.approx(0.5, abs=0.1)
    assert after_s(3.0) < 0.97
    assert after_s(10 / 3) == pytest.approx(1.0, abs=1e-6)
