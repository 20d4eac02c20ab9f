"""Recording a person's demonstrations through any LeRobot teleoperator, on the loop that policies run on."""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.clock import Clock, MonotonicClock, Rate
from roborl.data.lerobot_io import read_episodes
from roborl.envs.answering import answers
from roborl.envs.arm import Arm
from roborl.envs.bench_maps import action_map
from roborl.envs.robot_env import RobotEnv
from roborl.envs.servos import DEVICE_FAULTS
from roborl.errors import ConfigError, RoborlError, RobotError, SafetyStop, spelt_out
from roborl.hil.devices import DeltaMap
from roborl.hil.keyboard import Listener, TerminalKeyboard
from roborl.hil.operator import PersonOperator
from roborl.hil.presses import Button, Presses, PressSender
from roborl.loops.actor.teleoperators import check_plugged_in
from roborl.loops.record import Recorded, open_writer, to_dataset_episode
from roborl.loops.rollout import Rollout, run_episode
from roborl.types import EndCause, EpisodeKey, Observation, Source

log = logging.getLogger(__name__)

PERSON = "person"
_POLL_S = 0.05
_FAULTS_IN_A_ROW = 5
_VERDICTS = (Button.SUCCESS, Button.FAILURE, Button.DISCARD)


class HandPolicy:
    """A person's teleoperator as a policy: leader arms (joint targets) and devices that give end-effector deltas.

    Args:
        teleoperator: A connected ``lerobot`` teleoperator.
        arm: The arm that follows.
        rate: Waited for before each action, where the environment itself does not keep time.
    """

    version = 0

    def __init__(self, teleoperator: Any, arm: Arm, rate: Rate | None = None) -> None:
        self._teleoperator, self._arm, self._rate = teleoperator, arm, rate
        self._map, self._deltas = action_map(arm.bench), DeltaMap()

    def reset(self) -> None:
        """Nothing is remembered between episodes."""

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return what the person wants now, float32 (1, a).

        Raises:
            RobotError: If the device does not answer.
            ConfigError: If it speaks neither of the two ways.
        """
        if self._rate is not None:
            self._rate.wait()
        return self._action(self.read())[None]

    def read(self) -> dict[str, Any]:
        """Return the device's present values.

        Raises:
            RobotError: If it does not answer.
        """
        try:
            values: dict[str, Any] = self._teleoperator.get_action()
            check_plugged_in(self._teleoperator)
        except DEVICE_FAULTS as error:
            raise RobotError(
                "The teleoperator does not answer",
                seen=spelt_out(error),
                remedy="Check its cable and power; finished episodes are kept",
            ) from error
        return values

    def _action(self, wanted: dict[str, Any]) -> NDArray[np.float32]:
        keys = self._arm.model.position_keys
        if set(keys) <= set(wanted):
            return self._map.executed(self._arm.set_point, self._arm.model.from_features(wanted))
        axes = ("delta_x", "delta_y", "delta_z")
        if set(axes) <= set(wanted) and self._arm.bench.action.kind == "ee_delta":
            return self._deltas(wanted, 0)
        raise ConfigError(
            "The teleoperator's actions do not fit the bench",
            seen=sorted(map(str, wanted)),
            allowed=f"{', '.join(keys)}; or, with ee_delta actions, {', '.join(axes)} and gripper",
            remedy="Use a leader arm of this robot, or a gamepad",
        )


class HandOperator:
    """The person who demonstrates, behind buttons: ready, success, failure, discard, stop.

    Between two episodes, while the scene is made ready and the arm goes home, a stop alone counts; who judges then is told.

    Args:
        presses: Where the buttons arrive.
        say: Shows the person a line of text.
        clock: For waiting.

    Attributes:
        discarded: Whether the person asked to keep the present episode out of training.
    """

    def __init__(self, presses: Presses, *, say: Callable[[str], None], clock: Clock) -> None:
        self._presses = presses
        self._person = PersonOperator(presses, say=say, clock=clock, on_press=self._hear)
        self._say = say
        self._running = self.discarded = False

    def reset(self, seed: int | None) -> None:
        """Wait until the scene is ready.

        Raises:
            SafetyStop: If the person stops the recording instead.
        """
        self._running = self.discarded = False
        self._person.reset(seed)

    def watch(self, observation: Observation) -> None:
        """Take an episode's first observation for its beginning: from there on it is what is judged.

        Raises:
            SafetyStop: If the person stopped the recording just before.
        """
        if not self._running:
            self.verdict()
            self._running = True

    def verdict(self) -> bool | None:
        """Return the newest verdict, None between episodes; a discard ends the episode like a failure.

        Raises:
            SafetyStop: If the person stops the recording; the episode under way is not kept.
        """
        said: bool | None = None
        for press in self._presses.take():
            self._hear(press)
            if self._running and press.button in _VERDICTS:
                self.discarded = self.discarded or press.button is Button.DISCARD
                said = press.button is Button.SUCCESS
        return said

    def _hear(self, press: Any) -> None:
        if press.button in (Button.STOP, Button.ESTOP):
            raise SafetyStop("The person stopped the recording", remedy="Run the same command again to go on")
        if press.button in _VERDICTS and not self._running:
            self._say(
                f"No episode is under way: {press.button.value} has no effect, what is recorded stays as it is."
            )


def record_by_hand(
    env: RobotEnv,
    operator: HandOperator,
    teleoperator: Any,
    path: Path,
    *,
    episodes: int,
    video: bool = False,
    on_begin: Callable[[float], None] = lambda limit_s: None,
    on_episode: Callable[[str, int, int], None] = lambda kind, done, wanted: None,
    on_lost: Callable[[RoborlError], None] = lambda error: None,
) -> Recorded:
    """Record a person's demonstrations until there are so many; continue where an earlier call stopped.

    Every episode is whole on the disk before the next begins. One that nobody judged before its time was out is not kept:
    without a verdict it would be taken for a success. Nor is one in which the robot failed for a moment, as with a picture
    that came late. Either is shown once more.

    Args:
        env: The environment, with ``operator`` as its operator.
        operator: The person's buttons.
        teleoperator: A connected ``lerobot`` teleoperator.
        path: The dataset.
        episodes: How many shall stand in it, besides those that the person discarded.
        video: Store MP4 rather than exact pictures.
        on_begin: Told before each how many seconds it may take.
        on_episode: Told after each.
        on_lost: Told why an episode is lost.

    Raises:
        SafetyStop: If the person stops the recording.
        RobotError: If robot or teleoperator do not answer, or the robot fails several times running.
        OSError: If the dataset cannot be written.
    """
    # A simulated bench does not keep time by itself, and a person cannot follow one that runs free.
    rate = Rate(env.bench.policy_hz, MonotonicClock()) if env.bench.simulated else None
    policy = HandPolicy(teleoperator, env.arm, rate)
    result = Recorded()
    with open_writer(path, env, video=video, checkpoint_every=1) as writer:
        there = list(read_episodes(path, with_images=False)) if writer.episodes else []
        there = [episode for episode in there if episode.key.startswith(f"{PERSON}-")]
        mine = [EpisodeKey.parse(episode.key).episode for episode in there]
        kept = sum(episode.success is not None and not episode.discarded for episode in there)
        result.present = {PERSON: kept} if kept else {}
        if kept < episodes:
            writer.prepare()

        def lose(error: RoborlError) -> None:
            result.rejected[PERSON] = result.rejected.get(PERSON, 0) + 1
            on_lost(error)

        while kept < episodes:
            on_begin(env.bench.max_steps / env.bench.policy_hz)
            rollout = _whole_episode(env, policy, operator, len(mine), lose)
            if rollout.end is EndCause.TIME_LIMIT:
                lose(_out_of_time(env))
                continue
            key = EpisodeKey(actor=PERSON, incarnation=1, episode=1 + max(mine, default=-1))
            episode = to_dataset_episode(rollout, env.task, key=key, source=Source.PERSON)
            writer.append(replace(episode, discarded=operator.discarded))
            mine.append(key.episode)
            result.written[PERSON] = result.written.get(PERSON, 0) + 1
            kept += not operator.discarded
            on_episode(PERSON, kept, episodes)
    return result


def _out_of_time(env: RobotEnv) -> RoborlError:
    limit_s = env.bench.max_steps / env.bench.policy_hz
    return RoborlError(
        "Out of time, no verdict: not counted",
        seen=f"{limit_s:g} s without success, failure or discard",
        remedy="Say how it went before that, or give it more time with max_steps in the bench file",
    )


def _whole_episode(
    env: RobotEnv,
    policy: HandPolicy,
    operator: HandOperator,
    seed: int,
    on_lost: Callable[[RobotError], None],
) -> Rollout:
    """Run episodes until the robot has got through one.

    Raises:
        RobotError: If it or the teleoperator do not answer, or it fails several times running.
    """
    for _ in range(_FAULTS_IN_A_ROW - 1):
        try:
            return run_episode(env, policy, seed=seed, keep=True, watch=operator.watch)
        except SafetyStop:
            raise
        except RobotError as error:
            if not _both_answer(env, policy, error):
                raise
            on_lost(error)
    return run_episode(env, policy, seed=seed, keep=True, watch=operator.watch)


def _both_answer(env: RobotEnv, policy: HandPolicy, after: RobotError) -> bool:
    try:
        policy.read()
    except RobotError:
        return False
    clock = MonotonicClock()
    rest = Rate(1 / _POLL_S, clock).wait
    return answers(env.arm, clock, rest, after=after) and bool(env.arm.robot.is_connected)


@contextlib.contextmanager
def buttons_at_the_terminal() -> Iterator[Presses]:
    """Give the presses of the terminal's keyboard, followed by a thread of its own. An emergency stop that is not heard interrupts."""
    with tempfile.TemporaryDirectory(prefix="roborl-record-") as folder:
        sender, presses = PressSender(Path(folder), "keyboard"), Presses(Path(folder))
        over = threading.Event()
        main_thread = threading.main_thread().ident
        assert main_thread is not None, "it runs"
        with TerminalKeyboard([Listener(sender=sender, device=False)]) as keyboard:

            def follow() -> None:
                while not over.wait(_POLL_S):
                    try:
                        keyboard.poll()
                    except SafetyStop as stop:
                        log.error("%s", stop)
                        # Wherever it waits: _thread.interrupt_main is not heard before a wait is over.
                        signal.pthread_kill(main_thread, signal.SIGINT)

            thread = threading.Thread(target=follow, name="keyboard", daemon=True)
            thread.start()
            try:
                yield presses
            finally:
                over.set()
                thread.join()
                sender.close()
                presses.close()
