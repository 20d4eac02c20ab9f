"""The way home of a physical arm between two episodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from roborl.clock import NS, Rate

if TYPE_CHECKING:
    # Only for its type: behind it stands lerobot, which loads torch.
    from roborl.envs.arm import Arm

_PATIENCE_S = 0.2
"""How long a set-point waits for an arm that lags behind it. Servos under load are late by less than that."""
_SETTLING_S = 0.5


def go_home(arm: Arm, rate: Rate, stopped: Callable[[], bool]) -> bool:
    """Bring the arm to its home pose from wherever it was left, slowly and within all limits, and let it come to rest.

    Once in a policy period the joints are read. Where one lags behind its set-point by more than its leash, the set-point
    waits; where it does not come after, something is in the way, and the arm yields.

    Args:
        arm: At rest.
        rate: Of control, just begun.
        stopped: Asked at every control period whether the arm must stop; may raise.

    Returns:
        False where it was stopped on the way.

    Raises:
        RobotError: If it does not answer, cannot get there, or something is in its way: it holds where it is then.
    """
    behind_s = 0.0
    while behind_s or arm.begin_return():
        if not _pass(arm.ticks_per_step, arm, rate, stopped):
            return False
        behind_s = 0.0 if arm.follows() else behind_s + arm.ticks_per_step * rate.period_ns / NS
        if behind_s > _PATIENCE_S:
            arm.give_way()
    if not _pass(math.ceil(_SETTLING_S * NS / rate.period_ns), arm, rate, stopped):
        return False
    arm.check_home()
    return True


def _pass(ticks: int, arm: Arm, rate: Rate, stopped: Callable[[], bool]) -> bool:
    """Let control periods pass, whole ones from now; False where the arm was stopped meanwhile."""
    if rate.remaining_ns() <= 0:
        rate.wait()  # Reading and planning that took long set the pace anew, rather than two set-points at once.
    # Set-points are planned a period apart, and go out so: the first of the next plan, too, which may be made faster.
    rate.begin_now(ticks + 1)
    for _ in range(ticks):
        arm.tick()
        rate.wait()
        if stopped():
            return False
    return True
