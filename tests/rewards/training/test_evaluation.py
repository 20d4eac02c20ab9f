"""Figures on held-out episodes, of watchers of known behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.training.evaluation import format_reports, held_out_report, time_only
from roborl.rewards.training.labels import StagePlan

PLAN = StagePlan(names=("task",), shares=(1.0,))


def episode(*, success: bool = True, frames: int = 11) -> TrainingEpisode:
    return TrainingEpisode(
        images={"front": np.zeros((frames, 4, 4, 3), np.uint8)},
        state=np.zeros((frames, 2), np.float32),
        task="t",
        success=success,
        kind="" if success else "miss",
        benchmark=np.linspace(0.0, 1.0 if success else 0.3, frames, dtype=np.float32),
    )


def knowing(episode: TrainingEpisode, order: Sequence[int]) -> NDArray[np.float64]:
    assert episode.benchmark is not None
    return np.asarray(episode.benchmark[list(order)], float)


def test_a_missing_score_holds_the_one_before_and_is_counted() -> None:
    def blinking(episode: TrainingEpisode, order: Sequence[int]) -> NDArray[np.float64]:
        progress = knowing(episode, order)
        progress[-3:] = np.nan
        return progress

    episodes = [episode(success=False)]
    whole, report = (held_out_report(watch, episodes, PLAN) for watch in (knowing, blinking))
    assert whole.missing == 0.0
    assert report.missing == pytest.approx(3 / 11)
    assert whole.failures[0].final == pytest.approx(0.3)
    assert report.failures[0].final == pytest.approx(0.3 * 7 / 10)
    assert report.failures[0].error == pytest.approx(np.mean([0.0] * 8 + [0.03, 0.06, 0.09]))
    assert "scores that were missing" in format_reports({"blinking": report})


def test_what_gained_nothing_cannot_give_it_back() -> None:
    def falling(episode: TrainingEpisode, order: Sequence[int]) -> NDArray[np.float64]:
        return 0.6 - 0.3 * knowing(episode, order)

    assert held_out_report(knowing, [episode()], PLAN).undone == pytest.approx(1.0)
    assert np.isnan(held_out_report(falling, [episode()], PLAN).undone)


def test_time_alone_knows_how_long_each_task_takes() -> None:
    short, long = episode(frames=9), replace(episode(frames=41), task="long")
    report = held_out_report(time_only([short, long], PLAN), [short, long], PLAN)
    assert report.error == pytest.approx(0.0, abs=1e-6)
    assert report.final == 1.0
