"""All the episodes that a server watches, for several models at once: gathers their frames into the judges' batches."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from roborl.clock import NS, Clock, MonotonicClock
from roborl.errors import ConfigError
from roborl.rewards.batching import pass_over
from roborl.rewards.desk import Desk
from roborl.rewards.model import References, RewardModel, missing
from roborl.rewards.pool_config import PoolConfig
from roborl.rewards.session_start import check_views, start_session
from roborl.rewards.sessions import EpisodeSession, Pick, Receipt, ServerFull, UnknownSession
from roborl.types import Lane, Observation, Score

_REASONS = 32  # an unreadable reply may be any text: no more different ones are counted apart
_POLL_S = 0.1  # a worker is told to stop by nothing that wakes it
_EXPECTED_S = 0.5  # no batch waits for a session that has sent nothing for so long


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingScore:
    """A score on its way to a client.

    Attributes:
        session_id: The client's name for the session.
        score: The score, valid or missing.
        age_s: Time from the arrival of its observation.
    """

    session_id: str
    score: Score
    age_s: float


class SessionPool:
    """Watches many episodes. Thread-safe; one thread per model calls :meth:`work`, any thread the rest.

    Args:
        models: The models by the name that clients ask for.
        config: How sessions share the judges.
        clock: For waits and ages.
        on_outcome: Called from the model's thread after there is something new to be collected.
    """

    def __init__(
        self,
        models: Mapping[str, RewardModel[Any, Any]],
        config: PoolConfig | None = None,
        *,
        clock: Clock | None = None,
        on_outcome: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config or PoolConfig()
        self._clock: Clock = clock or MonotonicClock()
        self._on_outcome = on_outcome
        self._desks = {
            name: Desk(
                model,
                self.config.max_batch,
                retry_s=self.config.retry_s,
                silent_s=self.config.silent_s,
                clock=self._clock,
            )
            for name, model in models.items()
        }
        self._sessions: dict[str, EpisodeSession] = {}
        self._outcomes: deque[OutgoingScore] = deque()
        self._turns = count(1)
        self._forgotten = 0
        self._newly_forgotten: list[str] = []
        self._arrival = threading.Condition()

    @property
    def models(self) -> Mapping[str, RewardModel[Any, Any]]:
        """The models by name."""
        return {name: desk.model for name, desk in self._desks.items()}

    def open(
        self,
        session_id: str,
        *,
        model: str,
        task: str,
        cameras: Collection[str],
        lane: Lane = Lane.LABEL,
        references: References | None = None,
    ) -> str:
        """Begin to watch an episode; a session of that name that exists already is forgotten first.

        Args:
            session_id: The client's name for it.
            model: Name of the model; an empty name stands for the only one.
            task: The instruction in words.
            cameras: Names of the views that will come.
            lane: What the scores are for.
            references: What the model is told besides.

        Returns:
            The version of the model, which stands on every score.

        Raises:
            ServerFull: If there is no room, or the model finds no memory to start with.
            ConfigError: If there is no such model, or a view that it needs will not come.
            AcceleratorError: Torch's own, if the model finds its device lost to this process.
        """
        name = next(iter(self._desks)) if not model and len(self._desks) == 1 else model
        if name not in self._desks:
            raise ConfigError(
                "This server has no such reward model",
                seen=model or "none named",
                allowed=sorted(self._desks),
                remedy="Name one of its models, or serve this one as well",
            )
        watching = self._desks[name].model
        check_views(name, watching, cameras)
        with self._arrival:
            self._forget_idle()
            if len(self._sessions) >= self.config.max_sessions and session_id not in self._sessions:
                raise ServerFull(
                    "The reward server is full",
                    seen=f"{len(self._sessions)} sessions",
                    allowed=self.config.max_sessions,
                    remedy="Wait until one ends, or serve with a larger --pool.max_sessions",
                )
        session = start_session(session_id, name, watching, task=task, references=references or {}, lane=lane)
        with self._arrival:
            session.touched_ns = self._clock.now_ns()
            self._sessions[session_id] = session
        return session.version

    def push(self, session_id: str, observation: Observation, *, score: bool = True) -> Receipt:
        """Take an observation; repeats are harmless.

        Args:
            session_id: The client's name for the session.
            observation: The next one of the episode.
            score: Whether it gets a score, or is only shown to the model.

        Raises:
            UnknownSession: If the session is lost; the client then opens it again and sends it from the start.
        """
        with self._arrival:
            session = self._session(session_id)
            room = self.config.max_bytes - sum(s.nbytes for s in self._sessions.values())
            receipt = session.push(
                observation,
                score=score,
                now_ns=self._clock.now_ns(),
                room_bytes=room,
                crowded=2 * room < self.config.max_bytes,
            )
            self._arrival.notify_all()
        return receipt

    def close(self, session_id: str) -> None:
        """Forget a session and what it has waiting; one that is not there is no error."""
        with self._arrival:
            self._sessions.pop(session_id, None)

    def collect(self) -> list[OutgoingScore]:
        """Return the outcomes since the last call, one for each observation to be scored; those of one session in order."""
        with self._arrival:
            outcomes = list(self._outcomes)
            self._outcomes.clear()
        return outcomes

    def collect_left(self) -> list[tuple[str, int]]:
        """Return session and index of what filled the room, gets no score and has left its lane since the last call."""
        with self._arrival:
            return [(name, index) for name, s in self._sessions.items() for index in s.take_left()]

    def collect_forgotten(self) -> list[str]:
        """Return the sessions that were forgotten since the last call because nobody touched them."""
        with self._arrival:
            forgotten, self._newly_forgotten = self._newly_forgotten, []
        return forgotten

    def work(self, model: str, stop: threading.Event) -> None:
        """Judge batch after batch for one model until told to stop; blocks."""
        while not stop.is_set():
            if not self.step(model):
                with self._arrival:
                    if (due_s := self._due_in_s(model)) > 0:
                        self._arrival.wait(min(due_s, _POLL_S))

    def step(self, model: str) -> bool:
        """Judge one batch if one is due; return whether one was. Blocks for as long as the judge does."""
        desk = self._desks[model]
        self._pass_over(model)
        with self._arrival:
            if self._due_in_s(model) > 0:
                return False
            picks = self._gather(model)
            began_ns = self._clock.now_ns()
        scored = desk.judge(picks)
        with self._arrival:
            now_ns = self._clock.now_ns()
            desk.busy_ns += now_ns - began_ns
            for pick, score in scored:
                self._deliver(desk, pick, score, now_ns)
        self._on_outcome()
        return True

    def _pass_over(self, model: str) -> None:
        """Show folds what waits in runs that nobody asks about, whose pictures would fill the room."""
        with self._arrival:
            runs = [(session, session.take_unscored()) for session in self._of(model)]
        for session, passed in runs:
            pass_over(session, passed)
        if any(waiting.crowding for _, passed in runs for waiting in passed):
            self._on_outcome()

    def statistics(self) -> dict[str, Any]:
        """Return counts and ages as plain values, and what the models say of themselves, for clients that ask."""
        with self._arrival:
            now_ns = self._clock.now_ns()
            return {
                "sessions": len(self._sessions),
                "forgotten": self._forgotten,
                "waiting_bytes": sum(session.nbytes for session in self._sessions.values()),
                "models": {name: self._statistics(name, desk, now_ns) for name, desk in self._desks.items()},
            }

    def _statistics(self, name: str, desk: Desk, now_ns: int) -> dict[str, Any]:
        asker = desk.asker
        away = desk.away_since_ns
        return desk.model.info.to_wire() | {
            "scored": dict(desk.scored),
            "missing": dict(desk.missing),
            "faults": dict(asker.faults),
            "calls": asker.calls,
            "queries": asker.queries,
            "mean_batch": asker.queries / asker.calls if asker.calls else 0.0,
            "max_batch": asker.max_batch,
            "busy_s": desk.busy_ns / NS,
            "in_call_s": asker.in_call_s,
            "calls_at_once": asker.most_calls,
            "most_batches": self.config.most_batches(asker.max_batch),
            "away_s": 0.0 if away is None else (now_ns - away) / NS,
            "label_behind_s": self._label_behind_s(name),
            "age_s": {
                str(lane): {"mean": sum(ages) / len(ages), "max": max(ages)}
                for lane, ages in desk.ages_s.items()
                if ages
            },
            "passed_over": desk.passed_over,
        }

    def _session(self, session_id: str) -> EpisodeSession:
        session = self._sessions.get(session_id)
        if session is None:
            raise UnknownSession(
                "The reward server does not know this session",
                seen=session_id,
                remedy="Open it again and send its observations from the first",
            )
        return session

    def _of(self, model: str) -> list[EpisodeSession]:
        return [session for session in self._sessions.values() if session.model_name == model]

    def _askable(self, model: str) -> list[EpisodeSession]:
        """Return the sessions that a judge may be asked about: while labels wait for it, no more of them are taken."""
        waits = bool(self._desks[model].again)
        return [session for session in self._of(model) if not waits or session.lane is Lane.LIVE]

    def _due_in_s(self, model: str) -> float:
        desk, now_ns = self._desks[model], self._clock.now_ns()
        desk.forget(lambda session: self._sessions.get(session.id) is not session)
        again_s = max(0.0, (desk.resume_ns - now_ns) / NS) if desk.again else math.inf
        sessions = self._askable(model)
        since = {s.id: since_ns for s in sessions if (since_ns := s.waiting_since_ns()) is not None}
        if not since:
            return again_s
        expected = {s.id for s in sessions if now_ns - s.touched_ns < _EXPECTED_S * NS}
        if expected <= since.keys() or sum(s.ready for s in sessions) >= desk.asker.max_batch:
            return 0.0
        waited_s = (now_ns - min(since.values())) / NS
        return min(again_s, max(0.0, self.config.max_wait_s - waited_s))

    def _gather(self, model: str) -> list[Pick]:
        """Take turns: live first up to its share, then labels, then more live if there is room; longest unserved first."""
        desk = self._desks[model]
        # No more than a call takes: nothing of a batch is out before its last call is, and a live score would wait for all.
        most = desk.asker.max_batch
        ready = [session for session in self._askable(model) if session.waiting_since_ns() is not None]
        live = [session for session in ready if session.lane is Lane.LIVE]
        label = [session for session in ready if session.lane is Lane.LABEL]
        picks: list[Pick] = []

        def rounds(sessions: list[EpisodeSession], limit: int) -> None:
            took = True
            while took and len(picks) < limit:
                took = False
                for session in sorted(sessions, key=lambda s: s.turn):
                    pick = session.take() if len(picks) < limit else None
                    if pick is not None:
                        took = True
                        session.turn = next(self._turns)
                        picks.append(pick)

        live_most = self.config.live_most(most) if label else most
        if label and live and live_most == most:  # one lane alone fills a batch: they alternate
            live_most = 0 if desk.label_first else most
            desk.label_first = not desk.label_first
        rounds(live, live_most)
        rounds(label, most)
        rounds(live, most)
        return picks

    def _deliver(self, desk: Desk, pick: Pick, score: Score, now_ns: int) -> None:
        session = pick.session
        session.delivered(now_ns)
        if self._sessions.get(session.id) is not session:
            return
        for waiting in pick.passed:
            if waiting.score:
                desk.passed_over += 1
                late = missing(waiting.id, "passed over for a newer one", version=session.version)
                self._outcomes.append(_outcome(session, late, now_ns - waiting.arrived_ns))
        desk.scored[session.lane] += 1
        if not score.valid:
            reason = score.reply[:80]
            desk.missing[reason if reason in desk.missing or len(desk.missing) < _REASONS else "other"] += 1
        outcome = _outcome(session, score, now_ns - pick.chosen.arrived_ns)
        desk.ages_s[session.lane].append(outcome.age_s)
        self._outcomes.append(outcome)

    def _label_behind_s(self, model: str) -> float:
        since = [s.waiting_since_ns() for s in self._of(model) if s.lane is Lane.LABEL]
        since += [asked.pick.chosen.arrived_ns for asked in self._desks[model].again]
        oldest_ns = min((ns for ns in since if ns is not None), default=None)
        return 0.0 if oldest_ns is None else (self._clock.now_ns() - oldest_ns) / NS

    def _forget_idle(self) -> None:
        before_ns = self._clock.now_ns() - self.config.idle_s * NS
        for session in [s for s in self._sessions.values() if s.idle and s.touched_ns < before_ns]:
            del self._sessions[session.id]
            self._forgotten += 1
            self._newly_forgotten.append(session.id)


def _outcome(session: EpisodeSession, score: Score, age_ns: int) -> OutgoingScore:
    return OutgoingScore(session_id=session.id, score=score, age_s=age_ns / NS)
