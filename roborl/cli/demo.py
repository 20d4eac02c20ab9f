"""``roborl demo``: everything once, in simulation, on a CPU, with a report to look at."""

from __future__ import annotations

from typing import Any

from roborl.loops.demo import DemoConfig as Config
from roborl.loops.demo import run_demo

__all__ = ["Config", "main"]


def main(config: Config) -> dict[str, Any]:
    """Run the demonstration and return its figures."""
    return run_demo(config)
