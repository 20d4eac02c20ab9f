"""What the labeller asks of the store: the episodes to label, their frames, and a column for each version of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from roborl.data.episodes import EpisodeInfo
from roborl.loops.learner.episode_labels import LabelledRows
from roborl.types import EpisodeKey, Observation


class Column(Protocol):
    """The progress of all episodes under one version of the reward model."""

    def labelled(self, key: EpisodeKey) -> int:
        """Return how many observations of the episode are labelled, from the first on."""
        ...

    def write(self, key: EpisodeKey, rows: LabelledRows) -> None:
        """Write rows that follow those labelled before, and count them as labelled."""
        ...

    def agrees(self, key: EpisodeKey, rows: LabelledRows) -> bool:
        """Return whether rows made anew say what the column says."""
        ...

    def stride(self, key: EpisodeKey) -> int:
        """Return the stride that the episode is labelled with, 0 where none was recorded."""
        ...

    def set_stride(self, key: EpisodeKey, stride: int) -> bool:
        """Record the stride of an episode, before its first label; return whether that could be done now."""
        ...

    def hold(self, key: EpisodeKey, *, verdict: bool = False) -> bool:
        """Let the episode be trained on without the labels it lacks; False where that was so already.

        Args:
            key: The episode.
            verdict: Once it is over, without the verdict that it may lack, too.
        """
        ...

    def finish(self, key: EpisodeKey) -> None:
        """Take note that the episode is labelled to its end."""
        ...

    def activate(self) -> None:
        """Make this the version that the learner trains with."""
        ...


class LabelStore(Protocol):
    """The store as the labeller sees it."""

    def episodes(self) -> Sequence[EpisodeInfo]:
        """Return what is known of every episode that can be sampled one day, in the order they came."""
        ...

    def observations(self, key: EpisodeKey, start: int) -> Iterable[Observation]:
        """Return the observations from ``start`` on, as far as they are stored."""
        ...

    def column(self, version: str) -> Column:
        """Return the column of a version, made where there is none."""
        ...

    def active(self) -> str | None:
        """Return the version that the learner trains with, None before the first."""
        ...
