"""One synchronous episode of a policy in an environment: what recording and evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roborl.envs.robot_env import RobotEnv
from roborl.errors import ConfigError
from roborl.roles import Policy
from roborl.types import EndCause, Observation


@dataclass(slots=True, kw_only=True)
class Rollout:
    """A finished episode as it was run.

    Attributes:
        seed: Of its scene.
        proposed: What the policy wanted, T arrays float32 (a,).
        executed: What was done, T arrays float32 (a,).
        rewards: T task rewards.
        end: Why it ended.
        policy_version: The policy's, at the end.
        observations: All T + 1 where they were kept, else none.
    """

    seed: int
    end: EndCause = EndCause.TIME_LIMIT
    policy_version: int = 0
    proposed: list[NDArray[np.float32]] = field(default_factory=list)
    executed: list[NDArray[np.float32]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)

    @property
    def success(self) -> bool:
        """Whether the task was done."""
        return self.end is EndCause.SUCCESS

    @property
    def steps(self) -> int:
        """T."""
        return len(self.executed)


def run_episode(
    env: RobotEnv,
    policy: Policy,
    *,
    seed: int,
    keep: bool = False,
    replan_steps: int | None = None,
    watch: Callable[[Observation], None] = lambda _: None,
) -> Rollout:
    """Run one episode to its end.

    Args:
        env: The environment.
        policy: Asked for a new chunk when the last one is used up.
        seed: Of the scene.
        keep: Keep the observations.
        replan_steps: Ask again after so many actions of a chunk; by default after all of them.
        watch: Sees every observation when it is made.

    Raises:
        ConfigError: If the actions are not the bench's, or one is not finite; the arm has not moved to it.
        RobotError: If robot or camera fail; the episode is lost then.
    """
    env.reset(seed=seed)
    policy.reset()
    rollout = Rollout(seed=seed)
    chunk: Sequence[NDArray[np.float32]] = ()
    ended = False
    while True:
        observation = env.last_observation
        assert observation is not None, "the environment has been reset"
        watch(observation)
        if keep:
            rollout.observations.append(observation)
        if ended:
            break
        if not chunk:
            chunk = list(_checked(policy.act(observation), env.arm.action_dim))[:replan_steps]
        proposed, *chunk = chunk
        _, reward, terminated, truncated, info = env.step(proposed)
        rollout.proposed.append(np.asarray(proposed, np.float32))
        rollout.executed.append(np.asarray(info["executed"], np.float32))
        rollout.rewards.append(float(reward))
        ended = terminated or truncated
        if terminated:
            rollout.end = EndCause.SUCCESS if info["is_success"] else EndCause.FAILURE
    rollout.policy_version = policy.version
    return rollout


def _checked(chunk: NDArray[np.float32], action_dim: int) -> NDArray[np.float32]:
    if chunk.ndim != 2 or len(chunk) == 0 or chunk.shape[1] != action_dim:
        raise ConfigError(
            "The policy's actions do not fit the bench",
            seen=f"a chunk of shape {chunk.shape}",
            allowed=f"(h, {action_dim}), h at least 1",
            remedy="Use the bench that the policy was trained for",
        )
    finite = np.isfinite(chunk).all(axis=1)
    if not finite.all():
        raise ConfigError(
            "An action is not finite",
            seen=chunk[int(np.argmin(finite))],
            allowed="finite numbers",
            remedy="Use a policy, or an earlier version of it, whose weights and statistics give such for what its cameras show",
        )
    return chunk
