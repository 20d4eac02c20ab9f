"""A perceptual reward model as a folder: ``config.json`` and ``model.safetensors``, the encoder by name and hash alone."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import draccus
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from roborl.errors import ModelLoadError
from roborl.pretrained import CONFIG, WEIGHTS
from roborl.rewards.model_folder import content_hash, reading, save_model_folder
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.model import PerceptualModel, StepStatistics
from roborl.rewards.perceptual.selection import Looks
from roborl.rewards.training.encoders import FrameEncoder, build_frame_encoder

FORMAT = "roborl-perceptual-1"
_LOOKS = tuple(field.name for field in fields(Looks))
_STEPS = tuple(field.name for field in fields(StepStatistics) if field.name != "looks")


def freeze_perceptual(
    encoder: FrameEncoder,
    config: PerceptualConfig,
    statistics: StepStatistics,
    *,
    cameras: tuple[str, ...],
    tasks: tuple[str, ...],
    trained_hz: float | None = None,
) -> PerceptualModel:
    """Return a model whose version is the hash of everything that bears on a score."""
    described = _describe(encoder, config, cameras, tasks, trained_hz)
    info = ModelInfo(
        version=f"perceptual-{content_hash(_tensors(statistics), described)}",
        cameras=cameras,
        image_px=config.image_px,
        says_done=False,
        trained_hz=trained_hz,
        looks_back=True,
    )
    return PerceptualModel(
        encoder=encoder,
        config=config,
        statistics=statistics,
        info=info,
        tasks=tasks,
    )


def save_perceptual(model: PerceptualModel, folder: Path) -> None:
    """Write the model."""
    info = model.info
    described = _describe(model.encoder, model.config, info.cameras, model.tasks, info.trained_hz)
    save_model_folder(folder, described | {"version": info.version}, _tensors(model.statistics))


def load_perceptual(folder: Path | str) -> PerceptualModel:
    """Read a model that :func:`save_perceptual` wrote.

    Raises:
        ModelLoadError: If the folder is missing or foreign, its numbers do not fit, the encoder is not the one it was
            trained with, or the bytes are not those that were saved.
    """
    folder = Path(folder)
    with reading(
        folder,
        "A perceptual reward model",
        "roborl train-reward --model perceptual --dataset PATH --out FOLDER",
    ):
        described = json.loads((folder / CONFIG).read_text())
        if described["format"] != FORMAT:
            raise ModelLoadError("This is another kind of model", seen=described["format"], allowed=FORMAT)
        config = draccus.decode(PerceptualConfig, described["model"])
        cameras, tasks = tuple(described["cameras"]), tuple(described["tasks"])
        version, identity = str(described["version"]), str(described["frozen_encoder"])
        trained_hz = None if (hz := described.get("trained_hz")) is None else float(hz)
        encoder = build_frame_encoder(config.encoder, px=config.image_px, dim=1)
        if encoder.identity != identity:
            raise ModelLoadError(
                "The frozen encoder is not the one this model was trained with",
                seen=encoder.identity or config.encoder,
                allowed=identity,
            )
        statistics = _statistics(load_file(folder / WEIGHTS))
        model = freeze_perceptual(
            encoder, config, statistics, cameras=cameras, tasks=tasks, trained_hz=trained_hz
        )
    if model.info.version != version:
        raise ModelLoadError(
            "Statistics and config.json of a reward model do not belong together",
            seen=model.info.version,
            allowed=version,
            remedy="Copy the whole folder, or train again",
        )
    return model


def _describe(
    encoder: FrameEncoder,
    config: PerceptualConfig,
    cameras: tuple[str, ...],
    tasks: tuple[str, ...],
    trained_hz: float | None,
) -> dict[str, Any]:
    described = {
        "format": FORMAT,
        "model": draccus.encode(config),
        "cameras": list(cameras),
        "tasks": list(tasks),
        "frozen_encoder": encoder.identity,
    }
    # Models of earlier releases have no rate, and keep their version.
    return described if trained_hz is None else described | {"trained_hz": float(trained_hz)}


def _tensors(statistics: StepStatistics) -> dict[str, NDArray[Any]]:
    numbers = {name: getattr(statistics.looks, name) for name in _LOOKS}
    numbers |= {name: getattr(statistics, name) for name in _STEPS}
    return {name: np.ascontiguousarray(array) for name, array in numbers.items()}


def _statistics(numbers: dict[str, NDArray[Any]]) -> StepStatistics:
    types = {name: array.dtype for name, array in numbers.items()}
    wanted = {name: np.dtype(np.int64 if name == "index" else np.float32) for name in (*_LOOKS, *_STEPS)}
    if types != wanted:
        raise ModelLoadError(
            "The statistics are those of another model", seen=types, allowed=f"exactly {wanted}"
        )
    broken = [name for name, array in numbers.items() if not np.isfinite(array).all()]
    if broken:
        raise ModelLoadError("The statistics of a reward model are not finite", seen=broken)
    return StepStatistics(
        looks=Looks(**{name: numbers[name] for name in _LOOKS}), **{name: numbers[name] for name in _STEPS}
    )
