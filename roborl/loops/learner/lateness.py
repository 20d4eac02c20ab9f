"""Which episodes wait too long for a label."""

from __future__ import annotations

from dataclasses import dataclass

from roborl.clock import NS
from roborl.types import EpisodeKey


@dataclass(slots=True)
class _Awaited:
    since_ns: int
    observations: int


class Lateness:
    """Follows how old the oldest missing label of each episode is.

    It remembers how many observations an episode had at a look, and looks anew once these are all labelled. So an episode
    whose labels follow a few frames behind is never late, however long it runs; where they stop, it is found late after
    the deadline, and after twice that at the latest.

    Args:
        deadline_s: Age from which a missing label is late, s.

    Example:
        >>> lateness, key = Lateness(30.0), EpisodeKey(actor="left", incarnation=1, episode=0)
        >>> [lateness.late(key, second - 2, second, second * NS) for second in range(10, 100)].count(True)
        0
        >>> lateness.late(key, 97, 200, 200 * NS)
        True
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_ns = deadline_s * NS
        self._awaited: dict[EpisodeKey, _Awaited] = {}

    def late(self, key: EpisodeKey, labelled: int, observations: int, now_ns: int) -> bool:
        """Look at an episode that lacks labels; return whether one has been missing for longer than the deadline."""
        awaited = self._awaited.get(key)
        if awaited is None or labelled >= awaited.observations:
            awaited = self._awaited[key] = _Awaited(now_ns, observations)
        return now_ns - awaited.since_ns > self._deadline_ns

    def forget(self, key: EpisodeKey) -> None:
        """Take note that an episode waits for nothing."""
        self._awaited.pop(key, None)

    def clear(self) -> None:
        """Begin again with every episode."""
        self._awaited.clear()
