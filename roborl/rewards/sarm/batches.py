"""Draws training batches: windows of many episodes whose frames are encoded once per step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roborl.rewards.sarm.config import SarmTraining
from roborl.rewards.sarm.text import wrong_task
from roborl.rewards.sarm.windows import EMPTY, WindowConfig, training_window
from roborl.rewards.training.labels import UNKNOWN, FrameLabels

_AT_END = 0.5
"""Share of the windows of practice that show how the work ended: anywhere else in it nothing is known."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedEpisode:
    """An episode as the network takes it.

    Attributes:
        frames: Pictures per camera, uint8 (n, px, px, 3), or a frozen encoder's vectors of several takes of them,
            float32 (k, n, d).
        state: float32 (n, s).
        task: The instruction.
        success: Whether it was one.
        labels: What is known about each frame.
        ends_only: Whether that is no more than how a success begins and ends.
    """

    frames: tuple[NDArray[np.uint8] | NDArray[np.float32], ...]
    state: NDArray[np.float32]
    task: str
    success: bool
    labels: FrameLabels
    ends_only: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowBatch:
    """b windows of s slots over n distinct frames.

    Attributes:
        frames: Per camera, pictures float32 (n, px, px, 3) or vectors float32 (n, d).
        place: Which of the n frames stands in each slot; 0 in empty ones; int64 (b, s).
        filled: False for empty slots, bool (b, s).
        state: float32 (b, s, d).
        texts: One instruction per window.
        episode: Index of each window's episode, int64 (b,).
        stage: Label or UNKNOWN, int64 (b, s).
        within: Label or NaN, float32 (b, s).
        progress: Label or NaN, float32 (b, s).
        ceiling: Upper bound of the progress, float32 (b, s).
    """

    frames: tuple[Tensor, ...]
    place: Tensor
    filled: Tensor
    state: Tensor
    texts: list[str]
    episode: Tensor
    stage: Tensor
    within: Tensor
    progress: Tensor
    ceiling: Tensor


class WindowSampler:
    """Draws batches; the same seed draws the same ones.

    Args:
        episodes: What to draw from.
        window: Shape of a window.
        training: Shares, probabilities and sizes.
        rng: Source of every coin.
    """

    def __init__(
        self,
        episodes: Sequence[PreparedEpisode],
        window: WindowConfig,
        training: SarmTraining,
        rng: np.random.Generator,
    ) -> None:
        self._episodes = episodes
        self._window, self._training, self._rng = window, training, rng
        self._successes = [i for i, e in enumerate(episodes) if e.success and not e.ends_only]
        self._practice = [i for i, e in enumerate(episodes) if e.success and e.ends_only]
        self._failures = [i for i, episode in enumerate(episodes) if not episode.success]
        self._tasks = sorted({episode.task for episode in episodes})

    def draw(self) -> WindowBatch:
        """Return one batch."""
        count = self._training.episodes_per_step
        failures = round(count * self._training.failure_share) if self._failures else 0
        practice = self._of_practice(count - failures) if self._practice else 0
        chosen = [
            *self._choose(self._successes, count - failures - practice),
            *self._choose(self._practice, practice),
            *self._choose(self._failures, failures),
        ]
        pieces = [self._windows(index) for index in chosen]
        base = np.cumsum([0, *(len(piece.used) for piece in pieces)])
        cameras = range(len(self._episodes[0].frames))
        place = np.concatenate(
            [np.where(p.filled, p.place + at, 0) for p, at in zip(pieces, base, strict=False)]
        )
        return WindowBatch(
            frames=tuple(torch.cat([piece.frames[c] for piece in pieces]) for c in cameras),
            place=torch.from_numpy(place),
            filled=torch.from_numpy(np.concatenate([piece.filled for piece in pieces])),
            state=torch.from_numpy(np.concatenate([piece.state for piece in pieces])),
            texts=[text for piece in pieces for text in piece.texts],
            episode=torch.tensor(chosen).repeat_interleave(self._training.windows_per_episode),
            stage=torch.from_numpy(np.concatenate([piece.stage for piece in pieces])),
            within=torch.from_numpy(np.concatenate([piece.within for piece in pieces])),
            progress=torch.from_numpy(np.concatenate([piece.progress for piece in pieces])),
            ceiling=torch.from_numpy(np.concatenate([piece.ceiling for piece in pieces])),
        )

    def _of_practice(self, successes: int) -> int:
        """Return how many of so many successes are practice: its share, now and then one where that is less than half of one."""
        share = successes * self._training.practice_share
        return round(share) or int(self._rng.random() < share)

    def _choose(self, among: list[int], count: int) -> list[int]:
        if not count:
            return []
        return [int(i) for i in self._rng.choice(among, size=count, replace=count > len(among))]

    def _windows(self, index: int) -> _Piece:
        episode, training, rng = self._episodes[index], self._training, self._rng
        windows = np.stack(
            [
                training_window(
                    self._window, training.windows, len(episode.state), rng, present=self._present(episode)
                )
                for _ in range(training.windows_per_episode)
            ]
        )
        filled = windows != EMPTY
        used = np.unique(windows[filled])
        safe = np.where(filled, windows, 0)
        labels = episode.labels
        stage = np.where(filled, labels.stage[safe], UNKNOWN)
        within = np.where(filled, labels.within[safe], np.nan).astype(np.float32)
        progress = np.where(filled, labels.progress[safe], np.nan).astype(np.float32)
        ceiling = np.where(filled, labels.ceiling[safe], 1.0).astype(np.float32)
        foreign = rng.random(len(windows)) < training.wrong_task
        texts = [wrong_task(episode.task, self._tasks, rng) if wrong else episode.task for wrong in foreign]
        undone = foreign[:, None] & filled
        stage[undone], within[undone], progress[undone] = 0, 0.0, 0.0
        return _Piece(
            used=used,
            frames=tuple(self._augment(frames, used) for frames in episode.frames),
            place=np.searchsorted(used, safe),
            filled=filled,
            state=episode.state[safe],
            texts=texts,
            stage=stage,
            within=within,
            progress=progress,
            ceiling=ceiling,
        )

    def _present(self, episode: PreparedEpisode) -> int | None:
        """Return where a window is to end: where no more is known, half of them show the end of the work."""
        at_end = episode.ends_only and self._rng.random() < _AT_END
        return len(episode.state) - 1 if at_end else None

    def _augment(self, frames: NDArray[np.uint8] | NDArray[np.float32], used: NDArray[np.int64]) -> Tensor:
        if frames.ndim == 3:  # vectors of a frozen encoder: one of the takes that were encoded
            return torch.from_numpy(frames[self._rng.integers(len(frames))][used])
        return augmented(np.asarray(frames[used], np.uint8), self._training, self._rng)


def augmented(frames: NDArray[np.uint8], training: SarmTraining, rng: np.random.Generator) -> Tensor:
    """Shift and relight pictures (n, px, px, 3), all alike: the camera does not shake; float32 of the same shape."""
    px, most = frames.shape[1], training.shift_px
    dy, dx = rng.integers(-most, most + 1, size=2)
    rows, columns = (np.clip(np.arange(px) + d, 0, px - 1) for d in (dy, dx))
    shifted = torch.from_numpy(frames[:, rows][:, :, columns]).to(torch.float32)
    strength = training.brightness
    gain, offset = (1.0 + rng.uniform(-strength, strength), 255 * rng.uniform(-strength, strength) / 2)
    return ((shifted - 127.5) * gain + 127.5 + offset).clamp_(0.0, 255.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Piece:
    used: NDArray[np.int64]
    frames: tuple[Tensor, ...]
    place: NDArray[np.int64]
    filled: NDArray[np.bool_]
    state: NDArray[np.float32]
    texts: list[str]
    stage: NDArray[np.int64]
    within: NDArray[np.float32]
    progress: NDArray[np.float32]
    ceiling: NDArray[np.float32]
