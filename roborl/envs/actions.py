"""From a policy's action in [-1, 1] to joint targets, and back to the action that was really taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roborl.envs.kinematics import Kinematics, Point
from roborl.envs.ranges import check_number
from roborl.envs.robot_model import Joints
from roborl.envs.workspace_box import SLACK_M, WorkspaceBox
from roborl.types import Vector

_ON_THE_WAY = (0.1, 0.3, 0.6)
"""Shares of a step at which its way is compared with the box."""
# A metre, all of the gripper's way, a full turn: what is larger is a slip, or counted in millimetres.
_MOST = {
    "step_m": 1.0,
    "gripper_step": 100.0,
    "joint_step_deg": 360.0,
    "leash_m": 1.0,
    "leash_deg": 360.0,
    "gripper_leash": 100.0,
}


@dataclass(frozen=True, kw_only=True)
class ActionConfig:
    """What an action means; one unit is the largest change in one policy step.

    Attributes:
        kind: "ee_delta": x, y, z of the end effector with the fingers kept down, and the gripper.
            "joint_delta": every joint.
        step_m: End-effector change per axis.
        gripper_step: Gripper change, of its 0 to 100.
        joint_step_deg: Change of each joint under "joint_delta".
        leash_m: How far the set-point may lead the measured end effector, so that a blocked arm does not wind up. Where an arm
            sags by more, the lead grows no further; it is not taken back, for the arm would sink after it for ever.
        leash_deg: The same for each joint, under "joint_delta" and on the way home.
        gripper_leash: How far the gripper's set-point may lead, always; it bounds the squeeze, so a longer lead is taken back.
    """

    kind: Literal["ee_delta", "joint_delta"] = "ee_delta"
    step_m: float = 0.015
    gripper_step: float = 34.0
    joint_step_deg: float = 6.0
    leash_m: float = 0.03
    leash_deg: float = 12.0
    gripper_leash: float = 25.0

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            check_number(f"action.{name}", getattr(self, name), above=0.0, at_most=most)


class ActionMap:
    """Translates actions for one robot. Pure: the set-point and the measured pose are handed in.

    Args:
        kinematics: The robot.
        config: What an action means.
        box_low_m: Lowest x, y, z a target may have, (3,).
        box_high_m: Highest x, y, z, (3,).

    Attributes:
        leash: How far each joint's set-point may lead where it is measured, degrees and the gripper's 0 to 100, (n,).
    """

    def __init__(
        self, kinematics: Kinematics, config: ActionConfig, box_low_m: Point, box_high_m: Point
    ) -> None:
        self._kinematics, self._config = kinematics, config
        self._box = WorkspaceBox(kinematics, box_low_m, box_high_m)
        model = kinematics.model
        self._gripper = model.gripper_index
        self._others = np.array([i for i in range(len(model.joint_names)) if i != self._gripper])
        self._scale = np.full(len(model.joint_names), config.joint_step_deg)
        self.leash = np.full(len(model.joint_names), config.leash_deg)
        self._scale[self._gripper], self.leash[self._gripper] = config.gripper_step, config.gripper_leash

    @property
    def size(self) -> int:
        """Length of an action."""
        return 4 if self._config.kind == "ee_delta" else len(self._scale)

    @property
    def unit(self) -> NDArray[np.float64]:
        """How much an action of 1 changes: metres, degrees, or of the gripper's 0 to 100, (a,)."""
        if self._config.kind == "ee_delta":
            return np.append(np.full(3, self._config.step_m), self._config.gripper_step)
        return self._scale.copy()

    def target(self, action: Vector, set_point: Joints, measured: Joints) -> Joints:
        """Return the joint targets of the coming policy step, within the joint limits, (n,).

        Args:
            action: In [-1, 1], (a,). Values outside are clipped.
            set_point: Where the arm was last told to be, (n,).
            measured: Where it is, (n,).
        """
        model = self._kinematics.model
        bounded = np.clip(action.astype(np.float64), -1.0, 1.0)
        if self._config.kind == "joint_delta":
            wanted = set_point + self._scale * bounded
        else:
            wanted = self._towards(bounded[:3] * self._config.step_m, set_point, measured)
            wanted[self._gripper] = set_point[self._gripper] + self._config.gripper_step * bounded[3]
        leash = np.maximum(self.leash, np.abs(set_point - measured))
        leash[self._gripper] = self.leash[self._gripper]
        free = np.clip(wanted, measured - leash, measured + leash)
        if self._config.kind == "ee_delta":
            wanted[self._gripper] = free[self._gripper]
        else:
            wanted = free
        return np.clip(wanted, model.lower, model.upper)

    def executed(self, before: Joints, after: Joints) -> Vector:
        """Return the action that moves the set-point from ``before`` to ``after``, float32 (a,), in [-1, 1].

        Where that takes more than one step, it goes the same way, and less far; the gripper as far as it can.
        """
        change = (after - before) / self._scale
        gripper = self._gripper
        if self._config.kind == "ee_delta":
            moved = self._kinematics.position(after) - self._kinematics.position(before)
            change, gripper = np.append(moved / self._config.step_m, change[gripper]), len(moved)
        arm = np.arange(len(change)) != gripper
        change[arm] /= max(1.0, float(np.abs(change[arm]).max()))
        action: Vector = np.clip(change, -1.0, 1.0).astype(np.float32)
        return action

    def _towards(self, move: Point, set_point: Joints, measured: Joints) -> Joints:
        """Return the joints that move the end effector by ``move``, or as much of it as the arm can reach.

        The straight way of the joints bends out of the box along its faces, by the more the longer it is, and the safety filter
        stops it there. So the goal is a little inside, a way that bends too far is made shorter, and a set-point that is
        outside is brought back, in a step by no more than it moves.
        """
        start = self._kinematics.position(set_point)
        back = float(np.linalg.norm(move))
        low, high = self._box.low_m + 0.5 * SLACK_M, self._box.high_m - 0.5 * SLACK_M
        goal = np.clip(start + move, np.minimum(low, start + back), np.maximum(high, start - back))
        here = self._kinematics.position(measured)
        lead = float(np.linalg.norm(goal - here))
        leash = max(self._config.leash_m, float(np.linalg.norm(start - here)))
        if lead > leash:
            goal = here + (goal - here) * (leash / lead)
        for share in (1.0, 0.5, 0.25):
            joints = self._kinematics.reach(start + share * (goal - start), set_point)
            if joints is not None and self._box.is_free(set_point, joints, _ON_THE_WAY):
                return joints
        return set_point.copy()
