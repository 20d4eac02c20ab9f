"""What an actor does while its learner is away: it goes on, and nothing of what it did is lost."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from roborl.loops.benchmarks.runs import SMALL_LEARNER, RunUnderTest, free_port, on_reach
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.witness import compare

log = logging.getLogger(__name__)

_START_S, _END_S = 180.0, 300.0


def learner_away(folder: Path, seconds: float, *, time_scale: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Kill a learner with all its processes, leave the actor alone for ``seconds``, and account for its steps.

    Raises:
        RoborlError: If the actor does not survive, or the learner cannot be started again.
    """
    run = RunFolder(folder / "run")
    steps, weights = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    learning = (
        *("--run", str(run.root), "--steps", steps, "--weights", weights, "--seed", str(seed)),
        *SMALL_LEARNER,
        *on_reach(time_scale),
    )
    with RunUnderTest(run.root, ["arm"]) as scene:
        learner = scene.start("learn", *learning, log=folder / "learn.log")
        scene.until("the learner makes its policy", run.policy.exists, _START_S)
        actor = scene.start(
            "act",
            *("--run", str(run.root), "--steps", steps, "--weights", weights, "--policy", str(run.policy)),
            *("--drain_s", f"{_END_S:g}", "--ring_mb", "512"),
            *on_reach(time_scale),
            log=folder / "act.log",
        )
        scene.until("the actor has a ring", lambda: scene.witnesses[0].records > 0, _START_S)
        arm, link = scene.control[0], scene.io[0]
        scene.until("steps are stored", lambda: link["acknowledged"] > 50, _START_S)
        log.info("The learner is away for %g s", seconds)
        scene.kill(learner)
        before = arm["steps"]
        scene.wait(seconds)
        taken, waiting = arm["steps"] - before, link["pending"]
        learner = scene.start("learn", *learning, "--resume", "true", log=folder / "learn.log")
        back = time.monotonic()
        scene.until("the actor is heard again", lambda: link["pending"] < 50, _START_S + seconds)
        caught_up_s = time.monotonic() - back
        ended = scene.end(actor, _END_S)
        scene.end(learner, _END_S)
        account = compare(scene.witnesses, run.store)
    return {
        "away_s": seconds,
        "steps_meanwhile": taken,
        "records_waiting": waiting,
        "caught_up_s": caught_up_s,
        "account": account | {"not_durable": ended["not_durable"]},
    }
