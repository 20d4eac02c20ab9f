"""The benchmark of RA-BC: what its arms are told, and what its table says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from roborl.loops.benchmarks.rabc import EVERYTHING, SUCCESSES, WEIGHTED, summary, unjudged
from roborl.testing.episodes import random_episode


def test_of_a_mixed_episode_nothing_says_how_it_came_out() -> None:
    good, bad = (random_episode(0, success=s, failure="" if s else "miss") for s in (True, False))
    one, two = unjudged(good), unjudged(bad)
    for field in ("success", "end", "subtasks", "failure", "key", "benchmark_progress"):
        assert getattr(one, field) == getattr(two, field)
    assert one.success is None
    assert not one.reward.any()
    assert one.provenance is not None
    assert one.provenance.verdict_index == -1
    np.testing.assert_array_equal(one.action, good.action)


def test_the_table_pools_scenes_and_pairs_seeds() -> None:
    def cell(arm: str, seed: int, successes: int) -> dict[str, Any]:
        return {"arm": arm, "seed": seed, "successes": successes, "scenes": 10}

    rows = [cell(EVERYTHING, 1, 1), cell(EVERYTHING, 2, 2), cell(WEIGHTED, 1, 6), cell(WEIGHTED, 2, 7)]
    said = summary([*rows, cell(SUCCESSES, 1, 9)])
    entry = said["table"][WEIGHTED]
    assert (entry["successes"], entry["of"], entry["by_seed"]) == (13, 20, {"1": 0.6, "2": 0.7})
    assert entry["low"] < 0.65 < entry["high"]
    assert list(said["differences"]) == [f"{WEIGHTED} - {EVERYTHING}"]
    found = said["differences"][f"{WEIGHTED} - {EVERYTHING}"]
    assert found["seeds"] == ["1", "2"]
    assert found["interval by t"] == pytest.approx([0.5, 0.5])
