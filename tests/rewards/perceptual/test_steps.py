"""Cuts of demonstrations: exact, in order, as many as pay."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.errors import DatasetError
from roborl.rewards.perceptual.steps import deviation_costs, discover_steps, feature_scale


def pieces(*lengths, seed=0, noise=0.1, features=6):
    """Frames around one point for the first piece, around another for the second, ..."""
    rng = np.random.default_rng(seed)
    places = np.random.default_rng(99).normal(size=(len(lengths), features))
    return np.concatenate(
        [place + noise * rng.normal(size=(n, features)) for place, n in zip(places, lengths, strict=True)]
    ).astype(np.float32)


def test_what_a_piece_costs_is_its_length_times_its_mean_deviation():
    x = np.random.default_rng(0).normal(5.0, 1.0, (7, 3)).astype(np.float32)
    costs = deviation_costs(x)
    for a in range(7):
        for b in range(a + 1, 8):
            expected = (b - a) * x[a:b].astype(np.float64).std(axis=0).mean()
            assert costs[a, b] == pytest.approx(expected, abs=1e-6)
    assert np.isinf(costs[np.tril_indices(8)]).all()


@settings(max_examples=40)
@given(st.integers(6, 10), st.integers(2, 3), st.integers(2, 3), st.integers(0, 10_000))
def test_no_other_cuts_are_cheaper(frames, steps, shortest, seed):
    if frames < steps * shortest:
        return
    x = np.random.default_rng(seed).normal(size=(frames, 2)).astype(np.float32)
    found = discover_steps([x], steps=steps, shortest=shortest)
    costs = deviation_costs(x / feature_scale([x]))

    def price(bounds):
        return sum(costs[a, b] for a, b in pairwise(bounds))

    every = [(0, *cuts, frames) for cuts in combinations(range(1, frames), steps - 1)]
    allowed = [bounds for bounds in every if min(np.diff(bounds)) >= shortest]
    assert found.bounds[0] in allowed
    assert price(found.bounds[0]) == pytest.approx(min(map(price, allowed)))
    assert found.left[steps - 1] == pytest.approx(price(found.bounds[0]) / costs[0, frames])


def test_steps_of_different_lengths_are_found_in_each_demonstration():
    demonstrations = [pieces(8, 5, 11, seed=1), pieces(4, 14, 6, seed=2), pieces(9, 9, 9, seed=3)]
    given_number = discover_steps(demonstrations, steps=3, shortest=3)
    assert given_number.bounds == ((0, 8, 13, 24), (0, 4, 18, 24), (0, 9, 18, 27))
    found = discover_steps(demonstrations, steps=0, shortest=3)
    assert found.steps == 3
    assert found.bounds == given_number.bounds
    assert found.left[0] == 1.0
    assert found.left[2] < 0.3


def test_more_steps_are_found_where_less_has_to_be_gained():
    ramp = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    counts = [discover_steps([ramp], steps=0, shortest=2, least_gain=gain).steps for gain in (0.3, 0.1, 0.04)]
    # k even pieces of a ramp leave 1 / k of its deviation: a half, a third, a quarter ...
    assert counts == [2, 3, 5]
    assert discover_steps([ramp], steps=0, shortest=2, least_gain=0.001, most=6).steps == 6


def test_the_size_of_a_feature_does_not_matter_and_one_that_stands_still_has_no_say():
    x = [pieces(8, 5, 11, seed=1), pieces(4, 14, 6, seed=2)]
    factors = np.array([1.0, 500.0, 0.01, 3.0, 1.0, 7.0], np.float32)
    still = [np.concatenate([d * factors, np.full((len(d), 1), 4.0, np.float32)], axis=1) for d in x]
    assert np.isinf(feature_scale(still)[-1])
    assert discover_steps(still, steps=3, shortest=3).bounds == discover_steps(x, steps=3, shortest=3).bounds


def test_a_long_demonstration_is_thinned_and_cut_where_frames_are_kept():
    (bounds,) = discover_steps([pieces(301, 402, 250)], steps=3, shortest=3).bounds
    assert bounds[0] == 0
    assert bounds[-1] == 953
    assert abs(bounds[1] - 301) <= 4
    assert abs(bounds[2] - 703) <= 4


def test_what_is_too_short_is_refused():
    with pytest.raises(DatasetError, match=r"too short.*shortest of 5 frames.*9 frames: 3 steps of 3"):
        discover_steps([pieces(20), pieces(5)], steps=3, shortest=3)
    with pytest.raises(DatasetError, match="too short"):
        discover_steps([], steps=0, shortest=3)
