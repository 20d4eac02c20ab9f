"""A run over two computers: the robot's and the learner's, with a slow line between them that is cut, and with keys.

Both are on this machine; a proxy in user space between them delays every byte, lets no more through than the line would,
and cuts all connections for a while. Each command has the key folder that ``roborl keys`` made for its computer, and
strangers try to get in.
"""

from __future__ import annotations

import logging
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from roborl.errors import WireError
from roborl.loops.benchmarks.runs import SMALL_LEARNER, RunningCommand, RunUnderTest, free_port, on_reach
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.witness import compare
from roborl.serving.handshake import Handshake
from roborl.serving.security import Keys, make_keys
from roborl.serving.steps_sender import StepsSender
from roborl.testing.proxy import TcpProxy

log = logging.getLogger(__name__)

_START_S, _END_S = 180.0, 300.0
_KNOCKING_S = 3.0


def run(
    *,
    delay_s: float = 0.04,
    rate_bit_s: float = 50e6,
    cut_s: float = 60.0,
    before_s: float = 20.0,
    after_s: float = 20.0,
    time_scale: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Run actor, learner and reward server as three computers, cut the actor off once, and account for its steps.

    Args:
        delay_s: One-way delay of the line.
        rate_bit_s: What each of its connections carries, in each direction: steps one way, weights the other.
        cut_s: How long the line is cut.
        before_s: How long the run goes on before that.
        after_s: And after it, once the actor has been heard again.
        time_scale: How much faster than life the simulated bench runs.
        seed: Of the run.

    Returns:
        The account of steps, how many were taken while the line was cut, times, and how many clients got in without
        the right keys, and with them.

    Raises:
        RoborlError: If one of the computers does not survive.
    """
    with tempfile.TemporaryDirectory(prefix="roborl-two-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        ports = [free_port() for _ in range(3)]
        steps, weights = (
            stack.enter_context(TcpProxy(port, delay_s=delay_s, rate_bytes_s=rate_bit_s / 8))
            for port in ports[:2]
        )
        scene = stack.enter_context(RunUnderTest(folder / "robot", ["arm"]))
        keys = _make_keys(scene, folder)
        bench = on_reach(time_scale)
        learner, judge = _start_learner(scene, folder, ports, keys, ("--seed", str(seed), *bench))
        policy = RunFolder(folder / "run").policy
        scene.until("the learner makes its policy", policy.exists, _START_S)
        actor = scene.start(
            "act",
            *("--run", str(folder / "robot"), "--policy", str(policy), "--seed", str(seed), *bench),
            *("--steps", steps.endpoint, "--weights", weights.endpoint),
            *("--security.keys", str(keys / "robot"), "--security.server", "learner"),
            *("--drain_s", f"{_END_S:g}", "--ring_mb", "512"),
            log=folder / "act.log",
        )
        scene.until("the actor has a ring", lambda: scene.witnesses[0].records > 0, _START_S)
        arm, link = scene.control[0], scene.io[0]
        scene.until("steps are stored", lambda: link["acknowledged"] > 20, _START_S)
        scene.wait(before_s)
        strangers_in = sum(_gets_in(scene, steps.endpoint, stranger) for stranger in _strangers(folder, keys))
        friends_in = _gets_in(scene, steps.endpoint, Keys.load(keys / "robot", server="learner"))
        log.info("The line is cut for %g s", cut_s)
        taken, version = arm["steps"], link["weights_version"]
        for proxy in (steps, weights):
            proxy.cut()
        scene.wait(cut_s)
        taken, waiting = arm["steps"] - taken, link["pending"]
        for proxy in (steps, weights):
            proxy.restore()
        back = time.monotonic()
        scene.until("the learner has caught up", lambda: link["pending"] < 20, _START_S + cut_s)
        caught_up_s = time.monotonic() - back
        scene.until("new weights arrive", lambda: link["weights_version"] > version, _START_S + cut_s)
        scene.wait(after_s)
        ended = scene.end(actor, _END_S)
        scene.end(learner, _END_S)
        scene.end(judge, _END_S)
        account = compare(scene.witnesses, RunFolder(folder / "run").store)
        return {
            "line": {"delay_ms": 1e3 * delay_s, "mbit_per_s": rate_bit_s / 1e6, "cut_s": cut_s},
            "through_the_line_mb": (steps.forwarded_bytes + weights.forwarded_bytes) / 1e6,
            "steps_while_cut": taken,
            "records_waiting": waiting,
            "caught_up_s": caught_up_s,
            "weights_version": ended["policy_version"],
            "strangers_in": strangers_in,
            "friends_in": int(friends_in),
            "account": account | {"not_durable": ended["not_durable"]},
        }


def _make_keys(scene: RunUnderTest, folder: Path) -> Path:
    """Make the keys as a user would, and return where the folders of the computers are."""
    keys = folder / "keys"
    names = "[learner, robot, judge]"
    made = scene.start("keys", "--folder", str(keys), "--computers", names, log=folder / "keys.log")
    scene.commands.remove(made)
    made.result(_START_S)
    return keys


def _start_learner(
    scene: RunUnderTest, folder: Path, ports: list[int], keys: Path, args: tuple[str, ...]
) -> tuple[RunningCommand, RunningCommand]:
    """Start learner and reward server; the steps, the weights and the scores have a port each."""
    steps, weights, scores = (f"tcp://127.0.0.1:{port}" for port in ports)
    judge = scene.start(
        "serve",
        *("brightness", "--endpoint", scores, "--security.keys", str(keys / "judge")),
        log=folder / "serve.log",
    )
    learner = scene.start(
        "learn",
        *("--run", str(folder / "run"), "--steps", steps, "--weights", weights, "--reward", scores),
        *("--security.keys", str(keys / "learner"), "--security.server", "judge"),
        *SMALL_LEARNER,
        *args,
        log=folder / "learn.log",
    )
    return learner, judge


def _strangers(folder: Path, keys: Path) -> list[Keys | None]:
    """Return the keys of clients that must stay outside: none at all, and a pair that nobody knows."""
    own = Keys.load(make_keys(folder / "foreign", ["stranger", "learner"])["stranger"])
    learner = Keys.load(keys / "learner")
    return [None, Keys(public=own.public, secret=own.secret, peers={"learner": learner.public})]


def _gets_in(scene: RunUnderTest, endpoint: str, keys: Keys | None) -> bool:
    """Knock for some seconds with these keys and return whether the learner answers."""
    stranger = StepsSender(endpoint, ring_id="stranger", actor="stranger", handshake=Handshake(), keys=keys)
    try:
        scene.wait(_KNOCKING_S, lambda: stranger.poll(0.0))
        return stranger.connected
    except WireError:
        return False
    finally:
        stranger.close()
