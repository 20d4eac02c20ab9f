from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from roborl.learning.batch import Batch
from roborl.learning.targets import Targets, TargetsConfig
from roborl.rewards.forms import (
    INVARIANT_IN_THE_END,
    NOT_YET_INVARIANT,
    POLICY_INVARIANT,
    RewardForm,
    the_form,
)
from roborl.testing.mdps import random_mdps

GAMMA, LENGTH, CHUNK = 0.9, 6, 3
LEVELS = np.array([0.0, 0.3, 0.8], np.float32)


def transitions(states: NDArray[np.int64], potential: Any, following: Any) -> Batch:
    """Chunks along a chain whose last step is rewarded and ends it; each state may carry any of the potentials."""
    horizon = np.minimum(CHUNK, LENGTH - states)
    terminated = states + horizon == LENGTH
    nothing, rows = np.zeros((states.size, 1), np.float32), np.zeros(states.size, np.int64)
    return Batch(
        images={},
        next_images={},
        state=nothing,
        next_state=nothing,
        action=nothing,
        chunk=None,
        reward=(terminated * GAMMA ** (horizon - 1)).astype(np.float32),
        potential=np.asarray(potential, np.float32),
        next_potential=np.asarray(following, np.float32),
        terminated=terminated,
        horizon=horizon,
        person=np.zeros(states.size, bool),
        demo=np.zeros(states.size, bool),
        rows=rows,
        next_rows=rows,
        version="",
    )


def test_shaped_values_of_a_chain_are_the_tasks_minus_the_potential_however_it_wanders() -> None:
    targets = Targets(RewardForm.POTENTIAL, TargetsConfig(discount=GAMMA, lookahead=1.0))
    states = np.repeat(np.arange(LENGTH), LEVELS.size**2)
    now, after = (grid.ravel() for grid in np.meshgrid(np.arange(LEVELS.size), np.arange(LEVELS.size)))
    now, after = np.tile(now, LENGTH), np.tile(after, LENGTH)
    batch = transitions(states, LEVELS[now], LEVELS[after])
    values = torch.zeros(LENGTH + 1, LEVELS.size)
    for _ in range(LENGTH):
        found = targets.of(
            batch, values[torch.from_numpy(states + batch.horizon), torch.from_numpy(after)], 0
        )
        # The mean over what the next potential happens to be.
        values[:LENGTH] = found.reshape(LENGTH, LEVELS.size, LEVELS.size).mean(dim=1)
    task = GAMMA ** (LENGTH - 1 - np.arange(LENGTH))
    np.testing.assert_allclose(values[:LENGTH], task[:, None] - LEVELS, atol=1e-5)
    advantage = found - values[torch.from_numpy(states), torch.from_numpy(now)]
    np.testing.assert_allclose(advantage, 0.0, atol=1e-5)  # on a chain no chunk is better than another


@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize(
    ("form", "worth"),
    [
        # Φ = 0.5 for ever: Φ / (1 − γ) where each step earns it.
        (RewardForm.SPARSE, 0.0),
        (RewardForm.POTENTIAL, -0.5),
        (RewardForm.PROGRESS, 25.0),
        (RewardForm.DIFFERENCE, 0.0),
        (RewardForm.POSITIVE, 0.0),
    ],
)
def test_staying_is_worth_the_same_however_far_transitions_reach(
    form: RewardForm, worth: float, horizon: int
) -> None:
    targets = Targets(form, TargetsConfig(lookahead=1.0))
    half = np.full(1, 0.5, np.float32)
    staying = replace(
        transitions(np.zeros(1, np.int64), half, half),
        reward=np.zeros(1, np.float32),
        terminated=np.zeros(1, bool),
        horizon=np.full(1, horizon),
        potentials=np.full((1, 4), 0.5, np.float32),
    )
    value = torch.zeros(1)
    for _ in range(1000):
        value = targets.of(staying, value, 0)
    assert float(value) == pytest.approx(worth, abs=1e-3)


@pytest.mark.parametrize("beyond", [float("inf"), float("nan")])
def test_what_lies_behind_the_end_of_a_task_is_not_looked_at(beyond: float) -> None:
    targets = Targets(RewardForm.POTENTIAL, TargetsConfig(discount=GAMMA, lookahead=1.0))
    last = transitions(np.full(1, LENGTH - 1), np.zeros(1), np.zeros(1))
    assert targets.of(last, torch.tensor([beyond]), 0).tolist() == [1.0]


@pytest.mark.parametrize("form", list(RewardForm))
def test_the_look_ahead_is_for_potentials_and_grows_to_one(form: RewardForm) -> None:
    targets = Targets(form, TargetsConfig(discount=GAMMA, lookahead=0.5, lookahead_updates=10))
    found = [targets.lookahead(updates) for updates in (0, 5, 10, 99)]
    assert found == ([0.5, 0.75, 1.0, 1.0] if form is RewardForm.POTENTIAL else [1.0] * 4)
    forever = Targets(
        form, TargetsConfig(discount=GAMMA, lookahead=0.5, lookahead_updates=0, lookahead_successes=0)
    ).lookahead(10**9)
    assert forever == (0.5 if form is RewardForm.POTENTIAL else 1.0)


def test_the_look_ahead_grows_with_successes_where_these_are_sooner_than_updates() -> None:
    options: dict[str, Any] = {"lookahead": 0.5, "lookahead_successes": 4}
    targets = Targets(RewardForm.POTENTIAL, TargetsConfig(lookahead_updates=10, **options))
    found = []
    for targets.successes, updates in ((0, 0), (2, 0), (2, 8), (4, 8), (0, 10)):
        found.append(targets.lookahead(updates))
    assert found == [0.5, 0.75, 0.9, 1.0, 1.0]
    targets = Targets(RewardForm.POTENTIAL, TargetsConfig(lookahead_updates=0, **options))
    assert targets.lookahead(10**9) == 0.5
    targets.successes = 5
    assert targets.lookahead(0) == 1.0


def test_the_updates_of_a_head_start_let_critics_look_no_further() -> None:
    config = TargetsConfig(lookahead=0.5, lookahead_updates=10, lookahead_successes=0)
    targets = Targets(RewardForm.POTENTIAL, config)
    found = []
    for targets.before_practice, updates in ((0, 0), (20, 20), (20, 25), (20, 30)):
        found.append(targets.lookahead(updates))
    assert found == [0.5, 0.5, 0.75, 1.0]


GROWS_FOR = 100


@pytest.mark.parametrize(
    ("lookahead", "updates", "says"),
    [
        (1.0, 0, POLICY_INVARIANT),
        (0.9, GROWS_FOR, INVARIANT_IN_THE_END),
        (0.9, 0, NOT_YET_INVARIANT),
        (0.9, GROWS_FOR // 2, NOT_YET_INVARIANT),
    ],
)
def test_targets_leave_optimal_policies_alone_exactly_where_their_run_may_say_so(
    lookahead: float, updates: int, says: str
) -> None:
    """By exact iteration of the targets themselves, over every transition of random problems."""
    mdps = random_mdps(500, seed=1)
    phi = np.random.default_rng(2).random(mdps.terminal.shape)
    shape = mdps.reward.shape
    behind = np.broadcast_to(np.arange(shape[-1]), shape).ravel()
    batch = replace(
        transitions(behind, mdps.here(phi).ravel(), mdps.there(phi).ravel()),
        reward=mdps.reward.ravel(),
        potential=mdps.here(phi).ravel(),
        next_potential=mdps.there(phi).ravel(),
        terminated=mdps.ended.ravel(),
        horizon=np.ones(behind.size, np.int64),
    )
    targets = Targets(
        RewardForm.POTENTIAL,
        TargetsConfig(discount=mdps.discount, lookahead=lookahead, lookahead_updates=GROWS_FOR),
    )
    values = np.zeros(shape[:3])
    for _ in range(300):
        best = torch.from_numpy(mdps.there(values.max(axis=2)).ravel())
        found = targets.of(batch, best, updates).numpy().reshape(shape)
        new = np.einsum("nsat,nsat->nsa", mdps.probability, found)
        values, change = new, np.abs(new - values).max()
        if change < 1e-9:
            break
    assert change < 1e-9
    flips = int(mdps.misled(values).sum())
    assert flips > 50 if says == NOT_YET_INVARIANT else flips == 0, flips
    grown = targets.lookahead(updates) == 1.0
    options = {"lookahead": lookahead, "lookahead_grows": True, "grown": grown}
    assert the_form(["potential"], critic_sees_potential=True, **options)[1] == says
