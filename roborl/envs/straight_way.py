"""The straight way of the joints to a pose, at a pace that ends there."""

from __future__ import annotations

import math

import numpy as np

from roborl.envs.robot_model import Joints
from roborl.envs.safety import SetPoint


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
