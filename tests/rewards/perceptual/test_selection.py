"""The features by which a step is told from the others."""

import numpy as np
import pytest

from roborl.errors import ShapeError
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.selection import Looks, select_looks

BOUNDS = [(0, 10, 20), (0, 6, 18)]
PLAIN = PerceptualConfig(features=1, finish_frames=2)


def demonstrations(columns, seed=0):
    """Features made of (step, finished, rng, n) one by one."""
    rng = np.random.default_rng(seed)
    made = []
    for bounds in BOUNDS:
        n = bounds[-1]
        step = np.repeat(np.arange(2), np.diff(bounds))
        finished = np.arange(n) >= n - 2
        made.append(np.stack([column(step, finished, rng, n) for column in columns], axis=1))
    return [x.astype(np.float32) for x in made]


def noise(step, finished, rng, n):
    return rng.normal(size=n)


def tells_steps(step, finished, rng, n):
    return 3.0 * step + 0.1 * rng.normal(size=n)


def tells_the_end(step, finished, rng, n):
    return 50.0 * finished + rng.normal(size=n)


def still(step, finished, rng, n):
    return np.full(n, 2.0)


def test_the_feature_that_tells_a_step_is_chosen_whatever_its_unit():
    looks = select_looks(demonstrations([noise, still, tells_the_end, tells_steps, noise]), BOUNDS, PLAIN)
    assert looks.index.tolist() == [[3], [3], [2]]
    assert looks.inside_mean[:, 0] == pytest.approx([0.0, 3.0, 50.0], abs=1.0)
    assert looks.outside_mean[:, 0] == pytest.approx([3.0, 0.0, 0.0], abs=1.0)


def test_contrast_is_weighed_against_deviation():
    def wide(step, finished, rng, n):
        return 4.0 * step + np.where(np.arange(n) % 2, 1.9, -1.9)

    def narrow(step, finished, rng, n):
        return (step + 0.6 * rng.permutation(np.r_[1, np.zeros(n - 1)])).astype(float)

    columns = demonstrations([wide, narrow])
    scaled = [x / np.concatenate(columns).std(axis=0) for x in columns]
    step = np.concatenate([np.repeat([0, 1], np.diff(b)) for b in BOUNDS])
    frames = np.concatenate(scaled)
    on, off = frames[step == 1], frames[step == 0]
    for contrast in (0.1, 1.0, 5.0):
        z = contrast * abs(on.mean(axis=0) - off.mean(axis=0)) - on.std(axis=0) - off.std(axis=0)
        config = PerceptualConfig(features=1, contrast=contrast)
        assert select_looks(columns, BOUNDS, config).index[1] == z.argmax()


def test_what_stands_still_comes_last_and_makes_no_difference():
    columns = demonstrations([still, tells_steps, still])
    looks = select_looks(columns, BOUNDS, PerceptualConfig(features=3))
    assert looks.index[0].tolist() == [1, 0, 2]
    alone = select_looks(columns, BOUNDS, PerceptualConfig(features=1))
    odds, only = looks.odds(columns[0]), alone.odds(columns[0])
    assert odds[:, 0] == pytest.approx(only[:, 0] / 3, abs=1e-5)


def test_odds_are_those_of_two_gaussians():
    looks = Looks(
        index=np.array([[1], [0]]),
        inside_mean=np.array([[1.0], [0.0]], np.float32),
        inside_std=np.array([[0.5], [1.0]], np.float32),
        outside_mean=np.array([[-1.0], [2.0]], np.float32),
        outside_std=np.array([[2.0], [1.0]], np.float32),
    )
    x = np.array([[2.0, 0.5]], np.float32)

    def density(value, mean, std):
        return np.exp(-0.5 * ((value - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))

    expected = [density(0.5, 1, 0.5) / density(0.5, -1, 2), density(2, 0, 1) / density(2, 2, 1)]
    assert looks.odds(x)[0] == pytest.approx(np.log(expected))
    assert looks.nearness(x)[0] == pytest.approx([-0.5, -2.0])


def test_a_deviation_has_a_floor():
    columns = demonstrations([tells_steps])
    looks = select_looks(columns, BOUNDS, PerceptualConfig(features=1, least_deviation=0.5))
    scale = np.concatenate(columns).std()
    assert looks.inside_std[0, 0] == pytest.approx(0.5 * scale, rel=1e-5)


def test_looks_that_do_not_match_are_refused():
    ones = np.ones((2, 3), np.float32)
    fields = dict.fromkeys(("inside_mean", "inside_std", "outside_mean", "outside_std"), ones)
    index = np.zeros((2, 3), np.int64)
    with pytest.raises(ShapeError, match="do not match"):
        Looks(index=index[:, :2], **fields)
    with pytest.raises(ShapeError, match="positive deviations"):
        Looks(index=index, **(fields | {"outside_std": 0 * ones}))
    with pytest.raises(ShapeError, match="features that there are"):
        Looks(index=index - 1, **fields)
