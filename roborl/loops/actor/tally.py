"""How the episodes came out, in the control process's counters."""

from __future__ import annotations

from roborl.loops.actor.status import StatusSlot
from roborl.records import Verdict
from roborl.types import EndCause, EpisodeKey

_CAUSES = tuple(EndCause)


class Tally:
    """Counts episodes under their ends, and their successes by what the operator said last.

    In an evaluation a success is the policy's: what a person helped with is none, though the operator calls it one. It is not
    left out either, for a person helps where the policy is about to fail. What a fault or the end of the process cut short is
    left out: it says nothing of the policy.

    Args:
        status: The control process's counters.
        evaluates: Whether a policy's successes are counted.
    """

    def __init__(self, status: StatusSlot, *, evaluates: bool) -> None:
        self._status, self._evaluates = status, evaluates
        self._ended: tuple[EpisodeKey, bool] | None = None

    def end(
        self, key: EpisodeKey, cause: EndCause, *, discarded: bool, interrupted: bool, by_person: bool
    ) -> None:
        """Count an episode.

        Args:
            key: The episode.
            cause: Why it ended.
            discarded: Whether the operator wants it kept out.
            interrupted: Whether it ended only because the process must.
            by_person: Whether a person had the arm in it.
        """
        success = cause is EndCause.SUCCESS
        cut_short = not discarded and (cause is EndCause.WATCHDOG or (self._evaluates and interrupted))
        left_out = self._evaluates and (discarded or cut_short)
        helped = self._evaluates and by_person and not left_out
        self._ended = None if left_out or helped else (key, success)
        self._status["last_end"] = _CAUSES.index(cause)
        self._status.add("episodes")
        self._status.add("successes", success and not helped)
        self._status.add("helped", helped)
        self._status.add("discarded", discarded)
        self._status.add("watchdogs", cause is EndCause.WATCHDOG)
        self._status.add("cut_short", cut_short)
        self._status.add("judge_stops", cause is EndCause.JUDGE_STOP)

    def judge_late(self, verdict: Verdict) -> None:
        """Correct the count where a verdict came after the end of the last episode."""
        if (verdict.key, not verdict.success) == self._ended:
            self._ended = (verdict.key, verdict.success)
            self._status.add("successes", 1 if verdict.success else -1)
