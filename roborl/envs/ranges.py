"""The numbers that a person sets, those of a bench file above all: each finite, and no larger than it can be meant."""

from __future__ import annotations

import math

from roborl.errors import ConfigError


def check_number(
    field: str,
    value: float,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    finite: bool = True,
    remedy: str = "Correct it in the bench file",
) -> None:
    """See that a number is one, and in range.

    Args:
        field: Its dotted name in the bench file, or where else it was set.
        value: The number.
        above: It is larger than this.
        at_least: It is not smaller than this.
        at_most: It is not larger than this.
        finite: It is not infinite.
        remedy: What to do about one that is not.

    Raises:
        ConfigError: If it is not.
    """
    if (math.isfinite(value) or not finite) and value > above and at_least <= value <= at_most:
        return
    bounds = [("above", above), ("at least", at_least), ("at most", at_most)]
    raise ConfigError(
        f"{field} is out of range",
        seen=value,
        allowed=" and ".join(
            [
                *(["finite"] if finite else []),
                *(f"{w} {bound:g}" for w, bound in bounds if math.isfinite(bound)),
            ]
        ),
        remedy=remedy,
    )
