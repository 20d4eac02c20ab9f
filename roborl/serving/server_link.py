"""The listening end of every link."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from roborl.clock import NS, Clock, Every, MonotonicClock
from roborl.codec import Part
from roborl.errors import HandshakeMismatch, WireError
from roborl.serving.handshake import Handshake, mismatch
from roborl.serving.messages import BEAT_S, SILENCE_S, Message, read_message, write_message
from roborl.serving.security import Keys
from roborl.serving.sockets import Limits, Socket

_FORGET_S = 60.0
_MAX_PEERS = 256

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Peer:
    """A client as its server sees it.

    Attributes:
        address: Where replies go; changes when the client reconnects.
        client: Random name of the client object, kept over reconnections.
        name: What the client calls itself.
        heard_ns: When it was last heard.
        note: Newest note from it.
        own_note: Newest note to it.
    """

    address: bytes
    client: str
    name: str
    heard_ns: int
    note: Mapping[str, Any] = field(default_factory=dict)
    own_note: Mapping[str, Any] = field(default_factory=dict)


class ServerLink:
    """The listening end.

    Args:
        endpoint: Address; port 0 takes a free one.
        link: What is spoken here: "steps", "weights" or "scores".
        handshake: What clients must agree with.
        welcome: Called with each greeting; returns what the welcome carries besides, None for no answer yet: the client
            greets again. May raise WireError, and HandshakeMismatch to refuse the client with these words.
        keys: CURVE keys; None only on one machine.
        limits: Bounds of the socket.
        clock: For liveness.

    Attributes:
        endpoint: The address bound.
        instance: Random name of this server object; a client that sees another one knows that it restarted.
        peers: Welcomed clients by address.
        refusals: The newest handshake mismatches.
        counters: "malformed", "unknown", "refused", "unsent", "greeted": how often.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        link: str,
        handshake: Handshake,
        welcome: Callable[[Peer, Message], Mapping[str, Any] | None],
        keys: Keys | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._socket = Socket(endpoint, listen=True, keys=keys, limits=limits or Limits())
        self._link, self._handshake, self._welcome = link, handshake, welcome
        self._clock = clock or MonotonicClock()
        self._beats = Every(BEAT_S, self._clock)
        self.endpoint = self._socket.endpoint
        self.instance = secrets.token_hex(8)
        self.peers: dict[bytes, Peer] = {}
        self.refusals: deque[HandshakeMismatch] = deque(maxlen=16)
        self.counters: Counter[str] = Counter()

    def receive(self, timeout_s: float, *, most: int = 64) -> list[tuple[Peer, Message]]:
        """Return up to ``most`` messages of welcomed clients; wait ``timeout_s`` for the first, or until :meth:`wake`."""
        # Sockets wait in real time, whatever the clock of liveness says.
        until_s = time.monotonic() + timeout_s
        while True:
            self._beat()
            found = self._drain(most)
            left_s = until_s - time.monotonic()
            if found or left_s <= 0 or self._socket.wait(min(left_s, BEAT_S)):
                return found

    def wake(self) -> None:
        """End a :meth:`receive` that waits in another thread. The only method that any thread may call."""
        self._socket.wake()

    def send(self, peer: Peer, kind: str, payload: Part | None = None, /, **fields: Any) -> bool:
        """Queue a message; return False where the peer is gone or does not take what it is sent."""
        if self._socket.send([peer.address, *write_message(kind, fields, payload)]):
            return True
        self.counters["unsent"] += 1
        return False

    def alive(self, peer: Peer) -> bool:
        """Tell whether ``peer`` was heard within the last second."""
        return self._clock.now_ns() - peer.heard_ns < SILENCE_S * NS

    def set_note(self, peer: Peer, note: Mapping[str, Any]) -> None:
        """Let ``peer`` know ``note``: now and with every beat, until another replaces it."""
        peer.own_note = dict(note)
        self.send(peer, "beat", note=peer.own_note)

    def forget(self, peer: Peer) -> None:
        """Take a client for gone: should it still speak, it must greet first."""
        self.peers.pop(peer.address, None)

    def malformed(self, peer: Peer | None, error: WireError) -> None:
        """Count a message that does not follow the protocol; the first of each thousand is logged."""
        if self.counters["malformed"] % 1000 == 0:
            log.warning("%s link: bad message from %s: %s", self._link, peer.name if peer else "?", error)
        self.counters["malformed"] += 1

    def close(self) -> None:
        """Free the address; what is queued is dropped."""
        self._socket.close()

    def _drain(self, most: int) -> list[tuple[Peer, Message]]:
        found: list[tuple[Peer, Message]] = []
        for _ in range(most):
            parts = self._socket.receive()
            if parts is None:
                break
            address = bytes(parts[0])
            peer = self.peers.get(address)
            try:
                message = read_message(parts[1:])
                if message.kind == "hello":
                    self._greet(address, message)
                elif peer is None:
                    self.counters["unknown"] += 1
                    self._socket.send([address, *write_message("who", {})])
                else:
                    peer.heard_ns = self._clock.now_ns()
                    if message.kind == "beat":
                        peer.note = message.take("note", dict)
                    else:
                        found.append((peer, message))
            except WireError as error:
                self.malformed(peer, error)
        return found

    def _greet(self, address: bytes, message: Message) -> None:
        name, client = message.take("name", str)[:64], message.take("client", str)
        theirs = Handshake.from_wire(message.fields.get("handshake"))
        peer = Peer(address=address, client=client, name=name, heard_ns=self._clock.now_ns())
        try:
            if message.fields.get("link") != self._link:
                raise mismatch("link", ours=self._link, theirs=message.fields.get("link"), peer=name)
            self._handshake.check(theirs, peer=name)
            extra = self._welcome(peer, message)
        except HandshakeMismatch as refusal:
            self.counters["refused"] += 1
            if not any(str(refusal) == str(earlier) for earlier in self.refusals):
                log.warning("%s link refuses %s: %s", self._link, name, refusal)
            self.refusals.append(refusal)
            answer = {"link": self._link, "handshake": self._handshake.to_wire(), **_words(refusal)}
            self._socket.send([address, *write_message("refused", answer)])
            return
        if extra is None:
            return
        for old in [known for known in self.peers.values() if known.client == client]:
            peer.own_note, peer.note = old.own_note, old.note
            del self.peers[old.address]
        if len(self.peers) >= _MAX_PEERS:
            raise WireError("This server has too many clients", seen=len(self.peers), allowed=_MAX_PEERS - 1)
        self.peers[address] = peer
        self.counters["greeted"] += 1
        self.send(
            peer,
            "welcome",
            link=self._link,
            handshake=self._handshake.to_wire(),
            instance=self.instance,
            note=peer.own_note,
            **extra,
        )

    def _beat(self) -> None:
        if not self._beats.due():
            return
        now_ns = self._clock.now_ns()
        for peer in list(self.peers.values()):
            if now_ns - peer.heard_ns > _FORGET_S * NS:
                del self.peers[peer.address]
            else:
                self._socket.send([peer.address, *write_message("beat", {"note": peer.own_note})])


def _words(refusal: HandshakeMismatch) -> dict[str, str]:
    return {part: str(getattr(refusal, part)) for part in ("problem", "seen", "allowed", "remedy")}
