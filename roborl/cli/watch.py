"""``roborl watch SOURCE``: follow a video, a recorded episode or a bench's cameras and print its progress."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from roborl.envs.bench import import_plugins
from roborl.loops.supervise import Child
from roborl.loops.watch import WatchConfig, watch
from roborl.types import Score

Config = WatchConfig

_WIDTH = 40


def prepare_args(args: Sequence[str]) -> list[str]:
    """Take a first word without an option for the source."""
    return ["--source", *args] if args and not args[0].startswith("-") else list(args)


def main(config: WatchConfig) -> dict[str, Any]:
    """Watch until the source ends, or Ctrl-C; return the course of progress as figures."""
    import_plugins(config.plugins)
    child = Child.alone("watch")
    watched = watch(config, on_score=_show, stopping=lambda: child.stopping)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return watched.figures()


def _show(score: Score, time_s: float) -> None:
    line = f"{time_s:8.1f} s  #{score.frame_id:<6d} "
    if score.valid:
        bar = "█" * round(score.progress * _WIDTH)
        line += f"{score.progress:5.2f} ±{score.spread:.2f} {bar:░<{_WIDTH}}"
        line += f" stage {score.stage}" if score.stage >= 0 else ""
        line += " done" if score.done else ""
    else:
        line += f"missing: {score.reply[:_WIDTH]}"
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr)
