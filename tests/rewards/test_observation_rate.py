"""A model that is told another rate is refused, and one that learnt from another is warned of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from roborl.errors import ConfigError
from roborl.rewards.calibrated import CalibratedModel
from roborl.rewards.calibration import Calibration
from roborl.rewards.fake import BrightnessModel
from roborl.rewards.observation_rate import check_rate, told_rate, trained_rate, warn_of_rate


def model_with(**changes: Any) -> BrightnessModel:
    model = BrightnessModel()
    for name, value in changes.items():
        setattr(model, name, value)
    return model


def test_rates_are_those_of_the_model_also_behind_a_calibration() -> None:
    told, trained = model_with(config=SimpleNamespace(observation_hz=4)), model_with(trained_hz=30.0)
    line = Calibration(raw=(0.0, 1.0), calibrated=(0.0, 1.0))
    for one in (lambda model: model, lambda model: CalibratedModel(model, line)):
        assert (told_rate(one(told)), trained_rate(one(told))) == (4.0, None)
        assert (told_rate(one(trained)), trained_rate(one(trained))) == (None, 30.0)


def test_another_rate_than_told_is_refused() -> None:
    check_rate(10.0, 10.4, "bench")
    with pytest.raises(ConfigError, match=r"30 Hz in the bench.*observation_hz 10"):
        check_rate(10.0, 30.0, "bench")


@pytest.mark.parametrize("trained", [None, 10.0, 12.0, 15.0, 7.0])
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
