"""Judging in batches, with every way in which a judge or a fold can fail contained.

What a judge answers does not depend on what else was in its batch, and what it fails at does not either: a batch that
fails is asked again in halves, so a query goes unanswered only if it fails on its own. A judge that is away fails at
nothing: that is told apart, for whoever can wait to ask the same again. A judge that has lost its device ends the
process, which answers nothing more.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from roborl.clock import NS, Clock, MonotonicClock
from roborl.rewards.model import Judge, JudgeDown, missing
from roborl.rewards.sessions import EpisodeSession, Pick, QueuedObservation
from roborl.types import Score

log = logging.getLogger(__name__)

# Failing once in so many calls costs little.
_CALM_CALLS = 100
_LATELY = 64  # batches


class BatchAsker[Q, R]:
    """Puts queries to one judge, at most so many at once. Used by one thread.

    Args:
        judge: Who answers.
        max_batch: Most queries per call, fewer where the judge says so. Where a call runs out of memory and a part of it
            does not, the part's size is the limit from then on; after :data:`_CALM_CALLS` full calls twice as many are
            tried again.
        clock: For how long a call lasts.

    Attributes:
        max_batch: The present limit.
        calls: Calls that were answered.
        queries: Queries that were answered.
        faults: Failed calls by name of the fault.
    """

    def __init__(self, judge: Judge[Q, R], max_batch: int, clock: Clock | None = None) -> None:
        self._judge = judge
        self._clock: Clock = clock or MonotonicClock()
        self._most, self._calm = min(max_batch, judge.at_once or max_batch), 0
        self._call_began_ns: int | None = None
        self._made = 0
        self._lately: tuple[int, ...] = (1,)
        self.max_batch = self._most
        self.calls = 0
        self.queries = 0
        self.faults: Counter[str] = Counter()

    @property
    def in_call_s(self) -> float:
        """How long the judge has been at the present call, s; 0 between calls. Any thread may read it."""
        began_ns = self._call_began_ns
        return 0.0 if began_ns is None else (self._clock.now_ns() - began_ns) / NS

    @property
    def most_calls(self) -> int:
        """Most calls, answered or not, that it has lately taken to answer what was asked at once. Any thread may read it."""
        return max(*self._lately, self._made)

    def ask(self, queries: Sequence[Q]) -> list[R | JudgeDown | None]:
        """Return one reply per query, in order; None where there is none, and JudgeDown where the judge was away.

        Raises:
            AcceleratorError: Torch's own: the device is lost to this process, and every later call would fail as well.
        """
        replies: list[R | JudgeDown | None] = []
        self._lately = (*self._lately[-_LATELY:], max(self._made, math.ceil(len(queries) / self.max_batch)))
        self._made = 0
        while len(replies) < len(queries):
            start = len(replies)
            replies += self._ask_part(queries[start : start + self.max_batch])
            if isinstance(replies[-1], JudgeDown):  # each further part would cost all of a judge's patience
                replies += [replies[-1]] * (len(queries) - len(replies))
        return replies

    def _ask_part(self, part: Sequence[Q]) -> list[R | JudgeDown | None]:
        self._made += 1
        self._call_began_ns = self._clock.now_ns()
        try:
            replies = list(self._judge.answer(part))
        except JudgeDown as error:
            self._note("JudgeDown", error)
            return [error] * len(part)
        except (
            Exception
        ) as error:  # a judge is foreign code on a device: whatever it raises must not end the server
            full = out_of_memory(error)
            if device_lost(error):
                raise
            self._note("out of memory" if full else type(error).__name__, error)
        else:
            if len(replies) == len(part):
                self.calls += 1
                self.queries += len(part)
                self._try_more(len(part))
                return list(replies)
            full = False
            self._note("wrong number of replies", f"{len(replies)} replies to {len(part)} queries")
        finally:
            self._call_began_ns = None
        if len(part) == 1:
            return [None]
        half = len(part) // 2
        halves = [*self._ask_part(part[:half]), *self._ask_part(part[half:])]
        # A card that is full whatever is asked, as while the learner is at its peak, says nothing of the batch.
        if full and any(reply is not None and not isinstance(reply, JudgeDown) for reply in halves):
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


@dataclass(slots=True, eq=False)
class Asked:
    """An observation on its way through a judge.

    Attributes:
        pick: The observation.
        queries: What its fold wants to know; None where it cannot be asked about.
        silent_since_ns: Since when a judge that is there has not answered it; None where it was not asked in vain.
    """

    pick: Pick
    queries: list[Any] | None
    silent_since_ns: int | None = None

    def score(self, replies: Sequence[Any]) -> Score:
        """Let the fold make a score of the replies, one per query; whatever goes wrong makes it missing."""
        index, session = self.pick.chosen.id, self.pick.session
        if self.queries is None:
            try:
                session.fold.lose(index)
            except Exception as error:  # a fold is a plug-in
                log.warning("observation %d of %s cannot be told as lost: %s", index, session.id, error)
            return missing(index, "the observation cannot be asked about", version=session.version)
        try:
            return session.fold.fold(index, replies)
        except Exception as error:  # a fold is a plug-in: a reply that it chokes on is a missing score
            log.warning("the replies on observation %d of %s cannot be read: %s", index, session.id, error)
            return missing(index, f"cannot be read: {type(error).__name__}", version=session.version)


def pass_over(session: EpisodeSession, passed: Iterable[QueuedObservation]) -> None:
    """Show a fold observations that it is not asked about, oldest first."""
    for waiting in passed:
        try:
            session.fold.skip(waiting.observation)
        except Exception as error:  # a fold is a plug-in, fed with a client's data
            log.debug("observation %d of %s cannot be kept: %s", waiting.id, session.id, error)


def ask_about(pick: Pick) -> Asked:
    """Show a fold what was passed over, and ask it what it wants to know of the observation."""
    pass_over(pick.session, pick.passed)
    try:
        return Asked(pick, list(pick.session.fold.queries(pick.chosen.observation)))
    except (
        Exception
    ) as error:  # a fold is a plug-in, fed with a client's data: one bad observation is one missing score
        log.warning("observation %d of %s cannot be asked about: %s", pick.chosen.id, pick.session.id, error)
        return Asked(pick, None)


def put(batch: Sequence[Asked], asker: BatchAsker[Any, Any]) -> list[list[Any]]:
    """Put the queries of several observations to a judge; return the replies to each, as :meth:`BatchAsker.ask` does."""
    replies = iter(asker.ask([query for asked in batch for query in asked.queries or ()]))
    return [[next(replies) for _ in asked.queries or ()] for asked in batch]


def device_lost(error: Exception) -> bool:
    """Return whether an error is torch's for a device that it cannot use any more.

    Only a new process gets such a device back, and has the labels that this one would leave missing.
    """
    return type(error).__name__ == "AcceleratorError" and not out_of_memory(error)


def out_of_memory(error: Exception) -> bool:
    """Return whether an error says that there was no memory, here or on a device; there may be later."""
    # By name, so that a server of endpoints need not load torch to recognise torch's own errors. Torch's allocator has
    # one for memory; what a library asks of the driver on its own fails with the general one.
    name = type(error).__name__
    return (
        isinstance(error, MemoryError)
        or name == "OutOfMemoryError"
        or (name == "AcceleratorError" and "out of memory" in str(error))
    )
