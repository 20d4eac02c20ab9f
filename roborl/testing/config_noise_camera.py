"""Configuration of the camera without a lens. LeRobot finds the camera's own module by this one's name."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.cameras.configs import CameraConfig


@CameraConfig.register_subclass("noise")
@dataclass(kw_only=True)
class NoiseCameraConfig(CameraConfig):  # type: ignore[misc]  # LeRobot has no types
    """A camera that sees nothing but its own noise."""

    # the seed of its noise
    seed: int = 0
