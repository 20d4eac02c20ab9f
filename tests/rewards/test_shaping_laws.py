"""Laws 1, 3, 4, 5, 6 and 8 on exactly solved problems. Each law's check runs on a variant that breaks it, and must notice."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.rewards.forms import RewardForm, reward_along, reward_of
from roborl.rewards.judges.queries import VlmQuery
from roborl.rewards.parsing import parse_score
from roborl.rewards.shaping import held, potential, shaped_reward
from roborl.testing.mdps import random_mdps
from roborl.testing.vlms import NoisyVlm, brightness_of_last

MDPS = random_mdps(500, seed=1)
RNG = np.random.default_rng(2)
PHI = RNG.random(MDPS.terminal.shape)
SPREAD = RNG.random(MDPS.terminal.shape)


def shaped(phi=PHI, *, discount=MDPS.discount, ended=None, next_phi=None, reward=MDPS.reward):
    return shaped_reward(
        reward,
        MDPS.here(phi),
        MDPS.there(phi if next_phi is None else next_phi),
        MDPS.ended if ended is None else ended,
        discount=discount,
    )


def flips(reward):
    return int(MDPS.flipped(reward).sum())


def test_the_oracle_finds_no_flip_where_nothing_changed():
    assert flips(MDPS.reward) == 0
    assert flips(3 * MDPS.reward) == 0
    assert flips(-MDPS.reward) > 400


def test_shaping_moves_every_action_value_by_its_potential():
    moved = MDPS.action_values(shaped()) - (MDPS.action_values() - PHI[:, :, None])
    assert np.abs(moved[~MDPS.terminal]).max() < 1e-8


def test_potential_shaping_flips_no_optimal_policy():
    assert flips(shaped()) == 0


BREAKERS = {
    "law 4, another discount than the learner's": lambda: shaped(discount=0.99),
    "law 5, the potential of a terminal state kept": lambda: shaped(ended=np.zeros_like(MDPS.ended)),
    "law 5, the potential of a time-out dropped": lambda: shaped(ended=MDPS.ended | MDPS.time_out),
    "law 1, the next potential asked again": lambda: shaped(next_phi=RNG.random(PHI.shape)),
    "law 7, the next potential of another version": lambda: shaped(next_phi=PHI**3),
}


@pytest.mark.parametrize("law", BREAKERS)
def test_each_broken_law_flips_optimal_policies(law):
    assert flips(BREAKERS[law]()) > 50


def test_doubt_inside_the_potential_flips_nothing_and_outside_most():
    inside = potential(PHI, SPREAD, scale=1.0, doubt=0.3)
    assert flips(shaped(inside)) == 0

    confidence = potential(np.ones_like(SPREAD), SPREAD, doubt=0.3)
    outside = MDPS.reward + MDPS.here(confidence) * (shaped() - MDPS.reward)
    assert flips(outside) > 300


def judged(bias):
    """Φ of every state as a judge of known noise and bias gives it once, on pictures that say how good the state is."""
    judge = NoisyVlm(
        brightness_of_last, lambda value: f"ANSWER: {round(1 + 4 * value)}", noise=0.2, bias=bias
    )
    values = MDPS.action_values().max(axis=2)
    levels = np.where(MDPS.terminal, MDPS.reward[:, 0, 0, :], values)
    pictures = np.repeat(np.round(255 * levels.ravel()).astype(np.uint8), 12).reshape(-1, 2, 2, 3)
    queries = [VlmQuery(parts=(str(i), picture), max_tokens=1) for i, picture in enumerate(pictures)]
    said = np.array([parse_score(reply.text) for reply in judge.answer(queries)], float).reshape(levels.shape)
    return (said - 1) / 4, levels


@pytest.mark.parametrize("bias", [0.0, -0.3, 0.5])
def test_no_bias_of_the_judge_flips_an_optimal_policy_while_as_a_bonus_it_flips_many(bias):
    progress, levels = judged(bias)
    assert np.abs(progress - levels).mean() > 0.1, "the judge is far from the truth"
    phi = potential(progress, SPREAD, doubt=0.3)
    assert flips(shaped(progress)) == 0
    assert flips(shaped(phi)) == 0
    assert flips(MDPS.reward + MDPS.there(phi)) > 50


@pytest.mark.parametrize("form", RewardForm)
def test_a_form_is_policy_invariant_exactly_if_it_says_so(form):
    reward = reward_of(form)(MDPS.reward, MDPS.here(PHI), MDPS.there(PHI), MDPS.ended, discount=MDPS.discount)
    assert (flips(reward) == 0) == form.policy_invariant


def test_giving_up_beats_trying_only_where_the_terminal_potential_is_kept():
    """A worked example: γ = 0.98, Φ = 0.9 now; giving up ends there, trying succeeds four times in ten or ends at Φ = 0."""
    now, discount, chance = np.full(2, 0.9), 0.98, np.array([0.4, 0.6])
    ended, nothing, outcomes = np.array([True, True]), np.zeros(2), np.array([1.0, 0.0])

    def values(terminated):
        give_up = shaped_reward(nothing, now, now, terminated, discount=discount)[0] + now[0]
        attempt = shaped_reward(outcomes, now, outcomes, terminated, discount=discount) + now
        return give_up, float(chance @ attempt)

    assert values(ended) == pytest.approx((0.0, 0.4))
    assert values(~ended) == pytest.approx((0.882, 0.792))


def test_the_naive_difference_pays_for_staying():
    phi, after, none = RNG.random(50), RNG.random(50), np.zeros(50, bool)
    arrays = (np.zeros(50), phi, after, none)
    naive = reward_of(RewardForm.DIFFERENCE)(*arrays, discount=0.98)
    np.testing.assert_allclose(naive - shaped_reward(*arrays, discount=0.98), 0.02 * after)


def chunks_of(lengths, total):
    cuts = [0]
    for length in lengths:
        if cuts[-1] < total:
            cuts.append(min(total, cuts[-1] + length))
    return cuts


def return_error(shape, rewards, phi, cuts, terminated, discount):
    """How far the shaped return of an episode cut at ``cuts`` is from its task return + γᵀΦ(last) − Φ(first)."""
    total = 0.0
    for start, end in pairwise(cuts):
        chunk = np.array([sum(discount**i * r for i, r in enumerate(rewards[start:end]))])
        ends = np.array([terminated and end == cuts[-1]])
        total += discount**start * float(
            shape(chunk, phi[[start]], phi[[end]], ends, discount=discount, horizon=end - start)[0]
        )
    span = cuts[-1]
    task = sum(discount**i * r for i, r in enumerate(rewards[:span]))
    last = 0.0 if terminated else discount**span * phi[span]
    return abs(total - (task + last - phi[0]))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, 7), min_size=30, max_size=30),
    terminated=st.booleans(),
    discount=st.floats(0.5, 1.0),
)
def test_chunks_of_any_length_telescope(seed, lengths, terminated, discount):
    rng = np.random.default_rng(seed)
    rewards, phi = rng.normal(size=30), rng.random(31)
    error = partial(
        return_error,
        rewards=rewards,
        phi=phi,
        cuts=chunks_of(lengths, 30),
        terminated=terminated,
        discount=discount,
    )
    assert error(shaped_reward) < 1e-9


def return_of(form, rewards, phi, cuts, terminated, discount):
    """The return of an episode in one form of reward, from transitions that span what lies between ``cuts``."""
    total, longest = 0.0, max(end - start for start, end in pairwise(cuts))
    for start, end in pairwise(cuts):
        chunk = np.array([sum(discount**i * r for i, r in enumerate(rewards[start:end]))])
        # What lies behind the transition is not its own.
        path = np.r_[phi[start : end + 1], np.full(longest - (end - start), np.nan)][None]
        ends = np.array([terminated and end == cuts[-1]])
        horizon = np.array([end - start])
        total += (
            discount**start * reward_along(form, chunk, path, ends, discount=discount, horizon=horizon)[0]
        )
    return total


@settings(max_examples=60)
@given(
    form=st.sampled_from(RewardForm),
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, 7), min_size=30, max_size=30),
    terminated=st.booleans(),
    discount=st.floats(0.5, 1.0),
)
def test_each_form_pays_an_episode_the_same_however_it_is_cut(form, seed, lengths, terminated, discount):
    rng = np.random.default_rng(seed)
    rewards, phi = rng.normal(size=30), rng.random(31)
    by_step = sum(
        discount**t
        * float(
            reward_of(form)(
                rewards[[t]], phi[[t]], phi[[t + 1]], np.array([terminated and t == 29]), discount=discount
            )[0]
        )
        for t in range(30)
    )
    cut = return_of(form, rewards, phi, chunks_of(lengths, 30), terminated, discount)
    assert cut == pytest.approx(by_step, abs=1e-9)


def test_telescoping_notices_a_chunk_that_is_discounted_as_one_step():
    def one_step(*arrays, discount, horizon):
        return shaped_reward(*arrays, discount=discount)

    rng = np.random.default_rng(0)
    args = (rng.normal(size=30), rng.random(31), chunks_of([4] * 8, 30), True, 0.9)
    assert return_error(shaped_reward, *args) < 1e-9
    assert return_error(one_step, *args) > 0.05


def test_asking_twice_about_one_observation_multiplies_the_noise_of_returns():
    rng, discount, steps = np.random.default_rng(0), 0.97, 100
    powers = discount ** np.arange(steps)
    ends = np.arange(steps) == steps - 1

    def spread_of_returns(ask_again):
        returns = []
        for _ in range(200):
            phi = np.linspace(0, 1, steps + 1) + 0.1 * rng.normal(size=steps + 1)
            again = phi + 0.1 * rng.normal(size=steps + 1) if ask_again else phi
            f = shaped_reward(np.zeros(steps), phi[:-1], again[1:], ends, discount=discount)
            returns.append(powers @ f + phi[0])
        return np.std(returns)

    assert spread_of_returns(ask_again=False) < 1e-9
    assert spread_of_returns(ask_again=True) > 0.2


def depends_on_the_future(fill):
    """Whether changing a later score changes the value of an earlier observation."""
    ids = np.array([0, 4, 8])
    one, other = (fill(np.array([0.1, 0.2, last]), ids, 10) for last in (0.3, 0.9))
    return not np.array_equal(one[:8], other[:8])


def test_a_held_column_knows_nothing_of_later_scores_and_an_interpolated_one_does():
    assert not depends_on_the_future(held)
    assert depends_on_the_future(lambda values, ids, length: np.interp(np.arange(length), ids, values))


def test_before_the_first_score_the_potential_is_zero():
    assert held(np.array([0.7]), np.array([3]), 5).tolist() == [0, 0, 0, 0.7, 0.7]
    assert held(np.zeros(0), np.zeros(0, int), 3).tolist() == [0, 0, 0]
