"""Observations as the stage-aware models remember them, and the memory of one episode."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from roborl.types import Image


@dataclass(slots=True, eq=False, kw_only=True)
class Sighting:
    """One observation: pictures at first, then the vectors that the judge made of them.

    The vectors are a function of the pictures alone, so it does not matter which query has them made.

    Attributes:
        id: Index of the observation.
        images: One per camera of the model, uint8 (px, px, 3); None once there are vectors.
        state: Proprioception, float32 (s,).
        vectors: float32 (c, d), None until the judge has seen the pictures.
    """

    id: int
    images: tuple[Image, ...] | None
    state: NDArray[np.float32]
    vectors: Tensor | None = None

    @property
    def encoded(self) -> Tensor:
        """The vectors, which are there by now."""
        assert self.vectors is not None, "every sighting of a batch has been encoded"
        return self.vectors


class Sightings:
    """What of an episode a window can still reach: its first observation, and the newest ones.

    Args:
        reach: How many observations back a window looks, the first one aside.

    Example:
        >>> seen = Sightings(reach=2)
        >>> for index in (0, 1, 3, 4, 6):
        ...     seen.add(Sighting(id=index, images=(), state=np.zeros(0, np.float32)))
        >>> [sighting.id for sighting in seen.kept]
        [0, 4, 6]
    """

    def __init__(self, *, reach: int) -> None:
        self._reach = reach
        self.kept: list[Sighting] = []

    @property
    def first(self) -> Sighting:
        """The first observation of the episode."""
        return self.kept[0]

    @property
    def newest(self) -> Sighting:
        """The present observation."""
        return self.kept[-1]

    def add(self, sighting: Sighting) -> None:
        """Remember the next observation, and forget those that no window will reach any more."""
        self.kept.append(sighting)
        oldest = sighting.id - self._reach
        # The newest one that is as old as a window reaches stays: it stands in where that observation was passed over.
        while len(self.kept) > 2 and self.kept[2].id <= oldest:
            del self.kept[1]

    def at(self, index: int) -> Sighting | None:
        """Return the observation of this index, None where it was not shown or is out of reach."""
        found = self.until(index)
        return found if found.id == index else None

    def until(self, index: int) -> Sighting:
        """Return the newest observation up to this index, the first one where there is none so early."""
        place = bisect_right(self.kept, index, key=lambda sighting: sighting.id)
        return self.kept[max(place - 1, 0)]
