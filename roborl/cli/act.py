"""``roborl act``: drive a robot with the newest policy and ship its experience."""

from __future__ import annotations

from typing import Any

from roborl.loops.actor.act import run_actor
from roborl.loops.actor.act_config import ActConfig
from roborl.loops.supervise import Child

Config = ActConfig


def main(config: ActConfig) -> dict[str, Any]:
    """Run until the episodes are done, or Ctrl-C or SIGTERM, which stop the arm first; a second one waits for no learner.

    Returns:
        The figures, with ``exit`` 1 for an evaluation that was stopped before it had its episodes.
    """
    if not config.weights:
        from roborl.loops.learnt import warn_of_start

        warn_of_start(config.policy)
    child = Child.alone("act")
    figures = run_actor(config, lambda: child.stopping, lambda: child.hurried)
    measured = figures["episodes"] - figures["cut_short"]
    return figures | ({"exit": 1} if config.mode == "evaluate" and measured < config.episodes else {})
