"""What a judge keeps of pictures and prefixes it has read before, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol


class Sized(Protocol):
    """Something whose size in memory is known."""

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        ...


class RecentCache[K, V: Sized]:
    """Keeps what was used last, up to so many bytes. One thread.

    Args:
        max_bytes: The bound; 0 keeps nothing.

    Attributes:
        hits: Look-ups that found something.
        misses: Look-ups that did not.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes kept at present."""
        return self._nbytes

    def get(self, key: K) -> V | None:
        """Return what is kept under a key, and count it as used."""
        value = self._kept.get(key)
        if value is None:
            self.misses += 1
            return None
        self._kept.move_to_end(key)
        self.hits += 1
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value, and let go of those used longest ago; one larger than the bound is not kept."""
        if value.nbytes > self.max_bytes:
            return
        if key in self._kept:
            self._nbytes -= self._kept.pop(key).nbytes
        self._kept[key] = value
        self._nbytes += value.nbytes
        while self._nbytes > self.max_bytes:
            self._nbytes -= self._kept.popitem(last=False)[1].nbytes

    def values(self) -> list[V]:
        """Return what is kept, that used longest ago first; none of it counts as used by this."""
        return list(self._kept.values())

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self._nbytes = 0
