"""``roborl train``: actor, learner and reward server on one machine, supervised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roborl.config_fields import spelled_out
from roborl.loops.launch import run_training
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.learnt import leave_pretrained, leave_run_page
from roborl.loops.run_settings import on_top_of_the_runs
from roborl.loops.supervise import Child
from roborl.loops.train_config import TrainConfig

Config = TrainConfig


def prepare_args(args: Sequence[str]) -> list[str]:
    """Let ``--demos PATH`` stand for ``--demos.path PATH``, and a run that goes on begin with its own settings."""
    return on_top_of_the_runs(spelled_out(args, "--demos", "path"), "train")


def main(config: TrainConfig) -> dict[str, Any]:
    """Run until the episodes are done, or Ctrl-C or SIGTERM, which stop the arms first and then save; leave a report, and a LeRobot policy for LeRobot."""
    child = Child.alone("train")
    told = run_training(config, lambda: child.stopping)
    run = RunFolder(config.run)
    return told | leave_pretrained(run) | leave_run_page(run, told)
