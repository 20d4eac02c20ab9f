"""What new weights are tried on: observations that are renewed, and actions as the network has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.errors import DatasetError
from roborl.learning.publish import PolicyPublisher, VersionShelf, Weights
from roborl.loops.learner.probe import WeightsProbe
from roborl.policies import load_policy
from roborl.policies.lerobot_learning import OnlineForm
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
