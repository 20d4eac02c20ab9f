from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roborl.cli.bench import BENCHMARKS
from roborl.loops.benchmarks import replay
from roborl.loops.benchmarks.replay import run


def test_what_is_timed_of_ours_ends_with_shaped_rewards(tmp_path: Path) -> None:
    draw, inserts = replay._ours(tmp_path, replay._pixels(), transitions=49, batch_size=8)
    shaped = draw()
    assert isinstance(shaped, np.ndarray)
    assert shaped.shape == (8,)
    assert (shaped != 0).any(), "the task gives no reward, and progress grows"
    assert len(inserts) == 50


@pytest.mark.slow
def test_measures_every_buffer_and_says_the_ratios() -> None:
    pytest.importorskip("torchrl")
    result = run(transitions=100, batch_size=8, rounds=2)
    assert set(result["sample_ms"]) == {"ours", "numpy.take", "lerobot", "torchrl"}
    assert set(result["insert_us"]) == {"replay memory", "ring", "store, durable", "lerobot", "torchrl"}
    assert all(value > 0 for value in (*result["sample_ms"].values(), *result["insert_us"].values()))
    ours, take = result["sample_ms"]["ours"], result["sample_ms"]["numpy.take"]
    assert result["ratios"]["ours / numpy.take"] == pytest.approx(ours / take, abs=0.02)


@pytest.mark.slow
def test_meets_its_bars() -> None:
    """Figures of an idle machine."""
    result = run()
    assert all(bar.check(result)["met"] for bar in BENCHMARKS["replay"].bars), result
