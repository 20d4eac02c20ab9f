"""The reward server's end of a score link: it moves messages, and knows nothing of models.

The owner polls for events and answers them: ``accept`` or ``refuse`` a session, ``send_score`` for each frame that wants
one, ``take`` for each that does not. Credits bound what a client may have under way, so a slow model fills the client's
memory and not the server's.
A session lives as long as the connection it was opened on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from roborl.clock import Clock
from roborl.errors import WireError
from roborl.serving.handshake import Handshake
from roborl.serving.messages import Message, sendable
from roborl.serving.score_events import (
    FramePushed,
    Lane,
    ServerEvent,
    SessionAsked,
    SessionGone,
    images_from_wire,
    score_to_wire,
)
from roborl.serving.security import Keys
from roborl.serving.server_link import Peer, ServerLink
from roborl.serving.sockets import Limits
from roborl.types import Score

log = logging.getLogger(__name__)

_LIMITS = Limits(part_bytes=32 << 20, queue=256)
_MAX_SESSIONS = 1024


@dataclass(slots=True, eq=False, kw_only=True)
class _Session:
    peer: Peer
    name: str  # as the client calls it
    cameras: frozenset[str]
    credits: int = 0  # frames under way that were granted; 0 until accepted
    waiting: set[int] = field(default_factory=set)


class ScoreServer:
    """Listens for score clients. One thread owns it; no call blocks longer than it is told to.

    Args:
        endpoint: Address to listen on; port 0 takes a free one, see :attr:`endpoint`.
        handshake: What every client must agree with; leave open what differs between sessions.
        keys: CURVE keys; None only on one machine.
        clock: For liveness.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        handshake: Handshake | None = None,
        keys: Keys | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._sessions: dict[str, _Session] = {}
        self._statistics: Mapping[str, Any] = {}
        self._events: list[ServerEvent] = []
        self._outbox: deque[tuple[Peer, str, dict[str, Any]]] = deque()
        self._link = ServerLink(
            endpoint,
            link="scores",
            handshake=handshake or Handshake(),
            welcome=self._welcome,
            keys=keys,
            limits=_LIMITS,
            clock=clock,
        )
        self.endpoint = self._link.endpoint
        self.refusals = self._link.refusals

    def poll(self, timeout_s: float, *, most: int = 64) -> list[ServerEvent]:
        """Return what happened, waiting ``timeout_s`` for the first event.

        Call at least five times a second, since the beats that tell clients of this side's life are sent from here.
        """
        self._flush()
        for peer, message in self._link.receive(timeout_s, most=most):
            try:
                self._answer(peer, message)
            except WireError as error:
                self._link.malformed(peer, error)
        known = set(map(id, self._link.peers.values()))
        for session in [key for key, value in self._sessions.items() if id(value.peer) not in known]:
            self._forget(session)
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """End a :meth:`poll` that waits in another thread. The only method that any thread may call."""
        self._link.wake()

    def accept(self, session: str, *, version: str, credits: int = 8) -> None:
        """Open a session that was asked for.

        Args:
            session: Its name.
            version: Version of what will judge it.
            credits: How many frames may be under way at a time, 1 or more.
        """
        if (entry := self._sessions.get(session)) is not None:
            entry.credits = credits
            self._send(entry.peer, "opened", session=entry.name, version=version, credits=credits)

    def refuse(self, session: str, reason: str, *, full: bool = False) -> None:
        """Turn a session down.

        Args:
            session: Its name.
            reason: Why, for the person at the client.
            full: Whether it is for want of room: then the client may ask again later.
        """
        if (entry := self._sessions.pop(session, None)) is not None:
            self._send(entry.peer, "refusal", session=entry.name, reason=sendable(reason), full=full)

    def send_score(self, session: str, score: Score) -> bool:
        """Answer a frame and give its credit back; return False where the session is gone.

        Raises:
            WireError: If that frame does not wait for a score.
        """
        entry = self._sessions.get(session)
        if entry is None:
            return False
        if score.frame_id not in entry.waiting:
            raise WireError(
                "A score answers a frame that does not wait for one",
                seen=score.frame_id,
                allowed=sorted(entry.waiting),
            )
        entry.waiting.discard(score.frame_id)
        self._send(entry.peer, "score", session=entry.name, score=score_to_wire(score))
        return True

    def take(self, session: str, frame_id: int) -> None:
        """Give back the credit of a frame that gets no score: there is room for another."""
        entry = self._sessions.get(session)
        if entry is not None and frame_id in entry.waiting:
            entry.waiting.discard(frame_id)
            self._send(entry.peer, "taken", session=entry.name, frame_id=frame_id)

    def drop(self, session: str, reason: str) -> None:
        """End a session from this side: its client is told that it is lost, and may rebuild it."""
        if (entry := self._sessions.pop(session, None)) is not None:
            self._send(entry.peer, "unknown", session=entry.name, reason=sendable(reason))

    def set_statistics(self, statistics: Mapping[str, Any]) -> None:
        """Set what clients that ask for statistics are told besides the transport's own: plain values."""
        self._statistics = dict(statistics)

    def statistics(self) -> dict[str, Any]:
        """Return what a client is told that asks: the owner's statistics, and the transport's under "transport"."""
        waiting = sum(len(entry.waiting) for entry in self._sessions.values())
        transport = {
            **self._link.counters,
            "clients": sum(map(self._link.alive, self._link.peers.values())),
            "sessions": len(self._sessions),
            "frames_waiting": waiting,
        }
        return {**self._statistics, "transport": transport}

    def close(self) -> None:
        """Free the address; clients see silence, and lose their sessions when another server takes over."""
        self._link.close()

    def _welcome(self, peer: Peer, message: Message) -> Mapping[str, Any]:
        # Messages of the old connection may be lost on either way, and a fold over an episode bears no hole.
        for session in [key for key, entry in self._sessions.items() if entry.peer.client == peer.client]:
            self._forget(session)
        return {}

    def _forget(self, session: str) -> None:
        del self._sessions[session]
        self._events.append(SessionGone(session=session))

    def _answer(self, peer: Peer, message: Message) -> None:
        if message.kind == "statistics":
            self._send(peer, "statistics", request=message.count("request"), statistics=self.statistics())
            return
        name = message.take("session", str)
        session = f"{peer.client}/{name}"
        entry = self._sessions.get(session)
        if message.kind == "open":
            self._open(peer, session, name, message)
        elif entry is None or entry.peer is not peer:
            self._send(peer, "unknown", session=name, reason="the server does not know it")
        elif message.kind == "close":
            self._forget(session)
        elif message.kind == "frame":
            try:
                self._frame(session, entry, message)
            except WireError as error:
                self._forget(session)
                self._send(peer, "unknown", session=name, reason=str(error))
                raise
        else:
            raise WireError("A score server got an unknown message", seen=message.kind)

    def _open(self, peer: Peer, session: str, name: str, message: Message) -> None:
        cameras = message.take("cameras", list)
        lane = message.take("lane", str)
        if not all(type(camera) is str for camera in cameras) or lane not in list(Lane):
            raise WireError("A session is asked for in a wrong form", seen=(lane, cameras))
        asked = SessionAsked(
            session=session,
            task=message.take("task", str),
            cameras=tuple(cameras),
            model=message.take("model", str),
            lane=Lane(lane),
            references=message.take("references", dict),
        )
        if len(self._sessions) >= _MAX_SESSIONS or session in self._sessions:
            reason = f"it is open already, or the server has {_MAX_SESSIONS} sessions"
            self._send(peer, "refusal", session=name, reason=reason, full=True)
            return
        self._sessions[session] = _Session(peer=peer, name=name, cameras=frozenset(cameras))
        self._events.append(asked)

    def _frame(self, session: str, entry: _Session, message: Message) -> None:
        frame_id, wanted = message.count("frame_id"), message.take("score", bool)
        images = images_from_wire(message.fields.get("images"))
        state = message.take("state", np.ndarray)
        if state.dtype != np.float32 or state.ndim != 1 or set(images) != entry.cameras:
            raise WireError(
                "A frame does not fit its session",
                seen=f"cameras {sorted(images)}, state {state.dtype} {state.shape}",
                allowed=f"cameras {sorted(entry.cameras)}, state float32 (d,)",
            )
        if len(entry.waiting) >= entry.credits or frame_id in entry.waiting:
            raise WireError(
                "A client pushes more than it has credit for",
                seen=frame_id,
                allowed=f"{entry.credits} frames",
            )
        entry.waiting.add(frame_id)
        self._events.append(
            FramePushed(session=session, frame_id=frame_id, images=images, state=state, score=wanted)
        )

    def _send(self, peer: Peer, kind: str, /, **fields: Any) -> None:
        self._outbox.append((peer, kind, fields))
        self._flush()

    def _flush(self) -> None:
        # Bounded by the credits granted. A client that takes nothing holds the others up only until its silence drops it.
        while self._outbox:
            peer, kind, fields = self._outbox[0]
            present = self._link.peers.get(peer.address) is peer
            try:
                if present and not self._link.send(peer, kind, **fields) and self._link.alive(peer):
                    return
            except WireError as error:
                self._give_up(peer, kind, fields.get("session"), error)
            self._outbox.popleft()

    def _give_up(self, peer: Peer, kind: str, name: str | None, error: WireError) -> None:
        """Let go of a message that cannot be written, and of its session: the client would wait for it for ever."""
        self._link.counters["unsendable"] += 1
        if self._link.counters["unsendable"].bit_count() == 1:  # the 1st, 2nd, 4th: it must not fill the log
            log.error("scores link: a %r message to %s cannot be sent: %s", kind, peer.name, error)
        session = f"{peer.client}/{name}"
        if session in self._sessions:
            self._forget(session)
            reason = "what the server had to say of it cannot be sent"
            self._outbox.append((peer, "unknown", {"session": name, "reason": reason}))
