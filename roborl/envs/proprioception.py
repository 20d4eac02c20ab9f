"""What a policy is told of the arm: its joints and its end effector, scaled to about [-1, 1]."""

from __future__ import annotations

import numpy as np

from roborl.envs.kinematics import Kinematics, Point
from roborl.envs.robot_model import Joints
from roborl.types import Vector


class StateMap:
    """Turns joint positions into the state.

    Args:
        kinematics: The robot.
        box_low_m: Lowest x, y, z of the workspace, (3,).
        box_high_m: Highest x, y, z, (3,).
    """

    def __init__(self, kinematics: Kinematics, box_low_m: Point, box_high_m: Point) -> None:
        model = kinematics.model
        self._kinematics = kinematics
        self._centre = np.append(0.5 * (model.lower + model.upper), 0.5 * (box_low_m + box_high_m))
        self._half = np.append(0.5 * (model.upper - model.lower), 0.5 * (box_high_m - box_low_m))
        self.names = (*model.position_keys, "ee.x", "ee.y", "ee.z")

    @property
    def size(self) -> int:
        """Length of a state."""
        return len(self._centre)

    def __call__(self, joints: Joints) -> Vector:
        """Return the state: joints over their limits, end effector over the workspace box, float32 (s,)."""
        values = np.append(joints, self._kinematics.position(joints))
        state: Vector = ((values - self._centre) / self._half).astype(np.float32)
        return state
