"""One model of a reward server: its judge, the observations that wait for a judge that is away, and its counts."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from roborl.clock import NS, Clock
from roborl.rewards.batching import Asked, BatchAsker, ask_about, put
from roborl.rewards.model import JudgeDown, JudgeSilent, RewardModel
from roborl.rewards.sessions import EpisodeSession, Pick
from roborl.types import Lane, Score

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 30.0


class Desk:
    """Judges the observations of one model. The model's thread owns it; others read its counts.

    What the label lane asked of a judge that was away is asked again, after a pause that doubles each time up to half a
    minute; the live lane's goes missing, since newer frames come. A judge that is there and answers none of it is asked
    again for a limited time.

    Args:
        model: The model.
        max_batch: Most queries per call of its judge.
        retry_s: The first pause, s.
        silent_s: How long a label waits for a judge that is there and does not answer, s.
        clock: For pauses and ages.

    Attributes:
        again: Label observations that wait for the judge to come back, those of one session in order.
        resume_ns: When they are asked again.
        away_since_ns: Since when the judge has been away; None where it is not.
        label_first: Whether labels come first in the next batch, where one lane alone fills it.
    """

    def __init__(
        self, model: RewardModel[Any, Any], max_batch: int, *, retry_s: float, silent_s: float, clock: Clock
    ) -> None:
        self.model = model
        self.asker: BatchAsker[Any, Any] = BatchAsker(model.judge, max_batch, clock)
        self._clock, self._retry_s, self._silent_ns = clock, retry_s, silent_s * NS
        self._pause_s = retry_s
        self.again: list[Asked] = []
        self.resume_ns = 0
        self.away_since_ns: int | None = None
        self.label_first = False
        self.scored: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.ages_s: dict[Lane, deque[float]] = {lane: deque(maxlen=512) for lane in Lane}
        self.busy_ns = 0
        self.passed_over = 0

    def forget(self, gone: Callable[[EpisodeSession], bool]) -> None:
        """Let go of what waits of sessions that nobody has any more."""
        self.again = [asked for asked in self.again if not gone(asked.pick.session)]

    def judge(self, picks: Sequence[Pick]) -> list[tuple[Pick, Score]]:
        """Ask about observations and what waits and is due; blocks for as long as the judge does.

        Returns:
            What has a score now, those of one session in order; the rest waits.
        """
        due: list[Asked] = []
        if self.again and self._clock.now_ns() >= self.resume_ns:
            due, self.again = self.again, []
        batch = [*due, *map(ask_about, picks)]
        replies = put(batch, self.asker)
        scored: list[tuple[Pick, Score]] = []
        kept: dict[EpisodeSession, list[Asked]] = {}
        for asked, got in zip(batch, replies, strict=True):
            session = asked.pick.session
            # A fold takes replies in the order of its observations: behind one that waits all others wait.
            if self._waits(asked, got) or session in kept:
                kept.setdefault(session, []).append(asked)
            else:
                known = [None if isinstance(reply, JudgeDown) else reply for reply in got]
                scored.append((asked.pick, asked.score(known)))
        self.again += [asked for waiting in kept.values() for asked in waiting]
        self._note([reply for got in replies for reply in got], postpone=bool(kept))
        return scored

    def _waits(self, asked: Asked, replies: Sequence[Any]) -> bool:
        error = next((reply for reply in replies if isinstance(reply, JudgeDown)), None)
        if error is None or asked.pick.session.lane is Lane.LIVE:
            return False
        if not isinstance(error, JudgeSilent):
            asked.silent_since_ns = None
            return True
        now_ns = self._clock.now_ns()
        if asked.silent_since_ns is None:
            asked.silent_since_ns = now_ns
        return now_ns - asked.silent_since_ns < self._silent_ns

    def _note(self, replies: Sequence[Any], *, postpone: bool) -> None:
        """Take note whether the judge is there, and of when what waits is asked again."""
        now_ns = self._clock.now_ns()
        away = next((reply for reply in replies if isinstance(reply, JudgeDown)), None)
        if any(not isinstance(reply, JudgeDown) for reply in replies):
            if self.away_since_ns is not None:
                log.info("the judge of %s is back", self.model.info.version)
            self.away_since_ns, self._pause_s, self.resume_ns = None, self._retry_s, now_ns
        elif away is not None and self.away_since_ns is None:
            self.away_since_ns = now_ns
            log.warning("the judge of %s is away, its labels wait: %s", self.model.info.version, away)
        if postpone:
            self.resume_ns = now_ns + int(self._pause_s * NS)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
