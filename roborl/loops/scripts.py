"""The scripted policies of simulated tasks, as recording wants them."""

from __future__ import annotations

from collections.abc import Sequence

from roborl.envs.experts import Noise, make_expert
from roborl.envs.failures import check_failure, failure_maker, failures_of
from roborl.envs.robot_env import RobotEnv
from roborl.loops.record import EXPERT, ScriptMaker
from roborl.roles import Policy


def script_maker(*, noise: float = 0.0, detours: float = 0.0) -> ScriptMaker:
    """Return what makes the expert, or a script that fails in a given way, for the scene as it stands.

    Args:
        noise: Standard deviation added to each motion, in units of the largest step.
        detours: Chance per episode of one detour, [0, 1].
    """

    def make(env: RobotEnv, kind: str, seed: int) -> Policy:
        stray = Noise(action=noise, detours=detours)
        if kind == EXPERT:
            return make_expert(env.scene, action=env.bench.action, noise=stray, seed=seed)
        return failure_maker(kind, env.scene, action=env.bench.action, noise=stray, seed=seed)

    return make


def failure_kinds(env: RobotEnv, wanted: Sequence[str] = ()) -> list[str]:
    """Return the wanted ways to fail the environment's task by script, by default all there are; connects the robot if need be.

    Raises:
        ConfigError: If the task cannot be failed in one of them.
    """
    for kind in wanted:
        check_failure(kind, env.scene)
    return [*wanted] or [kind.value for kind in failures_of(env.scene)]
