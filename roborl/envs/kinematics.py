"""Forward and inverse kinematics of a serial chain in numpy: the same for a simulated and for a physical arm."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from roborl.envs.robot_model import Joints, RobotModel

type Point = NDArray[np.float64]

_DOWN = np.array([0.0, 0.0, -1.0])
_DAMPING = 1e-4
_REACHED_M = 0.0006
_TILT_WEIGHT_M = 0.02
"""A tilt of one radian counts as much as 2 cm: positions are met first, the tilt with what freedom is left."""
_MAX_TURN_RAD = 0.35


def _across(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cross product along the first axis; numpy's own takes five times as long on arrays this small."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


class Kinematics:
    """Solves one robot's chain; joint vectors are full ones, in LeRobot's units.

    Joints outside the chain (the gripper) pass through unchanged.
    """

    def __init__(self, model: RobotModel) -> None:
        self.model = model
        self._index = model.chain_joints
        self._lower = np.radians(model.lower[self._index])
        self._upper = np.radians(model.upper[self._index])
        # Rodrigues' formula R = I + sin K + (1 - cos) K², with K of each axis prepared.
        k = np.zeros((len(self._index), 3, 3))
        x, y, z = model.chain_axes.T
        k[:, 0, 1], k[:, 0, 2], k[:, 1, 2] = -z, y, -x
        k[:, 1, 0], k[:, 2, 0], k[:, 2, 1] = z, -y, x
        self._cross, self._cross2 = k, k @ k

    def position(self, joints: Joints) -> Point:
        """Return the end effector in the base frame, metres, (3,)."""
        return self._forward(np.radians(joints[self._index]))[0]

    def solve(
        self, target: Point, start: Joints, *, iterations: int = 12, tolerance_m: float = 1e-5
    ) -> Joints:
        """Return joints that bring the end effector to ``target`` with the fingers down as far as the limits allow.

        Damped least squares from ``start``; within a few millimetres of it two or three iterations suffice. Where the
        fingers cannot be upright, the tilt that is left would pull at the position: as many iterations follow for that alone.
        The last joint of the chain turns the fingers about their own axis, which no point needs, and keeps its angle.

        Args:
            target: Point in the base frame, metres, (3,).
            start: Joint vector to begin from, (n,).
            iterations: Most iterations of either.
            tolerance_m: Distance, with tilt weighted in, at which to stop.

        Returns:
            A new joint vector within the limits, (n,). A target out of reach gives the nearest pose found.
        """
        q = np.radians(start[self._index])
        for tilt_weight_m in (_TILT_WEIGHT_M, 0.0):
            if self._approach(q, target, tilt_weight_m, iterations, tolerance_m):
                break
        solved = start.copy()
        solved[self._index] = np.degrees(np.clip(q, self._lower, self._upper))
        return solved

    def reach(self, target: Point, start: Joints) -> Joints | None:
        """Return joints that bring the end effector to ``target``, solved from near by, (n,); None where it is out of reach."""
        joints = self.solve(target, start)
        return joints if np.linalg.norm(self.position(joints) - target) < _REACHED_M else None

    def _approach(
        self, q: Joints, target: Point, tilt_weight_m: float, iterations: int, tolerance_m: float
    ) -> bool:
        """Move ``q``, radians, in place; return whether that met the target."""
        free = slice(0, len(q) - 1)
        error, jacobian = np.empty(6), np.empty((6, len(q)))
        for _ in range(iterations):
            position, approach, points, axes = self._forward(q)
            error[:3] = target - position
            error[3:] = tilt_weight_m * _across(approach, _DOWN)
            if error @ error < tolerance_m**2:
                return True
            jacobian[:3] = _across(axes.T, (position - points).T)
            jacobian[3:] = tilt_weight_m * axes.T
            q[free] += self._step(jacobian[:, free], error, q[free], free)
        return False

    def _step(
        self, jacobian: NDArray[np.float64], error: NDArray[np.float64], q: Joints, free: slice
    ) -> NDArray[np.float64]:
        """Solve one damped step; a joint that would leave its limits is fixed there and the others take over."""
        lower, upper = self._lower[free] - q, self._upper[free] - q
        turn = np.zeros(len(q))
        moving = np.ones(len(q), dtype=bool)
        rest = error
        while moving.any():
            j = jacobian[:, moving]
            turn[moving] = np.linalg.solve(j.T @ j + _DAMPING**1.5 * np.eye(j.shape[1]), j.T @ rest)
            over = moving & ((turn > upper + 1e-9) | (turn < lower - 1e-9))
            if not over.any():
                break
            turn[over] = np.clip(turn[over], lower[over], upper[over])
            rest = rest - jacobian[:, over] @ turn[over]
            moving &= ~over
        largest = float(np.abs(turn).max())
        return turn * (_MAX_TURN_RAD / largest) if largest > _MAX_TURN_RAD else turn

    def _forward(self, q: Joints) -> tuple[Point, Point, NDArray[np.float64], NDArray[np.float64]]:
        """Return end effector, approach, and each joint's point and axis in the base frame."""
        model = self.model
        rotation, point = np.eye(3), np.zeros(3)
        points, axes = np.empty((len(q), 3)), np.empty((len(q), 3))
        for i, angle in enumerate(q.tolist()):
            point = point + rotation @ model.chain_offsets_m[i]
            points[i], axes[i] = point, rotation @ model.chain_axes[i]
            turn = math.sin(angle) * self._cross[i] + (1.0 - math.cos(angle)) * self._cross2[i]
            rotation = rotation + rotation @ turn
        return point + rotation @ model.tool_offset_m, rotation @ model.tool_approach, points, axes
