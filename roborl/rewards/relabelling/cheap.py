"""Rows that need nobody to write them: the original, clips, rewinds, and instructions of other episodes."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping, Sequence

from roborl.rewards.grades import HIGHEST, LOWEST
from roborl.rewards.instructions import much_alike
from roborl.rewards.relabelling.cuts import Timeline, clips
from roborl.rewards.relabelling.proposals import Kind, LadderConfig, Proposal


def cheap_proposals(
    name: str, task: str, timeline: Timeline, others: Sequence[str], config: LadderConfig, seed: int
) -> list[Proposal]:
    """Return the original and the rows that are made from it; the same for the same episode and seed.

    Args:
        name: The episode's identity, from which draws are made.
        task: Its instruction.
        timeline: When its observations were made.
        others: Instructions of other episodes of the same source; such as say the same are passed over.
        config: Which rows.
        seed: Of the draws.
    """
    whole = timeline.whole()
    cut = clips(timeline, config.clips)
    found = [Proposal(kind=Kind.ORIGINAL, task=task, level=HIGHEST, places=whole)]
    found += [
        Proposal(kind=Kind.CLIP, task=task, level=level, places=places, share=share)
        for level, (share, places) in cut.items()
    ]
    ends = _drawn(f"{seed} rewind {name}", config.clips, config.rewinds)
    for level in sorted(ends):
        back = timeline.rewind(config.clips[level])
        if back is not None:
            share = config.clips[level]
            found.append(Proposal(kind=Kind.REWIND, task=task, level=level, places=back, share=share))
    for words in _donated(f"{seed} wrong task {name}", task, others, config.wrong_tasks):
        found.append(Proposal(kind=Kind.WRONG_TASK, task=words, level=LOWEST, places=whole))
    return found


def _donated(key: str, task: str, others: Sequence[str], count: int) -> list[str]:
    """Return so many different instructions that do not say the same as a task; which, the key decides.

    Few are compared with the task, which takes long: those that would be drawn.
    """
    found: list[str] = []
    order = [(drawn_at(f"{key} {words}"), words) for words in set(others)] if count else []
    heapq.heapify(order)
    while order and len(found) < count:
        _, words = heapq.heappop(order)
        if not much_alike(words, task):
            found.append(words)
    return sorted(found)


def drawn_at(text: str) -> float:
    """Return a number in [0, 1) that a text alone decides, evenly spread over texts.

    Example:
        >>> drawn_at("one") == drawn_at("one"), 0.0 <= drawn_at("two") < 1.0
        (True, True)
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2.0**64


def _drawn[T](key: str, among: Mapping[T, object], count: int) -> list[T]:
    """Return so many different ones; which, the key decides."""
    return sorted(among, key=lambda one: drawn_at(f"{key} {one}"))[:count]
