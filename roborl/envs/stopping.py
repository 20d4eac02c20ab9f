"""Bringing an arm to rest where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from roborl.clock import NS, Rate
from roborl.errors import RobotError

if TYPE_CHECKING:
    # Only for its type: behind it stands lerobot, which loads torch.
    from roborl.envs.arm import Arm

_STOP_S = 0.2
"""How long the arm is held before a stop counts as done."""


def stop_arm(arm: Arm, rate: Rate, sign_of_life: Callable[[], None]) -> RobotError | None:
    """Hold the arm for a while; return how a robot failed at this too, which has nothing left to be told.

    Args:
        arm: To be stopped.
        rate: Of control.
        sign_of_life: Called at every control period.
    """
    for _ in range(max(1, round(_STOP_S * NS / rate.period_ns))):
        try:
            arm.hold()
        except RobotError as error:
            return error
        rate.wait()
        sign_of_life()
    return None
