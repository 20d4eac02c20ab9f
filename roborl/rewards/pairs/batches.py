"""What the small judge learns from: moments of episodes between a start and a goal, and all pairs of them.

Of a marked success the progress of every moment is known; of a failure, between which two marks it lies. No other label
is looked at. All pairs of an episode's moments are asked about at once, both ways round, for the price of looking at each
moment once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roborl.errors import DatasetError
from roborl.rewards.fusion import hop_between
from roborl.rewards.pairs.config import PairTraining
from roborl.rewards.pairs.network import FRONT, PairNetwork, hop_loss
from roborl.rewards.training.episodes import TrainingEpisode, label_episode, resize_episode
from roborl.rewards.training.labels import UNKNOWN, StagePlan, plan_stages

type Pictures = NDArray[np.uint8]
type Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class PairEpisode:
    """An episode as the judge learns from it.

    Attributes:
        views: Pictures of front and wrists, uint8 (n, px, px, 3) each.
        low: Least progress that each moment may have, float32 (n,).
        high: Largest, float32 (n,); equal to ``low`` where the progress is known.
        success: Whether it was one.
    """

    views: tuple[Pictures, ...]
    low: Floats
    high: Floats
    success: bool


def prepare_task(episodes: Sequence[TrainingEpisode], cameras: Sequence[str], px: int) -> list[PairEpisode]:
    """Make the episodes of one task ready; every marked sub-task is the same share of its progress.

    Args:
        episodes: Successes and failures. Privileged progress in them is not looked at.
        cameras: Front and wrists.
        px: Side of the pictures.

    Raises:
        DatasetError: If there is no success, a camera is missing, or successes are marked in different ways.
    """
    if not any(episode.success for episode in episodes):
        raise DatasetError(
            "A judge of pairs needs a successful episode of every task",
            seen=f"{len(episodes)} episodes of {sorted({e.task for e in episodes})}, none successful",
            remedy="Record demonstrations, or say which episodes succeeded",
        )
    plan = plan_stages([episode.subtasks for episode in episodes if episode.success])
    stages = len(plan.names)
    plan = replace(plan, shares=(1.0 / stages,) * stages)
    return [_prepare(episode, plan, cameras, px) for episode in episodes]


def _prepare(episode: TrainingEpisode, plan: StagePlan, cameras: Sequence[str], px: int) -> PairEpisode:
    if absent := sorted(set(cameras) - set(episode.images)):
        raise DatasetError("The dataset lacks a camera", seen=absent, allowed=sorted(episode.images))
    labels = label_episode(episode, plan, 1.0)
    spoken = labels.stage != UNKNOWN
    starts = np.append(plan.starts, 1.0)
    stage = np.where(spoken, labels.stage, 0)
    known = ~np.isnan(labels.progress)
    low = np.where(spoken, starts[stage], 0.0)
    high = np.where(spoken, starts[stage + 1], labels.ceiling)
    return PairEpisode(
        views=resize_episode(episode, cameras, px),
        low=np.where(known, labels.progress, low).astype(np.float32),
        high=np.where(known, labels.progress, high).astype(np.float32),
        success=episode.success,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class PairBatch:
    """Some moments of b episodes.

    Attributes:
        views: Pictures of front and wrists, uint8 (b · m, px, px, 3) each, the moments of an episode together.
        references: Pictures of start and goal, uint8 (b · 2, px, px, 3).
        low: Least progress of each moment, float32 (b, m).
        high: Largest, float32 (b, m).
    """

    views: tuple[Tensor, ...]
    references: Tensor
    low: Tensor
    high: Tensor


class PairSampler:
    """Draws batches.

    Args:
        tasks: Episodes of each task, by its name.
        shares: How often each task is drawn; they add up to 1.
        training: Sizes and probabilities.
    """

    def __init__(
        self,
        tasks: Mapping[str, Sequence[PairEpisode]],
        shares: Sequence[float],
        training: PairTraining,
    ) -> None:
        self._successes = [[e for e in episodes if e.success] for episodes in tasks.values()]
        self._failures = [[e for e in episodes if not e.success] for episodes in tasks.values()]
        self._shares, self._training = np.asarray(shares, np.float64), training

    def draw(self, rng: np.random.Generator) -> PairBatch:
        """Return one batch; the same generator draws the same one."""
        pieces = [self._piece(rng) for _ in range(self._training.episodes)]
        views, references, low, high = zip(*pieces, strict=True)
        return PairBatch(
            views=tuple(torch.from_numpy(np.concatenate(view)) for view in zip(*views, strict=True)),
            references=torch.from_numpy(np.concatenate(references)),
            low=torch.from_numpy(np.stack(low)),
            high=torch.from_numpy(np.stack(high)),
        )

    def _piece(self, rng: np.random.Generator) -> tuple[list[Pictures], Pictures, Floats, Floats]:
        training = self._training
        task = int(rng.choice(len(self._shares), p=self._shares))
        successes, failures = self._successes[task], self._failures[task]
        fails = bool(failures) and rng.random() < training.failure_share
        episode = _any_of(failures if fails else successes, rng)
        goal = _any_of(successes, rng)
        start = _any_of(successes, rng) if rng.random() < training.foreign_start else episode
        places = self._moments(len(episode.low), rng)
        ends = np.stack([start.views[FRONT][0], goal.views[FRONT][-1]])
        mirrored = rng.random() < training.mirror
        # The references share the front camera's shift and light: they were filmed by it.
        front = self._changed(
            np.concatenate([episode.views[FRONT][places], ends]), training.shift_px, mirrored, rng
        )
        views = [front[:-2]]
        for wrist in episode.views[FRONT + 1 :]:
            views.append(self._changed(wrist[places], training.shift_px // 2, mirrored, rng))
        return views, front[-2:], episode.low[places], episode.high[places]

    def _moments(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The first moment, often the last, and some between."""
        wanted = self._training.moments
        places = rng.choice(count, wanted, replace=count < wanted)
        places[0] = 0
        if rng.random() < 0.5:
            places[-1] = count - 1
        return places

    def _changed(
        self, pictures: Pictures, shift_px: int, mirrored: bool, rng: np.random.Generator
    ) -> Pictures:
        """Shift, mirror and relight pictures, all in the same way."""
        colour = self._training.colour
        if shift_px:
            side = pictures.shape[1]
            down, right = rng.integers(0, 2 * shift_px + 1, 2)
            edges = ((0, 0), (shift_px, shift_px), (shift_px, shift_px), (0, 0))
            pictures = np.pad(pictures, edges, mode="edge")[:, down : down + side, right : right + side]
        if mirrored:
            pictures = pictures[:, :, ::-1]
        if colour:
            gain, offset = rng.uniform(1.0 - colour, 1.0 + colour, 3), 127.5 * rng.uniform(-colour, colour, 3)
            relit = (pictures.astype(np.float32) - 127.5) * gain.astype(np.float32) + (127.5 + offset).astype(
                np.float32
            )
            pictures = relit.clip(0.0, 255.0).astype(np.uint8)
        return np.ascontiguousarray(pictures)


def pairs_loss(network: PairNetwork, batch: PairBatch, no_wrist: float) -> Tensor:
    """Return the mean loss over all pairs of moments of each episode, those from its goal's picture among them.

    Args:
        network: What is trained.
        batch: The moments.
        no_wrist: How often a pair is shown without its wrist pictures, as torch's own generator decides.
    """
    episodes, moments = batch.low.shape
    wrists = network.wrists
    fronts = network.look(FRONT, torch.cat([batch.views[FRONT], batch.references]))
    views = [fronts[: episodes * moments]]
    views += [network.look(view, batch.views[view]) for view in range(1, 1 + wrists)]
    shown = torch.stack(views, dim=1).reshape(episodes, moments, 1 + wrists, -1)
    references = fronts[episodes * moments :].reshape(episodes, 2, -1)
    # The goal is a moment too, seen by the front camera alone: what the backward perspective asks from.
    goal = torch.cat([references[:, 1:], torch.zeros(episodes, wrists, network.features)], dim=1)
    shown = torch.cat([shown, goal.unsqueeze(1)], dim=1)
    seen = torch.ones(moments + 1, wrists)
    seen[-1] = 0.0
    done = torch.ones(episodes, 1)
    low, high = torch.cat([batch.low, done], dim=1), torch.cat([batch.high, done], dim=1)
    before, after = (
        grid.flatten()
        for grid in torch.meshgrid(torch.arange(moments + 1), torch.arange(moments), indexing="ij")
    )
    pairs = len(before)
    kept = (torch.rand(episodes * pairs, 1) >= no_wrist).float()
    logits = network(
        references.repeat_interleave(pairs, dim=0),
        shown[:, before].flatten(0, 1),
        shown[:, after].flatten(0, 1),
        seen[before].repeat(episodes, 1) * kept,
        seen[after].repeat(episodes, 1) * kept,
    )
    least, most = hop_bounds(low[:, before], high[:, before], low[:, after], high[:, after])
    same = (before == after).expand(episodes, pairs)
    least, most = (torch.where(same, 0.0, bound).flatten() for bound in (least, most))
    return hop_loss(logits, network.hops, least, most).mean()


def hop_bounds(
    before_low: Tensor, before_high: Tensor, after_low: Tensor, after_high: Tensor
) -> tuple[Tensor, Tensor]:
    """Return between which values the hop lies from a moment to another whose progress is known within bounds."""
    least = hop_between(before_high.numpy(), after_low.numpy())
    most = hop_between(before_low.numpy(), after_high.numpy())
    return torch.from_numpy(least).float(), torch.from_numpy(most).float()


def _any_of(episodes: Sequence[PairEpisode], rng: np.random.Generator) -> PairEpisode:
    return episodes[int(rng.integers(len(episodes)))]
