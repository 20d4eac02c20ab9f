"""A model that is told another rate is refused, and one that learnt from another is warned of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from roborl.errors import ConfigError
from roborl.rewards.calibrated import CalibratedModel
from roborl.rewards.calibration import Calibration
from roborl.rewards.fake import BrightnessModel
from roborl.rewards.observation_rate import check_rate, warn_of_rate


def test_rates_are_those_of_the_model_also_behind_a_calibration() -> None:
    model = BrightnessModel()
    model.info = replace(model.info, observation_hz=4.0, trained_hz=30.0)
    info = CalibratedModel(model, Calibration(raw=(0.0, 1.0), calibrated=(0.0, 1.0))).info
    assert (info.observation_hz, info.trained_hz) == (4.0, 30.0)


def test_another_rate_than_told_is_refused() -> None:
    check_rate(10.0, 10.4, "bench")
    with pytest.raises(ConfigError, match=r"30 Hz in the bench.*observation_hz 10"):
        check_rate(10.0, 30.0, "bench")


@pytest.mark.parametrize("trained", [None, 0.0, 10.0, 12.0, 15.0, 7.0])
def test_nearly_the_rate_that_it_learnt_from_is_nothing_to_speak_of(
    trained: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_rate(trained, 10.0, "bench")
    assert caplog.messages == []


def test_another_rate_than_it_learnt_from_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_rate(30.0, 10.0, "bench")
    (said,) = caplog.messages
    assert "learnt from 30 observations per second, and there are 10 in the bench" in said
    assert "3.0 times as long" in said
    assert "roborl train-reward --rate_hz 10" in said
