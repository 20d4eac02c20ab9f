"""The Gymnasium ids ``roborl/<Task>-v0``, known once this module is imported.

Without an import of your own: ``gymnasium.make("roborl.envs.registration:roborl/PickPlace-v0")``.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium

NAMES = ("Reach", "PushCube", "PickCube", "PickPlace", "PegInsert", "ClearTable")


def register_envs() -> None:
    """Register one id per simulated task. May be called twice."""
    for name in NAMES:
        if f"roborl/{name}-v0" not in gymnasium.registry:
            gymnasium.register(
                id=f"roborl/{name}-v0",
                entry_point="roborl.envs.registration:make_env",
                kwargs={"scene": name},
                disable_env_checker=True,
                order_enforce=False,
            )


def make_env(
    scene: str, *, bench: str = "so101_sim", overrides: tuple[str, ...] = (), **kwargs: Any
) -> gymnasium.Env[Any, Any]:
    """Return the environment of one simulated task; ``kwargs`` go to :class:`roborl.envs.robot_env.RobotEnv`."""
    robot_env = importlib.import_module("roborl.envs.robot_env")
    load_bench = importlib.import_module("roborl.envs.bench").load_bench
    env: gymnasium.Env[Any, Any] = robot_env.RobotEnv(
        load_bench(bench, (f"--robot.scene={scene}", *overrides)), **kwargs
    )
    return env


register_envs()
