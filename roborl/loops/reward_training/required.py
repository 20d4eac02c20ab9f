"""Bars on what a reward model is worth on held-out episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from roborl.loops.requirements import Requirement
from roborl.rewards.training.evaluation import FIGURES

_NAMES = (*FIGURES, "leak", "frame_ms")


def check_required(bars: Sequence[str]) -> None:
    """See whether bars can be read, before anything is trained.

    Raises:
        ConfigError: If one cannot.
    """
    for text in bars:
        Requirement.parse(text, _NAMES)


def missed(bars: Sequence[str], held_out: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """Return the bars that are not met; a figure that there is not meets none.

    Args:
        bars: As they were checked.
        held_out: Figures on held-out episodes, by their names.
        report: What else was found: the change of scores by later frames, and the time that one takes.
    """
    figures = dict.fromkeys(_NAMES, math.nan) | dict(report) | dict(held_out)
    return [text for text in bars if not Requirement.parse(text, _NAMES).holds(figures)]
