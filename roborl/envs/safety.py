"""The last thing before the motors: a pure function that bounds position, speed, acceleration and place of a set-point."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from roborl.envs.kinematics import Kinematics
from roborl.envs.ranges import check_number
from roborl.envs.robot_model import Joints
from roborl.envs.workspace_box import SLACK_M, WorkspaceBox
from roborl.errors import ConfigError

_BISECTIONS = 6


class Limit(StrEnum):
    """What the filter may have to enforce."""

    NOT_FINITE = "not_finite"
    POSITION = "position"
    VELOCITY = "velocity"
    ACCELERATION = "acceleration"
    WORKSPACE = "workspace"


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """Bounds of a bench; the joints' own stand in the robot's model.

    Attributes:
        workspace_low_m: Lowest x, y, z of the end effector's set-point in the base frame, to half a millimetre. Where the
            arm hangs below its set-point, it is so far below the box.
        workspace_high_m: Highest x, y, z.
        velocity_scale: Share of the model's largest joint speeds to allow, (0, 1].
        acceleration_scale: Share of the model's largest joint accelerations to allow, (0, 1].
    """

    workspace_low_m: tuple[float, float, float] = (0.12, -0.16, 0.010)
    workspace_high_m: tuple[float, float, float] = (0.32, 0.16, 0.12)
    velocity_scale: float = 1.0
    acceleration_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("workspace_low_m", "workspace_high_m"):
            for axis, bound in zip("xyz", getattr(self, name), strict=True):
                check_number(f"The {axis} of safety.{name}", bound)
        if not all(low < high for low, high in zip(self.workspace_low_m, self.workspace_high_m, strict=True)):
            raise ConfigError(
                "The workspace box is empty",
                seen=f"{self.workspace_low_m} to {self.workspace_high_m}",
                allowed="each low below its high",
                remedy="Correct safety.workspace_low_m or safety.workspace_high_m",
            )
        for name in ("velocity_scale", "acceleration_scale"):
            check_number(f"safety.{name}", getattr(self, name), above=0.0, at_most=1.0)


def check_workspace(config: SafetyConfig, kinematics: Kinematics) -> None:
    """See that the arm can reach its workspace box, and that its home pose is inside.

    Raises:
        ConfigError: If not.
    """
    model = kinematics.model
    low, high = np.array(config.workspace_low_m), np.array(config.workspace_high_m)
    for name, corner in (("workspace_low_m", low), ("workspace_high_m", high)):
        if np.abs(corner).max() > model.reach_m:
            raise ConfigError(
                f"safety.{name} is out of the arm's reach",
                seen=corner.tolist(),
                allowed=f"x, y and z in metres, none beyond {model.reach_m:.2f}, where the arm ends when it is stretched out",
                remedy="Correct it in the bench file",
            )
    home = kinematics.position(model.home)
    for axis, low_m, at_m, high_m in zip("xyz", low, home, high, strict=True):
        if not low_m - SLACK_M <= at_m <= high_m + SLACK_M:
            raise ConfigError(
                "The workspace box leaves out the arm's home pose, where every episode begins",
                seen=f"{axis} from {low_m:g} to {high_m:g} m",
                allowed=f"a box with the tip at home in it, whose {axis} is {at_m:.3f} m",
                remedy="Widen safety.workspace_low_m or workspace_high_m, or set another home pose in the robot's model",
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SetPoint:
    """What the motors are told at one control tick.

    Attributes:
        joints: Joint vector in LeRobot's units, (n,).
        velocity: Its rate of change, units per second, (n,).
    """

    joints: Joints
    velocity: Joints


class SafetyFilter:
    """Bounds one set-point after another. It holds limits and no state: equal inputs give equal outputs.

    Args:
        kinematics: The robot.
        config: The bench's bounds.
        period_s: Time between two set-points.

    Attributes:
        velocity: The largest speed of each joint's set-point, units per second, (n,).
        acceleration: The largest change of that speed, units per second squared, (n,).
        box: The workspace.
    """

    def __init__(self, kinematics: Kinematics, config: SafetyConfig, period_s: float) -> None:
        model = kinematics.model
        self._kinematics, self._period_s = kinematics, period_s
        self._lower, self._upper = model.lower, model.upper
        self.velocity = model.max_velocity * config.velocity_scale
        self.acceleration = model.max_acceleration * config.acceleration_scale
        self.box = WorkspaceBox(
            kinematics, np.array(config.workspace_low_m), np.array(config.workspace_high_m)
        )

    def __call__(self, wanted: Joints, before: SetPoint) -> tuple[SetPoint, frozenset[Limit]]:
        """Return the set-point nearest to ``wanted`` that may follow ``before``, and the limits that changed it.

        Speed and acceleration are bounded by one factor for all joints of the chain, so that the end effector goes where it was
        to go, only later; joint by joint, an arm that turns round fast would first sweep elsewhere.

        Places win over comfort: at a joint limit or the edge of the box the arm stops harder than its acceleration
        limit. A robot that starts beyond a joint limit or outside the workspace box, as one that rests on its stops may, moves
        back within all other limits, and never further away. Below is the table: one that is beside the box goes no lower than one inside.
        """
        hit: set[Limit] = set()
        if not np.all(np.isfinite(wanted)):
            hit.add(Limit.NOT_FINITE)
            wanted = before.joints
        lower, upper = np.minimum(self._lower, before.joints), np.maximum(self._upper, before.joints)
        joints = self._within(np.clip(wanted, lower, upper), wanted, Limit.POSITION, hit)
        velocity = (joints - before.joints) / self._period_s
        slower = self._together(velocity, self.velocity)
        velocity = self._within(slower, velocity, Limit.VELOCITY, hit)
        softer = before.velocity + self._together(
            velocity - before.velocity, self.acceleration * self._period_s
        )
        velocity = self._within(softer, velocity, Limit.ACCELERATION, hit)
        joints = np.clip(before.joints + velocity * self._period_s, lower, upper)
        kept = self._inside_box(joints, before.joints)
        joints = self._within(kept, joints, Limit.WORKSPACE, hit)
        return SetPoint(joints=joints, velocity=(joints - before.joints) / self._period_s), frozenset(hit)

    def _together(self, change: Joints, largest: Joints) -> Joints:
        """Return the change bounded by ``largest``, that of the chain's joints all by one factor."""
        bounded = np.clip(change, -largest, largest)
        chain = self._kinematics.model.chain_joints
        excess = float((np.abs(change[chain]) / largest[chain]).max())
        bounded[chain] = change[chain] / max(1.0, excess)
        return bounded

    @staticmethod
    def _within(bounded: Joints, wanted: Joints, limit: Limit, hit: set[Limit]) -> Joints:
        if np.abs(bounded - wanted).max() > 1e-9:
            hit.add(limit)
        return bounded

    def _inside_box(self, joints: Joints, before: Joints) -> Joints:
        """Return ``joints``, its chain only as far on the way as it is neither further outside nor lower than ``before``."""
        outside_m = self.box.outside_m(joints)
        if outside_m.max() <= SLACK_M:
            return joints
        allowed_m = self.box.allowed_m(before)
        if np.all(outside_m <= allowed_m):
            return joints
        chain = self._kinematics.model.chain_joints
        way = (joints - before)[chain]
        kept, low, high = joints.copy(), 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            kept[chain] = before[chain] + middle * way
            if np.all(self.box.outside_m(kept) <= allowed_m):
                low = middle
            else:
                high = middle
        kept[chain] = before[chain] + low * way
        return kept
