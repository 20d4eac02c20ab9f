"""The labeller: shows the store's frames to a reward model and writes what it says as progress columns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from roborl.clock import NS, Clock, MonotonicClock
from roborl.data.episodes import EpisodeInfo
from roborl.errors import DatasetError
from roborl.loops.learner.episode_labels import EpisodeLabels, LabelConfig, StrideControl, decided
from roborl.loops.learner.judging import Verdicts, why_unjudged
from roborl.loops.learner.label_protocols import Column, LabelStore
from roborl.loops.learner.lateness import Lateness
from roborl.loops.score_link import ScoreLink, ServedJudge
from roborl.types import EpisodeKey, Observation, Score

log = logging.getLogger(__name__)

# A session is lost to silence after so many turns at least.
_TURNS_OF_PATIENCE = 4


@dataclass
class _Session:
    labels: EpisodeLabels
    name: str
    heard_ns: int
    # Observations read and not sent yet: opening a recording costs more than all the rest of a turn.
    ahead: Iterator[Observation] = field(default_factory=lambda: iter(()))
    held: Observation | None = None

    def peek(self, index: int, read: Callable[[int], Iterable[Observation]]) -> Observation | None:
        """Return the observation to be sent next, which is ``index``; None where it is not stored yet."""
        if self.held is None:
            self.held = next(self.ahead, None)
        if self.held is None:
            self.ahead = iter(read(index))
            self.held = next(self.ahead, None)
        return self.held


class Labeller:
    """One turn: send frames that are due, take in scores, write complete rows, watch deadlines.

    Args:
        store: Frames and columns.
        link: The reward server.
        config: Window, stride, deadlines.
        events: Takes one line per thing worth telling.
        verdicts: Judges the episodes whose outcome is left to the reward model; None where nobody does.
        clock: The clock.

    Attributes:
        counters: ``scored`` frames, ``missing`` replies, ``rebuilt`` sessions, ``held`` episodes, ``changed`` labels that came
            out otherwise on a second look, ``foreign`` scores of another version, ``verdicts`` given, ``unjudged`` episodes
            whose labels allow no verdict, which are trained on without one, ``unreadable`` episodes whose recording is torn,
            ``refused`` episodes whose task the reward model does not judge.
    """

    def __init__(
        self,
        store: LabelStore,
        link: ScoreLink,
        config: LabelConfig,
        *,
        events: Callable[[dict[str, Any]], None],
        verdicts: Verdicts | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store, self._link, self._config, self._events = store, link, config, events
        self._verdicts = verdicts
        self._clock: Clock = clock or MonotonicClock()
        self._strides = StrideControl(config)
        self._judge: ServedJudge | None = None
        active = store.active()
        # What the learner reads, and what the judge's labels go into: two while another version catches up.
        self._read = self._column = None if active is None else store.column(active)
        self._caught_up = False
        self._earlier: set[EpisodeKey] = set()
        self._sessions: dict[EpisodeKey, _Session] = {}
        self._lateness = Lateness(config.deadline_s)
        self._retry_ns: dict[EpisodeKey, int] = {}
        self._finished: set[EpisodeKey] = set()
        self._found: Sequence[EpisodeInfo] | None = None
        self._episodes: dict[EpisodeKey, EpisodeInfo] = {}
        self._met_ns = self._listened_ns = self._clock.now_ns()
        self._patience_ns = 0
        self.backlog = self._behind = 0
        names = ("scored", "missing", "rebuilt", "held", "changed", "foreign", "verdicts", "unjudged")
        self.counters = dict.fromkeys((*names, "unreadable", "refused"), 0)

    def turn(self, timeout_s: float = 0.02) -> bool:
        """Do what is due; return whether anything was sent or came in."""
        judge = self._link.judge()
        if judge is not None:
            self._met_ns = self._clock.now_ns()
            if judge != self._judge:
                self._switch(judge)
            self._judge = judge
        episodes = self._unfinished()
        self._watch_deadlines(episodes)
        column = self._column
        if self._judge is None or column is None:
            self._link.poll(timeout_s)
            return False
        sent = judge is not None and self._send(episodes, column)
        received = self._receive(episodes, column, 0.0 if sent else timeout_s)
        self._watch_silence()
        if column is not self._read and self._caught_up:
            self._activate(column)
        return sent or received

    def report(self) -> dict[str, Any]:
        """Return the counters and how far labels are behind."""
        return {"backlog_frames": self.backlog, "stride": self._strides.stride, **self.counters}

    def _unfinished(self) -> Mapping[EpisodeKey, EpisodeInfo]:
        """Return the episodes that are to be labelled, and those that were finished since the store last looked.

        While another version catches up, all: the learner may wait for labels in the column that it reads.
        """
        found = self._store.episodes()
        if found is not self._found:
            self._found = found
            done = self._finished if self._column is self._read else ()
            self._episodes = {info.key: info for info in found if info.key not in done}
        return self._episodes

    def _switch(self, judge: ServedJudge) -> None:
        """Start the column of another version; a learner that trains with one changes over when it has caught up."""
        for session in self._sessions.values():
            self._link.close(session.name)
        self._sessions.clear()
        self._finished.clear()
        self._lateness.clear()
        self._found = None
        if self._verdicts is not None:
            self._verdicts.begin()
        if self._judge is None or self._judge.info.version != judge.info.version:
            self._earlier = {info.key for info in self._store.episodes() if info.end is not None}
        self._judge, self._column = judge, self._store.column(judge.info.version)
        self._caught_up = False
        self._events({"event": "judge", "version": judge.info.version, "about": dict(judge.info.about)})
        if self._read is None:
            self._activate(self._column)

    def _activate(self, column: Column) -> None:
        column.activate()
        self._read, self._found = column, None
        assert self._judge is not None
        self._events({"event": "column", "version": self._judge.info.version})

    def _watch_deadlines(self, episodes: Mapping[EpisodeKey, EpisodeInfo]) -> None:
        """See how far labels are behind, and let episodes go that wait too long in the column that the learner reads."""
        column, read = self._column, self._read
        self.backlog, self._behind, caught_up = 0, 0, True
        for key, info in episodes.items():
            labelled, awaited = self._progress(info, column)
            if key not in self._finished:
                missing = awaited - labelled
                self.backlog += missing
                self._behind += 0 if self._can_wait(info) else missing
                caught_up = caught_up and (missing <= 0 or info.end is None)
                if missing <= 0 and self._nothing_follows(info):
                    self._finish(key, column)
            if read is not None and read is not column:
                labelled, awaited = self._progress(info, read)
            if read is not None:
                self._let_go(info, read, labelled, awaited)
        self._caught_up = caught_up

    def _progress(self, info: EpisodeInfo, column: Column | None) -> tuple[int, int]:
        """Return how many observations of an episode a column has labelled, and how many it could have."""
        labelled, stride = (0, 0) if column is None else (column.labelled(info.key), column.stride(info.key))
        return labelled, decided(info.observations, info.end is not None, stride or self._config.stride)

    def _nothing_follows(self, info: EpisodeInfo) -> bool:
        """Return whether a judge that was met has nothing more to say of an episode that is labelled."""
        asked = self._judge is None or info.key in self._sessions or self._awaited(info)
        return info.end is not None and not asked

    def _let_go(self, info: EpisodeInfo, read: Column, labelled: int, awaited: int) -> None:
        """Let an episode go that waits too long; of what is recorded, and of verdicts, only a judge that is away lets go."""
        if labelled >= awaited:
            self._lateness.forget(info.key)
            return
        now = self._clock.now_ns()
        away = now - self._met_ns > self._config.deadline_s * NS
        late = away if info.recorded else self._lateness.late(info.key, labelled, awaited, now)
        if late and read.hold(info.key, verdict=away):
            self.counters["held"] += 1
            self._events({"event": "held", "episode": str(info.key), "unlabelled": awaited - labelled})
            log.warning(
                "Labels of %s are late by %g s: its potential is held", info.key, self._config.deadline_s
            )

    def _send(self, episodes: Mapping[EpisodeKey, EpisodeInfo], column: Column) -> bool:
        sent = waiting = False
        for info in sorted(episodes.values(), key=lambda info: (self._can_wait(info), info.ordinal)):
            if info.key in self._finished or not info.observations:
                continue
            session = self._sessions.get(info.key) or self._open(info, column)
            if session is None or (self._can_wait(info) and waiting):
                continue
            waiting = waiting or (not self._can_wait(info) and len(self._due(info, session)) > 0)
            try:
                sent |= self._push(info, session)
            except DatasetError as error:
                self._leave_out(info.key, column, "unreadable", error)
        return sent

    def _leave_out(self, key: EpisodeKey, column: Column, event: str, reason: object) -> None:
        """Go on without an episode that this judge can say no more of: it is trained on with the labels it has."""
        self._link.close(self._sessions.pop(key).name)
        self._finished.add(key)
        column.hold(key, verdict=True)
        self.counters[event] += 1
        self._events({"event": event, "episode": str(key), "reason": str(reason)})
        log.error("%s cannot be labelled any further: %s", key, reason)

    def _open(self, info: EpisodeInfo, column: Column) -> _Session | None:
        if self._clock.now_ns() < self._retry_ns.get(info.key, 0):
            return None
        labelled = column.labelled(info.key) >= info.observations > 0 and info.end is not None
        if len(self._sessions) >= self._places(info) or (labelled and not self._awaited(info)):
            return None
        stride = column.stride(info.key)
        if not stride:
            stride = self._choose_stride(info)
            if not column.set_stride(info.key, stride):
                self._retry_ns[info.key] = self._clock.now_ns() + int(self._config.retry_s * NS)
                return None
            if stride != self._config.stride:
                self._events({"event": "stride", "episode": str(info.key), "stride": stride})
        name = self._link.open(info.task)
        if name is None:
            return None
        session = _Session(EpisodeLabels(stride), name, self._patience_ns)
        self._sessions[info.key] = session
        return session

    def _choose_stride(self, info: EpisodeInfo) -> int:
        if self._verdicts is not None and self._verdicts.needs_every_frame(info):
            return 1
        return self._config.stride if self._can_wait(info) else self._strides.next_stride(self._behind)

    def _can_wait(self, info: EpisodeInfo) -> bool:
        """Return whether an episode is of the past: what the robot does now comes before it, and is not behind for it."""
        return info.recorded or info.key in self._earlier

    def _places(self, info: EpisodeInfo) -> int:
        """Return how many sessions there may be with this one; what can wait leaves one to what the robot does now."""
        sessions = self._config.sessions
        return sessions if not self._can_wait(info) or sessions == 1 else sessions - 1

    def _due(self, info: EpisodeInfo, session: _Session) -> range:
        return session.labels.due(info.observations, info.end is not None, self._config.window)

    def _push(self, info: EpisodeInfo, session: _Session) -> bool:
        labels, ended, due = session.labels, info.end is not None, self._due(info, session)
        if not labels.unanswered:
            session.heard_ns = self._patience_ns
        sent = False
        for index in due:
            observation = session.peek(index, partial(self._store.observations, info.key))
            score = labels.scored(index, info.observations, ended)
            if observation is None or not self._link.push(session.name, observation, score=score):
                break
            session.held, sent = None, True
            labels.send(index, score=score)
        return sent

    def _receive(self, episodes: Mapping[EpisodeKey, EpisodeInfo], column: Column, timeout_s: float) -> bool:
        scores, lost = self._link.poll(timeout_s)
        by_name = {session.name: (key, session) for key, session in self._sessions.items()}
        for name, refused in lost.items():
            if name in by_name and refused is None:
                self._lose(by_name[name][0], "the server does not know its session")
            elif name in by_name:
                self._leave_out(by_name[name][0], column, "refused", refused)
        for name, score in scores:
            key, session = by_name.get(name, (None, None))
            if key is None or session is None or key not in self._sessions:
                continue
            if self._judge is None or score.version not in ("", self._judge.info.version):
                self.counters["foreign"] += 1
                score = _unusable(score)
            if session.labels.receive(score):
                session.heard_ns = self._patience_ns
                self.counters["scored"] += 1
        for key, session in list(self._sessions.items()):
            info = episodes.get(key)
            if info is None:
                self._link.close(session.name)
                del self._sessions[key]
                continue
            self._write(info, session, column)
        return bool(scores)

    def _write(self, info: EpisodeInfo, session: _Session, column: Column) -> None:
        labels = session.labels
        before = labels.missing
        rows = labels.complete()
        # Before the rows are written: a frame that is labelled has been judged, whoever is killed.
        allowed = self._judge_episode(info, labels)
        if rows is not None:
            self.counters["missing"] += labels.missing - before
            known = column.labelled(info.key) - rows.start
            if known > 0 and not column.agrees(info.key, rows.first(known)):
                self.counters["changed"] += 1
                self._events({"event": "changed", "episode": str(info.key), "from": rows.start})
            if known < len(rows.progress):
                column.write(info.key, rows.after(max(0, known)))
        if not allowed:
            column.hold(
                info.key, verdict=True
            )  # It has all its labels: the verdict alone is no longer waited for.
        if info.end is not None and labels.done == info.observations:
            self._link.close(session.name)
            del self._sessions[info.key]
            self._finish(info.key, column)

    def _awaited(self, info: EpisodeInfo) -> bool:
        return self._verdicts is not None and self._verdicts.awaited(info)

    def _judge_episode(self, info: EpisodeInfo, labels: EpisodeLabels) -> bool:
        """Give the verdict on an episode where its labels allow one by now; return False where they never will."""
        if self._verdicts is None or self._judge is None or not self._awaited(info):
            return True
        verdict = self._verdicts.look(info, labels, self._judge)
        if verdict is not None:
            self.counters["verdicts"] += 1
            told = {"index": verdict.index, "success": verdict.success, "reward": verdict.reward}
            self._events({"event": "verdict", "episode": str(info.key), **told})
            return True
        if self._awaited(info):
            return True
        self.counters["unjudged"] += 1
        why = why_unjudged(labels)
        self._events({"event": "unjudged", "episode": str(info.key), "reason": why})
        log.warning("%s has no outcome: %s", info.key, why)
        return False

    def _finish(self, key: EpisodeKey, column: Column | None) -> None:
        self._finished.add(key)
        self._retry_ns.pop(key, None)
        if column is not None:
            column.finish(key)

    def _watch_silence(self) -> None:
        """Give up sessions that a working server would have answered.

        A server that died tells so when it is met again, and a slow one is waited for. What is counted is the time for
        replies, of each turn a part at most: while this side is busy elsewhere nobody listens.
        """
        assert self._judge is not None
        now, limit_ns = self._clock.now_ns(), int(self._judge.reply_limit_s * NS)
        self._patience_ns += min(now - self._listened_ns, limit_ns // _TURNS_OF_PATIENCE)
        self._listened_ns = now
        for key, session in list(self._sessions.items()):
            if session.labels.unanswered and self._patience_ns - session.heard_ns > limit_ns:
                self._lose(key, f"no reply for {self._judge.reply_limit_s:g} s")

    def _lose(self, key: EpisodeKey, reason: str) -> None:
        """Forget a session; the next turn opens another and shows it the episode from its first frame on."""
        session = self._sessions.pop(key, None)
        if session is None:
            return
        self._link.close(session.name)
        self._retry_ns[key] = self._clock.now_ns() + int(self._config.retry_s * NS)
        self.counters["rebuilt"] += 1
        self._events({"event": "session_lost", "episode": str(key), "reason": reason})


def _unusable(score: Score) -> Score:
    return Score(frame_id=score.frame_id, progress=0.0, raw=score.raw, valid=False, version=score.version)
