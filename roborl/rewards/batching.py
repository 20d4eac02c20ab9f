"""Judging in batches, with every way in which a judge or a fold can fail contained.

What a judge answers does not depend on what else was in its batch, and what it fails at does not either: a batch that
fails is asked again in halves, so a query goes unanswered only if it fails on its own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from roborl.errors import RoborlError
from roborl.rewards.model import Judge, JudgeDown, missing
from roborl.rewards.sessions import Pick
from roborl.types import Score

log = logging.getLogger(__name__)

# Failing once in so many calls costs little.
_CALM_CALLS = 100


class BatchAsker[Q, R]:
    """Puts queries to one judge, at most so many at once. Used by one thread.

    Args:
        judge: Who answers.
        max_batch: Most queries per call. Where a call runs out of memory and a part of it does not, the part's size is the
            limit from then on; after :data:`_CALM_CALLS` full calls twice as many are tried again.

    Attributes:
        max_batch: The present limit.
        calls: Calls that were answered.
        queries: Queries that were answered.
        faults: Failed calls by name of the fault.
    """

    def __init__(self, judge: Judge[Q, R], max_batch: int) -> None:
        self._judge = judge
        self._most, self._calm = max_batch, 0
        self.max_batch = max_batch
        self.calls = 0
        self.queries = 0
        self.faults: Counter[str] = Counter()

    def ask(self, queries: Sequence[Q]) -> list[R | None]:
        """Return one reply per query, in order; None where there is none."""
        replies: list[R | None] = []
        start = 0
        while start < len(queries):
            part = queries[start : start + self.max_batch]
            replies += self._ask_part(part)
            start += len(part)
        return replies

    def _ask_part(self, part: Sequence[Q]) -> list[R | None]:
        try:
            replies = list(self._judge.answer(part))
        except JudgeDown as error:
            self._note("JudgeDown", error)
            return [None] * len(part)
        except (
            Exception
        ) as error:  # a judge is foreign code on a device: whatever it raises must not end the server
            full = _out_of_memory(error)
            self._note("out of memory" if full else type(error).__name__, error)
        else:
            if len(replies) == len(part):
                self.calls += 1
                self.queries += len(part)
                self._try_more(len(part))
                return list(replies)
            full = False
            self._note("wrong number of replies", f"{len(replies)} replies to {len(part)} queries")
        if len(part) == 1:
            return [None]
        half = len(part) // 2
        halves = [*self._ask_part(part[:half]), *self._ask_part(part[half:])]
        # A card that is full whatever is asked, as while the learner is at its peak, says nothing of the batch.
        if full and any(reply is not None for reply in halves):
            self.max_batch, self._calm = min(self.max_batch, half), 0
        return halves

    def _try_more(self, answered: int) -> None:
        self._calm += answered >= self.max_batch
        if self._calm >= _CALM_CALLS:
            self.max_batch, self._calm = min(self._most, 2 * self.max_batch), 0

    def _note(self, fault: str, detail: object) -> None:
        self.faults[fault] += 1
        if (
            self.faults[fault].bit_count() == 1
        ):  # the 1st, 2nd, 4th, 8th: a failing judge must not fill the log
            log.warning("judge fault %r, %d so far: %s", fault, self.faults[fault], detail)


def judge_batch(picks: Sequence[Pick], asker: BatchAsker[Any, Any]) -> list[Score]:
    """Return the score of each pick; whatever goes wrong with one makes that one missing.

    Args:
        picks: Observations to score, those of one session in order.
        asker: The way to the judge of their model.
    """
    asked = [_questions(pick) for pick in picks]
    replies = iter(asker.ask([query for queries in asked for query in queries or ()]))
    return [
        _score(pick, None if queries is None else [next(replies) for _ in queries])
        for pick, queries in zip(picks, asked, strict=True)
    ]


def _questions(pick: Pick) -> list[Any] | None:
    """Show a fold what was passed over and ask what it wants to know; None where the observation cannot be scored."""
    fold = pick.session.fold
    for waiting in pick.passed:
        try:
            fold.skip(waiting.observation)
        except RoborlError as error:
            log.debug("observation %d of %s cannot be kept: %s", waiting.id, pick.session.id, error)
    try:
        return list(fold.queries(pick.chosen.observation))
    except (
        Exception
    ) as error:  # a fold is a plug-in, fed with a client's data: one bad observation is one missing score
        log.warning("observation %d of %s cannot be asked about: %s", pick.chosen.id, pick.session.id, error)
        return None


def _score(pick: Pick, replies: list[Any] | None) -> Score:
    index, version = pick.chosen.id, pick.session.version
    if replies is None:
        return missing(index, "the observation cannot be asked about", version=version)
    try:
        return pick.session.fold.fold(index, replies)
    except Exception as error:  # as above: a reply that the fold chokes on is a missing score
        log.warning("the replies on observation %d of %s cannot be read: %s", index, pick.session.id, error)
        return missing(index, f"cannot be read: {type(error).__name__}", version=version)


def _out_of_memory(error: Exception) -> bool:
    # By name, so that a server of endpoints need not load torch to recognise torch's own error.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
