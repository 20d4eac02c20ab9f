"""Every worked number about value recurrences, and the properties that they must have."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import ConfigError, ShapeError
from roborl.rewards.metrics import negative_rate, value_order_correlation, voc_f1
from roborl.rewards.recurrences import (
    Abstention,
    Change,
    Recurrence,
    Value,
    accumulate,
    advance,
    advance_with_doubt,
    agree,
    quieten,
    sample_reference,
    two_sided,
)

LINEAR, INVERSE, MIXED = Recurrence.LINEAR, Recurrence.INVERSE, Recurrence.MIXED
rules = st.sampled_from(Recurrence)
replies = st.integers(-100, 100).map(lambda percent: percent / 100)
rows = st.lists(replies, max_size=30)


@pytest.mark.parametrize(
    ("rule", "percent"),
    [
        (LINEAR, [0, 20, 36, 23.2, 61.6, 42.4]),
        (MIXED, [0, 20, 36, 28.8, 64.4, 28.8]),
        (INVERSE, [0, 20, 36, 20, 60, 20]),
    ],
)
def test_the_published_example(rule, percent):
    values = accumulate([0.2, 0.2, -0.2, 0.5, -0.5], rule)
    np.testing.assert_allclose(100 * values, percent, atol=1e-9)


def test_equation_7_is_the_default():
    rng = np.random.default_rng(0)
    changes = rng.uniform(-1, 1, 20)
    expected = [0.0]
    for c in np.maximum(changes, -0.99):
        expected.append(expected[-1] + c * (1 - expected[-1]))
    np.testing.assert_allclose(accumulate(changes), expected)


def test_linear_undercorrects_a_regress_and_inverse_does_not():
    assert accumulate([0.6, -0.6], LINEAR)[-1] == pytest.approx(0.36)
    assert accumulate([0.6, -0.6], INVERSE)[-1] == pytest.approx(0.0)
    assert accumulate([0.01, -0.01], INVERSE)[-1] == pytest.approx(0.0)


@given(st.floats(0.0, 0.95), st.floats(-0.9, -0.01))
def test_by_how_much_linear_undercorrects(value, change):
    drop_linear = value - advance(value, change, LINEAR)
    drop_inverse = value - advance(value, change, INVERSE)
    assert drop_linear == pytest.approx((1 - value) * -change, abs=1e-9)
    assert drop_inverse == pytest.approx((1 - value) * -change / (1 + change), abs=1e-9)
    assert drop_linear == pytest.approx(drop_inverse * (1 + change), abs=1e-9)


def test_the_branches_of_the_mixed_rule():
    assert advance(0.5, -0.4, MIXED) == pytest.approx(0.3)
    assert advance(0.8, -0.5, MIXED) == pytest.approx(0.6)
    half = advance(0.995, -0.98, MIXED)
    assert advance(half, -0.4, MIXED) == pytest.approx(0.3), (
        "a half is in the lower half, however it was reached"
    )
    assert advance(0.6, -0.9, MIXED) == 0.1
    assert advance(1.0, -0.5, MIXED) == pytest.approx(0.98)
    assert advance(0.3, 0.0, MIXED) == 0.3
    assert advance(0.9, 0.0, MIXED) == 0.9


@given(rules, st.floats(-5, 1))
def test_standing_still_changes_nothing(rule, value):
    assert advance(value, 0.0, rule) == value


def test_a_change_of_minus_one_is_no_division_by_zero():
    for rule in Recurrence:
        assert math.isfinite(advance(0.5, -1.0, rule))
    assert advance(0.0, -1.0, INVERSE) == pytest.approx(-99.0)
    assert advance(0.0, -1.0, LINEAR) == pytest.approx(-0.99)


@pytest.mark.parametrize("bad", [1.01, -1.5, math.nan, math.inf])
def test_a_change_outside_the_range_is_refused(bad):
    for rule in Recurrence:
        with pytest.raises(ShapeError, match="cannot be added"):
            advance(0.2, bad, rule)
    with pytest.raises(ShapeError):
        advance(math.nan, 0.1, LINEAR)
    with pytest.raises(ShapeError):
        advance(1.2, 0.1, LINEAR)


@given(st.integers(2, 40), st.data())
def test_the_labels_of_a_video_give_back_its_time(length, data):
    """A label is the hop over the way that remained; over hops of any length the value is the share of time."""
    stops = sorted(data.draw(st.sets(st.integers(1, length), min_size=1)))
    changes, at = [], 0
    for stop in stops:
        changes.append((stop - at) / (length - at))
        at = stop
    expected = [0.0, *(stop / length for stop in stops)]
    for rule in Recurrence:
        np.testing.assert_allclose(accumulate(changes, rule), expected, atol=1e-9)


@given(st.lists(st.integers(0, 98), min_size=2, max_size=20))
def test_antisymmetric_replies_and_the_inverse_rule_follow_a_walk_that_goes_back(walk):
    truth = [0, *walk]
    changes = []
    for a, b in itertools.pairwise(truth):
        changes.append((b - a) / (100 - a) if b >= a else -(a - b) / (100 - b))
    np.testing.assert_allclose(100 * accumulate(changes, INVERSE), truth, atol=1e-6)


@given(st.lists(st.integers(0, 99), min_size=2, max_size=20))
def test_labels_with_the_earlier_frame_below_and_the_linear_rule_do_so_too(walk):
    truth = [0, *walk]
    changes = [(b - a) / (100 - a) for a, b in itertools.pairwise(truth)]
    if min(changes) > -0.99:
        np.testing.assert_allclose(100 * accumulate(changes, LINEAR), truth, atol=1e-6)


@given(rows, rules)
def test_bounds(changes, rule):
    values = accumulate(changes, rule)
    assert np.isfinite(values).all()
    assert (values <= 1.0 + 1e-12).all()
    if rule is MIXED:
        assert (values >= 0.0).all()


@given(rows, rules, st.integers(0, 30))
def test_causal(changes, rule, cut):
    whole, part = accumulate(changes, rule), accumulate(changes[:cut], rule)
    np.testing.assert_array_equal(whole[: part.size], part)


@given(rules, st.floats(-0.5, 1.0), replies)
def test_the_sign_of_a_change_is_the_sign_of_the_step(rule, value, change):
    step = advance(value, change, rule) - value
    if change >= 0:
        assert step >= -1e-12
    # Below 1 % of way left the published inverse moves towards 99 %, and the mixed rule lifts low values to its floor.
    elif 0.1 <= value <= 0.99:
        assert step <= 1e-12


@given(replies, replies)
def test_two_sided_is_antisymmetric_itself(one, other):
    forward, backward = two_sided([one], [other]), two_sided([other], [one])
    assert forward.mean == pytest.approx(-backward.mean)
    assert forward.error == pytest.approx(backward.error) == pytest.approx(abs(one + other) / 2)
    assert -1.0 <= forward.mean <= 1.0
    assert 0.0 <= forward.error <= 1.0


def test_two_sided_examples():
    assert two_sided([0.6], [-0.6]) == Change(mean=0.6, error=0.0)
    assert two_sided([0.3], [0.3]) == Change(mean=0.0, error=0.3)
    assert two_sided([-0.15], [0.15]) == Change(mean=-0.15, error=0.0)
    assert two_sided([0.6, 0.2], [-0.4, -0.4]) == agree([0.6, 0.4, 0.2, 0.4])
    assert agree([0.2]) == Change(mean=0.2, error=0.0)
    with pytest.raises(ShapeError, match="at least one look"):
        agree([])


@given(replies, st.floats(-0.4, 0.4))
def test_a_constant_bias_of_the_critic_cancels(change, bias):
    assert two_sided([change + bias], [-change + bias]).mean == pytest.approx(change)


@given(rules, st.floats(0.12, 0.48) | st.floats(0.52, 0.95), st.floats(-0.4, 0.9), st.floats(0.0, 0.3))
def test_doubt_is_carried_by_the_slopes_of_the_rule(rule, value, change, error):
    step = 1e-6
    if abs(change) < 1e-3 or (rule is MIXED and advance(value, change, rule) <= 0.1 + 1e-3):
        return
    by_value = (advance(value + step, change, rule) - advance(value - step, change, rule)) / (2 * step)
    by_change = (advance(value, change + step, rule) - advance(value, change - step, rule)) / (2 * step)
    after = advance_with_doubt(Value(mean=value, spread=0.05), Change(mean=change, error=error), rule)
    assert after.mean == advance(value, change, rule)
    expected = min(0.5, math.hypot(by_value * 0.05, by_change * error))
    assert after.spread == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.tuples(replies, replies), max_size=30), rules)
def test_a_spread_is_a_spread(pairs, rule):
    value = Value()
    for forward, backward in pairs:
        value = advance_with_doubt(value, two_sided([forward], [backward]), rule, floor=-1.0)
        assert -1.0 <= value.mean <= 1.0
        assert 0.0 <= value.spread <= 0.5


def test_at_the_goal_there_is_no_doubt_left():
    doubtful = Value(mean=0.4, spread=0.3)
    assert advance_with_doubt(doubtful, Change(mean=1.0), LINEAR) == Value(mean=1.0, spread=0.0)


def test_dead_zones_are_closed_on_their_outer_side():
    assert [quieten(c, rise=0.05, fall=0.1) for c in (0.05, 0.06, -0.1, -0.11, 0.0)] == [
        0.0,
        0.06,
        0.0,
        -0.11,
        0.0,
    ]


def test_which_pictures_of_a_reference_are_shown():
    assert sample_reference(100, 9) == [0, *(int(k * 99 / 8) for k in range(1, 9))]
    assert sample_reference(30, 6) == [0, *(int(k * 29 / 5) for k in range(1, 6))]
    assert sample_reference(393, 12)[-1] == 392, "int(11 * (392 / 11)) is 391"
    assert sample_reference(4, 9) == [0, 1, 2, 3]
    assert sample_reference(7, 1) == [6]
    assert sample_reference(1, 6) == [0]
    for length, count in ((0, 3), (5, 0)):
        with pytest.raises(ConfigError, match="cannot be sampled"):
            sample_reference(length, count)


@given(st.integers(2, 500), st.integers(2, 12))
def test_a_shown_reference_keeps_its_order_and_its_ends(length, count):
    shown = sample_reference(length, count)
    assert shown[0] == 0
    assert shown[-1] == length - 1
    assert shown == sorted(set(shown))


def test_a_critic_that_always_says_zero_abstains_until_it_says_anything():
    silence = Abstention(3)
    assert [silence.see([0.0, 0.0]) for _ in range(4)] == [False, False, True, True]
    assert not silence.see([0.0, 0.01])
    assert not any(silence.see([0.0]) for _ in range(9))
    assert not any(Abstention(0).see([0.0]) for _ in range(9))


def test_a_pair_without_replies_is_no_zero():
    silence = Abstention(2)
    assert [silence.see(replies) for replies in ([0.0], [], [], [0.0])] == [False, False, False, True]


@pytest.mark.parametrize(
    ("forward", "backward", "f1"),
    [
        # Both order correlations as printed in the paper's first table, 8B: without a reference and with one.
        (0.71, 0.72, 0.71),
        (0.91, 0.95, 0.93),
        (0.97, 0.99, 0.98),
        (0.92, 0.94, 0.93),
        (0.93, 0.95, 0.94),
        (0.59, 0.76, 0.66),
        (0.47, 0.55, 0.51),
        (0.74, 0.78, 0.76),
        (0.17, 0.34, 0.23),
        (0.64, 0.77, 0.70),
        (0.05, 0.48, 0.09),
        (0.44, 0.78, 0.56),
        (0.76, 0.59, 0.66),
        (0.83, 0.95, 0.89),
        (0.30, -0.06, 0.0),
        (0.41, 0.47, 0.44),
        # The same of the 2B.
        (0.69, 0.49, 0.57),
        (0.80, 0.86, 0.83),
        (0.94, 0.95, 0.94),
        (0.98, 0.99, 0.98),
        (0.75, 0.72, 0.73),
        (0.79, 0.79, 0.79),
        (-0.04, 0.43, 0.0),
        (0.37, 0.55, 0.44),
        (0.03, 0.40, 0.06),
        (0.49, 0.78, 0.60),
        (0.00, 0.59, 0.0),
        (0.57, 0.69, 0.62),
        (0.46, 0.69, 0.55),
        (0.73, 0.92, 0.81),
        (-0.05, 0.34, 0.0),
        (0.19, 0.57, 0.28),
        # The figure that its text quotes.
        (0.96, 0.95, 0.955),
    ],
)
def test_the_f1_of_the_published_table(forward, backward, f1):
    assert voc_f1(forward, backward) == pytest.approx(f1, abs=0.0101)


def test_order_correlation_counts_the_leading_zero_and_the_negative_rate_no_zeros():
    values = accumulate([0.2, 0.2, -0.2, 0.5, -0.5])
    assert values.size == 6
    assert value_order_correlation(values) == pytest.approx(31 / 35)
    changes = np.array([0.2, 0.0, -0.1, 0.3])
    assert negative_rate(np.concatenate([[0.0], np.cumsum(changes)])) == 0.25
    assert value_order_correlation(accumulate([0.0, 0.0])) == 0.0
