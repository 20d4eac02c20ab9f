"""Configuration of the simulated SO-101, as LeRobot's command lines and our bench files name it."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.cameras.configs import CameraConfig
from lerobot.robots.config import RobotConfig


@CameraConfig.register_subclass("sim")
@dataclass(kw_only=True)
class SimCameraConfig(CameraConfig):  # type: ignore[misc]  # LeRobot has no types
    """A camera of the simulated scene; its key among the robot's cameras names it: "front" or "wrist"."""


def _two_cameras() -> dict[str, CameraConfig]:
    return {name: SimCameraConfig(fps=10, width=64, height=64) for name in ("front", "wrist")}


@RobotConfig.register_subclass("so101_sim")
@dataclass(kw_only=True)
class SimRobotConfig(RobotConfig):  # type: ignore[misc]  # LeRobot has no types
    """The simulated SO-101 before one task.

    Attributes:
        scene: Name of the task: Reach, PickCube, PickPlace, ...
        randomisation: Looks of the scene: "off", "mild" or "strong".
        spread_m: How far from its usual place each object that matters may start, along either axis; 0: anywhere in
            the arm's reach. For PickCube and PickPlace.
        seed: Seed of the first start, before anybody resets the scene.
        control_hz: Simulated time passes by one period in each ``send_action``. A bench sets it to its own rate.
        cameras: Its cameras.
    """

    scene: str = "PickPlace"
    randomisation: str = "off"
    spread_m: float = 0.0
    seed: int = 0
    control_hz: float = 50.0
    cameras: dict[str, CameraConfig] = field(default_factory=_two_cameras)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.randomisation == "False":  # YAML reads a bare `off` as false
            self.randomisation = "off"
