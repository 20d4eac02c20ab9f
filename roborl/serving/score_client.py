"""The asking end of a score link: sessions, frames pushed once, scores back by frame id, and a deadline on each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from roborl.clock import NS, Clock, MonotonicClock
from roborl.errors import WireError
from roborl.serving.client_link import ClientLink
from roborl.serving.handshake import Handshake
from roborl.serving.messages import Message
from roborl.serving.score_events import (
    ClientEvent,
    Lane,
    Scored,
    ScoreOverdue,
    SessionLost,
    SessionOpened,
    SessionRefused,
    score_from_wire,
)
from roborl.serving.security import Keys
from roborl.serving.sockets import Limits
from roborl.types import Image, Vector

_LIMITS = Limits(part_bytes=32 << 20, queue=256)
_NO_STATE = np.empty(0, np.float32)


@dataclass(slots=True, eq=False, kw_only=True)
class _Session:
    lane: Lane
    asked: Mapping[str, Any]
    sent: bool = False
    open: bool = False
    credits: int = 0
    under_way: dict[int, int] = field(default_factory=dict)  # frame id: when it was pushed, ns
    overdue: set[int] = field(default_factory=set)
    newest: dict[str, Any] | None = None  # live lane: the frame that waits for credit
    # Live lane: what goes out before the newest, and is not replaced.
    unscored: list[dict[str, Any]] = field(default_factory=list)


class ScoreClient:
    """Asks a reward server. One thread owns it; no call blocks longer than it is told to.

    Args:
        endpoint: Address of the server.
        name: What to call this side in logs.
        handshake: What both sides must agree on.
        deadline_s: How long a frame may wait for its score before :class:`ScoreOverdue` is reported.
        keys: CURVE keys; None only on one machine.
        clock: For liveness and deadlines.

    Attributes:
        skipped: Frames of live sessions that newer ones replaced before they were sent.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        name: str,
        handshake: Handshake | None = None,
        deadline_s: float = 10.0,
        keys: Keys | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.skipped = 0
        self._clock = clock or MonotonicClock()
        self._deadline_ns = int(deadline_s * NS)
        self._numbers = itertools.count(1)
        self._sessions: dict[str, _Session] = {}
        self._events: list[ClientEvent] = []
        self._statistics: tuple[int, Mapping[str, Any]] = (0, {})
        self._link = ClientLink(
            endpoint,
            link="scores",
            name=name,
            handshake=handshake or Handshake(),
            keys=keys,
            limits=_LIMITS,
            clock=self._clock,
        )

    @property
    def connected(self) -> bool:
        """Whether the server has welcomed this side and not forgotten it."""
        return self._link.up

    @property
    def alive(self) -> bool:
        """Whether the server was heard within the last second."""
        return self._link.alive

    def open_session(
        self,
        task: str,
        cameras: Sequence[str],
        *,
        model: str = "",
        lane: Lane = Lane.LABEL,
        references: Mapping[str, Any] | None = None,
    ) -> str:
        """Ask for a session and return its name at once; :class:`SessionOpened` follows from :meth:`poll`.

        Where the server is away, it is asked when it comes back.

        Args:
            task: The instruction in words.
            cameras: Names of the cameras whose pictures every frame will have.
            model: Name of the reward model; empty for the server's only one.
            lane: ``Lane.LABEL``: every frame in order. ``Lane.LIVE``: the newest, older ones may be skipped.
            references: Plain values or arrays that the model may want.
        """
        session = f"s{next(self._numbers)}"
        asked = {
            "task": task,
            "cameras": list(cameras),
            "model": model,
            "lane": str(lane),
            "references": dict(references or {}),
        }
        self._sessions[session] = _Session(lane=Lane(lane), asked=asked)
        self._ask()
        return session

    def push_frame(
        self,
        session: str,
        frame_id: int,
        images: Mapping[str, Image],
        *,
        state: Vector | None = None,
        score: bool = True,
    ) -> bool:
        """Send an observation, once; scores refer to it by id.

        Args:
            session: An open session.
            frame_id: Index of the observation in its episode.
            images: Pictures by camera, uint8 (h, w, 3); not to be changed before their score is here.
            state: Proprioception, float32 (d,), where the model wants it.
            score: False to let the model see the frame without asking for a score.

        Returns:
            False where the frame was not taken, for want of credit or of an open session: poll, and push it again.
            A live session takes every frame, and sends the newest when it may, after those that are only to be seen.
        """
        entry = self._sessions.get(session)
        if entry is None:
            return False
        frame = {
            "frame_id": frame_id,
            "images": dict(images),
            "state": _NO_STATE if state is None else state,
            "score": score,
        }
        if entry.lane is Lane.LIVE:
            if score:
                self.skipped += entry.newest is not None
                entry.newest = frame
            else:
                entry.unscored.append(frame)
            self._send_newest(session, entry)
            return True
        return self._push(session, entry, frame)

    def poll(self, timeout_s: float = 0.0) -> list[ClientEvent]:
        """Return what happened, waiting ``timeout_s`` for the first event.

        Raises:
            HandshakeMismatch: If the server and this side do not fit together.
        """
        for message in self._link.receive(0.0 if self._events else timeout_s):
            try:
                self._take(message)
            except WireError as error:
                self._link.malformed(error)
        self._ask()
        now_ns = self._clock.now_ns()
        for session, entry in self._sessions.items():
            self._send_newest(session, entry)
            for frame_id, pushed_ns in entry.under_way.items():
                if now_ns - pushed_ns > self._deadline_ns and frame_id not in entry.overdue:
                    entry.overdue.add(frame_id)
                    self._events.append(ScoreOverdue(session=session, frame_id=frame_id))
        events, self._events = self._events, []
        return events

    def under_way(self, session: str) -> list[int]:
        """Return the ids of frames that were pushed and have no score yet, oldest first."""
        entry = self._sessions.get(session)
        return [] if entry is None else list(entry.under_way)

    def close_session(self, session: str) -> None:
        """Say that no more frames come; scores still under way are dropped."""
        entry = self._sessions.pop(session, None)
        if entry is not None and entry.sent:
            self._link.send("close", session=session)

    def statistics(self, timeout_s: float) -> Mapping[str, Any]:
        """Ask for the server's statistics and wait for them; events that arrive meanwhile are kept for :meth:`poll`.

        Raises:
            DeadlineExceeded: If they do not come in time.
            HandshakeMismatch: If the server and this side do not fit together.
        """
        request = next(self._numbers)
        sent = False

        def ask(wait_s: float) -> Mapping[str, Any] | None:
            nonlocal sent
            sent = sent or (self._link.up and self._link.send("statistics", request=request))
            self._events = self.poll(wait_s) + self._events
            number, statistics = self._statistics
            return statistics if number == request else None

        return self._link.wait_for(timeout_s, ask)

    def wait_connected(self, timeout_s: float) -> None:
        """Wait for the server's welcome; events that arrive meanwhile are kept for :meth:`poll`.

        Raises:
            DeadlineExceeded: If it does not come in time.
            HandshakeMismatch: If the server and this side do not fit together.
        """

        def welcomed(wait_s: float) -> bool | None:
            self._events = self.poll(wait_s) + self._events
            return self.connected or None

        self._link.wait_for(timeout_s, welcomed)

    def counters(self) -> dict[str, int]:
        """Return how often something happened on this link since it was made."""
        return {**self._link.counters, "skipped": self.skipped}

    def close(self) -> None:
        """Leave; the server forgets the sessions."""
        self._link.close()

    def _take(self, message: Message) -> None:
        if message.kind == "welcome":
            for session in [name for name, entry in self._sessions.items() if entry.sent]:
                self._lose(session, "the connection to the server was lost")
            return
        if message.kind == "statistics":
            self._statistics = (message.count("request"), message.take("statistics", dict))
            return
        session = message.take("session", str)
        entry = self._sessions.get(session)
        if entry is None:
            return  # closed on this side while the message was under way
        match message.kind:
            case "opened":
                entry.open, entry.credits = True, message.count("credits")
                version = message.take("version", str)
                self._events.append(SessionOpened(session=session, version=version, credits=entry.credits))
            case "refusal":
                del self._sessions[session]
                reason, full = message.take("reason", str), message.fields.get("full") is True
                self._events.append(SessionRefused(session=session, reason=reason, full=full))
            case "unknown":
                self._lose(session, message.take("reason", str))
            case "taken":
                entry.under_way.pop(message.count("frame_id"), None)
            case "score":
                score = score_from_wire(message.fields.get("score"))
                pushed_ns = entry.under_way.pop(score.frame_id, None)
                if pushed_ns is None:
                    raise WireError("A score came for a frame that waits for none", seen=score.frame_id)
                entry.overdue.discard(score.frame_id)
                took_ms = (self._clock.now_ns() - pushed_ns) / 1e6
                self._events.append(Scored(session=session, score=score, round_trip_ms=took_ms))
            case unknown:
                raise WireError("A score client got an unknown message", seen=unknown)

    def _lose(self, session: str, reason: str) -> None:
        del self._sessions[session]
        self._events.append(SessionLost(session=session, reason=reason))

    def _ask(self) -> None:
        for session, entry in self._sessions.items():
            if not entry.sent and self._link.up:
                entry.sent = self._link.send("open", session=session, **entry.asked)

    def _send_newest(self, session: str, entry: _Session) -> None:
        while entry.unscored:
            if not self._push(session, entry, entry.unscored[0]):
                return
            del entry.unscored[0]
        if entry.newest is not None and self._push(session, entry, entry.newest):
            entry.newest = None

    def _push(self, session: str, entry: _Session, frame: Mapping[str, Any]) -> bool:
        if not (entry.open and self._link.up) or len(entry.under_way) >= entry.credits:
            return False
        if frame["frame_id"] in entry.under_way:
            raise WireError("A frame was pushed twice", seen=frame["frame_id"])
        if not self._link.send("frame", session=session, **frame):
            return False
        entry.under_way[frame["frame_id"]] = self._clock.now_ns()
        return True
