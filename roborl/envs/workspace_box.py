"""The box that the end effector is told to stay in, and what of a way of the joints is in it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from roborl.envs.kinematics import Kinematics, Point
from roborl.envs.robot_model import Joints

SLACK_M = 0.0005
"""How far outside the workspace box the end effector may be, for the straight way of the joints along a face bends."""


class WorkspaceBox:
    """Compares poses and ways of one robot with its workspace box.

    Args:
        kinematics: The robot.
        low_m: Lowest x, y, z of the end effector, (3,).
        high_m: Highest x, y, z, (3,).
    """

    def __init__(self, kinematics: Kinematics, low_m: Point, high_m: Point) -> None:
        self._kinematics, self.low_m, self.high_m = kinematics, low_m, high_m

    def outside_m(self, joints: Joints) -> NDArray[np.float64]:
        """Return how far the end effector is outside of the box, and how far below it, (2,); negative within."""
        position = self._kinematics.position(joints)
        under = self.low_m - position
        return np.array([np.maximum(under, position - self.high_m).max(), under[2]])

    def allowed_m(self, before: Joints) -> NDArray[np.float64]:
        """Return how far outside and below the end effector may be after ``before``: no further than there, (2,)."""
        return np.maximum(SLACK_M, self.outside_m(before))

    def is_free(self, before: Joints, after: Joints, shares: Iterable[float]) -> bool:
        """Return whether the safety filter lets an arm go the straight way of the joints, seen at growing shares of it."""
        allowed_m = self.allowed_m(before)
        for share in shares:
            outside_m = self.outside_m(before + share * (after - before))
            if np.any(outside_m > allowed_m):
                return False
            allowed_m = np.maximum(SLACK_M, outside_m)
        return True
