"""What a reward model that watches the arm says of it, on its way to control, and when that ends an episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roborl.clock import NS, Clock
from roborl.errors import WireError
from roborl.loops.actor.shared import ValueSlot
from roborl.types import EpisodeKey

_SLOT_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveScore:
    """A score of the live lane, as far as the arm is concerned.

    Attributes:
        key: The episode.
        index: The observation that was judged.
        progress: How far the task has come, in [0, 1].
        done: Whether the task is finished; False also where the model does not say.
        valid: False where the answer could not be read: then the others mean nothing.
        stamp_ns: When that observation was made, on the clock of the control process.
    """

    key: EpisodeKey
    index: int
    progress: float
    done: bool
    valid: bool
    stamp_ns: int


class LiveSlot(ValueSlot[LiveScore]):
    """The newest live score, from the process that watches to control.

    Args:
        folder: Where ``live.slot`` lies.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "live.slot", _SLOT_BYTES, "A live score", _pack, _unpack)


def _pack(score: LiveScore) -> dict[str, Any]:
    return asdict(score) | {"key": str(score.key)}


def _unpack(message: dict[str, Any]) -> LiveScore:
    return LiveScore(
        key=EpisodeKey.parse(message["key"]),
        index=int(message["index"]),
        progress=float(message["progress"]),
        done=message["done"] is True,
        valid=message["valid"] is True,
        stamp_ns=int(message["stamp_ns"]),
    )


class JudgeStop:
    """Says whether the live lane calls the task of an episode done.

    What it said of an earlier episode, could not be read, or is about what the arm did long ago, ends nothing.

    Args:
        unseen: Returns the newest score where it is new, else None; must not wait.
        clock: The clock that observations are stamped with.
        stale_s: Greatest age of the observation that a score is about, in seconds of that clock.

    Attributes:
        malformed: Scores that were none.
    """

    def __init__(self, unseen: Callable[[], LiveScore | None], clock: Clock, *, stale_s: float) -> None:
        self._unseen, self._clock, self._stale_ns = unseen, clock, int(stale_s * NS)
        self.malformed = 0

    def __call__(self, key: EpisodeKey) -> bool:
        """Look at the newest score; return whether it calls the task of episode ``key`` done. Never waits."""
        try:
            score = self._unseen()
        except WireError:
            self.malformed += 1
            return False
        return (
            score is not None
            and score.key == key
            and score.valid
            and score.done
            and self._clock.now_ns() - score.stamp_ns <= self._stale_ns
        )
