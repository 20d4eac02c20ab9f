"""What LeRobot says of a SARM checkpoint: its ``config.json``, its one file of tensors, its training statistics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from roborl.errors import ConfigError, ModelLoadError
from roborl.pretrained import WEIGHTS
from roborl.rewards.lerobot_checkpoint import training_statistics
from roborl.rewards.sarm.published_model import PublishedWindow, StateScale, gap_of
from roborl.rewards.sarm.published_network import PublishedShape

log = logging.getLogger(__name__)

_EPSILON = 1e-8


def lerobot_shape(described: Mapping[str, Any], *, head: str) -> PublishedShape:
    """Return the sizes that LeRobot's ``config.json`` states.

    Raises:
        ModelLoadError: If a field is missing, or there are no such stages.
    """
    try:
        count = described[f"num_{head}_stages"]
        if count is None:
            raise ModelLoadError(
                "The checkpoint has no such set of stages",
                seen=f"head {head!r}, annotation_mode {described.get('annotation_mode')!r}",
                allowed="sparse",
            )
        names = described[f"{head}_subtask_names"] or [str(k) for k in range(count)]
        # LeRobot takes equal shares where none were learnt, and scales them to sum to 1.
        shares = described[f"{head}_temporal_proportions"] or [1.0] * count
        total = float(sum(shares))
        if not len(names) == len(shares) == count or total <= 0.0:
            raise ValueError(f"{count} stages, names {names}, shares {shares}")
        return PublishedShape(
            stages=tuple(map(str, names)),
            shares=tuple(float(share) / total for share in shares),
            finished=False,
            cameras=1,
            frame_dim=int(described["image_dim"]),
            text_dim=int(described["text_dim"]),
            state_dim=int(described["max_state_dim"]),
            dim=int(described["hidden_dim"]),
            layers=int(described["num_layers"]),
            heads=int(described["num_heads"]),
            shuffled=False,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ModelLoadError(
            "The config.json of a LeRobot SARM checkpoint cannot be used",
            seen=f"{type(error).__name__}: {error}",
        ) from error


def lerobot_window(
    described: Mapping[str, Any], *, trained_hz: float, observation_hz: float, repeat_present: bool
) -> PublishedWindow:
    """Return the window that LeRobot's ``config.json`` states, at the rate of observations.

    Args:
        described: What the file says; not the rate, which is that of the dataset of training.
        trained_hz: Frames per second of that.
        observation_hz: Observations per second.
        repeat_present: Whether the present observation may stand for all later ones, which the network was trained to see.

    Raises:
        ConfigError: If it may not: a reward must not look ahead.
        ModelLoadError: If a field is missing.
    """
    if not repeat_present:
        raise ConfigError(
            "This SARM checkpoint was trained to look ahead, which no reward may",
            seen="a window centred on the present observation, repeat_present False",
            allowed="a window that looks back alone, as of opensarm's checkpoints or of roborl train-reward",
            remedy="Set repeat_present to True in the model's file of settings: the present observation then stands for all"
            " later ones, and in mid-episode its scores differ from those that LeRobot computes offline",
        )
    log.warning(
        "this SARM checkpoint was trained to look ahead; here the present observation stands for all later ones, as at"
        " the end of an episode, so in mid-episode its scores differ from those that LeRobot computes offline"
    )
    steps, frames = (_whole_number(described, name) for name in ("n_obs_steps", "frame_gap"))
    gap = gap_of(frames, trained_hz=trained_hz, observation_hz=observation_hz)
    return PublishedWindow(steps=steps, gap=gap, centred=True)


def lerobot_scale(folder: Path, key: str) -> StateScale:
    """Return how a LeRobot checkpoint normalises the state: by the data that it was trained on.

    Raises:
        ModelLoadError: If the statistics are not with the checkpoint.
    """
    # Known defect of LeRobot 0.6.1: its scoring script takes the statistics of the data set that it scores instead.
    mean, std = training_statistics(folder, key)
    return StateScale(mean=mean.flatten(), std=std.flatten() + _EPSILON)


def other_head_classes(described: Mapping[str, Any], head: str) -> int:
    """Return the number of classes of the stage head that is not ``head``."""
    if head == "sparse" and described.get("num_dense_stages") is not None:
        return _whole_number(described, "num_dense_stages")
    return _whole_number(described, "num_sparse_stages")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a LeRobot checkpoint.

    Raises:
        ModelLoadError: If they cannot be read.
    """
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelLoadError(
            "The weights of a LeRobot checkpoint cannot be read",
            seen=f"{folder / WEIGHTS}: {error}",
            remedy="Copy the whole folder again",
        ) from error
    return tensors


def split_weights(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of the ``stage`` and of the ``within`` transformer, each without LeRobot's prefix.

    Raises:
        ModelLoadError: If one belongs to neither.
    """
    parts: dict[str, dict[str, Tensor]] = {"stage": {}, "within": {}}
    prefixes = {"stage_model.": "stage", "subtask_model.": "within"}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            raise ModelLoadError(
                "The tensors are not those of a SARM network as LeRobot saves it",
                seen=name,
                allowed=f"names that begin with {' or '.join(prefixes)}",
            )
        parts[prefixes[prefix]][name.removeprefix(prefix)] = tensor
    return parts


def _whole_number(described: Mapping[str, Any], name: str) -> int:
    value = described.get(name)
    if not isinstance(value, int) or value < 1:
        raise ModelLoadError(
            "The config.json of a LeRobot SARM checkpoint cannot be used",
            seen=f"{name} {value}",
            allowed="a whole number from 1",
        )
    return value
