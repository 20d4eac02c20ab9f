"""``roborl learn``: store experience, label it, train, publish weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roborl.config_fields import spelled_out
from roborl.loops.learner.learn import run_learner
from roborl.loops.learner.learn_config import LearnConfig, RunFolder
from roborl.loops.learnt import leave_pretrained, leave_run_page
from roborl.loops.run_settings import on_top_of_the_runs
from roborl.loops.supervise import Child

Config = LearnConfig


def prepare_args(args: Sequence[str]) -> list[str]:
    """Let ``--demos PATH`` stand for ``--demos.path PATH``, and a run that goes on begin with its own settings."""
    return on_top_of_the_runs(spelled_out(args, "--demos", "path"), "learn")


def main(config: LearnConfig) -> dict[str, Any]:
    """Run until Ctrl-C or SIGTERM, which save first; leave a report, and a LeRobot policy for LeRobot."""
    child = Child.alone("learn")
    told = run_learner(config, lambda: child.stopping)
    if "trainer" not in told:
        return told
    run = RunFolder(config.run)
    return told | leave_pretrained(run) | leave_run_page(run, told)
