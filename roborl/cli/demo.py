"""``roborl demo``: everything once, in simulation, on a CPU, with a report to look at."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import Any

from roborl.loops.bars import bar_row, lined_up
from roborl.loops.demo import run_demo
from roborl.loops.demo_config import DemoConfig
from roborl.signals import ended_as_by_ctrl_c


@dataclass(frozen=True, kw_only=True)
class Config(DemoConfig):
    """Settings of the demonstration run, and what a missed bar means."""

    # exit with 1 where a figure misses its bar; a quick run is held to none
    require_bars: bool = False


def main(config: Config) -> dict[str, Any]:
    """Run the demonstration, print what it is held to, return its figures; ``exit`` is 1 where bars are required and missed.

    Ctrl-C, SIGTERM and a closed terminal stop the arm first and then save; the same command goes on.
    """
    # What is required of a run is no setting of it: a folder that is done may be held to more.
    settings = DemoConfig(**{field.name: getattr(config, field.name) for field in fields(DemoConfig)})
    with ended_as_by_ctrl_c():
        result = run_demo(settings)
    for line in lined_up([bar_row(bar) for bar in result["bars"]]):
        print(line, file=sys.stderr)
    missed = [bar["name"] for bar in result["bars"] if not bar["met"]]
    return {**result, "missed": missed, "exit": int(config.require_bars and bool(missed))}
