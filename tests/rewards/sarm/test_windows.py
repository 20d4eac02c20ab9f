from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import ConfigError
from roborl.rewards.sarm.batches import PreparedEpisode, WindowSampler
from roborl.rewards.sarm.config import SarmTraining
from roborl.rewards.sarm.windows import (
    EMPTY,
    WindowAugmentation,
    WindowConfig,
    causal_window,
    training_window,
)
from roborl.rewards.training.labels import StagePlan, label_ends, label_frames

WINDOWS = st.builds(WindowConfig, history=st.integers(1, 6), gap=st.integers(1, 5))


@given(config=WINDOWS, present=st.integers(0, 60))
def test_a_window_never_looks_ahead(config: WindowConfig, present: int) -> None:
    window = causal_window(config, present)
    assert window.size == config.slots
    assert window[-1] == present
    assert window.max() == present
    assert (window >= EMPTY).all()


@given(config=WINDOWS, frames=st.integers(2, 50), seed=st.integers(0, 99))
def test_training_windows_stay_within_their_episode(config: WindowConfig, frames: int, seed: int) -> None:
    window = training_window(config, WindowAugmentation(), frames, np.random.default_rng(seed))
    assert window.size == config.slots
    assert window[-1] != EMPTY
    assert window.min() >= EMPTY
    assert window.max() < frames


def test_some_windows_turn_round_and_coins_are_thrown_per_window() -> None:
    rng = np.random.default_rng(0)
    config, augmentation = (
        WindowConfig(history=4, gap=1),
        WindowAugmentation(rewind=0.5, freeze=0.0, drop=0.0),
    )
    steps = [np.diff(training_window(config, augmentation, 200, rng)[1:]) for _ in range(200)]
    backwards = sum(bool((step == -1).any()) for step in steps)
    assert 60 < backwards < 140
    assert any(1 in step and -1 in step for step in steps)


def test_every_picture_of_a_batch_carries_the_label_of_its_own_frame() -> None:
    """Each picture shows its own index, so a label taken from another frame would be seen."""
    frames = 40
    plan = StagePlan(names=("a", "b"), shares=(0.4, 0.6))
    labels = label_frames(plan, frames, [("a", 0, 15), ("b", 15, 39)], success=True, failure_ceiling=1.0)
    pictures = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    episode = PreparedEpisode(
        frames=(pictures, pictures),
        state=np.arange(frames, dtype=np.float32)[:, None],
        task="t",
        success=True,
        labels=labels,
    )
    training = SarmTraining(
        wrong_task=0.3, shift_px=2, brightness=0.0, windows=WindowAugmentation(rewind=0.6)
    )
    sampler = WindowSampler([episode] * 3, WindowConfig(), training, np.random.default_rng(1))
    right = wrong = 0
    for _ in range(3):
        batch = sampler.draw()
        for camera in batch.frames:
            shown = camera[batch.place].mean(dim=(2, 3, 4))
            for b, s in zip(*np.nonzero(batch.filled.numpy()), strict=True):
                index = round(shown[b, s].item())
                assert batch.state[b, s].item() == index
                if batch.texts[b] == "t":
                    assert batch.stage[b, s] == labels.stage[index]
                    assert batch.progress[b, s] == labels.progress[index]
                    right += 1
                else:
                    assert batch.progress[b, s] == 0.0
                    assert batch.stage[b, s] == 0
                    wrong += 1
        assert batch.progress.isnan()[~batch.filled].all()
    assert right > 500
    assert wrong > 100


def test_practice_takes_its_share_of_the_successes_and_shows_their_ends() -> None:
    plan = StagePlan(names=("a", "b"), shares=(0.4, 0.6))
    frames, training = 31, SarmTraining(windows_per_episode=40)

    def episode(success: bool, *, ends_only: bool = False) -> PreparedEpisode:
        marked = label_frames(plan, frames, [("a", 0, 15), ("b", 15, 30)], success=True, failure_ceiling=1.0)
        return PreparedEpisode(
            frames=(np.zeros((frames, 8, 8, 3), np.uint8),),
            state=np.arange(frames, dtype=np.float32)[:, None],
            task="t",
            success=success,
            labels=label_ends(plan, frames) if ends_only else marked,
            ends_only=ends_only,
        )

    recorded = [episode(True), episode(True), episode(False)]
    practised = [episode(True, ends_only=True)] * 50
    sampler = WindowSampler([*recorded, *practised], WindowConfig(), training, np.random.default_rng(0))
    drawn = [sampler.draw() for _ in range(20)]
    of_practice = np.array([(batch.episode >= len(recorded)).float().mean().item() for batch in drawn])
    np.testing.assert_allclose(of_practice, 1 / 6, err_msg="one of six: a third of the half that succeeded")
    shown = np.concatenate(
        [batch.state[batch.episode >= len(recorded), -1, 0].numpy() == frames - 1 for batch in drawn]
    )
    assert 0.45 < shown.mean() < 0.6

    few = WindowSampler(
        [*recorded, *practised],
        WindowConfig(),
        replace(training, episodes_per_step=2, windows_per_episode=1),
        np.random.default_rng(0),
    )
    of_few = np.mean([bool((few.draw().episode >= len(recorded)).any()) for _ in range(400)])
    assert 0.25 < of_few < 0.41, "a share of less than one episode is met over the steps"

    def batches(episodes: list[PreparedEpisode], practice_share: float) -> list[int]:
        settings = replace(training, practice_share=practice_share)
        plain = WindowSampler(episodes, WindowConfig(), settings, np.random.default_rng(0))
        return [int(at) for _ in range(5) for at in plain.draw().state[:, -1, 0]]

    assert batches(recorded, 0.33) == batches(recorded, 0.9), "without practice its share changes nothing"


def test_a_window_needs_a_frame() -> None:
    with pytest.raises(ConfigError, match="history 0"):
        WindowConfig(history=0)
