"""What LeRobot's serial arms need beside their own methods: to be connected without letting go of what they hold."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from lerobot.robots.robot import Robot

log = logging.getLogger(__name__)

_RETRIES = 2


@contextlib.contextmanager
def keeping_hold(robot: Robot) -> Iterator[None]:
    """Let an arm whose servos all hold a place go on holding it while it is connected.

    LeRobot 0.6.1 configures its serial arms with the torque off: the joints of an arm in mid-air then sink, and whatever
    it carries with them. Servos under torque have their settings already, for LeRobot puts the torque on last.

    Args:
        robot: Not connected yet. One without servos on a bus is left as it is.
    """
    arm: Any = robot
    bus, configure = getattr(arm, "bus", None), getattr(arm, "configure", None)
    if bus is None or configure is None or not hasattr(bus, "torque_disabled"):
        yield
        return

    def configure_unless_holding() -> None:
        if all(bus.sync_read("Torque_Enable", normalize=False, num_retry=_RETRIES).values()):
            log.info("All servos hold their places: they keep the settings they have")
        else:
            configure()

    arm.configure = configure_unless_holding
    try:
        yield
    finally:
        del arm.configure
