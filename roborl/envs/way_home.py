"""The way to the home pose: straight for the joints, and where the workspace box bars that, first straight for the tip."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from roborl.envs.kinematics import Kinematics
from roborl.envs.robot_model import Joints
from roborl.envs.safety import SafetyFilter, SetPoint

_HOMEWARD_SPEED = 0.25
"""Share of the joints' largest speeds at which the arm goes home, where the bench does not allow less."""
# Degrees, or parts of the gripper's 100.
_STILL = 1e-6
_AHEAD_M = 0.01
"""How far ahead on its straight way the tip is led: the joints' way to there bends by less than a millimetre."""
_ON_THE_WAY = np.linspace(0.0, 1.0, 33)[1:]


def towards(goal: Joints, before: SetPoint, speed: Joints, acceleration: Joints, period_s: float) -> Joints:
    """Return the joints that a set-point makes for in the coming control period, on the straight way to a pose, (n,).

    The joint with the longest way sets the pace of all, and they brake so early that none overshoots.

    Args:
        goal: Where it goes, (n,).
        before: The set-point.
        speed: The largest of each joint, units per second, (n,).
        acceleration: The largest change of that speed, units per second squared, (n,).
        period_s: Time between two set-points.
    """
    way = goal - before.joints
    far = np.maximum(np.abs(way), 1e-9)
    # All of it in shares of the way that is left: the speed now, its largest, and its largest change in a period.
    now = float(before.velocity @ way) / float(far @ far) * period_s
    pace, change = (float((limit / far).min()) for limit in (speed * period_s, acceleration * period_s**2))
    brake = math.sqrt(0.25 * change**2 + 2.0 * change) - 0.5 * change
    return before.joints + way * min(1.0, pace, brake, max(0.0, now) + change)


class WayHome:
    """Plans the way home from one set-point to the next. It holds limits and no state.

    The box is convex and home is inside, so the tip's straight way there does not leave it. As soon as the joints' own is free,
    they take that.

    Args:
        kinematics: The robot.
        limits: What every set-point passes.
        period_s: Time between two set-points.
    """

    def __init__(self, kinematics: Kinematics, limits: SafetyFilter, period_s: float) -> None:
        self._kinematics, self._limits, self._period_s = kinematics, limits, period_s
        self._home = kinematics.model.home
        self._speed = np.minimum(_HOMEWARD_SPEED * kinematics.model.max_velocity, limits.velocity)

    def plan(self, before: SetPoint, ticks: int) -> tuple[list[SetPoint], Counter[str]]:
        """Return the next set-points, at most ``ticks``, and how often each limit changed one.

        None are left at home, and where neither way leads there.
        """
        planned: list[SetPoint] = []
        limits_hit: Counter[str] = Counter()
        free = self._limits.box.is_free(before.joints, self._home, _ON_THE_WAY)
        while len(planned) < ticks:
            goal = self._home if free else self._ahead(before.joints)
            wanted = towards(goal, before, self._speed, self._limits.acceleration, self._period_s)
            after, hit = self._limits(wanted, before)
            if np.abs([after.joints - before.joints, before.velocity * self._period_s]).max() < _STILL:
                break
            limits_hit.update(hit)
            planned.append(after)
            before = after
        return planned, limits_hit

    def _ahead(self, joints: Joints) -> Joints:
        """Return the joints that bring the tip a little nearer to where it is at home; these where none do."""
        tip = self._kinematics.position(joints)
        way = self._kinematics.position(self._home) - tip
        point = tip + way * (_AHEAD_M / max(_AHEAD_M, float(np.linalg.norm(way))))
        ahead = self._kinematics.reach(point, joints)
        return joints if ahead is None else ahead
