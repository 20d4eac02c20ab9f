"""Whether an arm that failed has come to itself, or has to be connected anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from roborl.clock import Clock, Deadline
from roborl.errors import RobotError

if TYPE_CHECKING:
    # Only for its type: behind it stands lerobot, which loads torch.
    from roborl.envs.arm import Arm

_PATIENCE_S = 1.0
"""A camera that stalled shows the present again by then. One that was unplugged never does: LeRobot 0.6.1 opens it once."""


def answers(arm: Arm, clock: Clock, rest: Callable[[], object]) -> bool:
    """Return whether the servos hold and answer, and the cameras show something; those may take a second to do so.

    Args:
        arm: At rest, between two episodes.
        clock: Measures the second.
        rest: Lets a moment pass before the cameras are looked at again.
    """
    try:
        arm.begin_episode()
    except RobotError:
        return False
    patience = Deadline(_PATIENCE_S, clock)
    while True:
        try:
            arm.observe(0)
            return True
        except RobotError:
            if not patience.remaining_s():
                return False
        rest()
