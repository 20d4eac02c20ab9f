"""One episode being watched in one lane: the fold, and the observations that wait to be judged.

*Label* lane: every observation in order; the client says which of them are scored, nothing is dropped.
*Live* lane: the newest observation, one at a time; what came between is shown to the fold, and answered as passed over.
An episode that is watched in both lanes has two sessions, so that what one skips does not change what the other says.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from roborl.errors import ConfigError, RoborlError
from roborl.rewards.model import Fold, References, RewardModel, observation_id
from roborl.types import Lane, Observation

BACKLOG = 64
"""Most observations that a lane keeps with nothing to score among them."""


class UnknownSession(RoborlError):
    """A session that this server does not have: it was lost, closed or forgotten. Its client opens it again."""


class ServerFull(ConfigError):
    """There is no room for another session now; there may be later."""


@dataclass(frozen=True, slots=True, eq=False)
class QueuedObservation:
    """An observation in a lane, its index, whether it gets a score, when it came in, ns, and whether it fills the room."""

    id: int
    observation: Observation
    score: bool
    arrived_ns: int
    crowding: bool = False

    @property
    def nbytes(self) -> int:
        """Size of its pictures."""
        return sum(frame.rgb.nbytes for frame in self.observation.frames.values())


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """What a session hands out to be judged next.

    Attributes:
        session: Whose it is.
        passed: Observations before it that will not be judged, oldest first.
        chosen: The observation to judge.
    """

    session: EpisodeSession
    passed: tuple[QueuedObservation, ...]
    chosen: QueuedObservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to a pushed observation.

    Attributes:
        accepted: False where it was not taken: there is no room now, or in the label lane an earlier one is lacking.
        next_id: Index of the observation that the label lane expects next; in the live lane, one above the newest.
        crowding: Whether one that gets no score fills the room: it counts as under way until it has left the lane.
    """

    accepted: bool
    next_id: int
    crowding: bool = False


class EpisodeSession:
    """The state of one watched episode. Its caller serialises every call, and drives the fold.

    Args:
        id: The client's name for it.
        model_name: Name of the model on this server.
        model: The model.
        task: The instruction in words.
        references: What the model is told besides.
        lane: Label or live.

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
        lane: Lane,
    ) -> None:
        self.id = id
        self.model_name = model_name
        self.version = model.info.version
        self.lane = lane
        self.fold: Fold[Any, Any] = model.start(task, references)
        self.next_id = 0
        self.nbytes = 0
        self.touched_ns = 0
        self.turn = 0
        self._frames: deque[QueuedObservation] = deque()
        self._out = 0
        self._left: list[int] = []

    def push(
        self, observation: Observation, *, score: bool, now_ns: int, room_bytes: int, crowded: bool = False
    ) -> Receipt:
        """Take an observation; one that was taken before is accepted again and ignored.

        Args:
            observation: The next one, or in the live lane any later one.
            score: Whether it gets a score.
            now_ns: Present instant.
            room_bytes: Bytes of pictures that may still be kept waiting.
            crowded: Whether much of the room is taken.
        """
        crowding = crowded and not score and self.lane is Lane.LABEL
        waiting = QueuedObservation(observation_id(observation), observation, score, now_ns, crowding)
        self.touched_ns = now_ns
        expected = waiting.id >= self.next_id if self.lane is Lane.LIVE else waiting.id == self.next_id
        if queued := expected and self._has_room(waiting, room_bytes):
            self._frames.append(waiting)
            self.nbytes += waiting.nbytes
            self.next_id = waiting.id + 1
        accepted = waiting.id < self.next_id
        return Receipt(accepted=accepted, next_id=self.next_id, crowding=queued and crowding)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to judge, here or at the judge."""
        return not self._out and self.waiting_since_ns() is None

    @property
    def ready(self) -> int:
        """Number of observations that could go into a batch now."""
        if self.lane is Lane.LIVE:
            return int(self.waiting_since_ns() is not None)
        return sum(waiting.score for waiting in self._frames)

    def waiting_since_ns(self) -> int | None:
        """Return since when there has been something to judge, None where there is nothing."""
        if self.lane is Lane.LIVE and self._out:
            return None
        return next((waiting.arrived_ns for waiting in self._frames if waiting.score), None)

    def take(self) -> Pick | None:
        """Hand out what is to be judged next, with those before it that are not."""
        if self.waiting_since_ns() is None:
            return None
        scored = [place for place, waiting in enumerate(self._frames) if waiting.score]
        place = scored[-1] if self.lane is Lane.LIVE else scored[0]
        passed = tuple(self._frames.popleft() for _ in range(place))
        chosen = self._frames.popleft()
        self.nbytes -= chosen.nbytes + sum(waiting.nbytes for waiting in passed)
        self._left += [waiting.id for waiting in passed if waiting.crowding]
        self._out += 1
        return Pick(self, passed, chosen)

    def take_unscored(self) -> tuple[QueuedObservation, ...]:
        """Hand out what waits with nothing to score among it: a fold keeps less of it than a lane."""
        if self.lane is Lane.LIVE or self.waiting_since_ns() is not None:
            return ()
        passed = tuple(self._frames)
        self._frames.clear()
        self.nbytes = 0
        self._left += [waiting.id for waiting in passed if waiting.crowding]
        return passed

    def take_left(self) -> list[int]:
        """Hand out the indices of those that filled the room and have left the lane since the last call."""
        left, self._left = self._left, []
        return left

    def delivered(self, now_ns: int) -> None:
        """Note that a score of what was taken is out; only then does the live lane hand out the next."""
        self._out -= 1
        self.touched_ns = now_ns

    def _has_room(self, waiting: QueuedObservation, room_bytes: int) -> bool:
        # A lane with nothing to score takes some more whatever the room: it would never empty itself otherwise.
        return waiting.nbytes <= room_bytes or (
            self.waiting_since_ns() is None and len(self._frames) < BACKLOG
        )
