"""What a run loses when its processes are killed: nothing, as a witness beside it tells.

One run under the launcher, two actors, a served reward model, and SIGKILL for control, inference, I/O, store, labeller,
trainer and reward server at random instants; then the reward server kept dead for a while. In a second run the whole
learner is killed and stays away.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roborl.clock import NS
from roborl.loops.actor.status import StatusSlot
from roborl.loops.benchmarks.away import learner_away
from roborl.loops.benchmarks.control import bare_loop
from roborl.loops.benchmarks.labels import LabelWatch
from roborl.loops.benchmarks.runs import SMALL_LEARNER, Events, RunUnderTest, on_reach
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.supervise import ChildSpec, ProcessGroup
from roborl.loops.witness import compare

log = logging.getLogger(__name__)

_CONTROL_HZ = 50.0
_PER_ACTOR = ("control", "inference", "io")
_LEARNER = ("store", "labeller", "trainer", "serve")
_START_S, _END_S = 180.0, 300.0


def run(
    *,
    kills: int = 30,
    actors: int = 2,
    server_away_s: float = 60.0,
    learner_away_s: float = 600.0,
    time_scale: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Kill processes of a run and account for every committed step.

    Args:
        kills: How many processes are killed, one after the other at random instants.
        actors: How many actors share the learner.
        server_away_s: How long the reward server is kept dead afterwards; 0 leaves that out.
        learner_away_s: How long the learner of the second run is away; 0 leaves that run out.
        time_scale: How much faster than life the simulated benches run.
        seed: Of the instants and the victims.

    Returns:
        The account of steps, times of detection and return by process, missed control ticks beside those of a bare sleep
        loop, labels beside those of an undisturbed scoring.

    Raises:
        RoborlError: If the run does not survive.
    """
    names = [f"arm{number}" for number in range(actors)] if actors > 1 else ["arm"]
    with tempfile.TemporaryDirectory(prefix="roborl-faults-") as scratch:
        folder = RunFolder(Path(scratch) / "run")
        with RunUnderTest(folder.root, names) as scene:
            result = _Killing(scene, folder, names, time_scale, seed).run(kills, server_away_s)
        if learner_away_s:
            result["learner_away"] = learner_away(
                Path(scratch) / "away", learner_away_s, time_scale=time_scale, seed=seed
            )
    return result


@dataclass(frozen=True, kw_only=True)
class _Kill:
    child: str
    pid: int
    at_ns: int


class _Killing:
    """One run under the launcher whose processes are killed."""

    def __init__(
        self,
        scene: RunUnderTest,
        folder: RunFolder,
        actors: list[str],
        time_scale: float,
        seed: int,
    ) -> None:
        self._scene, self._folder = scene, folder
        self._actors, self._time_scale, self._seed = actors, time_scale, seed
        self._dice = random.Random(seed)
        self._events = Events(folder.events)
        self._kills: list[_Kill] = []

    def run(self, kills: int, server_away_s: float) -> dict[str, Any]:
        scene = self._scene
        launcher = scene.start(
            "train",
            *("--run", str(self._folder.root), "--reward", "brightness", "--seed", str(self._seed)),
            *("--actors", str(len(self._actors)), "--episodes", "1000000"),
            *SMALL_LEARNER,
            *on_reach(self._time_scale),
            log=self._folder.root.with_name("train.log"),
        )
        self._victims = [f"{process}-{actor}" for actor in self._actors for process in _PER_ACTOR]
        self._victims += _LEARNER
        self._until("the run is under way", lambda: set(self._victims) <= self._events.ready, _START_S)
        self._until("steps are taken", lambda: min(arm["steps"] for arm in scene.control) > 5, _START_S)
        # The bare loop shows what the machine itself misses; it has the control process's priority.
        priority = "fifo" if self._time_scale == 1.0 else "normal"
        shared = scene.witnesses[0].folder
        bare = ProcessGroup([ChildSpec(name="bare", target=bare_loop, args=(shared, priority))])
        bare.start()
        try:
            self._kill_at_random(kills)
            result: dict[str, Any] = {"kills": len(self._kills), "actors": len(self._actors)}
            labels = LabelWatch(self._folder.store)
            if server_away_s:
                result["server_away"] = self._keep_server_away(server_away_s, labels)
        finally:
            bare.stop()
        ended = scene.end(launcher, _END_S)
        self._events.update()
        account = compare(scene.witnesses, self._folder.store)
        account["not_durable"] = sum(actor["not_durable"] for actor in ended["actors"])
        return {
            **result,
            "account": account,
            **self._recoveries(),
            "missed_ticks": self._missed_ticks(StatusSlot(shared, "bare")),
            "labels": labels.compare(),
        }

    def _until(self, what: str, happened: Callable[[], bool], seconds: float = 120.0) -> None:
        def look() -> bool:
            self._events.update()
            return happened()

        self._scene.until(what, look, seconds)

    def _kill_at_random(self, kills: int) -> None:
        """Kill each process in turn, in a shuffled order; who is killed next may well be waiting for the last one."""
        order = [self._victims[number % len(self._victims)] for number in range(kills)]
        # With fewer kills than processes, one of each kind comes first.
        if kills < len(self._victims):
            order = [f"{process}-{self._dice.choice(self._actors)}" for process in _PER_ACTOR] + list(
                _LEARNER
            )
            self._dice.shuffle(order)
            order = order[:kills]
        else:
            self._dice.shuffle(order)
        for victim in order:
            self._until(f"{victim} is at work", lambda name=victim: name in self._events.ready)  # type: ignore[misc]
            self._scene.wait(self._dice.uniform(0.0, 2.0))
            self._until(f"{victim} is at work", lambda name=victim: name in self._events.ready)  # type: ignore[misc]
            self._kill(victim)
        self._until("all are back", lambda: set(self._victims) <= self._events.ready)

    def _kill(self, victim: str) -> None:
        log.info("SIGKILL for %s", victim)
        pid = self._events.pids.pop(victim)
        self._events.ready.discard(victim)
        self._kills.append(_Kill(child=victim, pid=pid, at_ns=time.monotonic_ns()))
        os.kill(pid, signal.SIGKILL)

    def _keep_server_away(self, seconds: float, labels: LabelWatch) -> dict[str, Any]:
        """Kill the reward server again and again; see that control keeps its rate and that the labels catch up."""
        span_s = min(20.0, seconds)
        with_server = self._rate(span_s)
        log.info("The reward server stays dead for %g s", seconds)
        steps, began = self._scene.steps(), time.monotonic()

        def kill_again() -> None:
            self._events.update()
            pid = self._events.pids.pop("serve", None)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

        self._scene.wait(seconds, kill_again)
        without_server = (self._scene.steps() - steps) / (time.monotonic() - began)
        self._events.ready.discard("serve")
        self._until("the reward server is back", lambda: "serve" in self._events.ready)
        waiting = labels.unlabelled()
        back = time.monotonic()
        self._until("the labels catch up", lambda: labels.caught_up(list(waiting)), 120.0 + 2 * seconds)
        return {
            "away_s": seconds,
            "steps_per_s_before": with_server,
            "steps_per_s": without_server,
            "rate_ratio": without_server / with_server,
            "episodes_behind": len(waiting),
            "frames_behind": sum(waiting.values()),
            "caught_up_s": time.monotonic() - back,
            "missing": sum(labels.unlabelled(list(waiting)).values()),
        }

    def _rate(self, seconds: float) -> float:
        steps, began = self._scene.steps(), time.monotonic()
        self._scene.wait(seconds)
        return (self._scene.steps() - steps) / (time.monotonic() - began)

    def _recoveries(self) -> dict[str, Any]:
        """Return detection and return by kind of process: the kill, its discovery, its successor's readiness."""
        detections: dict[str, list[float]] = defaultdict(list)
        backs: dict[str, list[float]] = defaultdict(list)
        imports: dict[str, list[float]] = defaultdict(list)
        for kill in self._kills:
            kind = kill.child.split("-")[0]
            life = [event for event in self._events.lives[kill.child] if event["at_ns"] >= kill.at_ns]
            died = next(event for event in life if event["event"] == "died")
            ready = next(event for event in life if event["event"] == "ready")
            detections[kind].append((died["at_ns"] - kill.at_ns) / NS)
            backs[kind].append((ready["at_ns"] - kill.at_ns) / NS - ready["import_s"])
            imports[kind].append(ready["import_s"])
        figures = {"detection_s": detections, "back_s": backs, "import_s": imports}
        return {
            name: {
                "max": max((max(values) for values in found.values()), default=0.0),
                "median": statistics.median(
                    [value for values in found.values() for value in values] or [0.0]
                ),
                **{kind: max(values) for kind, values in sorted(found.items())},
            }
            for name, found in figures.items()
        }

    def _missed_ticks(self, bare: StatusSlot) -> dict[str, Any]:
        period_ms = 1e3 / _CONTROL_HZ / self._time_scale
        control = self._scene.control
        missed, ticks = (
            sum(arm.ticks_later_than(period_ms) for arm in control),
            sum(arm["ticks"] for arm in control),
        )
        bare_missed = bare.ticks_later_than(period_ms)
        return {
            "control": missed,
            "of": ticks,
            "late_p99_ms": max(arm.lateness_ms(0.99) for arm in control),
            "late_max_ms": max(arm["late_max_ns"] for arm in control) / 1e6,
            "bare loop": bare_missed,
            "bare of": bare["ticks"],
            "bare late_max_ms": bare["late_max_ns"] / 1e6,
            # What the machine takes from everybody, it takes from a loop that only sleeps as well.
            "beyond the bare loop's share": max(0.0, missed - bare_missed * ticks / max(1, bare["ticks"])),
            "period_ms": period_ms,
        }
