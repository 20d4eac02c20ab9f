"""Clips are graded where they end, and what a model says of the whole video does not change for it."""

import numpy as np
import pytest

from roborl.rewards.benchmark import BenchmarkSettings, measure
from roborl.rewards.judges.fake import FakeJudge
from roborl.rewards.subjects import Subject, stored
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.vlac.config import DoneQuestion, VlacConfig
from roborl.rewards.vlac.model import VlacModel


def noise(number: int, *, success: bool) -> Subject:
    grain = np.random.default_rng(number)
    episode = TrainingEpisode(
        images={"front": grain.integers(0, 255, (101, 16, 16, 3), dtype=np.uint8)},
        state=np.zeros((101, 1), np.float32),
        task="t",
        success=success,
    )
    truth = np.linspace(0.0, 1.0 if success else 0.5, 101)
    return Subject(
        episode=stored(episode, lambda: episode), group="g", truth=truth, references={}, other_task=""
    )


@pytest.mark.parametrize("stride", [1, 16])
def test_a_model_that_adds_up_what_it_was_asked_is_not_asked_more_about_successes(stride: int) -> None:
    """A judge that says the same of every pair tells no success from a failure of the same length."""
    config = VlacConfig(
        checkpoint="x",
        reference_frames=0,
        two_sided=False,
        done=DoneQuestion.OFF,
        use_probabilities=False,
        image_px=16,
    )
    model = VlacModel(judge=FakeJudge("10"), config=config)
    test = [noise(number, success=number % 2 == 0) for number in range(4)]
    found = measure(model, test[:2], test, BenchmarkSettings(stride=stride, probes=False))
    assert len({curve.last for curve in found.curves}) == 1
    assert not np.isnan(found.figures["derived_clip_mae"])
