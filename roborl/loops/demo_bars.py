"""What the demonstration is held to, at its default settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from roborl.loops.bars import Bar, figure

BARS = (
    Bar(name="success before", read=figure("before", "success"), most=0.1),
    Bar(name="success after", read=figure("after", "success"), least=0.9),
    # Short of it, another policy than the task's may be the best one.
    Bar(name="how far critics look ahead after", read=figure("lookahead"), least=1.0),
    Bar(name="minutes of all stages", read=lambda result: sum(result["stages_s"].values()) / 60, most=20),
)
REWARD_BARS = (
    Bar(name="value order, successes", read=figure("held_out", "forward"), least=0.95),
    Bar(name="value order, played backwards", read=figure("held_out", "backward"), most=-0.7),
    Bar(name="movement on a frozen video", read=figure("held_out", "frozen"), most=0.05),
    Bar(name="error against true progress", read=figure("held_out", "error"), most=0.08),
    # Nothing but rounding.
    Bar(name="change of earlier scores by later frames", read=figure("leak"), most=1e-5),
    Bar(name="ms per observation", read=figure("frame_ms"), most=8),
)
"""Of the reward model, read from what its training found."""


def held_to_bars(
    figures: Mapping[str, Any], reward_model: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return each figure of a whole demonstration beside its bar, and whether it is met.

    Args:
        figures: Those of the run.
        reward_model: What the training of its reward model found; None where that came from elsewhere.
    """
    of_the_run = [bar.check(figures) for bar in BARS]
    return of_the_run + [bar.check(reward_model) for bar in REWARD_BARS if reward_model is not None]
