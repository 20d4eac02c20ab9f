import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, rankdata, spearmanr

from roborl.errors import ShapeError
from roborl.rewards.calibration import Calibration, fit_calibration
from roborl.rewards.metrics import (
    calibration_error,
    false_progress,
    mean_absolute_error,
    negative_rate,
    paired_interval,
    rank_correlation,
    ranks,
    student_interval,
    value_order_correlation,
    voc_f1,
    wilson_interval,
)

tied_values = st.lists(st.integers(0, 6).map(lambda n: n / 6), min_size=2, max_size=40)


@given(tied_values)
def test_order_correlation_is_spearmans_with_ties(values):
    np.testing.assert_allclose(ranks(values), rankdata(values))
    if len(set(values)) > 1:
        expected = spearmanr(values, range(len(values))).statistic
        assert value_order_correlation(values) == pytest.approx(expected)
        assert value_order_correlation(values[::-1]) == pytest.approx(-expected)
    else:
        assert value_order_correlation(values) == 0.0


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40))
def test_rank_correlation_is_spearmans_with_ties(pairs):
    first, second = np.array(pairs, float).T
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    else:
        assert rank_correlation(first, second) == 0.0


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_textbook_interval(case):
    successes, n = case
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("successes", "low", "high"), [(10, 0.55, 0.95), (8, 0.39, 0.86)])
def test_twelve_trials_tell_as_much_as_of_the_rates_that_sarm_published(successes, low, high):
    """Its 83 and 67 % fit 10 and 8 of 12."""
    assert wilson_interval(successes, 12) == pytest.approx((low, high), abs=0.005)


def test_a_rate_of_nothing_is_refused():
    for case in ((0, 0), (3, 2), (-1, 4)):
        with pytest.raises(ShapeError):
            wilson_interval(*case)


def test_the_paired_interval_covers_as_often_as_it_says_and_uses_the_pairing():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        scene = rng.normal(size=40)
        low, high = paired_interval(scene + 0.3 + 0.2 * rng.normal(size=40), scene, seed=seed)
        hits += low <= 0.3 <= high
        assert high - low < 0.3  # unpaired it would be about 0.9
    assert 89 <= hits <= 100


def test_students_interval_covers_as_often_as_it_says_with_five_pairs_where_resampling_does_not():
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for seed in range(400):
        ours = 0.3 + 0.2 * rng.normal(size=5)
        for k, (low, high) in enumerate(
            (student_interval(ours, np.zeros(5)), paired_interval(ours, np.zeros(5), seed=seed))
        ):
            covered[k] += low <= 0.3 <= high
    assert 0.92 <= covered[0] / 400 <= 0.98
    assert covered[1] / 400 < 0.9
    with pytest.raises(ShapeError):
        student_interval([0.5], [0.4])


def test_curves():
    rising = np.linspace(0, 1, 11)
    assert negative_rate(rising) == 0.0
    assert negative_rate([0.0, 0.2, 0.1, 0.3, 0.2]) == 0.5
    assert negative_rate([0.0, 0.2, 0.1, 0.3, 0.2], lag=2) == 0.0
    assert mean_absolute_error(rising + 0.25, rising) == pytest.approx(0.25)
    assert false_progress([0.1, 0.4, 0.2]) == 0.4
    assert false_progress([0.1, 0.4, 0.2], [0.1, 0.3, 0.9]) == pytest.approx(0.1)
    assert calibration_error(rising, rising) == pytest.approx(0.0)
    assert calibration_error(np.full(10, 0.75), [1.0] * 5 + [0.0] * 5) == pytest.approx(0.25)


def test_f1_wants_both_directions():
    assert voc_f1(1.0, 0.5) == pytest.approx(2 / 3)
    assert voc_f1(0.9, -0.2) == 0.0


@pytest.mark.parametrize("values", [[], [0.5], [0.1, float("nan")], [[0.1, 0.2]]])
def test_missing_scores_do_not_pass_for_numbers(values):
    with pytest.raises(ShapeError):
        value_order_correlation(values)


@given(st.integers(0, 1000), st.integers(1, 80))
def test_calibration_is_monotone_within_range_and_survives_json(seed, n):
    rng = np.random.default_rng(seed)
    raw = np.round(rng.random(n), 1)
    fitted = fit_calibration(raw, np.clip(raw**2 + 0.2 * rng.normal(size=n), 0, 1))
    curve = fitted(np.linspace(-0.5, 1.5, 101))
    assert (np.diff(curve) >= 0).all()
    assert curve.min() >= 0.0
    assert curve.max() <= 1.0
    assert Calibration.from_dict(fitted.as_dict()) == fitted


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1 / 3])
@pytest.mark.parametrize("n", [1, 90, 333, 1000])
def test_one_answer_throughout_is_calibrated_to_the_mean_of_the_truth(value, n):
    truth = np.linspace(0, 1, n)
    fitted = fit_calibration(np.full(n, value), truth)
    assert fitted.raw == (value,)
    assert fitted(value) == pytest.approx(truth.mean())


def test_coarse_answers_are_each_calibrated_to_their_mean_truth_in_any_order_of_rows():
    rng = np.random.default_rng(0)
    raw = rng.choice([0.1, 0.3, 0.6], 1001)
    truth = np.clip(raw + rng.normal(scale=0.2, size=1001), 0, 1)
    fitted = fit_calibration(raw, truth)
    levels = [0.1, 0.3, 0.6]
    assert fitted(levels) == pytest.approx([truth[raw == level].mean() for level in levels])
    for order in (np.argsort(truth), rng.permutation(1001)):
        assert fit_calibration(raw[order], truth[order]) == fitted


def test_a_few_frames_make_no_step_of_their_own():
    raw = np.r_[np.full(500, 0.2), 0.21, 0.21, np.full(500, 0.8)]
    fitted = fit_calibration(raw, np.r_[np.full(500, 0.1), 0.9, 0.9, np.full(500, 0.9)])
    assert fitted([0.2, 0.21, 0.8]) == pytest.approx([0.1, 0.1, 0.9], abs=0.05)


def test_calibration_lowers_the_error_on_episodes_it_has_not_seen():
    rng = np.random.default_rng(0)

    def draw(n):
        truth = rng.random(n)
        return np.clip(truth**2 * 0.6 + 0.02 * rng.normal(size=n), 0, 1), truth

    raw, truth = draw(2000)
    fitted = fit_calibration(*draw(1000))
    assert mean_absolute_error(fitted(raw), truth) < 0.05 < 0.25 < mean_absolute_error(raw, truth)
    assert calibration_error(fitted(raw), truth) < 0.02


@pytest.mark.parametrize(
    ("raw", "calibrated"),
    [((), ()), ((0.0, 0.0), (0.1, 0.2)), ((0.0, 1.0), (0.5, 0.4)), ((0.0,), (1.2,)), ((0.0, 1.0), (0.0,))],
)
def test_a_map_that_is_not_monotone_is_refused(raw, calibrated):
    with pytest.raises(ShapeError):
        Calibration(raw=raw, calibrated=calibrated)
