"""A judge without a network, which says what the settings say: to try a bench, a server or a run where there is no GPU."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from roborl.rewards.judges.queries import Cells, VlmQuery, VlmReply
from roborl.rewards.model import Judge


class FakeJudge(Judge[VlmQuery, VlmReply | None]):
    """Says the same words to every question, whatever the pictures.

    Args:
        reply: The words.
    """

    def __init__(self, reply: str) -> None:
        self._reply = reply

    @property
    def identity(self) -> str:
        """Hash of the words."""
        return f"fake-{xxhash.xxh3_128(self._reply.encode()).hexdigest()[:16]}"

    def answer(self, queries: Sequence[VlmQuery]) -> list[VlmReply | None]:
        """Return one reply per query."""
        return [VlmReply(text=self._reply) for _ in queries]

    def cells(self, query: VlmQuery) -> tuple[Cells, ...] | None:
        """Return nothing: it sees no pictures."""
        return None
