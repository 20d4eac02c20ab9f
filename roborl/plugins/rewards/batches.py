"""From a batch as LeRobot makes it to episodes as our reward models watch them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roborl.errors import ConfigError, ShapeError
from roborl.rewards.lerobot_checkpoint import view_name
from roborl.types import Frame, Image, Observation

_STATE = "observation.state"
_MASK = "_is_pad"


@dataclass(frozen=True, eq=False, kw_only=True)
class WatchedEpisode:
    """The part of an episode that a sample of a batch shows, from its first frame.

    Attributes:
        task: The instruction in words.
        observations: What was seen, oldest first.
        padding: How many instants of the sample come before them, when there was no episode yet.
    """

    task: str
    observations: tuple[Observation, ...]
    padding: int = 0

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of its views."""
        return tuple(self.observations[0].frames)


def episodes_of(batch: Mapping[str, Any], *, default_task: str) -> list[WatchedEpisode]:
    """Return the episodes of a batch, one per sample.

    Args:
        batch: ``observation.image`` and ``observation.images.NAME``, uint8 or float in [0, 1], (b, t, 3, h, w), or
            (b, 3, h, w) for episodes of one observation; ``observation.state`` (b, t, d) or (b, d), if there is one;
            ``task``, a text or one per sample; ``observation.images.NAME_is_pad``, bool (b, t), where there was no episode
            yet: those pictures are dropped, but for the sample's last one.
        default_task: The instruction where the batch brings none.

    Raises:
        ShapeError: If an array has another form, or they do not have the same number of samples and instants.
        ConfigError: If there is no picture, or no instruction.
    """
    views = {
        view_name(key): _pictures(key, value)
        for key, value in batch.items()
        if _is_picture(key) and not key.endswith(_MASK)
    }
    if not views:
        raise ConfigError(
            "A batch has no pictures for the reward model",
            seen=sorted(batch),
            allowed="observation.images.NAME",
        )
    samples, instants = next(iter(views.values())).shape[:2]
    states = _states(batch.get(_STATE), samples, instants)
    for name, pictures in views.items():
        if pictures.shape[:2] != (samples, instants):
            raise ShapeError(
                f"The view {name} has another number of samples or instants than the others",
                seen=pictures.shape[:2],
                allowed=(samples, instants),
            )
    tasks = _tasks(batch.get("task"), samples, default_task)
    padding = _padding(batch, samples, instants)
    return [
        WatchedEpisode(
            task=tasks[b],
            observations=tuple(
                Observation(
                    frames={n: _frame(n, v[b, t], t - padding[b]) for n, v in views.items()},
                    state=states[b, t],
                    stamp_ns=0,
                )
                for t in range(padding[b], instants)
            ),
            padding=padding[b],
        )
        for b in range(samples)
    ]


def _frame(camera: str, rgb: Image, index: int) -> Frame:
    # A batch has no capture stamps; the index is what a fold goes by.
    return Frame(rgb=rgb, camera=camera, stamp_ns=0, id=index)


def _is_picture(key: str) -> bool:
    return key == "observation.image" or key.startswith("observation.images.")


def _padding(batch: Mapping[str, Any], samples: int, instants: int) -> list[int]:
    """Return how many instants of each sample are before its episode began, by the masks of all views."""
    before = torch.zeros((samples, instants), dtype=torch.bool)
    for key, mask in batch.items():
        # The mask of a view that was renamed has the old name still.
        if not (key.endswith(_MASK) and _is_picture(key.removesuffix(_MASK))):
            continue
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != before.shape:
            seen = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ShapeError(f"{key} has the wrong form", seen=seen, allowed=f"bool ({samples}, {instants})")
        before |= mask.cpu()
    before[:, -1] = False
    counts: list[int] = before.int().cumprod(dim=1).sum(dim=1).tolist()
    return counts


def _pictures(key: str, value: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return pictures as uint8 (b, t, h, w, 3)."""
    wanted = "uint8 or float in [0, 1], (b, t, 3, h, w) or (b, 3, h, w)"
    if not isinstance(value, Tensor) or value.ndim not in (4, 5) or value.shape[-3] != 3:
        seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"{key} has the wrong form", seen=seen, allowed=wanted)
    pictures = value.detach().cpu()
    if pictures.is_floating_point():
        low, high = pictures.min().item(), pictures.max().item()
        # Written so that it refuses NaN, and pictures that were normalised or are floats up to 255.
        if not (low >= -1e-3 and high <= 1.0 + 1e-3):
            raise ShapeError(f"{key} is out of range", seen=f"[{low}, {high}]", allowed=wanted)
        pictures = (pictures.float() * 255.0).round().clamp(0, 255)
    elif pictures.dtype != torch.uint8:
        raise ShapeError(f"{key} has the wrong form", seen=pictures.dtype, allowed=wanted)
    if pictures.ndim == 4:
        pictures = pictures[:, None]
    last = pictures.to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()
    array: np.ndarray[Any, np.dtype[np.uint8]] = last.numpy()
    return array


def _states(value: Any, samples: int, instants: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return states as float32 (b, t, d); of size 0 where the batch has none."""
    if value is None:
        return np.zeros((samples, instants, 0), np.float32)
    states = value.detach().cpu().float() if isinstance(value, Tensor) else torch.empty(0)
    if states.ndim == 2 and instants == 1:
        states = states[:, None]
    if states.ndim != 3 or states.shape[:2] != (samples, instants):
        raise ShapeError(
            f"{_STATE} does not match the pictures",
            seen=tuple(states.shape),
            allowed=f"({samples}, {instants}, d)",
        )
    array: np.ndarray[Any, np.dtype[np.float32]] = states.numpy()
    return array


def _tasks(value: Any, samples: int, default: str) -> list[str]:
    tasks = [value] * samples if isinstance(value, str) else list(value or [])
    tasks = tasks or [default] * samples
    if len(tasks) != samples or not all(isinstance(task, str) and task for task in tasks):
        raise ConfigError(
            "A batch lacks an instruction for the reward model",
            seen=f"{tasks[:3]} for {samples} samples",
            allowed="task: a text, or one per sample",
            remedy="Set --reward_model.default_task",
        )
    return tasks
