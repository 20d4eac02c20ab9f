"""What opensarm leaves of a SARM checkpoint: two pickled files, read as weights only, and the rest in its settings and code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.sarm.published_model import StateScale
from roborl.rewards.sarm.published_network import PublishedShape


@dataclass(frozen=True, kw_only=True)
class OpenSarmConfig:
    """What opensarm's own settings say of a checkpoint, and its files do not."""

    # Names of the two files in the checkpoint's folder.
    stage_file: str = "stage_best.pt"
    subtask_file: str = "subtask_best.pt"
    # Names of the stages in order; the class of the finished task is not among them.
    stages: tuple[str, ...] = ()
    # Share of the task that each stage is, summing to 1.
    shares: tuple[float, ...] = ()
    # File with mean and deviation of the state, JSON.
    norm_stats: str = ""
    # Attention heads of both transformers.
    heads: int = 12
    # Slots of a window besides the present one, and empty ones behind it.
    steps: int = 8
    behind: int = 4
    # Frames between neighbouring slots.
    frame_gap: int = 30
    # Whether a full window begins with the episode's first frame, as since opensarm's commit f93fec9 of 10 June 2026. A
    # checkpoint from before was trained on windows that begin as many frames back as they have steps.
    from_start: bool = True
    # Whether progress is smoothed as in opensarm's own inference: a mean of the sure readings of the latest 100 frames.
    smooth: bool = True


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that opensarm saved; nothing but tensors and plain values is unpickled.

    Raises:
        ModelLoadError: If it is missing, or holds anything else.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)["model"]
        if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()):
            raise TypeError("model holds something else than named tensors")
    except (
        OSError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise ModelLoadError(
            "A file of an opensarm checkpoint cannot be read as weights",
            seen=f"{path}: {type(error).__name__}: {str(error)[:200]}",
            allowed='what opensarm saves: "model", "optimizer" and "epoch", of tensors and plain values alone',
            remedy="Copy it again, or set opensarm.stage_file and opensarm.subtask_file",
        ) from error
    found: dict[str, Tensor] = dict(tensors)
    return found


def opensarm_shape(published: Mapping[str, Mapping[str, Tensor]], config: OpenSarmConfig) -> PublishedShape:
    """Return the sizes that the tensors have; whether they agree with each other is seen when they are converted.

    Raises:
        ConfigError: If the settings do not name the stages.
        ModelLoadError: If a tensor that tells a size is missing.
    """
    shares = config.shares
    if (
        not config.stages
        or len(shares) != len(config.stages)
        or abs(sum(shares) - 1.0) > 1e-6
        or min(shares) <= 0.0
    ):
        raise ConfigError(
            "An opensarm checkpoint needs its stages and their shares",
            seen=f"stages {config.stages}, shares {shares}",
            allowed="opensarm.stages and a positive share of each in opensarm.shares, summing to 1",
            remedy="The names stand in opensarm's settings, and the shares in its code; for own data, take the mean shares",
        )
    stage = published["stage"]
    try:
        dim, text_dim = stage["lang_proj.weight"].shape
        layers = {name.split(".")[2] for name in stage if name.startswith("transformer.layers.")}
        return PublishedShape(
            stages=config.stages,
            shares=shares,
            finished=True,
            cameras=stage["fusion_backbone.0.weight"].numel() // dim - 2,
            frame_dim=stage["visual_proj.weight"].shape[1],
            text_dim=text_dim,
            state_dim=stage["state_proj.weight"].shape[1],
            dim=dim,
            layers=len(layers),
            heads=config.heads,
            shuffled=True,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ModelLoadError(
            "A file of an opensarm checkpoint lacks a tensor", seen=f"{type(error).__name__}: {error}"
        ) from error


def opensarm_scale(path: str, size: int) -> StateScale:
    """Return how an opensarm checkpoint normalises the state, for its first ``size`` joints.

    Raises:
        ModelLoadError: If the file is missing or cannot be used.
    """
    try:
        statistics = json.loads(Path(path).read_text())["norm_stats"]["state"]
        # The file speaks of more joints than the network; it takes the first.
        mean, std = (torch.tensor(statistics[name][:size], dtype=torch.float32) for name in ("mean", "std"))
        if mean.shape != (size,) or std.shape != (size,) or not (std > 0).all() or not mean.isfinite().all():
            raise ValueError(f"mean {mean.tolist()}, std {std.tolist()}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            "The state of an opensarm checkpoint cannot be normalised",
            seen=f"{path or 'no file'}: {type(error).__name__}: {error}",
            allowed=f"opensarm.norm_stats: a JSON file with norm_stats.state.mean and .std of {size} joints",
            remedy="Name the file that it was trained with, or set use_state to False if it was trained without",
        ) from error
    return StateScale(mean=mean, std=std)
