from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roborl.errors import ModelLoadError
from roborl.layers import CameraEncoder
from roborl.policies import load_policy
from roborl.policies.exploration import ExplorationConfig
from roborl.policies.networks import Critics, Remaining
from roborl.policies.small import SmallPolicy, SmallPolicyConfig, to_arrays
from roborl.types import Frame, Observation

SHAPE = SmallPolicyConfig(
    cameras=("front", "wrist"), image_px=32, state_dim=5, action_dim=3, keypoints=4, width=16
)


def observation(seed: int = 0, side: int = 32) -> Observation:
    random = np.random.default_rng(seed)
    return Observation(
        frames={
            name: Frame(
                rgb=random.integers(0, 255, (side, side, 3), dtype=np.uint8), camera=name, stamp_ns=0, id=0
            )
            for name in SHAPE.cameras
        },
        state=random.normal(size=5).astype(np.float32),
        stamp_ns=0,
    )


def test_an_action_is_one_bounded_chunk_and_follows_from_what_is_seen() -> None:
    policy = SmallPolicy(SHAPE)
    torch.manual_seed(0)
    first, again, other = policy.act(observation(1)), policy.act(observation(1)), policy.act(observation(2))
    assert first.shape == (1, 3)
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_larger_pictures_are_averaged_down_and_other_cameras_ignored() -> None:
    policy = SmallPolicy(SHAPE)
    assert policy.act(observation(3, side=64)).shape == (1, 3)


def test_a_policy_that_explores_strays_within_bounds() -> None:
    policy, seen = SmallPolicy(SHAPE, explore=ExplorationConfig(std=5.0), seed=1), observation(0)
    policy.reset()
    actions = np.concatenate([policy.act(seen) for _ in range(20)])
    assert np.abs(actions).max() == 1.0
    assert actions.std(axis=0).min() > 0.3


def test_the_folder_of_an_older_release_is_read(tmp_path: Path) -> None:
    policy = SmallPolicy(SHAPE)
    policy.save(tmp_path)
    described = json.loads((tmp_path / "policy.json").read_text())
    described |= {"exploration_std": 0.1, "noise_persistence": 0.5}
    del described["channels"], described["from_first"], described["ways_alone"]
    (tmp_path / "policy.json").write_text(json.dumps(described))
    assert load_policy(tmp_path).config == SHAPE


@pytest.mark.parametrize(
    "other",
    [{}, {"channels": 24}, {"waypoints": 2, "ways_alone": True}, {"waypoints": 1, "from_first": True}],
)
def test_a_policy_comes_back_from_its_folder_as_it_was(tmp_path: Path, other: dict[str, Any]) -> None:
    policy = SmallPolicy(replace(SHAPE, **other))
    policy.save(tmp_path)
    assert np.array_equal(load_policy(tmp_path).act(observation(4)), policy.act(observation(4)))


def test_published_weights_replace_the_actor_and_carry_their_version() -> None:
    policy, other = SmallPolicy(SHAPE), SmallPolicy(SHAPE)
    other.encoder.load_state_dict(policy.encoder.state_dict())
    policy.load_actor(to_arrays(other.actor), version=7)
    assert policy.version == 7
    assert np.array_equal(policy.act(observation(5)), other.act(observation(5)))


@pytest.mark.parametrize("spoil", ["nan", "missing", "shape"])
def test_weights_that_cannot_be_used_are_refused_and_the_old_ones_stay(spoil: str) -> None:
    policy = SmallPolicy(SHAPE)
    before = policy.act(observation(6))
    weights = to_arrays(policy.actor)
    name = next(iter(weights))
    if spoil == "nan":
        weights[name] = np.full_like(weights[name], np.nan)
    elif spoil == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][:1]
    with pytest.raises(ModelLoadError):
        policy.load_actor(weights, version=2)
    assert policy.version == 0
    assert np.array_equal(policy.act(observation(6)), before)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_policy(tmp_path)
    SmallPolicy(SHAPE).save(tmp_path)
    (tmp_path / "policy.json").write_text('{"kind": "act"}')
    with pytest.raises(ModelLoadError, match="another kind"):
        load_policy(tmp_path)


def test_a_keypoint_follows_what_it_is_bright_for_to_a_fraction_of_a_pixel() -> None:
    encoder = CameraEncoder(1, image_px=64, width=1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        encoder.temperature.fill_(1.0)
        first, second, third = encoder.layers[0], encoder.layers[2], encoder.layers[4]
        first.weight[0, 0, 1:4, 1:4] = 2.0  # red is bright
        first.bias.fill_(9.0)
        second.weight[0, 0, 1, 1] = third.weight[0, 0, 1, 1] = 1.0
    places = []
    for left in (20, 21, 22, 23):
        picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
        picture[0, 30:35, left : left + 5, 0] = 255
        places.append(encoder(picture)[0, 0].item())
    steps = np.diff(places) * 32
    assert steps == pytest.approx([1.0] * 3, abs=0.5), "in half pixels of a map that is half as wide"


def test_features_have_a_common_scale_once_they_are_standardised() -> None:
    policy = SmallPolicy(SHAPE)
    images = {
        name: torch.from_numpy(np.stack([observation(seed).frames[name].rgb for seed in range(40)]))
        for name in SHAPE.cameras
    }
    with torch.no_grad():
        for camera in policy.encoder.by_camera.values():
            camera.temperature.fill_(100.0)  # untaught maps are all but flat
        policy.encoder.standardise(policy.encoder.keypoints(images))
        features = policy.encoder(images)
    assert features.mean(dim=0).abs().max() < 1e-4
    assert 0.2 < features.std(dim=0, correction=0).max() <= 0.5001


def test_the_way_that_remains_is_read_off_the_features() -> None:
    features, state = torch.randn(200, 6), torch.randn(200, 2)
    places = torch.stack([features[:, :2] + 0.5, 2.0 * features[:, 2:4]], dim=1)
    known = torch.ones(200, 2)
    known[::2, 1] = 0.0
    spoilt = places.clone()
    spoilt[::2, 1] = 99.0
    remaining = Remaining(6, 2, 2)
    remaining.fit(features, spoilt, known)
    told = remaining(features, state, features)
    assert told.shape == (200, remaining.output_dim)
    assert torch.equal(told[:, :8], torch.cat([features, state], dim=1))
    ways = told[:, 8:].unflatten(1, (2, 2))
    torch.testing.assert_close(
        ways / ways[0, 0, 0],
        (places - state[:, None]) / (places - state[:, None])[0, 0, 0],
        atol=0.2,
        rtol=0.1,
    )
    assert torch.equal(Remaining(6, 2, 0)(features, state, features), told[:, :8])
    back = Remaining(6, 2, 2, from_first=True)
    back.fit(features, spoilt, known)
    first = torch.randn(200, 6)
    both = back(features, state, first)
    assert both.shape == (200, back.output_dim)
    torch.testing.assert_close(both[:, :12], told)
    torch.testing.assert_close(both[:, 12:], remaining(first, state, features)[:, 8:])


def test_a_policy_remembers_the_first_pictures_of_an_episode_where_it_is_to() -> None:
    def after(first: int, *, from_first: bool) -> np.ndarray:
        torch.manual_seed(0)
        policy = SmallPolicy(replace(SHAPE, waypoints=2, from_first=from_first))
        policy.remaining.weight.normal_()
        policy.act(observation(9))
        policy.reset()
        policy.act(observation(first))
        policy.act(observation(7))
        return policy.act(observation(8))

    assert np.array_equal(after(1, from_first=False), after(2, from_first=False))
    assert np.array_equal(after(1, from_first=True), after(1, from_first=True))
    assert not np.array_equal(after(1, from_first=True), after(2, from_first=True))


def test_critics_asked_alone_say_what_they_say_among_all() -> None:
    torch.manual_seed(0)
    critics, inputs = Critics(5, members=4, width=8), torch.randn(6, 5)
    asked = torch.tensor([3, 1])
    torch.testing.assert_close(critics(inputs, asked), critics(inputs)[asked])
    assert not torch.allclose(critics(inputs)[3], critics(inputs)[1])
