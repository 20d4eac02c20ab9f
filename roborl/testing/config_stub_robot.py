"""Configuration of the stub robot. LeRobot finds the robot's own module by this one's name."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.cameras.configs import CameraConfig
from lerobot.robots.config import RobotConfig

from roborl.envs.config_sim_robot import SimCameraConfig


def _cameras() -> dict[str, CameraConfig]:
    return {name: SimCameraConfig(fps=30, width=64, height=64) for name in ("front", "wrist")}


@RobotConfig.register_subclass("stub")
@dataclass(kw_only=True)
class StubRobotConfig(RobotConfig):  # type: ignore[misc]  # LeRobot has no types
    """A stub and its faults.

    Attributes:
        model: Folder under ``robots/`` whose joints it has.
        fault: Name of a :class:`roborl.testing.stub_robot.Fault`; empty for none.
        fault_after: How many calls of ``send_action`` go well before.
        slow_s: How late a slow bus answers.
        cameras: Its cameras.
    """

    model: str = "so101_sim"
    fault: str = ""
    fault_after: int = 0
    slow_s: float = 0.05
    cameras: dict[str, CameraConfig] = field(default_factory=_cameras)
