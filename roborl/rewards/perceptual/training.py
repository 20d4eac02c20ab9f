"""From a few demonstrations to a perceptual reward model: encode, find the steps, choose their features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError, DatasetError
from roborl.rewards.perceptual.checkpoint import freeze_perceptual
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.model import PerceptualModel, StepStatistics
from roborl.rewards.perceptual.selection import Looks, select_looks
from roborl.rewards.perceptual.steps import Discovery, Features, discover_steps
from roborl.rewards.training.cache import frame_vectors
from roborl.rewards.training.encoders import FrameEncoder, build_frame_encoder
from roborl.rewards.training.episodes import TrainingEpisode, common_cameras, resize_episode

_LEAST_GROWTH = 1e-3  # of the nearness to the next look over a step; below, it says nothing about progress


def frozen_encoder(config: PerceptualConfig) -> FrameEncoder:
    """Return the encoder that the settings name.

    Raises:
        ConfigError: If there is none of that name, or it is one that would have to be trained.
        ModelLoadError: If its weights cannot be loaded.
    """
    encoder = build_frame_encoder(config.encoder, px=config.image_px, dim=1)
    if not encoder.frozen:
        raise ConfigError(
            "The perceptual reward model needs an encoder that has been trained",
            seen=config.encoder,
            allowed="efficientnet-lite0, pretrained:FOLDER-OR-HUB-ID",
        )
    return encoder.eval()


def encode_episode(
    encoder: FrameEncoder,
    episode: TrainingEpisode,
    cameras: Sequence[str],
    px: int,
    *,
    cache: Path | None = None,
) -> Features:
    """Return an episode's vectors, its cameras side by side, float32 (n, c · d); through files where a folder is given."""
    frames = resize_episode(episode, cameras, px)
    return np.concatenate([frame_vectors(encoder, view, cache) for view in frames], axis=1)


def learn_perceptual(
    demonstrations: Sequence[TrainingEpisode],
    config: PerceptualConfig | None = None,
    *,
    rate_hz: float | None = None,
    cache: Path | None = None,
) -> tuple[PerceptualModel, Discovery]:
    """Learn a model from demonstrations; what they are annotated with is not looked at.

    Args:
        demonstrations: Successful episodes of one task, one at least.
        config: What to look at and how.
        rate_hz: Observations per second of the episodes, which the model is to remember; None where it is not known.
        cache: Folder for the encoder's vectors.

    Returns:
        The model, and the steps it found in the demonstrations.

    Raises:
        ConfigError: If the encoder is none that has been trained, or ``finish_frames`` are a whole demonstration.
        DatasetError: If there is no demonstration, or one that failed, or one is too short for its steps.
        ModelLoadError: If the encoder cannot be loaded.
    """
    config = config or PerceptualConfig()
    if not demonstrations or not all(episode.success for episode in demonstrations):
        raise DatasetError(
            "A perceptual reward model learns from successful episodes",
            seen=f"{sum(e.success for e in demonstrations)} successes of {len(demonstrations)} episodes",
            allowed="one success or more, and nothing else",
        )
    shortest = min(episode.frames for episode in demonstrations)
    if config.finish_frames >= shortest:
        raise ConfigError(
            "A demonstration would show the task done from its first frame on",
            seen=f"finish_frames {config.finish_frames}, {shortest} frames in the shortest",
            allowed=f"at most {shortest - 1}",
            remedy="Set --model.finish_frames lower, or leave that demonstration out",
        )
    encoder, cameras = frozen_encoder(config), common_cameras(demonstrations)
    vectors = [encode_episode(encoder, e, cameras, config.image_px, cache=cache) for e in demonstrations]
    found = discover_steps(
        vectors,
        steps=config.steps,
        shortest=config.shortest,
        most=config.most_steps,
        least_gain=config.least_gain,
    )
    model = freeze_perceptual(
        encoder,
        config,
        learn_statistics(vectors, found, config),
        cameras=cameras,
        tasks=tuple(sorted({episode.task for episode in demonstrations})),
        trained_hz=rate_hz,
    )
    return model, found


def learn_statistics(
    demonstrations: Sequence[Features], found: Discovery, config: PerceptualConfig
) -> StepStatistics:
    """Choose features, and fit lengths, shares and the progress within steps."""
    looks = select_looks(demonstrations, found.bounds, config)
    lengths = np.array([np.diff(bounds) for bounds in found.bounds])
    shares = (lengths / lengths.sum(axis=1, keepdims=True)).mean(axis=0)
    starts = np.r_[0.0, shares.cumsum()]
    starts[-1] = 1.0
    fits = [_within(demonstrations, found, looks, k) for k in range(found.steps)]
    far, slope, doubt = np.array(fits, np.float32).T
    return StepStatistics(
        looks=looks,
        lengths=lengths.mean(axis=0).astype(np.float32),
        starts=starts.astype(np.float32),
        far=far,
        slope=slope,
        doubt=doubt,
        least_near=np.array([min(looks.nearness(v).max(axis=1).min() for v in demonstrations)], np.float32),
    )


def _within(
    demonstrations: Sequence[Features], found: Discovery, looks: Looks, k: int
) -> tuple[float, float, float]:
    """How near the next look is as step k begins, what each further bit of nearness is worth, and how wrong that is."""
    curves: list[NDArray[np.float64]] = [
        looks.nearness(vectors[bounds[k] : bounds[k + 1]])[:, k + 1]
        for vectors, bounds in zip(demonstrations, found.bounds, strict=True)
    ]
    far = float(np.mean([curve[0] for curve in curves]))
    growth = float(np.mean([curve[-1] for curve in curves])) - far
    slope = 1.0 / growth if growth > _LEAST_GROWTH else 0.0
    elapsed = np.concatenate([np.arange(len(curve)) / len(curve) for curve in curves])
    guessed = (slope * (np.concatenate(curves) - far)).clip(0.0, 1.0)
    return far, slope, float(np.sqrt(((guessed - elapsed) ** 2).mean()))
