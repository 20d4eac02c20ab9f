"""An emulated SO-101 whose servos turn the simulated arm, a leader beside it, and the cameras that look on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np

from roborl.envs.robot_model import Joints, load_robot_model
from roborl.envs.scene import Scene
from roborl.envs.tasks.registry import make_task
from roborl.testing.desk import DeskArm
from roborl.testing.picture_post import PicturePost
from roborl.testing.servo_chain import Instruction
from roborl.types import Image

CAMERAS = ("front", "wrist")
FOLLOWER, LEADER = "desk", "leader"
_PERIOD_S = 0.008
# What a computer that was kept from its work for long does not make up for.
_MOST_BEHIND_S = 0.1
_SETTLED_S = 0.3
_DRAWS = 20
# That the computer is busy with drawing is no fault of the arm's.
_PATIENT = {
    "stale_s": 2.0,
    "frozen_frames": 10,
    "action_deadline_s": 5.0,
    "tick_deadline_s": 5.0,
    "operator_silence_s": 10.0,
}


class Following:
    """How near the followed joints come to their goals, once these have stood for a while and while they move."""

    def __init__(self, joints: int) -> None:
        self._goals: Joints = np.full(joints, np.inf)
        self._since_s = 0.0
        self._errors: dict[str, list[Joints]] = {"settled": [], "moving": []}

    def look(self, goals: Joints, joints: Joints, now_s: float) -> None:
        """Take one look."""
        if not np.array_equal(goals, self._goals):
            self._goals, self._since_s = goals.copy(), now_s
        settled = now_s - self._since_s > _SETTLED_S
        self._errors["settled" if settled else "moving"].append(np.abs(goals - joints))

    def figures(self) -> dict[str, dict[str, list[float]]]:
        """Return the mean and the largest distance of a joint from its goal, in LeRobot's units, per joint."""
        return {
            when: {
                "mean": np.mean(errors, axis=0).round(3).tolist(),
                "most": np.max(errors, axis=0).round(3).tolist(),
            }
            for when, errors in self._errors.items()
            if errors
        }


class SimulatedArms:
    """One desk: raw goal positions move the simulated arm, its joints are what the servos report.

    Policy and reward model see what comes over the servos' bus and out of the cameras, and nothing else. Use it from one
    thread: it draws the pictures. The buses answer in threads of their own.

    Args:
        folder: Where ports, calibrations and the bench file appear.
        scene: Name of the simulated task.
        seed: Of the first start and of the pictures' noise.
        image_px: Side of the square pictures.
        camera_hz: Pictures per second.
        now_s: The clock that the scene keeps up with.

    Attributes:
        scene: The simulator's truth, for whoever stands for the person.
        follower: The arm that is driven.
        leader: The arm that is led.
        following: How near the follower comes to its goals.
        lost_s: Time that the scene did not make up for, because the computer was busy.
    """

    def __init__(
        self,
        folder: Path,
        scene: str = "Reach",
        *,
        seed: int = 0,
        image_px: int = 96,
        camera_hz: float = 15.0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.scene = Scene(make_task(scene), load_robot_model("so101_sim"), seed=seed)
        self.follower = DeskArm(folder, FOLLOWER, clock_s=now_s, speed_per_s=0.0)
        self.leader = DeskArm(folder, LEADER, clock_s=now_s)
        self.follower.place(self.scene.joints())
        self.following = Following(len(self.scene.robot.home))
        self.lost_s = 0.0
        self._image_px, self._camera_hz, self._seed = image_px, camera_hz, seed
        self._now_s = now_s
        self._at_s = self._picture_at_s = now_s()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._post = self._open.enter_context(PicturePost(self._seed))
        self._open.enter_context(self.follower)
        self._open.enter_context(self.leader)
        self._open.callback(self.scene.close)
        self._draw()  # The first picture takes longer than a camera waits for one.
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def bench(self, **fields: object) -> Path:
        """Write the bench file, a copy of ``so101_desk.yaml`` wired to this desk; return it.

        Args:
            **fields: Fields of the bench that are set otherwise.
        """
        side = self._image_px
        cameras = {name: self._post.camera(name, side, side, round(self._camera_hz)) for name in CAMERAS}
        own = {
            "task": self.scene.task.instruction,
            "max_steps": 2 * self.scene.task.max_steps,
            "image_px": 64,
            "watchdog": _PATIENT,
        }
        return self.follower.bench(cameras=cameras, fields={**own, **fields})

    def advance(self) -> None:
        """Let the scene catch up with the clock, and show a picture of each camera when it is time. Never waits."""
        now_s = self._now_s()
        behind_s = now_s - self._at_s - _MOST_BEHIND_S
        if behind_s > 0:
            self._at_s += behind_s
            self.lost_s += behind_s
        goals = self.follower.goals()
        while self._at_s + _PERIOD_S <= now_s:
            self.scene.command(np.clip(goals, self.scene.robot.lower, self.scene.robot.upper))
            self.scene.advance(_PERIOD_S)
            self._at_s += _PERIOD_S
        joints = self.scene.joints()
        self.follower.place(joints)
        if all(self.follower.holds):
            self.following.look(goals, joints, now_s)
        if now_s >= self._picture_at_s and self._post.asked_for:
            self._picture_at_s = now_s + 1.0 / self._camera_hz
            self._post.send(self._draw())

    def make_ready(self, seed: int) -> None:
        """Lay the objects out anew, clear of the arm, which stays where it is."""
        for draw in range(_DRAWS):
            self.scene.reset(seed + 100_000 * draw, arm_stays=True)
            if not self._touched():
                return

    @property
    def commands(self) -> int:
        """How many times the follower was told where to go, since it was plugged in."""
        return self.follower.chain.asked[Instruction.SYNC_WRITE]

    def home(self, tolerance: float = 4.0) -> bool:
        """Return whether the follower stands in its home pose, each joint within ``tolerance``."""
        return bool(np.abs(self.scene.joints() - self.scene.robot.home).max() < tolerance)

    def _draw(self) -> dict[str, Image]:
        side = self._image_px
        return {name: self.scene.render(name, side, side) for name in CAMERAS}

    def _touched(self) -> bool:
        """Return whether the arm touches anything; its own parts do not touch each other."""
        fingers = {self.scene.model.geom(name).id for name in ("right_finger", "left_finger")}
        return any(fingers & set(pair) for pair in self.scene.data.contact.geom.tolist())
