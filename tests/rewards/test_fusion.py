"""Hops and their fusion: every worked example of the formulas, and what holds for any replies."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import ConfigError, ShapeError
from roborl.rewards.fusion import (
    FusionConfig,
    FusionRule,
    Hop,
    Perspective,
    ProgressFusion,
    Recursion,
    apply_hop,
    consistency_weight,
    hop_between,
)
from roborl.rewards.metrics import value_order_correlation
from roborl.rewards.shaping import shaped_reward

INCREMENTAL, FORWARD, BACKWARD = Perspective
BOTH = (FORWARD, BACKWARD)

MEAN = FusionConfig()
APART = FusionConfig(recursion=Recursion.INDEPENDENT)
CONSISTENT = FusionConfig(rule=FusionRule.CONSISTENCY)
PUBLISHED = FusionConfig(rule=FusionRule.CONSISTENCY, floor=0.0)
SINGLE = [FusionConfig(perspectives=(perspective,)) for perspective in Perspective]
CONFIGS = [MEAN, APART, CONSISTENT, PUBLISHED, *SINGLE, FusionConfig(perspectives=(INCREMENTAL, FORWARD))]

shares = st.floats(0.0, 1.0)
hop_values = st.floats(-1.0, 1.0)
replies = st.lists(
    st.fixed_dictionaries({name: st.none() | hop_values.map(lambda h: Hop(value=h)) for name in Perspective}),
    min_size=1,
    max_size=30,
)


def true_hops(before, now):
    """What a judge without error would say."""
    pairs = {INCREMENTAL: (before, now), FORWARD: (0.0, now), BACKWARD: (1.0, now)}
    return {name: Hop(value=float(hop_between(*pair))) for name, pair in pairs.items()}


def hops(incremental=0.0, forward=0.0, backward=0.0):
    values = {INCREMENTAL: incremental, FORWARD: forward, BACKWARD: backward}
    return {name: Hop(value=value) for name, value in values.items()}


def fuse(config, episode):
    fusion = ProgressFusion(config)
    return [fusion.update(frame) for frame in episode]


def progress_of(fused):
    return [None if f is None else f.progress for f in fused]


# Worked examples


@pytest.mark.parametrize(
    ("before", "after", "percent"), [(0, 16, 25.0), (32, 48, 50.0), (32, 16, -50.0), (64, 0, -100.0)]
)
def test_hops_between_sixty_five_states(before, after, percent):
    assert 100 * hop_between(before / 64, after / 64) == pytest.approx(percent)


def test_a_hop_with_nothing_left_or_nothing_achieved_is_zero():
    assert hop_between(1.0, 1.0) == 0.0
    assert hop_between(0.0, 0.0) == 0.0
    assert hop_between([1.0, 0.0], [1.0, 0.0]).tolist() == [0.0, 0.0]


def start_from(progress, config):
    """A fusion whose last value is the given one: all perspectives agree on it."""
    fusion = ProgressFusion(config)
    assert fusion.update(true_hops(0.0, progress)).progress == pytest.approx(progress)
    return fusion


def test_equations_four_to_eight():
    fused = start_from(0.40, MEAN).update(hops(0.10, 0.50, -0.55))
    assert fused.parts == pytest.approx({INCREMENTAL: 0.46, FORWARD: 0.50, BACKWARD: 0.45})
    assert fused.progress == pytest.approx(0.47)
    assert fused.weight == 1.0


def test_equations_nine_to_eleven():
    fused = start_from(0.40, PUBLISHED).update(hops(0.10, 0.50, -0.55))
    assert fused.weight == pytest.approx(0.8013, abs=1e-4)
    assert fused.progress == pytest.approx(0.4541, abs=5e-5)


@pytest.mark.parametrize(
    ("forward", "backward", "weight", "within"),
    [
        (0.02, 0.03, 0.04, 0.005),
        (0.05, 0.10, 1e-4, 5e-5),
        (0.10, 0.12, 0.52, 0.005),
        (0.50, 0.60, 0.52, 0.005),
        (0.80, 0.90, 0.76, 0.005),
        (0.90, 0.95, 0.94, 0.005),
        (0.50, 0.90, 0.0015, 5e-4),
    ],
)
def test_consistency_weights_as_published(forward, backward, weight, within):
    assert consistency_weight(forward, backward, alpha=20.0, floor=0.0) == pytest.approx(weight, abs=within)


def test_full_agreement_weighs_a_quarter_a_quarter_and_a_half():
    fused = start_from(0.40, CONSISTENT).update(hops(0.20, 0.60, -0.40))
    p_incremental = 0.40 + 0.60 * 0.20
    assert fused.weight == 1.0
    assert fused.progress == pytest.approx(0.25 * 0.60 + 0.25 * 0.60 + 0.50 * p_incremental)


def test_full_disagreement_keeps_the_old_value():
    fused = start_from(0.40, CONSISTENT).update(hops(0.9, 1.0, -1.0))
    assert fused.weight < 1e-12
    assert fused.progress == pytest.approx(0.40)


def test_a_floor_keeps_rounding_from_freezing_progress_near_zero():
    """Every reply is true but for one point in a hundred between forward and backward."""

    def watch(config):
        episode = [true_hops(before, now) for before, now in pairwise(np.linspace(0.0, 0.03, 7))]
        for frame in episode:
            frame[BACKWARD] = Hop(value=frame[BACKWARD].value + 0.01)
        return fuse(config, episode)[-1].progress

    assert watch(PUBLISHED) < 0.010
    assert watch(CONSISTENT) == pytest.approx(0.030, abs=0.005)


@pytest.mark.parametrize(
    ("states", "resolution", "half_way"),
    [
        (20, 0.01, 0.50),
        (100, 0.01, 0.49),
        (200, 0.01, 0.63),
        (250, 0.01, 0.53),
        (400, 0.01, 0.00),
        *((n, 0.001, 0.50) for n in (20, 100, 200, 250, 400)),
    ],
)
def test_drift_of_rounded_hops(states, resolution, half_way):
    fusion = ProgressFusion(SINGLE[0])
    for i in range(states // 2):
        rounded = math.floor(1 / (states - i) / resolution + 0.5) * resolution
        fused = fusion.update({INCREMENTAL: Hop(value=rounded)})
    assert fused.progress == pytest.approx(half_way, abs=0.008)


def test_several_frames_compared_with_the_same_one_do_not_drift():
    """A hop over eight frames is told from rounding, where a hop over one is not."""
    fusion, before = ProgressFusion(SINGLE[0]), 0
    for now in range(1, 201):
        rounded = round(float(hop_between(before / 400, now / 400)), 2)
        advance = now - before >= 8
        fused = fusion.update({INCREMENTAL: Hop(value=rounded)}, advance=advance)
        before = now if advance else before
    assert fused.progress == pytest.approx(0.50, abs=0.01)


def test_the_range_of_backward_is_kept_whatever_is_said():
    """With a blank goal the published backward pass leaves its range; a forward hop may be negative."""
    assert fuse(SINGLE[2], [hops(backward=0.4)])[0].progress == 1.0
    assert fuse(SINGLE[1], [hops(forward=-0.4)])[0].progress == 0.0
    assert fuse(SINGLE[0], [hops(incremental=-0.4)])[0].progress == 0.0


def test_the_recursions_differ_in_what_a_hop_is_added_to():
    episode = [hops(0.2, 0.6, -0.4), hops(0.5, 0.6, -0.4)]
    fused, apart = fuse(MEAN, episode), fuse(APART, episode)
    first = (0.2 + 0.6 + 0.6) / 3
    assert fused[0].progress == apart[0].progress == pytest.approx(first)
    assert fused[1].parts[INCREMENTAL] == pytest.approx(first + 0.5 * (1 - first))
    assert apart[1].parts[INCREMENTAL] == pytest.approx(0.2 + 0.5 * 0.8)


def test_value_order_of_reverse_playback():
    """The same replies folded from the end, where progress is 1, kept in the order of the frames: again near +1."""
    truth = np.linspace(0.0, 1.0, 12)
    value, backwards = 1.0, [1.0]
    for after, before in zip(truth[-2::-1], truth[:0:-1], strict=True):
        value = float(apply_hop(value, hop_between(before, after)))
        backwards.append(value)
    assert value_order_correlation(backwards[::-1]) == pytest.approx(1.0)


# Shaping with such a potential


def one(reward, phi, after, *, terminated, discount=0.98):
    arrays = [np.array([value], float) for value in (reward, phi, after)]
    return float(shaped_reward(*arrays, np.array([terminated]), discount=discount)[0])


def test_giving_up_at_high_progress_pays_unless_the_terminal_potential_is_zero():
    def prefer_trying(terminated):
        give_up = one(0.0, 0.9, 0.9, terminated=terminated)
        won, lost = one(1.0, 0.9, 1.0, terminated=terminated), one(0.0, 0.9, 0.0, terminated=terminated)
        return 0.4 * won + 0.6 * lost - give_up

    assert one(0.0, 0.9, 0.9, terminated=False) + 0.9 == pytest.approx(0.882)
    assert 0.4 * (one(1.0, 0.9, 1.0, terminated=False) + 0.9) == pytest.approx(0.792)
    assert prefer_trying(False) == pytest.approx(0.792 - 0.882)
    assert prefer_trying(True) == pytest.approx(0.4)


def test_standing_still_costs_where_the_plain_difference_pays():
    assert one(0.0, 0.9, 0.9, terminated=False) == pytest.approx(-0.018)
    naive = 0.7 - 0.5
    assert naive - one(0.0, 0.5, 0.7, terminated=False) == pytest.approx(0.02 * 0.7)


@given(st.lists(shares, min_size=2, max_size=20))
def test_returns_telescope_and_the_plain_difference_pays_for_sitting(phi):
    discount = 0.98
    powers = discount ** np.arange(len(phi))
    shaped = [one(0.0, here, there, terminated=False) for here, there in pairwise(phi)]
    total = math.fsum(powers[:-1] * shaped)
    assert total == pytest.approx(powers[-1] * phi[-1] - phi[0], abs=1e-9)
    naive = math.fsum(powers[:-1] * np.diff(phi))
    sitting = (1 - discount) * math.fsum(powers[:-1] * phi[1:])
    assert naive == pytest.approx(total + sitting, abs=1e-9)


def test_a_discount_per_second_gives_the_continuous_form():
    rate, seconds, phi, slope = 0.5, 1e-4, 0.6, 0.3
    f = one(0.0, phi, phi + slope * seconds, terminated=False, discount=math.exp(-rate * seconds))
    assert f == pytest.approx(seconds * (slope - rate * phi), abs=1e-8)


# What holds for any replies


@given(shares, hop_values)
def test_a_hop_stays_in_range_and_points_where_it_says(progress, hop):
    after = float(apply_hop(progress, hop))
    assert 0.0 <= after <= 1.0
    assert (after - progress) * hop >= 0.0


@given(shares, shares)
def test_a_hop_undoes_itself(before, after):
    assert -1.0 <= hop_between(before, after) <= 1.0
    assert apply_hop(before, hop_between(before, after)) == pytest.approx(after, abs=1e-12)


@given(shares, shares, hop_values, hop_values)
def test_more_progress_or_a_larger_hop_never_ends_lower(p, q, g, h):
    (p, q), (g, h) = sorted((p, q)), sorted((g, h))
    assert apply_hop(p, g) <= apply_hop(q, g) + 1e-12
    assert apply_hop(p, g) <= apply_hop(p, h) + 1e-12


@pytest.mark.parametrize("config", CONFIGS)
@given(episode=replies)
def test_progress_stays_in_range_and_is_missing_exactly_where_a_hop_is(config, episode):
    for frame, fused in zip(episode, fuse(config, episode), strict=True):
        assert (fused is None) == any(frame[name] is None for name in config.perspectives)
        if fused is not None:
            assert 0.0 <= fused.progress <= 1.0
            assert 0.0 <= fused.weight <= 1.0
            assert fused.spread >= 0.0


@pytest.mark.parametrize("config", CONFIGS)
@given(episode=replies, other=replies, cut=st.integers(0, 30))
def test_progress_looks_back_only(config, episode, other, cut):
    together = [*episode[:cut], *other]
    earlier = min(cut, len(episode))
    assert fuse(config, together)[:earlier] == fuse(config, episode)[:earlier]


# Without a floor, the rounding of 1 + hop near zero already counts as disagreement.
@pytest.mark.parametrize("config", [config for config in CONFIGS if config is not PUBLISHED])
@given(truth=st.lists(shares, min_size=1, max_size=20))
def test_true_hops_give_the_true_progress(config, truth):
    episode = [true_hops(before, now) for before, now in pairwise([0.0, *truth])]
    assert progress_of(fuse(config, episode)) == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("config", [MEAN, APART, *SINGLE])
@given(
    episode=replies,
    name=st.sampled_from(Perspective),
    values=st.tuples(hop_values, hop_values).map(sorted),
)
def test_a_better_reply_never_lowers_the_mean(config, episode, name, values):
    complete = [
        {who: hop if hop is not None else Hop(value=0.0) for who, hop in frame.items()} for frame in episode
    ]
    low, high = ([*complete[:-1], complete[-1] | {name: Hop(value=value)}] for value in values)
    assert fuse(config, low)[-1].progress <= fuse(config, high)[-1].progress + 1e-12


# Lost hops


def test_a_lost_incremental_hop_is_made_up_for_by_the_others():
    truth = [0.2, 0.4, 0.6, 0.8]
    episode = [true_hops(before, now) for before, now in pairwise([0.0, *truth])]
    episode[1][INCREMENTAL] = None
    assert progress_of(fuse(MEAN, episode)) == pytest.approx([0.2, None, 0.6, 0.8])
    apart = fuse(APART, episode)
    assert apart[2].parts[INCREMENTAL] == pytest.approx(apply_hop(0.2, hop_between(0.4, 0.6)))


def test_a_lost_hop_of_the_only_perspective_counts_as_no_movement():
    episode = [hops(incremental=0.5), {INCREMENTAL: None}, hops(incremental=0.5)]
    assert progress_of(fuse(SINGLE[0], episode)) == pytest.approx([0.5, None, 0.75])


@pytest.mark.parametrize(
    ("lost", "then"),
    [
        (FORWARD, 0.40),  # nothing is believed that could not be compared
        (BACKWARD, 0.40),
        (INCREMENTAL, 0.60),
    ],
)
def test_the_consistency_rule_does_not_move_on_what_it_cannot_check(lost, then):
    fusion = start_from(0.40, CONSISTENT)
    assert fusion.update(hops(0.9, 0.60, -0.40) | {lost: None}) is None
    assert fusion.update(hops(0.0, 0.50, -0.50)).parts[INCREMENTAL] == pytest.approx(then)


def test_a_frame_that_does_not_advance_leaves_no_trace():
    fusion = start_from(0.40, MEAN)
    fusion.update(hops(0.9, 0.9, 0.0), advance=False)
    fusion.update(hops(0.9, 0.9, 0.0) | {FORWARD: None}, advance=False)
    assert fusion.update(hops(0.10, 0.50, -0.55)).progress == pytest.approx(0.47)


# Spread


def test_spread_is_that_of_a_mixture_of_the_perspectives():
    agreed = start_from(0.40, MEAN).update(hops(0.1, 0.46, -0.54) | {FORWARD: Hop(value=0.46, spread=0.2)})
    assert agreed.spread == pytest.approx(0.2 / math.sqrt(3))
    apart = start_from(0.40, MEAN).update(hops(0.10, 0.50, -0.55))
    assert apart.spread == pytest.approx(np.std([0.46, 0.50, 0.45]))


def test_doubt_about_a_hop_counts_for_what_the_hop_is_a_share_of():
    up = start_from(0.40, SINGLE[0]).update({INCREMENTAL: Hop(value=0.1, spread=0.5)})
    down = start_from(0.40, SINGLE[0]).update({INCREMENTAL: Hop(value=-0.1, spread=0.5)})
    assert (up.spread, down.spread) == pytest.approx((0.5 * 0.6, 0.5 * 0.4))


# Settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"perspectives": ()}, "one or more perspectives"),
        ({"perspectives": (FORWARD, FORWARD)}, "each once"),
        (
            {"rule": FusionRule.CONSISTENCY, "perspectives": (INCREMENTAL, FORWARD)},
            "one of them is not asked",
        ),
        ({"rule": FusionRule.CONSISTENCY, "recursion": Recursion.INDEPENDENT}, "fused"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"floor": 2.0}, "floor"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        FusionConfig(**settings)


@pytest.mark.parametrize("value", [-1.01, 1.01, math.nan, math.inf])
def test_what_is_no_hop_is_refused(value):
    with pytest.raises(ShapeError, match="hop"):
        Hop(value=value)
