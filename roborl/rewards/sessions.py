"""One episode being watched: its folds, its two lanes, the frames that wait.

*Label* lane: every observation in order; the client says which of them are scored, nothing is dropped.
*Live* lane: the newest observation, one at a time; what came between is shown to the fold but not scored.
The lanes have folds of their own, so that what one skips does not change what the other says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from roborl.rewards.model import Fold, References, RewardModel, observation_id
from roborl.types import Observation

BACKLOG = 64
"""Most unscored observations that a lane keeps in a row: the live lane lets go of older ones."""


class Lane(StrEnum):
    """What a score is for."""

    LIVE = "live"
    """Drives done, stuck and help at once; never stored."""
    LABEL = "label"
    """Goes into the progress column."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """An observation in a lane, its index, whether it gets a score, and when it came in, ns."""

    id: int
    observation: Observation
    score: bool
    arrived_ns: int

    @property
    def nbytes(self) -> int:
        """Size of its pictures."""
        return sum(frame.rgb.nbytes for frame in self.observation.frames.values())


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """What a lane hands out to be judged next.

    Attributes:
        session: Whose it is.
        lane: Which lane.
        passed: Observations before it that are not scored, oldest first.
        chosen: The observation to score.
    """

    session: EpisodeSession
    lane: Lane
    passed: tuple[Waiting, ...]
    chosen: Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to a pushed observation.

    Attributes:
        accepted: False where the label lane has not taken it: there is no room now, or earlier ones are lacking.
        next_id: Index of the observation that the label lane expects next; 0 for a session without one.
    """

    accepted: bool
    next_id: int


@dataclass(slots=True)
class _Queue:
    fold: Fold[Any, Any]
    frames: deque[Waiting] = field(default_factory=deque)


class EpisodeSession:
    """The state of one watched episode. Its caller serialises every call; the folds are the caller's to drive.

    Args:
        id: The client's name for it.
        model_name: Name of the model on this server.
        model: The model.
        task: The instruction in words.
        references: What the model is told besides.
        lanes: One or both.

    Raises:
        ConfigError: If the model lacks a reference.
    """

    def __init__(
        self,
        *,
        id: str,
        model_name: str,
        model: RewardModel[Any, Any],
        task: str,
        references: References,
        lanes: Iterable[Lane],
    ) -> None:
        self.id = id
        self.model_name = model_name
        self.version = model.version
        self.next_id = 0
        self.nbytes = 0
        self.touched_ns = 0
        self.turn = 0
        self.passed_over = 0
        self._newest_live = -1
        self._live_out = False
        self._queues = {lane: _Queue(model.start(task, references)) for lane in lanes}

    @property
    def lanes(self) -> frozenset[Lane]:
        """The lanes it has."""
        return frozenset(self._queues)

    def fold(self, lane: Lane) -> Fold[Any, Any]:
        """Return the fold of a lane."""
        return self._queues[lane].fold

    def push(self, observation: Observation, *, score: bool, now_ns: int, room_bytes: int) -> Receipt:
        """Take an observation; one that was taken before is accepted again and ignored.

        Args:
            observation: The next one, or in the live lane any later one.
            score: Whether the label lane scores it.
            now_ns: Present instant.
            room_bytes: Bytes of pictures that may still be kept waiting.
        """
        waiting = Waiting(observation_id(observation), observation, score, now_ns)
        self.touched_ns = now_ns
        if Lane.LIVE in self._queues and waiting.id > self._newest_live:
            self._newest_live = waiting.id
            live = self._queues[Lane.LIVE].frames
            while live and (len(live) >= BACKLOG or waiting.nbytes > room_bytes):
                gone = live.popleft()
                self.nbytes -= gone.nbytes
                room_bytes += gone.nbytes
                self.passed_over += 1
            live.append(waiting)
            self.nbytes += waiting.nbytes
            room_bytes -= waiting.nbytes
        if Lane.LABEL not in self._queues:
            return Receipt(accepted=True, next_id=0)
        if waiting.id == self.next_id:
            # A lane with nothing to score takes some more whatever the room: it would never empty itself otherwise.
            frames = self._queues[Lane.LABEL].frames
            stuck = self.waiting_since_ns(Lane.LABEL) is None and len(frames) < BACKLOG
            if waiting.nbytes > room_bytes and not stuck:
                return Receipt(accepted=False, next_id=self.next_id)
            frames.append(waiting)
            self.nbytes += waiting.nbytes
            self.next_id += 1
        return Receipt(accepted=waiting.id < self.next_id, next_id=self.next_id)

    def waiting_since_ns(self, lane: Lane) -> int | None:
        """Return since when this lane has had something to score, None where it has nothing."""
        frames = self._queues[lane].frames if lane in self._queues else ()
        if lane is Lane.LIVE:
            return frames[-1].arrived_ns if frames and not self._live_out else None
        return next((waiting.arrived_ns for waiting in frames if waiting.score), None)

    def take(self, lane: Lane) -> Pick | None:
        """Hand out what is to be scored next in a lane, with the unscored ones before it."""
        if self.waiting_since_ns(lane) is None:
            return None
        frames = self._queues[lane].frames
        passed: list[Waiting] = []
        if lane is Lane.LIVE:
            passed.extend(frames)
            chosen = passed.pop()
            frames.clear()
            self._live_out = True
            self.passed_over += len(passed)
        else:
            while not (chosen := frames.popleft()).score:
                passed.append(chosen)
        self.nbytes -= chosen.nbytes + sum(waiting.nbytes for waiting in passed)
        return Pick(self, lane, tuple(passed), chosen)

    def delivered(self, lane: Lane) -> None:
        """Note that a lane's score is out; only then does the live lane hand out the next."""
        if lane is Lane.LIVE:
            self._live_out = False
