"""The conformance check passes the policies there are and notices each broken clause."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from roborl.envs.bench import load_bench
from roborl.envs.experts import make_expert
from roborl.envs.robot_env import RobotEnv
from roborl.policies.exploration import ExplorationConfig
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.testing import check_policy as conformance
from roborl.testing.check_policy import PolicyConformanceError, check_policy
from roborl.testing.policies import RandomPolicy
from roborl.types import Observation

policy_check = conformance.policy_check

CAMERAS = {"front": (32, 32), "wrist": (40, 40)}
SHAPE: dict[str, Any] = {"cameras": CAMERAS, "state_dim": 5, "action_dim": 3}


@pytest.mark.parametrize("explore", [None, ExplorationConfig(std=2.0)])
@pytest.mark.parametrize("from_first", [False, True])
def test_the_small_policy_keeps_the_contract(
    policy_check: Callable[..., None], explore: ExplorationConfig | None, from_first: bool
) -> None:
    shape = SmallPolicyConfig(
        cameras=("front", "wrist"),
        image_px=32,
        state_dim=5,
        action_dim=3,
        width=16,
        waypoints=1,
        from_first=from_first,
    )

    def make() -> SmallPolicy:
        torch.manual_seed(0)
        return SmallPolicy(shape, explore=explore)

    policy_check(make, draws=explore is not None, **SHAPE)


def test_a_random_policy_keeps_the_contract(policy_check: Callable[..., None]) -> None:
    policy_check(lambda: RandomPolicy(action_dim=3, length=2), draws=True, **SHAPE)


def test_a_scripted_expert_keeps_the_contract(policy_check: Callable[..., None]) -> None:
    env = RobotEnv(load_bench("so101_sim", ["--robot.scene=Reach"]), images=False)
    env.reset(seed=0)
    try:
        policy_check(
            lambda: make_expert(env.scene, action=env.bench.action),
            cameras={},
            state_dim=env.arm.state_dim,
            action_dim=env.arm.action_dim,
        )
    finally:
        env.close()


class Good:
    """Answers with what it sees; each test spoils one thing of it."""

    version = 0

    def reset(self) -> None: ...

    def act(self, observation: Observation) -> Any:
        return np.tile(observation.state[:3], (2, 1))


class Unbounded(Good):
    def act(self, observation: Observation) -> Any:
        return super().act(observation) * 3


class NotFinite(Good):
    def act(self, observation: Observation) -> Any:
        return super().act(observation) * np.float32(np.nan)


class Double(Good):
    def act(self, observation: Observation) -> Any:
        return super().act(observation).astype(np.float64)


class Single(Good):
    def act(self, observation: Observation) -> Any:
        return super().act(observation)[0]


class Empty(Good):
    def act(self, observation: Observation) -> Any:
        return super().act(observation)[:0]


class Listed(Good):
    def act(self, observation: Observation) -> Any:
        return super().act(observation).tolist()


class Writing(Good):
    def act(self, observation: Observation) -> Any:
        observation.state[0] = 0.0
        return super().act(observation)


class Reusing(Good):
    def __init__(self) -> None:
        self.buffer = np.zeros((2, 3), np.float32)

    def act(self, observation: Observation) -> Any:
        self.buffer[:] = super().act(observation)
        return self.buffer


class WritingAsTensor(Good):
    """A tensor of an array does not know that it is read-only."""

    def act(self, observation: Observation) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.from_numpy(observation.state).clamp_(-0.1, 0.1)
        return super().act(observation)


class Remembering(Good):
    asked = 0

    def act(self, observation: Observation) -> Any:
        self.asked += 1
        return super().act(observation) / np.float32(self.asked)


class Unseeded(Good):
    def act(self, observation: Observation) -> Any:
        return np.random.default_rng().uniform(-1, 1, (2, 3)).astype(np.float32)


class Versioned(Good):
    version = 0

    def act(self, observation: Observation) -> Any:
        self.version += 1
        return super().act(observation)


class Nameless(Good):
    version: Any = "first"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Unbounded, "leaves the limits"),
        (NotFinite, "not finite"),
        (Double, "another type of numbers"),
        (Single, "another shape"),
        (Empty, "another shape"),
        (Listed, "something else than an array"),
        (Writing, "writes into what it is shown"),
        (WritingAsTensor, "writes into what it is shown"),
        (Reusing, "changes a chunk"),
        (Remembering, "beyond its reset"),
        (Unseeded, "when it is made anew"),
        (Versioned, "changes its version"),
        (Nameless, "no count"),
    ],
)
def test_each_broken_clause_is_noticed(broken: type[Good], words: str) -> None:
    check_policy(Good, **SHAPE)
    with pytest.raises(PolicyConformanceError, match=words):
        check_policy(broken, **SHAPE)
