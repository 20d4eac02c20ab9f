"""Stands for the person beside a simulated desk: lays out scenes, leads the leader arm, presses the keys."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from roborl.clock import NS
from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_io import read_episodes
from roborl.envs.actions import ActionConfig
from roborl.envs.experts import Noise, make_expert
from roborl.envs.robot_model import Joints
from roborl.hil.operator import ASKS
from roborl.loops.record import spans
from roborl.testing.simulated_arms import SimulatedArms
from roborl.types import Observation

_HAND_HZ = 10.0
# A key that was typed before the command listened is lost, as it is for anybody.
_AGAIN_S = 6.0
READY, SUCCESS = "r", "s"


class Keyboard(Protocol):
    """Where the person reads and types."""

    def read(self) -> str:
        """Return what was said since the last call."""
        ...

    def type(self, key: str) -> None:
        """Press a key."""
        ...


class ScriptedPerson:
    """Sees the simulator's truth, and acts on it through the leader arm, the objects and the keys alone.

    Args:
        arms: The desk.
        keyboard: Where it reads and types.
        action: What an action means on the bench; the hand goes no faster.
        leads: Whether it leads the leader, or only watches a policy.
        seed: Of the scenes and of the hand's noise.
        watched: File that gets what it sees, by time, for :func:`marks`; None for nothing.
        now_s: Its clock.

    Attributes:
        scenes: How many scenes it has made ready.
        successes: How many times it has pressed success.
        rates_hz: How often a second the follower was told where to go, in each scene that ended with success.
    """

    def __init__(
        self,
        arms: SimulatedArms,
        keyboard: Keyboard,
        *,
        action: ActionConfig,
        leads: bool,
        seed: int = 0,
        watched: Path | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arms, self._keyboard, self._action, self._leads = arms, keyboard, action, leads
        self._seed, self._watched, self._now_s = seed, watched, now_s
        self._expert = make_expert(arms.scene, action=action, noise=Noise(action=0.1), seed=seed)
        self._said = ""
        self._waits = self._watches = False
        self._commands, self._begun_s = 0, 0.0
        self._typed_s = self._hand_s = 0.0
        self._from = self._to = arms.leader.model.home.copy()
        self.scenes = self.successes = 0
        self.rates_hz: list[float] = []

    def look(self) -> None:
        """Do what is to be done now. Call it often; it never waits."""
        self._said = (self._said + self._keyboard.read())[-4 * len(ASKS) :]
        now_s = self._now_s()
        if ASKS in self._said:
            self._said = self._said.partition(ASKS)[2]
            self._make_ready(now_s)
        elif self._waits and self._arms.home() and self._arms.commands > self._commands:
            self._begin(now_s)
        elif self._waits and now_s - self._typed_s > _AGAIN_S:
            self._type(READY, now_s)
        if self._watches:
            self._watch(now_s)

    def _make_ready(self, now_s: float) -> None:
        self._arms.make_ready(self._seed + self.scenes)
        self._arms.leader.place(self._arms.leader.model.home)
        self.scenes += 1
        self._waits, self._watches = True, False
        self._note()
        self._commands = self._arms.commands
        self._type(READY, now_s)

    def _type(self, key: str, now_s: float) -> None:
        self._typed_s = now_s
        self._keyboard.type(key)

    def _begin(self, now_s: float) -> None:
        """The arm is driven, and stands in its home pose: from now on there is something to do, and to judge."""
        self._waits, self._watches = False, True
        self._commands, self._begun_s = self._arms.commands, now_s
        self._hand_s = now_s - 1.0 / _HAND_HZ
        self._from = self._to = self._arms.leader.joints()
        self._expert.reset()

    def _watch(self, now_s: float) -> None:
        share = (now_s - self._hand_s) * _HAND_HZ
        if share >= 1.0:
            self._hand_s, share = now_s, 0.0
            self._note()
            if self._leads:
                self._from, self._to = self._to, self._wanted()
        if self._leads:
            self._arms.leader.place(self._from + share * (self._to - self._from))
        if self._arms.scene.succeeded:
            self._note()
            self.successes += 1
            self.rates_hz.append((self._arms.commands - self._commands) / (now_s - self._begun_s))
            self._watches = False
            self._type(SUCCESS, now_s)

    def _wanted(self) -> Joints:
        """Return where the hand takes the leader next: one step of the expert ahead of where the follower is told to be."""
        scene = self._arms.scene
        told = scene.commanded()
        # The expert looks at the scene and not at this.
        action = self._expert.act(Observation(frames={}, state=np.zeros(0, np.float32), stamp_ns=0))[0]
        tip = scene.kinematics.position(told) + self._action.step_m * action[:3]
        wanted = scene.kinematics.solve(tip, told)
        gripper = scene.robot.gripper_index
        wanted[gripper] = told[gripper] + self._action.gripper_step * action[3]
        return np.clip(wanted, scene.robot.lower, scene.robot.upper)

    def _note(self) -> None:
        if self._watched is not None:
            seen = {"at_ns": int(self._now_s() * NS), "stage": self._arms.scene.privileged_stage()}
            with self._watched.open("a") as file:
                file.write(json.dumps(seen) + "\n")


def marks(dataset: Path, watched: Path, names: tuple[str, ...]) -> Iterator[tuple[int, tuple[Subtask, ...]]]:
    """Yield the sub-tasks of a dataset's episodes, as the person who saw them would mark them.

    Args:
        dataset: What was recorded.
        watched: What the person saw meanwhile.
        names: Of the task's stages.
    """
    seen = [json.loads(line) for line in watched.read_text().splitlines()]
    at_ns = np.array([look["at_ns"] for look in seen])
    for episode in read_episodes(dataset, with_images=False):
        assert episode.provenance is not None, "recorded here"
        last = np.searchsorted(at_ns, episode.provenance.stamp_ns[:, 0], side="right") - 1
        stages = [seen[max(0, look)]["stage"] for look in last.tolist()]
        yield episode.index, spans(stages, names, success=episode.success is True)
