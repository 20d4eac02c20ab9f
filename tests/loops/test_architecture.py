"""Weights mean something only in the policy they were made for; an actor learns of another one when it greets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roborl.errors import HandshakeMismatch
from roborl.loops.actor.act_config import ActConfig, Card
from roborl.loops.actor.io import weights_handshake
from roborl.loops.architecture import architecture, folder_architecture
from roborl.policies.exploration import ExplorationConfig
from roborl.policies.lerobot_learning import OnlineForm
from roborl.policies.small import SmallPolicy, SmallPolicyConfig, to_arrays
from roborl.serving.handshake import Handshake
from roborl.serving.weights_publisher import WeightsPublisher
from roborl.serving.weights_subscriber import WeightsSubscriber
from roborl.testing.policies import RandomPolicy

SHAPE = SmallPolicyConfig(
    cameras=("front", "wrist"), image_px=32, state_dim=5, action_dim=3, keypoints=4, width=16
)
CARD = Card(actor="arm", bench="b", cameras={}, state_dim=5, action_dim=3, real_time=False)


def policy(seed: int = 0, **change: Any) -> SmallPolicy:
    torch.manual_seed(seed)
    return SmallPolicy(replace(SHAPE, **change))


def with_other_actor(learnt: SmallPolicy) -> None:
    learnt.load_actor({name: array + 1 for name, array in to_arrays(learnt.actor).items()}, 7)


def with_other_encoder(learnt: SmallPolicy) -> None:
    torch.nn.init.zeros_(next(learnt.encoder.parameters()))


def test_what_is_learned_and_how_is_explored_leave_the_architecture_alone(tmp_path: Path) -> None:
    learnt = policy()
    known = architecture(learnt)
    with_other_actor(learnt)
    learnt.save(tmp_path)
    assert known is not None
    exploring = SmallPolicy.load(tmp_path, explore=ExplorationConfig(std=0.9))
    assert architecture(SmallPolicy.load(tmp_path)) == architecture(exploring) == known
    assert architecture(learnt, to_arrays(learnt.actor)) == known


@pytest.mark.parametrize(
    "change", [{"width": 32}, {"cameras": ("wrist", "front")}, {"image_px": 64}, {"keypoints": 5}]
)
def test_another_shape_is_another_architecture_and_says_so(change: dict[str, Any]) -> None:
    theirs = architecture(policy(**change))
    assert theirs not in (None, architecture(policy()))
    ((name, value),) = change.items()
    assert f"{name}={value}" in str(theirs)


def test_frozen_parts_of_other_values_are_another_architecture() -> None:
    learnt = policy()
    with_other_encoder(learnt)
    assert architecture(learnt) != architecture(policy())


def test_what_an_algorithm_sends_counts_not_what_its_policy_holds() -> None:
    sent = to_arrays(policy().actor)
    name = next(iter(sent))
    assert architecture(policy(), sent | {name: sent[name][..., :1]}) != architecture(policy())
    assert architecture(policy(), sent | {"more": np.zeros(2)}) != architecture(policy())


@pytest.fixture
def greet(tmp_path: Path) -> Iterator[Callable[[SmallPolicy], WeightsSubscriber]]:
    """Returns the subscriber of an actor that holds ``policy()``, at a publisher for the given one that has published."""
    opened: list[Any] = []

    def meet(theirs: SmallPolicy) -> WeightsSubscriber:
        policy().save(tmp_path / "policy")
        config = ActConfig(policy=tmp_path / "policy")
        publisher = WeightsPublisher(
            "tcp://127.0.0.1:0", handshake=Handshake(action_dim=3, version=architecture(theirs))
        )
        opened.append(publisher)
        publisher.publish(1, to_arrays(theirs.actor))
        handshake = weights_handshake(config, CARD)
        opened.append(WeightsSubscriber(publisher.endpoint, name="arm", handshake=handshake))
        return opened[-1]

    yield meet
    for thing in reversed(opened):
        thing.close()


def test_an_actor_with_the_learners_policy_gets_its_weights(
    greet: Callable[[SmallPolicy], WeightsSubscriber],
) -> None:
    learnt = policy()
    with_other_actor(learnt)
    assert greet(learnt).wait_newest(5.0).version == 1


@pytest.mark.parametrize("change", [{"width": 32}, {"cameras": ("wrist", "front")}])
def test_an_actor_with_another_policy_is_refused_when_it_greets(
    greet: Callable[[SmallPolicy], WeightsSubscriber], change: dict[str, Any]
) -> None:
    theirs = policy(**change)
    subscriber = greet(theirs)
    with pytest.raises(HandshakeMismatch, match="disagree on version") as caught:
        subscriber.wait_newest(5.0)
    assert str(architecture(theirs)) in str(caught.value.seen)
    assert str(architecture(policy())) in str(caught.value.allowed)
    assert "--policy" in caught.value.remedy
    assert subscriber.version == 0


def test_a_policy_of_which_nothing_is_known_leaves_the_field_open() -> None:
    config = ActConfig(policy_factory="roborl.testing.policies:random_policy")
    assert weights_handshake(config, CARD) == Handshake(action_dim=3)
    assert architecture(RandomPolicy()) is None


def test_the_lerobot_policy_of_a_run_is_known_by_its_files(tmp_path: Path) -> None:
    def folder(name: str, *, weights: bytes = b"w", statistics: bytes = b"s", **online: Any) -> str | None:
        made = tmp_path / name
        made.mkdir()
        (made / "config.json").write_text(json.dumps({"type": "act", "device": name}))
        (made / "model.safetensors").write_bytes(weights)
        (made / "policy_preprocessor_step_3.safetensors").write_bytes(statistics)
        if online:
            OnlineForm(**online).write(made)
        return folder_architecture(made)

    form = {"image_px": 64, "learn": ("lora",)}
    known = folder("a", **form)
    assert known is not None
    assert known.startswith("kind=act image_px=64 learn=['lora']")
    assert folder("b", **form) == known
    others = [folder("c", weights=b"x", **form), folder("d", statistics=b"x", **form)]
    others += [folder("e", **form | {"image_px": 96}), folder("f")]
    assert known not in others
    assert others[-1] is None
    config = ActConfig(policy=tmp_path / "a")
    assert weights_handshake(config, CARD).version == known
