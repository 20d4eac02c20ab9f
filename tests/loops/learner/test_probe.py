"""What new weights are tried on: observations that are renewed, and actions as the network has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roborl.errors import DatasetError
from roborl.learning.publish import PolicyPublisher, VersionShelf, Weights, refusal
from roborl.loops.learner.probe import WeightsProbe
from roborl.policies import load_policy
from roborl.policies.lerobot_learning import OnlineForm
from roborl.policies.lerobot_policy import LeRobotPolicy
from roborl.policies.small import SmallPolicy, SmallPolicyConfig, to_arrays
from roborl.testing.check_policy import noise_observations
from roborl.testing.tiny_policies import build_tiny_policy


@dataclass
class Info:
    key: int
    observations: int = 3


class Recording:
    """Episodes whose observations are numbers: ten times the episode, and the step."""

    def __init__(self, episodes: int) -> None:
        self.infos = [Info(number) for number in range(episodes)]
        self.torn = False

    def episodes(self) -> list[Info]:
        return self.infos

    def observations(self, key: int) -> Iterator[int]:
        if self.torn:
            raise DatasetError("sealed meanwhile")
        yield from range(10 * key, 10 * key + 3)


class Policy:
    """Answers with what it sees."""

    def reset(self) -> None:
        pass

    def act(self, observation: int) -> np.ndarray:
        return np.array([[observation]])

    def load_actor(self, weights: Weights, version: int) -> None:
        pass


def tried(probe: Any) -> list[int]:
    actions = probe()
    return [] if actions is None else actions({})[:, 0].tolist()


def test_weights_are_tried_on_other_observations_now_and_then() -> None:
    recording: Any = Recording(4)
    probe = WeightsProbe(Policy(), recording, 2)
    assert tried(probe) == [20, 30]
    recording.infos += [Info(4), Info(5)]
    assert [tried(probe) for _ in range(19)] == [[20, 30]] * 19
    recording.torn = True
    assert tried(probe) == [20, 30], "where others cannot be read, those that are there stay"
    recording.torn = False
    assert tried(probe) == [40, 50]


def test_few_episodes_are_looked_at_more_closely_until_there_are_more() -> None:
    recording: Any = Recording(0)
    probe = WeightsProbe(Policy(), recording, 4)
    assert tried(probe) == []
    recording.infos = [Info(0)]
    assert tried(probe) == [0, 1, 2]
    recording.infos.append(Info(1))
    assert tried(probe) == [0, 1, 10, 11]


def test_a_lerobot_policy_that_leaves_its_limits_is_refused_though_it_clips(tmp_path: Path) -> None:
    class Link:
        def publish(self, version: int, weights: Any) -> None:
            pass

    seen = noise_observations({"front": (24, 32)}, 3, count=4)
    folder = tmp_path / "act"
    build_tiny_policy(
        folder, "act", backbone=tmp_path / "b", cameras={"front": (24, 32)}, state_dim=3, action_dim=6
    )
    OnlineForm(image_px=16, learn=("model.action_head",)).write(folder)
    policy, recording = load_policy(folder, task="wave"), Recording(4)
    recording.observations = lambda key: iter(seen[key : key + 1])  # type: ignore[method-assign, assignment, return-value]
    publisher = PolicyPublisher(Link(), VersionShelf(tmp_path / "versions"))
    probe = WeightsProbe(policy, recording, 4)  # type: ignore[arg-type]

    learnt: dict[str, Any] = policy.actor_weights()  # type: ignore[union-attr]
    assert publisher.offer(learnt, {}, probe())
    wild = {name: 30.0 * array for name, array in learnt.items()}
    assert not publisher.offer(wild, {}, probe())
    assert np.abs(policy.act(seen[0])).max() == pytest.approx(1.0)
    held: dict[str, Any] = policy.actor_weights()  # type: ignore[union-attr]
    assert all(np.array_equal(array, wild[name]) for name, array in held.items())


def test_each_answer_of_a_policy_that_smooths_is_that_of_the_weights_alone(tmp_path: Path) -> None:
    seen = noise_observations({"front": (24, 32)}, 3, count=3)
    folder = tmp_path / "act"
    shape: dict[str, Any] = {"cameras": {"front": (24, 32)}, "state_dim": 3, "action_dim": 2}
    build_tiny_policy(folder, "act", **shape, temporal_ensemble_coeff=0.01, n_action_steps=1)
    OnlineForm(image_px=16, learn=("model.action_head",)).write(folder)
    policy, recording = load_policy(folder), Recording(3)
    assert isinstance(policy, LeRobotPolicy)
    recording.observations = lambda key: iter(seen[key : key + 1])  # type: ignore[method-assign, assignment, return-value]
    probe = WeightsProbe(policy, recording, 3)()  # type: ignore[arg-type]
    assert probe is not None
    good = policy.actor_weights()
    huge = {name: np.full_like(array, 3e38) for name, array in good.items()}
    assert "action on a probe frame is not finite" in str(refusal(huge, probe))
    assert refusal(good, probe) is None
    alone = [load_policy(folder).act(observation) for observation in seen]
    np.testing.assert_allclose(np.clip(probe(good), -1.0, 1.0), np.concatenate(alone), atol=1e-5)


def test_each_answer_of_a_policy_that_keeps_the_first_picture_is_given_by_that_of_its_own_episode() -> None:
    """Weights are tried on the first observation of each of several episodes."""
    torch.manual_seed(0)
    seen = noise_observations({"front": (16, 16)}, 2, count=3)
    policy = SmallPolicy(
        SmallPolicyConfig(
            cameras=("front",), image_px=16, state_dim=2, action_dim=2, waypoints=1, from_first=True
        )
    )
    policy.remaining.weight.normal_()
    recording: Any = Recording(3)
    recording.observations = lambda key: iter(seen[key : key + 1])
    probe = WeightsProbe(policy, recording, 3)()
    assert probe is not None
    found = probe(to_arrays(policy.actor))
    alone = []
    for observation in seen:
        policy.reset()
        alone.append(policy.act(observation))
    np.testing.assert_array_equal(found, np.concatenate(alone))
