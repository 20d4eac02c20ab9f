"""``roborl relabel``: recorded episodes in, questions with scores from 1 to 5 about them out, to train and test reward models.

``--model none``, the default, works offline: clips, rewinds and instructions of other episodes, nothing verified.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from roborl.config_fields import gathered
from roborl.loops.relabelling.config import CARD, FIGURES, PAGE, RESULT, RelabelConfig
from roborl.loops.relabelling.relabel import plan, relabel

Config = RelabelConfig


def prepare_args(args: Sequence[str]) -> list[str]:
    """Let ``--source A --source B`` stand for ``--source '["A", "B"]'``; the same for bars.

    Raises:
        ConfigError: If a list is torn.
    """
    return gathered(args, ("--source", "--require"))


def main(config: RelabelConfig) -> dict[str, Any]:
    """Relabel, print figures to stderr, return them, with ``exit`` 1 where a bar is missed, or a question was asked and has no answer."""
    if config.dry_run:
        return plan(config)

    def show(done: int, of: int, calls: int) -> None:
        print(f"episode {done}/{of}, {calls} calls", file=sys.stderr, flush=True)

    result = relabel(config, on_episode=show)
    for name, value in result.figures.items():
        print(
            f"{FIGURES[name]:<52} {'-' if math.isnan(value) else format(value, '.3g'):>8}  {name}",
            file=sys.stderr,
        )
    print(f"{result.verification}.", file=sys.stderr)
    unanswered = sum(result.tally.unanswered.values())
    if left := unanswered + sum(result.tally.unasked.values()):
        print(
            f"{left} questions were left without an answer: the same command again asks them alone",
            file=sys.stderr,
        )
    for text in config.require:
        print(f"{text}: {'not met' if text in result.missed else 'met'}", file=sys.stderr)
    said = result.as_dict()
    report: dict[str, Any] = {
        "out": str(config.out),
        "result": str(config.out / RESULT),
        "report": str(config.out / PAGE),
        "card": str(config.out / CARD),
        "figures": said["figures"],
        "calls": sum(said["calls"].values()),
    }
    if config.require:
        report["met"] = said["met"]
    return report | ({"exit": 1} if unanswered or result.missed else {})
