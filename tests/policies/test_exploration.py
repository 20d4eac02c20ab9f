from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from numpy.typing import NDArray

from roborl.errors import ConfigError
from roborl.policies.exploration import ExplorationConfig, Explorer

SIZE = 3


def strayed(config: ExplorationConfig, steps: int) -> NDArray[np.floating]:
    explorer, still = Explorer(config, SIZE, seed=1), np.zeros((1, SIZE), np.float32)
    explorer.reset()
    return np.concatenate([explorer(still) for _ in range(steps)])


def test_noise_persists_from_step_to_step() -> None:
    noise = strayed(ExplorationConfig(std=0.5, persistence=0.9, burst_rate=0.0), 4000)
    assert noise.std(axis=0) == pytest.approx([0.5] * SIZE, rel=0.15)
    assert np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1] == pytest.approx(0.9, abs=0.05)
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.15


def test_a_burst_holds_one_component_for_a_few_steps() -> None:
    found = strayed(ExplorationConfig(std=0.0, burst_rate=0.05, burst_steps=4), 6000)
    assert ((found != 0).sum(axis=1) <= 1).all(), "one component at a time"
    burst = (found != 0).any(axis=1)
    assert set(np.abs(found[burst]).argmax(axis=1)) == {0, 1, 2}
    assert np.abs(found[burst]).max(axis=1).min() >= 0.5, "far"
    assert (found[burst].sum(axis=1) > 0).mean() == pytest.approx(0.5, abs=0.1), "either way"
    held = np.flatnonzero(burst[1:] & burst[:-1])
    same = (found[held] == found[held + 1]).all(axis=1)
    assert same.mean() > 0.8, "held from step to step"
    # 19 free steps come before one that begins a burst, and that lasts 2.5.
    assert burst.mean() == pytest.approx(2.5 / 21.5, abs=0.03)


def test_a_chunk_strays_step_by_step_as_single_actions_do_however_much_of_it_is_acted_out() -> None:
    config, chunk = ExplorationConfig(burst_rate=0.2), np.zeros((50, SIZE), np.float32)
    one_by_one = strayed(config, 200)
    assert max(len(list(run)) for _, run in groupby(np.abs(one_by_one).max(axis=1) >= 0.5)) < 50
    for replan in (1, 7, 50):
        explorer = Explorer(config, SIZE, seed=1)
        explorer.reset()
        acted = [explorer(chunk, step)[:replan] for step in range(0, 200, replan)]
        np.testing.assert_array_equal(np.concatenate(acted)[:200], one_by_one)


def test_a_chunk_that_comes_late_goes_on_with_the_burst_of_the_one_before() -> None:
    explorer, chunk = (
        Explorer(ExplorationConfig(burst_rate=0.5), SIZE, seed=1),
        np.zeros((20, SIZE), np.float32),
    )
    before, after = explorer(chunk, 4), explorer(chunk, 10)
    np.testing.assert_array_equal(after[:14], before[6:])
    assert explorer(chunk, 100).shape == chunk.shape, "nothing of it was left"


def test_a_burst_ends_with_its_episode() -> None:
    config = ExplorationConfig(std=0.0, burst_rate=1.0, burst_steps=1000)
    explorer, still = Explorer(config, SIZE, seed=1), np.zeros((1, SIZE), np.float32)
    explorer.reset()
    first, again = explorer(still), explorer(still)
    explorer.reset()
    assert np.array_equal(first, again)
    assert not np.array_equal(explorer(still), first)


def test_what_is_given_stays_as_it_is() -> None:
    given = np.zeros((1, SIZE), np.float32)
    Explorer(ExplorationConfig(burst_rate=1.0), SIZE, seed=0)(given)
    assert not given.any()


@pytest.mark.parametrize(
    "wrong", [{"burst_rate": -0.1}, {"burst_steps": 0}, {"std": -1.0}, {"persistence": 1.0}]
)
def test_exploration_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="burst_rate 0"):
        ExplorationConfig(**wrong)  # type: ignore[arg-type]
