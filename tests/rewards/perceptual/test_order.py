"""The belief about the present step: Bayes' rule, neighbours only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.rewards.perceptual.order import advance, step_moves

MOVES = step_moves(np.array([4.0, 5.0, 2.0, 3.0]), 0.1)


def test_a_step_lasts_as_long_as_it_does_and_is_left_for_a_neighbour():
    assert MOVES.sum(axis=1) == pytest.approx(np.ones(4))
    assert (MOVES[np.abs(np.subtract.outer(range(4), range(4))) > 1] == 0).all()
    assert MOVES[0].tolist() == pytest.approx([0.75, 0.25, 0.0, 0.0])
    assert MOVES[3].tolist() == pytest.approx([0.0, 0.0, 0.1, 0.9])
    assert (step_moves(np.array([1.0, 1.0, 1.0]), 0.4) >= 0).all()


def test_a_look_is_weighed_by_bayes_rule():
    belief = np.array([0.5, 0.3, 0.2, 0.0])
    likelihood = np.array([0.1, 0.4, 0.2, 0.9])
    expected = (belief @ MOVES) * likelihood
    found = advance(belief, MOVES, np.log(likelihood) + 700.0, 1)
    assert found == pytest.approx(expected / expected.sum())
    prior = belief * likelihood
    assert advance(belief, MOVES, np.log(likelihood), 0) == pytest.approx(prior / prior.sum())


def test_a_late_step_is_not_reached_without_those_before_it():
    certain = np.array([1.0, 0.0, 0.0, 0.0])
    last = np.array([0.0, 0.0, 0.0, 30.0])
    assert advance(certain, MOVES, last, 1)[3] == pytest.approx(0.0, abs=1e-12)
    assert advance(certain, MOVES, last, 2)[3] == pytest.approx(0.0, abs=1e-12)
    assert advance(certain, MOVES, last, 3)[3] > 0.99  # three frames in which nobody looked


@given(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4), st.integers(0, 5000))
def test_the_belief_stays_one(log_odds, frames):
    belief = np.array([0.0, 0.0, 1.0, 0.0])
    after = advance(belief, MOVES, np.array(log_odds), frames)
    assert np.isfinite(after).all()
    assert after.sum() == pytest.approx(1.0)
    assert after.min() >= 0.0
