"""Configuration of the stub teleoperator. LeRobot finds the device's own module by this one's name."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.teleoperators.config import TeleoperatorConfig


@TeleoperatorConfig.register_subclass("stub_pad")
@dataclass(kw_only=True)
class StubTeleoperatorConfig(TeleoperatorConfig):  # type: ignore[misc]  # LeRobot has no types
    """A pad that is held one way."""

    # what it gives along x
    delta_x: float = 1.0
    # how many readings pass before the person takes over, and as many until the arm is given back
    engaged_after: int = 60
