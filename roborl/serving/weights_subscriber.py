"""The actor's end of a weights link."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from roborl.clock import Clock
from roborl.codec import Part
from roborl.errors import RoborlError, WireError
from roborl.serving.buffers import Buffers, SharedMemory, Windows
from roborl.serving.client_link import ClientLink
from roborl.serving.handshake import Handshake
from roborl.serving.messages import Message
from roborl.serving.security import Keys
from roborl.serving.weight_layout import MOST_BYTES, WeightSet, lay_out
from roborl.serving.weight_sets import CHUNK_BYTES, LIMITS, check_finite, chunks, digest

log = logging.getLogger(__name__)

_ROOM_S = 0.1
_TELL_EVERY = 4  # chunks; well below the publisher's window


@dataclass(slots=True, eq=False, kw_only=True)
class _Arriving:
    """A set of which some chunks are here."""

    weights: WeightSet
    number: int
    chunks: list[memoryview]
    source: memoryview | None = None  # the publisher's memory; None where the bytes come over the socket
    got: int = 0
    checked: int = 0  # entries found finite to their ends

    def fetched(self, index: int) -> memoryview:
        """Return the bytes of a chunk in the publisher's memory."""
        assert self.source is not None
        return self.source[index * CHUNK_BYTES : index * CHUNK_BYTES + len(self.chunks[index])]


class Memory(Protocol):
    """Where a subscriber puts what it receives."""

    def take(self, size: int) -> tuple[NDArray[np.uint8], object]:
        """Return a writable array of ``size`` bytes that stays valid as long as any array on it, and whatever else.

        Raises:
            MemoryError: If there is no room now.
            ConfigError: If there never will be.
        """
        ...


class WeightsSubscriber:
    """The actor's end. One thread owns it; no call blocks longer than it is told to.

    Args:
        endpoint: Address of the publisher.
        name: What to call this side in logs.
        handshake: What both sides must agree on.
        keys: CURVE keys; None only on one machine.
        most_bytes: Largest set accepted.
        memory: Where sets are put; by default in memory of its own, used again when nobody holds a set any more.
        clock: For liveness.

    Attributes:
        version: Version of the newest good set, 0 before the first.
        refused: How many sets were refused.
        refusal: Why the last one was.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        name: str,
        handshake: Handshake,
        keys: Keys | None = None,
        most_bytes: int = MOST_BYTES,
        memory: Memory | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.version = 0
        self.refused = 0
        self.refusal = ""
        self._instance = ""
        self._most_bytes = most_bytes
        self._memory: Memory = memory or Buffers()
        self._windows = Windows()
        self._arriving: _Arriving | None = None
        self._without_room: int | None = None  # the transfer that there was no room for
        self._room_s = 0.0  # when to ask for it again
        self._ready: WeightSet | None = None
        self._link = ClientLink(
            endpoint,
            link="weights",
            name=name,
            handshake=handshake,
            hello=lambda: {"instance": self._instance, "version": self.version},
            keys=keys,
            limits=LIMITS,
            clock=clock,
        )

    @property
    def connected(self) -> bool:
        """Whether the publisher has welcomed this side and not forgotten it."""
        return self._link.up

    @property
    def alive(self) -> bool:
        """Whether the publisher was heard within the last second."""
        return self._link.alive

    def newest(self, timeout_s: float = 0.0) -> WeightSet | None:
        """Return a set that was not returned before, or None.

        Args:
            timeout_s: How long to wait for news where there is none.

        Returns:
            The newest whole and good set; its arrays stay valid.

        Raises:
            HandshakeMismatch: If the publisher and this side do not fit together.
            ConfigError: If there never will be room for what is published.
        """
        for message in self._link.receive(timeout_s):
            try:
                self._take(message)
            except WireError as error:
                self._refuse(error)
        if self._without_room is not None and time.monotonic() >= self._room_s:
            self._link.send("again", transfer=self._without_room)
            self._room_s = time.monotonic() + _ROOM_S
        ready, self._ready = self._ready, None
        return ready

    def wait_newest(self, timeout_s: float) -> WeightSet:
        """Wait for a set that was not returned before.

        Raises:
            ConfigError: As :meth:`newest`.
            DeadlineExceeded: If none comes in time.
            HandshakeMismatch: If the publisher and this side do not fit together.
        """
        return self._link.wait_for(timeout_s, self.newest)

    def counters(self) -> dict[str, int]:
        """Return how often something happened on this link since it was made."""
        return {**self._link.counters, "sets_refused": self.refused}

    def close(self) -> None:
        """Leave."""
        self._link.close()

    def _take(self, message: Message) -> None:
        match message.kind:
            case "welcome":
                instance = message.take("instance", str)
                if instance != self._instance:
                    self._windows.clear()
                self._arriving = self._without_room = None
                self._instance = instance
            case "begin":
                self._begin(message)
            case "chunk":
                self._chunk(message)
            case "drop":
                number = message.count("transfer")
                if self._arriving is not None and number == self._arriving.number:
                    self._arriving = None
                if number == self._without_room:
                    self._without_room = None
            case unknown:
                raise WireError("A weights subscriber got an unknown message", seen=unknown)

    def _begin(self, message: Message) -> None:
        number = message.count("transfer")
        self._arriving = None
        try:
            entries, size = lay_out(message.fields.get("manifest"), most_bytes=self._most_bytes)
            version = message.count("version")
            place = message.fields.get("memory")
            memory = None if place is None else SharedMemory.from_wire(place)
            flat, _ = self._memory.take(size)
        except MemoryError as error:
            if self._without_room is None:
                log.warning(
                    "version %d of the weights waits for room, %d stays in use: %s",
                    version,
                    self.version,
                    error,
                )
            self._without_room, self._room_s = number, time.monotonic() + _ROOM_S
            return
        except WireError:
            self._without_room = None
            self._link.send("stop", transfer=number)
            raise
        self._without_room = None
        weights = WeightSet(version=version, entries=entries, flat=flat)
        arriving = _Arriving(weights=weights, number=number, chunks=chunks(flat))
        self._arriving = arriving
        if not size:
            self._link.send("stop", transfer=number)
            self._finish(arriving)
        elif memory is not None:
            try:
                arriving.source = self._windows.view(memory, size)
            except (OSError, WireError) as error:
                self._stream(arriving, error)

    def _stream(self, arriving: _Arriving, why: object) -> None:
        """Have all bytes of a set sent instead."""
        log.info("version %d of the weights comes over the socket: %s", arriving.weights.version, why)
        self._arriving = None
        self._link.send("stream", transfer=arriving.number)

    def _chunk(self, message: Message) -> None:
        arriving = self._arriving
        if arriving is None or message.count("transfer") != arriving.number:
            return  # the rest of a set that was refused
        index, travels = message.count("index"), arriving.source is None
        if index != arriving.got or index >= len(arriving.chunks):
            raise WireError("A chunk of weights does not fit", seen=f"chunk {index}", allowed=arriving.got)
        chunk = arriving.chunks[index]
        data: Part = message.payload() if travels else arriving.fetched(index)
        if len(data) != len(chunk):
            raise WireError("A chunk of weights does not fit", seen=len(data), allowed=f"{len(chunk)} bytes")
        chunk[:] = data
        expected = message.take("digest", int)
        if not travels and digest(chunk) != expected:
            # Another process's memory under the same number, in another container, or a set that was given up meanwhile.
            self._stream(arriving, "what lies in the publisher's memory is not what was announced")
            return
        self._check(arriving, index, expected, summed=not travels)
        whole = arriving.got == len(arriving.chunks)
        if whole or arriving.got % _TELL_EVERY == 0:
            self._link.send("got", transfer=arriving.number, chunks=arriving.got)
        if whole:
            self._finish(arriving)

    def _check(self, arriving: _Arriving, index: int, expected: int, *, summed: bool) -> None:
        if not summed and digest(arriving.chunks[index]) != expected:
            raise WireError("A chunk of weights is corrupt", seen=f"chunk {index}", allowed="its check sum")
        arriving.got += 1
        begin, end = index * CHUNK_BYTES, arriving.got * CHUNK_BYTES
        for entry in arriving.weights.entries[arriving.checked :]:
            if entry.start >= end:
                break
            part = arriving.weights.flat[max(entry.start, begin) : min(entry.stop, end)]
            check_finite(entry.name, part.view(entry.dtype))
            arriving.checked += entry.stop <= end

    def _finish(self, arriving: _Arriving) -> None:
        self._arriving = None
        self.version = arriving.weights.version
        self._ready = arriving.weights
        self._tell()

    def _refuse(self, error: RoborlError) -> None:
        self.refused += 1
        self.refusal = str(error)
        log.warning("weights refused, version %d stays in use: %s", self.version, error)
        if self._arriving is not None:
            self._link.send("stop", transfer=self._arriving.number)
            self._arriving = None
        self._tell()

    def _tell(self) -> None:
        self._link.set_note({"version": self.version, "refused": self.refused, "refusal": self.refusal[:500]})
