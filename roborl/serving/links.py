"""The two ends of every link: greeting, heartbeats, notes, and refusal of what does not fit.

A client connects, greets with its :class:`Handshake` until it is welcomed, and greets again whenever the server does
not know it any more. Both sides beat five times a second; each beat carries a *note*, the newest small map that one
side wants the other to know (its state, not a command, so losing one costs nothing). All calls return at once or after
the given time; one thread owns a link.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from roborl.clock import NS, Clock, Deadline, MonotonicClock
from roborl.codec import Part
from roborl.errors import DeadlineExceeded, HandshakeMismatch, WireError
from roborl.serving.handshake import Handshake, mismatch
from roborl.serving.messages import Message, read_message, write_message
from roborl.serving.security import Keys
from roborl.serving.sockets import Limits, Socket

BEAT_S = 0.2
SILENCE_S = 0.9
_GREET_S = 0.25
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
        welcome: Called with each greeting; returns what the welcome carries besides. May raise WireError.
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
        welcome: Callable[[Peer, Message], Mapping[str, Any]],
        keys: Keys | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._socket = Socket(endpoint, listen=True, keys=keys, limits=limits or Limits())
        self._link, self._handshake, self._welcome = link, handshake, welcome
        self._clock = clock or MonotonicClock()
        self._next_beat_ns = self._clock.now_ns()
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
        try:
            if message.fields.get("link") != self._link:
                raise mismatch("link", ours=self._link, theirs=message.fields.get("link"), peer=name)
            self._handshake.check(theirs, peer=name)
        except HandshakeMismatch as refusal:
            self.counters["refused"] += 1
            if not any(str(refusal) == str(earlier) for earlier in self.refusals):
                log.warning("%s link refuses %s: %s", self._link, name, refusal)
            self.refusals.append(refusal)
            answer = {"link": self._link, "handshake": self._handshake.to_wire()}
            self._socket.send([address, *write_message("refused", answer)])
            return
        peer = Peer(address=address, client=client, name=name, heard_ns=self._clock.now_ns())
        extra = self._welcome(peer, message)
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
        now_ns = self._clock.now_ns()
        if now_ns < self._next_beat_ns:
            return
        self._next_beat_ns = now_ns + int(BEAT_S * NS)
        for peer in list(self.peers.values()):
            if now_ns - peer.heard_ns > _FORGET_S * NS:
                del self.peers[peer.address]
            else:
                self._socket.send([peer.address, *write_message("beat", {"note": peer.own_note})])


class ClientLink:
    """The connecting end.

    Args:
        endpoint: Address of the server.
        link: What is spoken here: "steps", "weights" or "scores".
        name: What to call this client in logs.
        handshake: What the server must agree with.
        hello: Called for each greeting; returns what it carries besides.
        keys: CURVE keys; None only on one machine.
        limits: Bounds of the socket.
        clock: For liveness.

    Attributes:
        up: Welcomed by the server and not told otherwise since.
        note: Newest note from the server.
        counters: "malformed", "unsent", "welcomed": how often.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        link: str,
        name: str,
        handshake: Handshake,
        hello: Callable[[], Mapping[str, Any]] = dict,
        keys: Keys | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._socket = Socket(endpoint, listen=False, keys=keys, limits=limits or Limits())
        self._link, self._name, self._handshake, self._hello = link, name, handshake, hello
        self._locked = keys is not None
        self._clock = clock or MonotonicClock()
        self._client = secrets.token_hex(8)
        self._heard_ns: int | None = None
        self._next_beat_ns = self._clock.now_ns()
        self._own_note: Mapping[str, Any] = {}
        self.endpoint = endpoint
        self.up = False
        self.note: Mapping[str, Any] = {}
        self.counters: Counter[str] = Counter()

    @property
    def alive(self) -> bool:
        """Whether the server was heard within the last second."""
        return self._heard_ns is not None and self._clock.now_ns() - self._heard_ns < SILENCE_S * NS

    def receive(self, timeout_s: float, *, most: int = 64) -> list[Message]:
        """Return up to ``most`` messages, "welcome" among them, waiting ``timeout_s`` for the first.

        Raises:
            HandshakeMismatch: If the server and this side do not fit together.
        """
        # Sockets wait in real time, whatever the clock of liveness says.
        until_s = time.monotonic() + timeout_s
        while True:
            self._beat()
            found = self._drain(most)
            left_s = until_s - time.monotonic()
            if found or left_s <= 0:
                return found
            self._socket.wait(min(left_s, BEAT_S if self.up else 0.05))

    def send(self, kind: str, payload: Part | None = None, /, **fields: Any) -> bool:
        """Queue a message; return False where the server is away or does not take what it is sent."""
        if self._socket.send(write_message(kind, fields, payload)):
            return True
        self.counters["unsent"] += 1
        return False

    def set_note(self, note: Mapping[str, Any]) -> None:
        """Let the server know ``note``: now and with every beat, until another replaces it."""
        self._own_note = dict(note)
        if self.up:
            self.send("beat", note=self._own_note)

    def malformed(self, error: WireError) -> None:
        """Count a message that does not follow the protocol; the first of each thousand is logged."""
        if self.counters["malformed"] % 1000 == 0:
            log.warning("%s link: bad message from the server: %s", self._link, error)
        self.counters["malformed"] += 1

    def wait_for[T](self, timeout_s: float, poll: Callable[[float], T | None]) -> T:
        """Call ``poll`` with short waits until it returns something.

        Raises:
            DeadlineExceeded: If ``timeout_s`` have passed before.
        """
        deadline = Deadline(timeout_s)
        while True:
            found = poll(min(0.1, deadline.remaining_s()))
            if found is not None:
                return found
            if deadline.passed:
                raise self._away(timeout_s)

    def close(self) -> None:
        """Leave; what is queued is dropped."""
        self._socket.close()

    def _drain(self, most: int) -> list[Message]:
        found: list[Message] = []
        for _ in range(most):
            parts = self._socket.receive()
            if parts is None:
                break
            try:
                message = read_message(parts)
                self._heard_ns = self._clock.now_ns()
                match message.kind:
                    case "beat":
                        self.note = message.take("note", dict)
                    case "who":
                        self.up = False
                    case "refused" | "welcome":
                        self._agree(message)
                        found.append(message)
                    case _ if self.up:
                        found.append(message)
            except HandshakeMismatch:
                self.up = False
                raise
            except WireError as error:
                self.malformed(error)
        return found

    def _agree(self, message: Message) -> None:
        theirs = message.fields.get("link")
        if theirs != self._link:
            raise mismatch("link", ours=self._link, theirs=theirs, peer="the server")
        self._handshake.check(Handshake.from_wire(message.fields.get("handshake")), peer="the server")
        if message.kind == "refused":
            raise WireError("The server refused a greeting without saying why")
        self.note = message.take("note", dict)
        self.up = True
        self.counters["welcomed"] += 1

    def _away(self, waited_s: float) -> DeadlineExceeded:
        """Return the error of a caller who has waited long enough for the server."""
        return DeadlineExceeded(
            f"The {self._link} server did not give {self._name} what it waits for",
            seen=f"{'a server that answers' if self.alive else 'silence'} at {self.endpoint}",
            allowed=f"{waited_s:g} s",
            remedy="Start the server, check the address, and check that both sides have keys that know each other, "
            + ("or neither has" if self._locked else "for this side has none"),
        )

    def _beat(self) -> None:
        now_ns = self._clock.now_ns()
        if now_ns < self._next_beat_ns:
            return
        if self.up:
            self._next_beat_ns = now_ns + int(BEAT_S * NS)
            self._socket.send(write_message("beat", {"note": self._own_note}))
            return
        greeting = {
            "link": self._link,
            "name": self._name,
            "client": self._client,
            "handshake": self._handshake.to_wire(),
            **self._hello(),
        }
        sent = self._socket.send(write_message("hello", greeting))
        self._next_beat_ns = now_ns + int((_GREET_S if sent else 0.02) * NS)
