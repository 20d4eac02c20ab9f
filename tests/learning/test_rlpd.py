from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from roborl.codec import join
from roborl.data.arena import ArenaReader
from roborl.data.store import Store, StoreSpec
from roborl.errors import ConfigError
from roborl.learning.batch import Batch
from roborl.learning.rlpd import Rlpd, RlpdConfig
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.records import pack_record
from roborl.rewards.forms import RewardForm
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM, episode_records, observation
from roborl.types import EndCause, EpisodeKey

SIZE = 64
SHAPE = SmallPolicyConfig(
    cameras=tuple(CAMERAS), image_px=16, state_dim=2, action_dim=2, keypoints=2, width=16
)


def algorithm(folder: Path, *, form: RewardForm = RewardForm.POTENTIAL, **settings: float | bool) -> Rlpd:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = Store(
        folder,
        StoreSpec(
            cameras=CAMERAS, image_px=16, state_dim=2, action_dim=2, max_steps=8, capacity_bytes=100_000
        ),
    )
    store.close()
    config = RlpdConfig(**({"batch_size": SIZE, "learning_rate": 3e-3, "width": 32} | settings))  # type: ignore[arg-type]
    return Rlpd(config, SmallPolicy(SHAPE), ArenaReader(folder), form=form, seed=0)


def batch(
    random: np.random.Generator, *, potential: float = 0.0, demo: bool = False, terminated: bool = True
) -> Batch:
    """A bandit: the reward of a step falls with the distance of its action from a target."""
    action = random.uniform(-1, 1, size=(SIZE, 2)).astype(np.float32)
    reward: NDArray[np.float32] = (1.0 - np.square(action - [0.5, -0.4]).sum(axis=1)).astype(np.float32)
    zeros, rows = np.zeros((SIZE, 2), np.float32), np.zeros(SIZE, np.int64)
    flags = np.full(SIZE, demo)
    return Batch(
        images={},
        next_images={},
        chunk=action[:, None],
        version="",
        state=zeros,
        next_state=zeros,
        action=action,
        reward=reward,
        potential=np.full(SIZE, potential, np.float32),
        next_potential=np.zeros(SIZE, np.float32),
        terminated=np.full(SIZE, terminated),
        horizon=np.ones(SIZE, np.int64),
        person=np.zeros(SIZE, bool),
        demo=flags,
        rows=rows,
        next_rows=rows,
    )


def act(learner: Rlpd) -> NDArray[np.float32]:
    inputs = learner._inputs(np.zeros(1, np.int64), np.zeros((1, 2), np.float32))
    with torch.no_grad():
        return learner.actor(inputs).numpy()[0]


def test_the_actor_finds_the_best_action(tmp_path: Path) -> None:
    learner, random = algorithm(tmp_path, advantage_weight=0.0), np.random.default_rng(0)
    for _ in range(600):
        learner.update(batch(random))
    assert np.abs(act(learner) - [0.5, -0.4]).max() < 0.2


def test_actions_that_turned_out_better_are_cloned_and_the_others_are_not(tmp_path: Path) -> None:
    learner = algorithm(tmp_path, advantage_weight=1000.0, clone_weight=0.0)
    drawn = batch(np.random.default_rng(0))
    good = drawn.action[:, 0] > 0
    drawn = replace(drawn, reward=np.where(good, 1.0, -1.0).astype(np.float32))
    for _ in range(300):
        learner.update(drawn)
    assert np.abs(act(learner) - drawn.action[good].mean(axis=0)).max() < 0.15
    assert np.abs(act(learner) - drawn.action.mean(axis=0)).max() > 0.3


def test_the_values_of_a_shaped_task_are_the_tasks_minus_the_potential(tmp_path: Path) -> None:
    learner, random = algorithm(tmp_path), np.random.default_rng(0)
    for number in range(800):
        learner.update(batch(random, potential=0.6 if number % 2 else 0.0))
    inputs = learner._inputs(np.zeros(1, np.int64), np.zeros((1, 2), np.float32))
    action = torch.tensor([[0.5, -0.4]])
    with torch.no_grad():
        plain = learner._values(learner.critics, inputs, action, torch.tensor([0.0])).mean().item()
        shaped = learner._values(learner.critics, inputs, action, torch.tensor([0.6])).mean().item()
    assert plain == pytest.approx(1.0, abs=0.15)
    assert plain - shaped == pytest.approx(0.6, abs=0.15)


def test_each_form_of_reward_is_learnt_as_it_was_named(tmp_path: Path) -> None:
    drawn = batch(np.random.default_rng(0), potential=0.25)
    before, after = drawn.potential, np.full(SIZE, 0.75, np.float32)
    drawn = replace(drawn, next_potential=after, potentials=np.stack((before, after), axis=1))
    targets = {
        form: algorithm(tmp_path / form, form=form).update(drawn)["target"] - float(drawn.reward.mean())
        for form in RewardForm
    }
    assert targets == pytest.approx(
        {"sparse": 0.0, "potential": -0.25, "progress": 0.75, "difference": 0.5, "positive": 0.0}, abs=1e-5
    )


def test_a_critic_that_is_not_told_the_potential_cannot_tell(tmp_path: Path) -> None:
    learner = algorithm(tmp_path, critic_sees_potential=False)
    inputs = learner._inputs(np.zeros(1, np.int64), np.zeros((1, 2), np.float32))
    action = torch.zeros(1, 2)
    with torch.no_grad():
        values = [learner._values(learner.critics, inputs, action, torch.tensor([phi])) for phi in (0.0, 1.0)]
    assert torch.equal(values[0], values[1])


def test_a_time_out_bootstraps_and_a_termination_does_not(tmp_path: Path) -> None:
    learner, random = algorithm(tmp_path), np.random.default_rng(0)
    with torch.no_grad():
        for critics in (learner.critics, learner.targets):
            critics.last.bias.fill_(10.0)
    ended = learner.update(batch(random, terminated=True))["target"]
    timed_out = learner.update(batch(random, terminated=False))["target"]
    assert timed_out - ended > 5.0


def test_the_look_ahead_grows_until_it_is_plain_shaping(tmp_path: Path) -> None:
    learner, random = algorithm(tmp_path, lookahead=0.5, lookahead_updates=10), np.random.default_rng(0)
    with torch.no_grad():
        for critics in (learner.critics, learner.targets):
            critics.last.weight.zero_()
            critics.last.bias.fill_(10.0)
    drawn = batch(random, terminated=False)
    rewarded = float(drawn.reward.mean())
    seen = learner.update(drawn)["target"] - rewarded
    assert seen == pytest.approx(0.5 * learner.config.discount * 10.0, rel=1e-4)
    for _ in range(9):
        learner.update(drawn)
    assert learner.lookahead == 1.0


def test_practice_that_succeeds_lets_critics_look_further(tmp_path: Path) -> None:
    learner = algorithm(tmp_path, lookahead=0.5, lookahead_updates=0, lookahead_successes=10)
    assert learner.lookahead == 0.5
    learner.practised(5, before_practice=0)
    assert learner.lookahead == 0.75


@pytest.mark.parametrize("form", [form for form in RewardForm if form is not RewardForm.POTENTIAL])
def test_where_no_potential_stands_in_critics_look_all_the_way_at_once(
    tmp_path: Path, form: RewardForm
) -> None:
    assert algorithm(tmp_path, form=form, lookahead=0.5).lookahead == 1.0


def test_practice_is_cloned_where_it_was_better_and_a_demonstration_everywhere(tmp_path: Path) -> None:
    drawn = batch(np.random.default_rng(0))
    worse = replace(drawn, reward=np.full(SIZE, -5.0, np.float32))
    settings = {"clone_weight": 1.0, "advantage_weight": 1.0}
    practice = algorithm(tmp_path / "practice", **settings).update(worse)
    demo = algorithm(tmp_path / "demo", **settings).update(replace(worse, demo=np.ones(SIZE, bool)))
    person = algorithm(tmp_path / "person", **settings).update(replace(worse, person=np.ones(SIZE, bool)))
    assert practice["clone_loss"] == practice["better_loss"] == 0.0
    assert demo["clone_loss"] == person["clone_loss"] > 0.1


def tensors(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Return every tensor in nested state by its place."""
    if isinstance(state, torch.Tensor):
        return {path: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {name: tensor for key, part in items for name, tensor in tensors(part, f"{path}/{key}").items()}


def test_a_learner_goes_on_exactly_where_it_was(tmp_path: Path) -> None:
    first, random = algorithm(tmp_path / "a"), np.random.default_rng(0)
    for _ in range(5):
        first.update(batch(random))
    second = algorithm(tmp_path / "b")
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as from a file
    drawn = [batch(random) for _ in range(4)]
    generator = torch.get_rng_state()
    one = [first.update(each) for each in drawn]
    torch.set_rng_state(generator)
    assert second.updates == 5
    assert one == [second.update(each) for each in drawn]
    a, b = tensors(first.state_dict()), tensors(second.state_dict())
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a if name != "/generator")


def test_a_learner_goes_on_with_the_learning_rate_that_it_is_told_now(tmp_path: Path) -> None:
    first, random = algorithm(tmp_path / "a"), np.random.default_rng(0)
    first.update(batch(random))
    second = algorithm(tmp_path / "b", learning_rate=1e-7)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    before = tensors(copy.deepcopy(second.state_dict()))
    second.update(batch(random))
    after = tensors(second.state_dict())
    moved = [
        float((after[n] - before[n]).abs().max()) for n in after if n.startswith(("/actor/", "/critics/"))
    ]
    assert moved
    assert max(moved) < 1e-5


@pytest.mark.parametrize(("from_first", "ways_alone"), [(False, False), (True, False), (True, True)])
def test_the_actor_is_told_in_learning_what_it_was_told_when_it_acted(
    tmp_path: Path, from_first: bool, ways_alone: bool
) -> None:
    sizes = {"image_px": 16, "state_dim": STATE_DIM, "action_dim": ACTION_DIM}
    store = Store(tmp_path, StoreSpec(cameras=CAMERAS, max_steps=8, capacity_bytes=1 << 20, **sizes))  # type: ignore[arg-type]
    shape = SmallPolicyConfig(
        cameras=tuple(CAMERAS),
        keypoints=2,
        waypoints=2,
        from_first=from_first,
        ways_alone=ways_alone,
        **sizes,
    )  # type: ignore[arg-type]
    torch.manual_seed(0)
    policy = SmallPolicy(shape)
    policy.remaining.weight.normal_()
    for camera in policy.encoder.by_camera.values():
        torch.nn.init.constant_(camera.temperature, 100.0)  # untaught maps are all but flat
    acted, sequence = [], 0
    for number in range(3):
        key = EpisodeKey(actor="left", incarnation=1, episode=number)
        for record in episode_records(key, 5, EndCause.TIME_LIMIT):
            sequence += 1
            store.ingest("ring", sequence, join(pack_record(record)))
        policy.reset()
        acted += [policy.act(observation(key, index))[0] for index in range(6)]
    learner = Rlpd(RlpdConfig(), policy, ArenaReader(tmp_path), seed=0)
    rows = np.concatenate(
        [np.arange(e["start"], e["start"] + 6) for e in learner.features._arena.table if e["ordinal"]]
    )
    with torch.no_grad():
        proposed = learner.actor(learner._inputs(rows, learner.features._arena.columns.state[rows])).numpy()
    store.close()
    np.testing.assert_allclose(proposed, acted, atol=1e-4)
    assert np.ptp(proposed, axis=0).min() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"lookahead": 1.2},
        {"lookahead": -0.1},
        {"lookahead_updates": -1},
        {"lookahead_successes": -1},
        {"batch_size": 0},
        {"members": 0},
        {"subset": 0},
        {"actor_every": 0},
        {"advantage_temperature": 0.0},
        {"members": 4, "subset": 5},
        {"actor_average": 1.0},
        {"polyak": 0.0},
        {"n_step": 0},
        {"width": 0},
        {"learning_rate": 0.0},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        RlpdConfig(**settings)
    assert all((caught.value.seen, caught.value.allowed, caught.value.remedy))
