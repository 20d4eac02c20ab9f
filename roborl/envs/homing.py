"""The way home of a physical arm between two episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from roborl.clock import Rate

if TYPE_CHECKING:
    # Only for its type: behind it stands lerobot, which loads torch.
    from roborl.envs.arm import Arm


def go_home(arm: Arm, rate: Rate, stopped: Callable[[], bool]) -> bool:
    """Bring the arm to its home pose from wherever it was left, slowly and within all limits.

    Args:
        arm: Its set-point is where it was measured.
        rate: Of control, just begun.
        stopped: Asked at every control period whether the arm must stop; may raise.

    Returns:
        False where it was stopped on the way.

    Raises:
        RobotError: If it does not answer, or cannot get there.
    """
    for _ in range(arm.begin_return()):
        arm.tick()
        rate.wait()
        if stopped():
            return False
    arm.check_home()
    return True
