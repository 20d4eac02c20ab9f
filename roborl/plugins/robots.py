"""Registers our robots and cameras with LeRobot: ``--robot.discover_packages_path=roborl.plugins --robot.type=so101_sim``."""

from __future__ import annotations

from roborl.envs.config_sim_robot import SimCameraConfig, SimRobotConfig
from roborl.envs.sim_robot import SimCamera, SimRobot

__all__ = ["SimCamera", "SimCameraConfig", "SimRobot", "SimRobotConfig"]
