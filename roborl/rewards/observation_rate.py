"""Whether a reward model that tells its network the time was told the rate of what it watches."""

from __future__ import annotations

from typing import Any

from roborl.errors import ConfigError
from roborl.rewards.model import RewardModel

_APART_HZ = 0.5


def told_rate(model: RewardModel[Any, Any]) -> float | None:
    """Return the rate of observations that a model counts on, Hz; None where time means nothing to it."""
    told = getattr(getattr(model, "config", None), "observation_hz", None)
    return None if told is None else float(told)


def check_rate(told_hz: float | None, rate_hz: float, where: str) -> None:
    """See whether a model counts on the rate that there is.

    Args:
        told_hz: What it counts on, as :func:`told_rate` returns it.
        rate_hz: What there is, Hz.
        where: What has that rate, in a word or two.

    Raises:
        ConfigError: If it counts on another.

    Example:
        >>> check_rate(None, 30.0, "dataset"), check_rate(10.0, 10.0, "bench")
        (None, None)
    """
    if told_hz is not None and abs(told_hz - rate_hz) > _APART_HZ:
        raise ConfigError(
            "The reward model tells its network instants at another rate than there is",
            seen=f"{rate_hz:g} Hz in the {where}, observation_hz {told_hz:g} in the model's settings",
            allowed="the same rate",
            remedy=f"Name the model by a file of settings with observation_hz: {rate_hz:g}; in training, set"
            f" --model.observation_hz {rate_hz:g}",
        )
