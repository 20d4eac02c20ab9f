"""The actor: control, inference and I/O as processes that are kept alive, and ended with the arm first."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from roborl.clock import Every
from roborl.data.ring import Ring
from roborl.errors import ConfigError, DatasetError
from roborl.hil.keyboard import Listener, TerminalKeyboard, at_terminal
from roborl.hil.presses import PressSender
from roborl.locks import FolderLock
from roborl.loops.actor import control_process, inference, io, live, teleop
from roborl.loops.actor.act_config import ActConfig, give_back_memory, shared_folder
from roborl.loops.actor.control_settings import WaitReason
from roborl.loops.actor.status import LIFE, StatusSlot, on_screen
from roborl.loops.run_files import JsonLines
from roborl.loops.supervise import LOAD_S, ChildSpec, ProcessGroup
from roborl.policies.lerobot_files import is_lerobot_policy, is_runs_policy
from roborl.rewards.metrics import wilson_interval

log = logging.getLogger(__name__)

# Loaded once by the fork server. Not MuJoCo: with EGL it opens a display, which must not be forked.
PRELOAD = (
    "numpy",
    "cv2",
    "torch",
    "lerobot.robots",
    "zmq",
    "roborl.envs.bench",
    "roborl.envs.arm",
    "roborl.loops.actor.control_process",
    "roborl.policies.small",
)
_PROCESSES = ("control", "inference", "io")
_HANG_S = 10.0
_POLL_S = 0.05
_QUIET_S = 1.0
_REPORT_S = 30.0


def actor_specs(config: ActConfig, suffix: str = "") -> list[ChildSpec]:
    """Return the processes of one actor, in the order in which they must end."""
    mains = {
        "control": control_process.main,
        "inference": inference.main,
        "io": io.main,
        "teleop": teleop.main,
        "live": live.main,
    }
    return [
        ChildSpec(
            name=name + suffix,
            target=mains[name],
            args=(config,),
            hang_s=_HANG_S,
            start_s=LOAD_S if name == "inference" else ChildSpec.start_s,
            handles_interrupt=name == "control",
            lasting=name != "control",  # Which alone comes to its own end, when its episodes are done.
        )
        for name in process_names(config)
    ]


def process_names(config: ActConfig) -> tuple[str, ...]:
    """Return the names of an actor's processes in the order in which they must end: the arm first."""
    further = {"teleop": bool(config.teleop), "live": config.live.on}
    return (*_PROCESSES, *(name for name, wanted in further.items() if wanted))


class ActorProcesses:
    """One actor's processes.

    Args:
        config: What to do.
        stopping: True once the actor must end.
        meanwhile: Called some twenty times a second while the actor runs.
        hurried: True once it must end without waiting for the learner.
        group: A group that has this actor's processes among others, and that its owner starts, polls and stops; None
            makes one of its own.
        suffix: What the names of the processes end with in that group.

    Raises:
        DatasetError: If one of that name is at work on that run already; nothing of its is touched.
    """

    def __init__(
        self,
        config: ActConfig,
        stopping: Callable[[], bool],
        meanwhile: Callable[[], object] = lambda: None,
        *,
        hurried: Callable[[], bool] = lambda: False,
        group: ProcessGroup | None = None,
        suffix: str = "",
    ) -> None:
        self._config, self._stopping, self._meanwhile = config, stopping, meanwhile
        self._hurried = hurried
        config.run.mkdir(parents=True, exist_ok=True)
        give_back_memory()
        self.folder = shared_folder(config.run, config.actor)
        self._lock = FolderLock(
            self.folder,
            busy="An actor of this name is at work on this run",
            remedy="End it, or give this one another --actor, or another --run",
        )
        (self.folder / "actor.json").unlink(missing_ok=True)
        if config.alone:  # An evaluation that was killed is no part of this one.
            for pattern in ("*.status", "*.bin", "*.slot"):
                for path in self.folder.glob(pattern):
                    path.unlink()
        counted = (*_PROCESSES, "live") if config.live.on else _PROCESSES
        self.status = {name: StatusSlot(self.folder, name) for name in counted}
        # An earlier start may have had another learner, and have been sent other weights.
        for process, field in (
            ("io", "met"),
            ("io", "paused"),
            ("io", "weights_received"),
            ("inference", "weights_seen"),
        ):
            self.status[process][field] = 0
        self.names = {name: name + suffix for name in process_names(config)}
        self.group = group or ProcessGroup(
            actor_specs(config, suffix),
            preload=PRELOAD,
            on_event=JsonLines(config.run / f"{config.actor}.events.jsonl"),
        )

    @property
    def done(self) -> bool:
        """True once the control process has run all its episodes."""
        return self.group.finished(self.names["control"])

    def run(self) -> dict[str, Any]:
        """Run until the control process has done its episodes, or the actor must end; return the figures.

        Raises:
            RoborlError: If a process cannot do its work.
        """
        began = time.monotonic()
        try:
            self.group.start()
            with keyboard_of([self]) as keyboard:
                report = Every(_REPORT_S, at_once=False)
                while not self._stopping() and not self.done:
                    self.group.poll(_POLL_S)
                    if keyboard is not None:
                        keyboard.poll()
                    self._meanwhile()
                    if report.due():
                        log.info("%s", self._line())
            self.finish()
        finally:
            # The arm first, whatever happened.
            self.group.stop()
            self._lock.close()
        return self.report(time.monotonic() - began)

    def stop_arm(self) -> None:
        """End the control process, which brings the arm to rest."""
        self.group.end(self.names["control"], grace_s=10.0)

    def finish(self) -> None:
        """Stop the arm, wait until the learner has every step, end the other processes and give their memory back."""
        self.stop_arm()
        self._drain()
        for name in self.names.values():
            self.group.end(name)
        self._tidy()
        self._lock.close()

    def report(self, wall_s: float) -> dict[str, Any]:
        """Return what the actor did and how its processes fared."""
        control, policy, link = (self.status[name] for name in ("control", "inference", "io"))
        chunks = max(1, policy["chunks"])
        return {
            "actor": self._config.actor,
            "wall_s": wall_s,
            "episodes": control["episodes"],
            "discarded": control["discarded"],
            "cut_short": control["cut_short"],
            "helped": control["helped"],
            "steps": control["steps"],
            "successes": control["successes"],
            "person_steps": control["person_steps"],
            "takeovers": control["takeovers"],
            "operator_lost": control["operator_lost"],
            "watchdogs": control["watchdogs"],
            "judge_stops": control["judge_stops"],
            "lost_episodes": control["lost_episodes"],
            "holds": control["holds"],
            "ticks": control["ticks"],
            "late_p50_ms": control.lateness_ms(0.5),
            "late_p99_ms": control.lateness_ms(0.99),
            "late_max_ms": control["late_max_ns"] / 1e6,
            "inference_mean_ms": policy["latency_sum_ns"] / chunks / 1e6,
            "inference_max_ms": policy["latency_max_ns"] / 1e6,
            "policy_version": policy["policy_version"],
            "weights_refused": policy["refused"],
            "not_durable": link["pending"],
            "live": self._watching(),
            "restarts": {name: self.group.restarts[own] for name, own in self.names.items()},
            "recoveries_s": {name: self.group.recoveries_s[own] for name, own in self.names.items()},
        }

    def listener(self) -> Listener | None:
        """Return who hears the operator's keys; None where this actor has no operator who presses any."""
        if self._config.operator in ("sim", "none"):
            return None
        sender, device = PressSender(self.folder, "keyboard"), bool(self._config.teleop)
        return Listener(
            sender=sender,
            on_screen=partial(on_screen, self.status["control"], self._config.actor),
            device=device,
            done=lambda: self.done,
        )

    @property
    def stuck(self) -> int:
        """How many episodes did not come on, as far as anybody watched."""
        return self.status["live"]["stuck"] if "live" in self.status else 0

    def _watching(self) -> dict[str, int]:
        """Return what came of watching the arm live, empty where nobody does."""
        values = self.status["live"].values() if "live" in self.status else {}
        return {name: count for name, count in values.items() if name not in LIFE}

    def _drain(self) -> None:
        """Wait until the learner has every step, it takes too long or nobody will wait; what it lacks stays in the ring."""
        try:
            ring = Ring.attach(self.folder / "ring.bin")
        except DatasetError:
            return
        began, asked, told = time.monotonic(), self._stopping(), False
        with ring:
            while (
                ring.acknowledged < ring.head
                and (waited_s := time.monotonic() - began) < self._config.drain_s
            ):
                if self._hurried() or self._stopping() > asked:
                    break
                if waited_s > _QUIET_S and not told:
                    told = True
                    log.info(
                        "%d records wait for the learner, for %g s at most; Ctrl-C leaves them to the next start",
                        ring.head - ring.acknowledged,
                        self._config.drain_s,
                    )
                self.group.poll(_POLL_S)
            waiting = ring.head - ring.acknowledged
        self.status["io"]["pending"] = waiting
        if waiting:
            log.warning("%d records are not with the learner yet; the next start sends them", waiting)

    def _tidy(self) -> None:
        """Give the memory back where the learner has everything; the counters stay for the next start."""
        if self.status["io"]["pending"] == 0:
            for path in (*self.folder.glob("*.bin"), *self.folder.glob("*.slot")):
                path.unlink()

    def _line(self) -> str:
        control = self.status["control"]
        waiting = WaitReason(control["waiting_for"])
        return (
            f"{control['episodes']} episodes, {control['steps']} steps, {control['successes']} successes, "
            f"policy version {self.status['inference']['policy_version']}, {self.status['io']['pending']} records waiting"
            + (f", {self.stuck} stuck" if "live" in self.status else "")
            + ("" if waiting is WaitReason.NOTHING else f"; no episode now: {waiting.name.lower()}")
        )


@contextmanager
def keyboard_of(actors: Sequence[ActorProcesses]) -> Iterator[TerminalKeyboard | None]:
    """Give the one keyboard of this terminal, which all of the actors hear; None where there is none to listen to."""
    heard = (actor.listener() for actor in actors)
    listeners = [listener for listener in heard if listener is not None]
    if not listeners or not at_terminal():
        yield None
        return
    with TerminalKeyboard(listeners) as keyboard:
        log.info("%s", keyboard.help)
        yield keyboard


def run_actor(
    config: ActConfig,
    stopping: Callable[[], bool] = lambda: False,
    hurried: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run an actor to its end and return its figures.

    An evaluation without a learner has a folder of its own in the run's, so that steps which an earlier start left for a
    learner stay there; once it is over, its counts are given back, and the next one begins anew.

    Raises:
        ConfigError: If a learner's weights are asked for and the policy takes none, or the device to take over with cannot be
            used.
        RoborlError: If a process cannot do its work.
    """
    if config.weights and is_lerobot_policy(config.policy) and not is_runs_policy(config.policy):
        raise ConfigError(
            "A LeRobot policy takes weights only as the policy of a run",
            seen=f"policy {config.policy}, weights {config.weights}",
            allowed="the folder named policy in the learner's run, which says what of it learns, or weights empty",
            remedy="Copy that folder to this computer and name it with --policy, or leave --weights out to run this one as it is",
        )
    if config.teleop:
        from roborl.envs.bench import load_bench

        bench = load_bench(config.bench, config.bench_overrides, config.plugins)
        teleop.require_device(bench, config)
    if config.mode == "train" and not config.weights and not is_lerobot_policy(config.policy):
        log.warning(
            "No --weights: the arm keeps to the policy in %s, whatever a learner makes of its experience",
            config.policy,
        )
    if not config.alone:
        return ActorProcesses(config, stopping, hurried=hurried).run()
    config = replace(config, run=config.run / "evaluation")
    figures = ActorProcesses(config, stopping).run()
    shutil.rmtree(folder_of(config))
    return figures | success_of(figures)


def success_of(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the success rate and its 95 % Wilson interval, and say them; nothing where no episode counts.

    What was discarded does not count; nor do episodes that a fault of robot, cameras or processes, or the end of the run, cut
    short: they say nothing of the policy. Those in which a person took over count as failures.
    """
    if cut_short := figures["cut_short"]:
        log.warning(
            "%d episodes were cut short by a fault or the end of the run, and do not count", cut_short
        )
    successes, episodes = figures["successes"], figures["episodes"] - figures["discarded"] - cut_short
    if not episodes:
        return {}
    if helped := figures["helped"]:
        log.warning("A person had the arm in %d episodes: they count as failures of the policy", helped)
    low, high = wilson_interval(successes, episodes)
    rate = successes / episodes
    log.info(
        "%d/%d succeeded: %.0f %% (95 %% interval %.0f to %.0f %%)",
        *(successes, episodes, 100 * rate, 100 * low, 100 * high),
    )
    return {"success": rate, "success_low": low, "success_high": high}


def folder_of(config: ActConfig) -> Path:
    """Return the folder that the actor's processes share: ring, slots, status, buttons."""
    return shared_folder(config.run, config.actor)
