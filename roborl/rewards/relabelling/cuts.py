"""Which observations of an episode a video shows: all of it, its beginning, or its beginning and the way back.

Source: Lee et al., "RoboReward", arXiv 2601.00675 (clips); Zhang et al., "ReWiND", arXiv 2505.10911 (rewinds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from roborl.errors import ConfigError

type Places = tuple[int, ...]
"""Observations of an episode by index, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When the observations of an episode were made, and when its task was done.

    Attributes:
        count: Observations.
        rate_hz: Observations per second.
        onset: Share of the episode after which the task is done, in (0, 1].
        video_hz: Pictures per second of its videos, Hz: observations that come faster are thinned out, slower ones shown
            several times.
    """

    count: int
    rate_hz: float
    onset: float
    video_hz: float

    def __post_init__(self) -> None:
        if self.count < 2 or min(self.rate_hz, self.video_hz) <= 0 or not 0.0 < self.onset <= 1.0:
            raise ConfigError(
                "An episode cannot be cut into videos",
                seen=f"{self.count} observations, {self.rate_hz} Hz, onset {self.onset}, video_hz {self.video_hz}",
                allowed="two observations or more, rates > 0, onset in (0, 1]",
            )

    @property
    def done(self) -> int:
        """The observation at which the task is done."""
        return self._end(1.0)

    def whole(self) -> Places:
        """Return all of it at the rate of its videos, the last observation at the end."""
        return self._up_to(self.count - 1)

    def clip(self, share: float) -> Places | None:
        """Return the first share of the way to success; None where that is less than two observations.

        Example:
            >>> Timeline(count=11, rate_hz=5, onset=0.8, video_hz=5).clip(0.5)
            (0, 1, 2, 3, 4)
        """
        end = self._end(share)
        return self._up_to(end) if end >= 1 else None

    def rewind(self, share: float) -> Places | None:
        """Return all of it and the way back to the first share of the way to success; None where that is no way.

        Example:
            >>> Timeline(count=5, rate_hz=5, onset=1.0, video_hz=5).rewind(0.5)
            (0, 1, 2, 3, 4, 3, 2)
        """
        there, end = self.whole(), self._end(share)
        back = [place for place in there[-2::-1] if place > end]
        return (*there, *back, end) if end < there[-1] else None

    def _end(self, share: float) -> int:
        return round(share * self.onset * (self.count - 1))

    def _up_to(self, end: int) -> Places:
        step = self.rate_hz / self.video_hz
        # A place that rounding puts on the end would be the end once more.
        grid = np.arange(0, end - 1e-6 * step, step).astype(int).tolist()
        return (*grid, end)


def clips(timeline: Timeline, shares: Mapping[int, float]) -> dict[int, tuple[float, Places]]:
    """Return the clip of each level with its share, without such as end where that of a lower level does, or the task is done.

    Example:
        >>> short = Timeline(count=4, rate_hz=5, onset=1.0, video_hz=5)
        >>> [(level, share, places[-1]) for level, (share, places) in clips(short, {1: 0.1, 2: 0.3, 3: 0.4}).items()]
        [(2, 0.3, 1)]
    """
    found: dict[int, tuple[float, Places]] = {}
    ends = {timeline.done}
    for level, share in sorted(shares.items()):
        places = timeline.clip(share)
        if places is not None and places[-1] not in ends:
            ends.add(places[-1])
            found[level] = (share, places)
    return found


def glimpses(places: Places, video_hz: float, frame_hz: float) -> tuple[Places, tuple[float, ...]]:
    """Return the observations of a video that a network is shown, evenly spaced from the first, and their instants in s.

    The true last one is always among them, and there are two at least.

    Example:
        >>> glimpses(tuple(range(26)), 10.0, 1.0)
        ((0, 10, 20, 25), (0.0, 1.0, 2.0, 2.5))
    """
    last = len(places) - 1
    chosen = sorted({*(round(at) for at in np.arange(0, last, max(1.0, video_hz / frame_hz))), last})
    chosen = chosen if len(chosen) > 1 else chosen * 2
    return tuple(places[at] for at in chosen), tuple(round(at / video_hz, 6) for at in chosen)
