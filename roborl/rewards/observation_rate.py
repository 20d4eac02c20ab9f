"""Whether a reward model watches at the rate that it was told, or that it learnt from."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from roborl.errors import ConfigError

log = logging.getLogger(__name__)

_APART_HZ = 0.5
_APART = 1.5  # times: demonstrations of one task differ as much in pace


def check_rate(told_hz: float | None, rate_hz: float, where: str) -> None:
    """See whether a model counts on the rate that there is.

    Args:
        told_hz: What it counts on; None where no rate plays a part.
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
            "The reward model counts on another rate of observations than there is",
            seen=f"{rate_hz:g} Hz in the {where}, observation_hz {told_hz:g} in the model's settings",
            allowed="the same rate",
            remedy=f"Name the model by a file of settings with observation_hz: {rate_hz:g}; in training, set"
            f" --model.observation_hz {rate_hz:g}; in watching, --rate_hz {told_hz:g} thins a recording out",
        )


def check_alike(rates_hz: Mapping[str, float]) -> None:
    """See whether datasets may be measured together: a lag, and an instant, has to be as long in all of them.

    Args:
        rates_hz: The rate of each.

    Raises:
        ConfigError: If they differ.
    """
    if rates_hz and max(rates_hz.values()) - min(rates_hz.values()) > _APART_HZ:
        raise ConfigError(
            "Datasets with different rates of observations cannot be measured together",
            seen=", ".join(f"{rate_hz:g} Hz in {where}" for where, rate_hz in rates_hz.items()),
            allowed="one rate: the lag, and the model of time alone, count observations",
            remedy="Measure on each dataset alone",
        )


def warn_of_rate(trained_hz: float | None, rate_hz: float, where: str) -> None:
    """Warn where a model that counts observations learnt from many more or fewer a second than there are.

    It is not refused: an arm that is as much slower as its observations are rarer looks to it as in training.

    Args:
        trained_hz: What it learnt from; None or 0 where that is not known, as of videos that do not say their rate.
        rate_hz: What there is, Hz.
        where: What has that rate, in a word or two.
    """
    if not trained_hz or max(trained_hz, rate_hz) <= _APART * min(trained_hz, rate_hz):
        return
    log.warning(
        "The reward model learnt from %g observations per second, and there are %g in the %s: what it looks back on lasts"
        " %.1f times as long as in training, and its scores may mislead. Train it again at this rate: roborl train-reward"
        " --rate_hz %g. If the arm is as much slower or faster here, all is well",
        trained_hz,
        rate_hz,
        where,
        trained_hz / rate_hz,
        rate_hz,
    )
