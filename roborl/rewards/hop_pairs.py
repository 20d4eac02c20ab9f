"""From one demonstration to training pairs for a judge of hops: which frames to compare, and the true hop between them.

Pure numbers: no picture is read here. A demonstration is cut into states of evenly spaced progress, pairs of states are
drawn so that all hops and all distances in time are met equally often, and a few pairs of frames that are the same but
for a moment teach what no movement looks like.

Source: Robo-Dopamine, arXiv 2512.23703, sections 3.1 and B.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError, DatasetError
from roborl.rewards.fusion import hop_between

type Ints = NDArray[np.int64]
type Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How training pairs are drawn from one demonstration."""

    # Pairs per demonstration, zero pairs among them; fewer where it has not so many.
    pairs: int = 1000
    # Share of the pairs that show no movement, in [0, 1).
    zero_share: float = 0.05
    # Frames from one state to the next, about.
    interval_frames: int = 20
    # Bins of equal quota over the hops from -1 to 1.
    hop_bins: int = 25
    # Bins of equal quota over the distance in states, within each of those.
    gap_bins: int = 4
    # Most pairs that are drawn from; a longer demonstration is thinned to so many at random.
    most_candidates: int = 100_000
    # Distance of the frames of a zero pair, as a share of that between the states on both sides.
    zero_reach: float = 0.075
    # Probability that a pair's reference pictures come from another sample of the same task.
    swap_share: float = 0.75

    def __post_init__(self) -> None:
        counts = (self.pairs, self.interval_frames, self.hop_bins, self.gap_bins, self.most_candidates)
        if (
            min(counts) < 1
            or not 0.0 <= self.zero_share < 1.0
            or not 0.0 < self.zero_reach <= 0.5
            or not 0.0 <= self.swap_share <= 1.0
        ):
            raise ConfigError(
                "Training pairs cannot be drawn in this way",
                seen=f"counts {counts}, zero_share {self.zero_share}, zero_reach {self.zero_reach},"
                f" swap_share {self.swap_share}",
                allowed="counts ≥ 1, zero_share in [0, 1), zero_reach in (0, 0.5], swap_share in [0, 1]",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoStates:
    """Frames of a demonstration whose progress is known.

    Attributes:
        frames: Their indices, strictly increasing, int64 (m,), m ≥ 2.
        progress: From 0 at the first to 1 at the last, increasing, float64 (m,).
    """

    frames: Ints
    progress: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class HopPairs:
    """Pairs of frames of one demonstration.

    Attributes:
        before: Index of the first frame, int64 (n,).
        after: Index of the second, int64 (n,); it may be the earlier one.
        hop: The true hop from the first to the second, float64 (n,); exactly 0 for zero pairs and no others.
    """

    before: Ints
    after: Ints
    hop: Floats

    def __len__(self) -> int:
        return len(self.hop)


def cut_states(keyframes: Sequence[int], interval_frames: int = 20) -> DemoStates:
    """Cut a demonstration between its keyframes into states, the same number for each subtask.

    Every subtask is thus the same share of the progress, whatever its duration. One that is too short to be cut so
    often has fewer states, and its share all the same.

    Args:
        keyframes: Where the subtasks begin, and where the last one ends: increasing frame indices, two or more.
        interval_frames: Frames from one state to the next, on average about.

    Raises:
        DatasetError: If there are fewer than two keyframes, or they do not increase.

    Example:
        >>> states = cut_states([0, 40, 50], interval_frames=10)
        >>> states.frames.tolist(), states.progress.tolist()
        ([0, 20, 40, 45, 50], [0.0, 0.25, 0.5, 0.75, 1.0])
    """
    edges = np.asarray(keyframes, np.int64)
    if edges.ndim != 1 or edges.size < 2 or (np.diff(edges) <= 0).any() or edges[0] < 0:
        raise DatasetError(
            "A demonstration cannot be cut at these keyframes",
            seen=list(keyframes),
            allowed="increasing frame indices, two or more",
        )
    subtasks = edges.size - 1
    per_subtask = max(1, round((edges[-1] - edges[0]) / interval_frames / subtasks))
    places = np.linspace(0.0, subtasks, subtasks * per_subtask + 1)
    frames = np.floor(np.interp(places, np.arange(edges.size), edges) + 1e-9).astype(np.int64)
    distinct, first = np.unique(frames, return_index=True)
    # Where two states fall on one frame the later one goes, but for keyframes, whose progress is certain.
    certain = np.arange(0, places.size, per_subtask)
    progress = places[first] / subtasks
    progress[np.searchsorted(distinct, frames[certain])] = places[certain] / subtasks
    return DemoStates(frames=distinct, progress=progress)


def draw_pairs(states: DemoStates, config: PairConfig, rng: np.random.Generator) -> HopPairs:
    """Draw training pairs from one demonstration, none twice, in random order.

    Quotas are equal over the bins of hops, with what does not divide given to those around 0, and inside each over the
    distances in time. What a bin lacks is taken from those around 0 first.

    Args:
        states: The demonstration.
        config: How many of what.
        rng: Of all draws; the same generator state gives the same pairs.
    """
    zeros = round(config.pairs * config.zero_share)
    i, j, hop = _candidates(states, config.most_candidates, rng)
    chosen = _balanced(hop, np.abs(j - i), len(states.frames), config.pairs - zeros, config)
    before, after = _still(states, zeros, config.zero_reach, rng)
    order = rng.permutation(chosen.size + before.size)
    return HopPairs(
        before=np.concatenate([states.frames[i[chosen]], before])[order],
        after=np.concatenate([states.frames[j[chosen]], after])[order],
        hop=np.concatenate([hop[chosen], np.zeros(before.size)])[order],
    )


def swap_references(
    episodes: Sequence[int], tasks: Sequence[str], config: PairConfig, rng: np.random.Generator
) -> Ints:
    """Return whose first and last picture stand as reference beside each sample.

    Most samples get those of another sample of the same task, drawn at random, which teaches the judge to take the
    references as anchors and not as pictures of this very episode. One episode of a task keeps its own.

    Args:
        episodes: The episode of each sample, (n,).
        tasks: Its instruction; a reference never comes from another task, (n,).
        config: How often.
        rng: Of all draws.

    Returns:
        The episode of each sample's references, int64 (n,).
    """
    own = np.asarray(episodes, np.int64)
    if own.ndim != 1 or len(tasks) != own.size:
        raise DatasetError(
            "References cannot be swapped",
            seen=f"{own.shape} episodes, {len(tasks)} tasks",
            allowed="one each",
        )
    references = own.copy()
    swapped = rng.random(own.size) < config.swap_share
    _, kind = np.unique(np.asarray(tasks, dtype=object).astype(str), return_inverse=True)
    for task in range(int(kind.max()) + 1 if kind.size else 0):
        same = np.flatnonzero(kind == task)
        taking = same[swapped[same]]
        references[taking] = own[rng.choice(same, taking.size)]
    return references


def _candidates(states: DemoStates, most: int, rng: np.random.Generator) -> tuple[Ints, Ints, Floats]:
    """All ordered pairs of different states, or as many as wanted of them, in random order."""
    count = states.frames.size
    total = count * (count - 1)
    which = rng.permutation(total) if total <= most else rng.choice(total, most, replace=False)
    i, rest = np.divmod(which, count - 1)
    j = rest + (rest >= i)
    return i, j, hop_between(states.progress[i], states.progress[j])


def _balanced(hop: Floats, gap: Ints, count: int, wanted: int, config: PairConfig) -> Ints:
    """Places of the chosen candidates, which come in random order: the first of each cell are as good as any."""
    bins, gaps = config.hop_bins, config.gap_bins
    bin_of = np.clip(np.floor((hop + 1.0) / 2.0 * bins), 0, bins - 1).astype(np.int64)
    gap_of = np.clip((gap - 1) * gaps // max(1, count - 2), 0, gaps - 1)
    middle_first = np.argsort(np.abs(np.arange(bins) - (bins - 1) / 2), kind="stable")
    quota = np.full(bins, wanted // bins)
    quota[middle_first[: wanted % bins]] += 1

    taken = np.zeros(hop.size, bool)
    for b in range(bins):
        inside = bin_of == b
        for g in range(gaps):
            share = quota[b] // gaps + (g < quota[b] % gaps)
            taken[np.flatnonzero(inside & (gap_of == g))[:share]] = True
        lacking = quota[b] - np.count_nonzero(taken & inside)
        taken[np.flatnonzero(inside & ~taken)[:lacking]] = True
    left = np.flatnonzero(~taken)
    from_the_middle = left[np.argsort(np.argsort(middle_first)[bin_of[left]], kind="stable")]
    taken[from_the_middle[: max(0, wanted - np.count_nonzero(taken))]] = True
    return np.flatnonzero(taken)


def _still(states: DemoStates, wanted: int, reach: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Pairs of a state and a frame close by, on either side, within the demonstration; none twice."""
    frames = states.frames
    last = frames.size - 1
    before, after = [], []
    for place, frame in enumerate(frames.tolist()):
        window = int(frames[min(place + 1, last)] - frames[max(place - 1, 0)])
        distance = max(1, math.floor(reach * window))
        for other in (frame - distance, frame + distance):
            if frames[0] <= other <= frames[-1]:
                before.append(frame)
                after.append(other)
    chosen = rng.permutation(len(before))[:wanted]
    return np.array(before, np.int64)[chosen], np.array(after, np.int64)[chosen]
