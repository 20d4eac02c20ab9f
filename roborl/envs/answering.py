"""Whether an arm that failed has come to itself, or has to be connected anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from roborl.clock import Clock, Deadline
from roborl.errors import FrozenCamera, RobotError

if TYPE_CHECKING:
    # Only for its type: behind it stands lerobot, which loads torch.
    from roborl.envs.arm import Arm

_PATIENCE_S = 1.0
"""A camera that stalled shows the present again by then. One that was unplugged never does: LeRobot 0.6.1 opens it once."""


def answers(arm: Arm, clock: Clock, rest: Callable[[], object], *, after: RobotError) -> bool:
    """Return whether the servos hold and answer, and the cameras show something; those may take a second to do so.

    A frozen camera shows something and is no better for it: at rest nobody can tell its picture from the present.

    Args:
        arm: At rest, between two episodes.
        clock: Measures the second.
        rest: Lets a moment pass before the cameras are looked at again.
        after: How it failed.
    """
    if isinstance(after, FrozenCamera):
        return False
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
