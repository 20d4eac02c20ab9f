"""Registers our reward models with LeRobot: ``--reward_model.discover_packages_path=roborl.plugins.rewards``.

``--reward_model.type=roborl --reward_model.place=FOLDER`` runs any model of ours in LeRobot's own process;
``--reward_model.type=remote --reward_model.endpoint=tcp://...`` asks a running ``roborl serve``.
"""

from __future__ import annotations

from roborl.plugins.rewards.configuration_rewards import RemoteConfig, RoborlConfig

__all__ = ["RemoteConfig", "RoborlConfig"]
