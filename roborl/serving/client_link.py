"""The connecting end of every link."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from roborl.clock import NS, Clock, Deadline, MonotonicClock
from roborl.codec import Part
from roborl.errors import DeadlineExceeded, HandshakeMismatch, WireError
from roborl.serving.handshake import Handshake, mismatch
from roborl.serving.messages import BEAT_S, SILENCE_S, Message, read_message, write_message
from roborl.serving.security import Keys
from roborl.serving.sockets import Limits, Socket

_GREET_S = 0.25

log = logging.getLogger(__name__)


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
            # First what has come: a welcome that waits there makes another greeting needless.
            found = self._drain(most)
            self._beat()
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
            raise HandshakeMismatch(
                message.take("problem", str),
                seen=message.take("seen", str),
                allowed=message.take("allowed", str),
                remedy=message.take("remedy", str),
            )
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
