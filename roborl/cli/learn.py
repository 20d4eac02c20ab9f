"""``roborl learn``: store experience, label it, train, publish weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roborl.loops.learner.learn import run_learner
from roborl.loops.learner.learn_config import LearnConfig
from roborl.loops.run_settings import on_top_of_the_runs
from roborl.loops.supervise import Child

Config = LearnConfig


def positional(args: Sequence[str]) -> list[str]:
    """Let ``--demos PATH`` stand for ``--demos.path PATH``, and a run that goes on begin with its own settings."""
    return on_top_of_the_runs(["--demos.path" if arg == "--demos" else arg for arg in args], "learn")


def main(config: LearnConfig) -> dict[str, Any]:
    """Run until Ctrl-C or SIGTERM, which save first."""
    child = Child.alone("learn")
    return run_learner(config, lambda: child.stopping)
