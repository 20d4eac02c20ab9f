from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode, Subtask
from roborl.errors import ConfigError, DatasetError
from roborl.learning.clone import CloneConfig, clone
from roborl.learning.cloning_data import cloning_data
from roborl.policies.small import SmallPolicyConfig
from roborl.types import EndCause, Frame, Observation

SHAPE = SmallPolicyConfig(cameras=("front",), image_px=32, state_dim=2, action_dim=2, keypoints=8, width=32)


def picture(x: float, y: float) -> NDArray[np.uint8]:
    rgb = np.full((32, 32, 3), 40, np.uint8)
    column, row = round(6 + 20 * x), round(6 + 20 * y)
    rgb[row - 3 : row + 3, column - 3 : column + 3] = (250, 60, 60)
    return rgb


def towards(seed: int, steps: int = 6) -> DatasetEpisode:
    """An episode in which every action is where the red square stands, which only the picture tells."""
    place = np.random.default_rng(seed).uniform(size=2)
    return DatasetEpisode(
        task="touch",
        images={"front": np.stack([picture(*place)] * (steps + 1))},
        state=np.stack([np.full(2, t / steps, np.float32) for t in range(steps + 1)]),
        action=np.tile((place * 1.6 - 0.8).astype(np.float32), (steps, 1)),
        reward=np.zeros(steps, np.float32),
        success=True,
        end=EndCause.SUCCESS,
        subtasks=(Subtask(name="a", start=0, end=2), Subtask(name="b", start=2, end=steps)),
    )


def test_rows_carry_the_end_of_the_present_and_of_every_later_sub_task() -> None:
    data = cloning_data([towards(0), towards(1)], cameras=("front",), image_px=32)
    assert data.state.shape == (12, 2)
    assert data.ahead[:6].tolist() == [[1, 1]] * 2 + [[0, 1]] * 4
    assert data.waypoints[:2, 0, 0] == pytest.approx([2 / 6, 2 / 6])
    assert data.waypoints[:6, 1, 0] == pytest.approx([1.0] * 6)
    assert data.episode.tolist() == [0] * 6 + [1] * 6
    assert len(data.of(1).state) == 6


def test_a_failure_teaches_where_the_sub_tasks_ended_that_it_completed_and_is_never_cloned() -> None:
    failure = replace(towards(1), success=False, end=EndCause.TIME_LIMIT)
    data = cloning_data([towards(0)], [failure], cameras=("front",), image_px=32)
    assert data.episode.tolist() == [0] * 6 + [-1] * 6
    assert data.ahead[6:].tolist() == [[1, 0]] * 2 + [[0, 0]] * 4
    assert data.waypoints[6, 0, 0] == pytest.approx(2 / 6)
    assert len(data.of(None).state) == 6


def test_a_sub_task_that_came_undone_was_not_completed() -> None:
    spans = [("a", 0, 2), ("b", 2, 4), ("a", 4, 6)]
    marks = tuple(Subtask(name=name, start=start, end=end) for name, start, end in spans)
    failure = replace(towards(1), success=False, end=EndCause.TIME_LIMIT, subtasks=marks)
    data = cloning_data([towards(0)], [failure], cameras=("front",), image_px=32)
    assert data.ahead[6:].tolist() == [[1, 0]] * 2 + [[0, 0]] * 4


def test_an_episode_without_marks_is_one_sub_task() -> None:
    data = cloning_data([replace(towards(0), subtasks=())], cameras=("front",), image_px=32)
    assert data.ahead.tolist() == [[1]] * 6
    assert data.waypoints[:, 0, 0] == pytest.approx([1.0] * 6)


def test_of_an_episode_without_marks_beside_marked_ones_only_its_end_is_known() -> None:
    unmarked = replace(towards(1), subtasks=())
    data = cloning_data([towards(0), unmarked], cameras=("front",), image_px=32)
    assert data.ahead[:6].tolist() == [[1, 1]] * 2 + [[0, 1]] * 4
    assert data.ahead[6:].tolist() == [[0, 1]] * 6
    assert data.waypoints[6:, 1, 0] == pytest.approx([1.0] * 6)
    assert not data.still.any()


def test_nothing_to_clone_is_said() -> None:
    with pytest.raises(DatasetError, match="nothing to clone"):
        cloning_data([], cameras=("front",), image_px=32)


@pytest.mark.parametrize(
    ("waypoints", "from_first"), [(0, False), pytest.param(2, False, marks=pytest.mark.slow), (2, True)]
)
def test_a_clone_does_what_was_shown_on_pictures_it_has_not_seen(waypoints: int, from_first: bool) -> None:
    torch.set_num_threads(1)
    data = cloning_data([towards(seed) for seed in range(60)], cameras=("front",), image_px=32)
    config = CloneConfig(encoder_updates=250, actor_updates=400, batch_size=32)
    policy = clone(config, replace(SHAPE, waypoints=waypoints, from_first=from_first), data, seed=0)
    assert bool(policy.remaining.weight.any()) == bool(waypoints)
    errors, spread = [], []
    for seed in range(1000, 1030):
        episode = towards(seed)
        frame = Frame(rgb=episode.images["front"][0], camera="front", stamp_ns=0, id=0)
        seen = Observation(frames={"front": frame}, state=episode.state[0], stamp_ns=0)
        policy.reset()
        errors.append(policy.act(seen)[0] - episode.action[0])
        spread.append(episode.action[0])
    assert np.abs(errors).mean() < 0.35 * np.abs(spread).mean()


def reaching(seed: int, *, success: bool, steps: int = 6) -> DatasetEpisode:
    """A blue hand goes from a corner to where the red square stands; in a failure it wanders about, and touches nothing."""
    random = np.random.default_rng(seed)
    place = random.uniform(0.2, 0.8, size=2)
    hand = np.linspace((0.0, 0.0), place, steps + 1) if success else random.uniform(size=(steps + 1, 2))
    hand[0] = 0.0
    pictures = np.stack([picture(*place) for _ in hand])
    for rgb, (x, y) in zip(pictures, hand, strict=True):
        column, row = round(6 + 20 * x), round(6 + 20 * y)
        rgb[row - 2 : row + 2, column - 2 : column + 2] = (60, 60, 250)
    return replace(
        towards(seed, steps),
        images={"front": pictures},
        state=hand.astype(np.float32),
        success=success,
        end=EndCause.SUCCESS if success else EndCause.TIME_LIMIT,
        subtasks=(Subtask(name="a", start=0, end=steps),),
    )


def test_an_actor_that_is_told_the_ways_alone_takes_one_demonstration_to_other_places() -> None:
    torch.set_num_threads(1)

    def shown(seed: int) -> DatasetEpisode:
        episode = reaching(seed, success=True)
        return replace(episode, action=episode.state[-1] - episode.state[:-1])

    data = cloning_data([shown(seed) for seed in range(30)], cameras=("front",), image_px=32)
    config = CloneConfig(encoder_updates=200, actor_updates=200, batch_size=32)
    missed = {}
    for alone in (False, True):
        shape = replace(SHAPE, waypoints=1, ways_alone=alone)
        policy = clone(config, shape, data, actor_episodes=1, seed=0)
        errors = []
        for seed in range(1000, 1020):
            episode = shown(seed)
            frame = Frame(rgb=episode.images["front"][0], camera="front", stamp_ns=0, id=0)
            policy.reset()
            acted = policy.act(Observation(frames={"front": frame}, state=episode.state[0], stamp_ns=0))
            errors.append(np.linalg.norm(acted[0] - episode.action[0]))
        missed[alone] = float(np.mean(errors))
    assert missed[True] < 0.75 * missed[False], missed


def test_what_is_under_way_or_to_come_lies_still_in_failures() -> None:
    nothing_done = replace(towards(1), success=False, subtasks=(Subtask(name="a", start=0, end=6),))
    half_done = replace(towards(2), success=False)
    data = cloning_data([towards(0)], [nothing_done, half_done], cameras=("front",), image_px=32)
    assert data.still[:6].tolist() == [[0, 0]] * 6, "where it ends is known"
    assert data.still[6:12].tolist() == [[1, 1]] * 6
    assert data.still[12:].tolist() == [[0, 1]] * 6
    assert data.age.tolist() == [*range(6)] * 3
    unmarked = replace(towards(1), success=False, subtasks=())
    assert not cloning_data([towards(0)], [unmarked], cameras=("front",), image_px=32).still.any()


@pytest.mark.slow
def test_a_goal_is_seen_at_one_place_however_the_hand_moves_about() -> None:
    torch.set_num_threads(1)
    shown = [reaching(seed, success=True) for seed in range(12)]
    wandered = [reaching(100 + seed, success=False) for seed in range(40)]
    data = cloning_data(shown, wandered, cameras=("front",), image_px=32)
    strayed, missed = {}, {}
    for weight in (0.0, 1.0):
        config = CloneConfig(encoder_updates=300, actor_updates=1, batch_size=32, still_weight=weight)
        policy = clone(config, replace(SHAPE, waypoints=1), data, seed=0)
        seen, true = [], []
        for seed in range(1000, 1020):
            pictures = torch.from_numpy(reaching(seed, success=False).images["front"])
            with torch.inference_mode():
                features = policy.encoder({"front": pictures})
                seen.append(features @ policy.remaining.weight[0].T + policy.remaining.bias[0])
            true.append(torch.from_numpy(reaching(seed, success=True).state[-1]))
        strayed[weight] = float(np.mean([(ends - ends[0])[1:].norm(dim=1).mean() for ends in seen]))
        missed[weight] = float(np.mean([(e - t).norm(dim=1).mean() for e, t in zip(seen, true, strict=True)]))
    assert strayed[1.0] < 0.5 * strayed[0.0], strayed
    assert missed[1.0] < 0.7 * missed[0.0], missed


def test_a_step_that_counts_for_nothing_teaches_nothing() -> None:
    few = CloneConfig(keypoints=8, encoder_updates=3, actor_updates=3, batch_size=16)
    torch.set_num_threads(1)

    def cloned(wrong: float, weights: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        bad = towards(1)
        bad = replace(bad, action=bad.action * wrong, state=bad.state.copy())
        bad.state[-1] *= wrong  # where its last sub-task ends
        data = cloning_data([towards(0), bad], cameras=("front",), image_px=32, weights=weights)
        policy = clone(few, replace(SHAPE, waypoints=2), data, seed=0)
        seen = Observation(
            frames={"front": Frame(rgb=towards(2).images["front"][0], camera="front", stamp_ns=0, id=0)},
            state=towards(2).state[0],
            stamp_ns=0,
        )
        return policy.act(seen)

    all_, none = np.ones(6, np.float32), np.zeros(6, np.float32)
    np.testing.assert_array_equal(cloned(1.0, [all_, none]), cloned(-1.0, [all_, none]))
    assert not np.array_equal(cloned(1.0, []), cloned(-1.0, []))
    np.testing.assert_array_equal(cloned(1.0, [all_, all_]), cloned(1.0, []))


def test_the_encoder_is_taught_by_the_aim_as_hard_as_is_asked_for() -> None:
    data = cloning_data([towards(seed) for seed in range(4)], cameras=("front",), image_px=32)

    def taught(weight: float) -> torch.Tensor:
        few = CloneConfig(keypoints=8, encoder_updates=3, actor_updates=1, batch_size=16, aim_weight=weight)
        return torch.cat([p.flatten() for p in clone(few, SHAPE, data, seed=0).encoder.parameters()])

    hardly, as_before, hard = taught(1.0), taught(1.0), taught(10.0)
    assert torch.equal(hardly, as_before)
    assert not torch.allclose(hardly, hard, atol=1e-5)


def test_weights_that_do_not_fit_are_told() -> None:
    one = np.ones(6, np.float32)
    for weights in ([one], [one, one[:5]], [0 * one, 0 * one]):
        with pytest.raises(DatasetError, match=r"by these weights.*\[6, 6\] in \[0, 1\]"):
            cloning_data([towards(0), towards(1)], cameras=("front",), image_px=32, weights=weights)


@pytest.mark.parametrize(
    "settings",
    [
        {"keypoints": 0},
        {"channels": 0},
        {"encoder_updates": 0},
        {"actor_updates": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"failure_share": 2.0},
        {"failure_share": 1.0},
        {"aim_weight": -1.0},
        {"still_weight": float("inf")},
        {"feature_noise": float("nan")},
        {"state_noise": -0.1},
    ],
)
def test_settings_that_clone_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))) as refused:
        CloneConfig(**settings)
    assert refused.value.seen
    assert refused.value.allowed
    assert refused.value.remedy


def test_a_demonstration_of_a_single_step_makes_a_policy_of_numbers() -> None:
    six = replace(towards(0), subtasks=())
    pictures = {"front": six.images["front"][:2]}
    one = replace(six, images=pictures, state=six.state[:2], action=six.action[:1], reward=six.reward[:1])
    data = cloning_data([one], cameras=("front",), image_px=32)
    few = CloneConfig(keypoints=8, encoder_updates=1, actor_updates=1, batch_size=4)
    policy = clone(few, replace(SHAPE, waypoints=1), data, seed=0)
    for part in (policy.encoder, policy.remaining, policy.actor):
        assert all(bool(tensor.isfinite().all()) for tensor in part.state_dict().values())
