"""Weights from the trainer to its actors: the newest set only, whole or not at all, whenever an actor joins.

A set travels in chunks that the subscriber asks on by acknowledging; while one is under way newer ones replace each
other at the publisher, so a slow link always carries the newest set it can, and a set once begun is finished.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.clock import Clock
from roborl.errors import RoborlError, WireError
from roborl.serving.handshake import Handshake
from roborl.serving.links import BEAT_S, ClientLink, Peer, ServerLink
from roborl.serving.messages import Message
from roborl.serving.security import Keys
from roborl.serving.sockets import Limits
from roborl.serving.weight_sets import (
    CHUNK_BYTES,
    Arrays,
    Buffers,
    WeightSet,
    check_finite,
    chunks,
    digest,
    lay_out,
    pack_weights,
)

log = logging.getLogger(__name__)

_LIMITS = Limits(part_bytes=4 << 20, queue=256)
_WINDOW_CHUNKS = 16


@dataclass(slots=True, eq=False, kw_only=True)
class _Transfer:
    """One set on its way to one subscriber."""

    weights: WeightSet
    number: int
    sent: int = 0
    got: int = 0
    chunks: list[memoryview] = field(default_factory=list)


class WeightsPublisher:
    """The trainer's end. A thread of its own serves the subscribers; :meth:`publish` copies and returns.

    Args:
        endpoint: Address to listen on; port 0 takes a free one, see :attr:`endpoint`.
        handshake: What subscribers must agree with; ``version`` is the hash of the architecture.
        keys: CURVE keys; None only on one machine.
        clock: For liveness.
    """

    def __init__(
        self, endpoint: str, *, handshake: Handshake, keys: Keys | None = None, clock: Clock | None = None
    ) -> None:
        self._link = ServerLink(
            endpoint,
            link="weights",
            handshake=handshake,
            welcome=self._welcome,
            keys=keys,
            limits=_LIMITS,
            clock=clock,
        )
        self.endpoint = self._link.endpoint
        self.refusals = self._link.refusals
        self._buffers = Buffers()
        self._newest: WeightSet | None = None
        self._transfers: dict[str, _Transfer] = {}
        self._has: dict[str, int] = {}
        self._numbers = 0
        self._closing = False
        self._status: dict[str, dict[str, Any]] = {}
        self._thread = threading.Thread(target=self._serve, name="weights publisher", daemon=True)
        self._thread.start()

    def publish(self, version: int, arrays: Arrays) -> None:
        """Make ``arrays`` the set that every subscriber gets, now or when it joins.

        Rolling back is publishing an older set under a new version.

        Args:
            version: Higher than any published before.
            arrays: The actor's weights by name, numpy, finite. They are copied before this returns.

        Raises:
            WireError: If a value is not finite or the version not new; the last set stays.
        """
        if self._newest is not None and version <= self._newest.version:
            raise WireError(
                "Weights were published under a version that is not new",
                seen=version,
                allowed=f"above {self._newest.version}",
                remedy="To roll back, publish the older set under a new version",
            )
        self._newest = pack_weights(version, arrays, self._buffers)
        self._link.wake()

    @property
    def version(self) -> int:
        """The version published last, 0 before the first."""
        return 0 if self._newest is None else self._newest.version

    def subscribers(self) -> dict[str, dict[str, Any]]:
        """Return for each subscriber's name its "alive", "version" in use, and "refused" sets with the last reason."""
        return dict(self._status)

    def close(self) -> None:
        """Stop serving and free the address."""
        self._closing = True
        self._link.wake()
        self._thread.join(timeout=5.0)
        self._link.close()

    def _serve(self) -> None:
        while not self._closing:
            for peer, message in self._link.receive(BEAT_S):
                try:
                    self._answer(peer, message)
                except WireError as error:
                    self._link.malformed(peer, error)
            for peer in list(self._link.peers.values()):
                self._pump(peer)
            self._status = {
                peer.name: {"alive": self._link.alive(peer), **peer.note}
                for peer in self._link.peers.values()
            }

    def _welcome(self, peer: Peer, message: Message) -> Mapping[str, Any]:
        # A greeting means that whatever was under way is lost.
        self._transfers.pop(peer.client, None)
        same = message.take("instance", str) == self._link.instance
        self._has[peer.client] = message.count("version") if same else 0
        return {}

    def _answer(self, peer: Peer, message: Message) -> None:
        transfer = self._transfers.get(peer.client)
        if message.kind not in ("got", "stop"):
            raise WireError("A publisher got an unknown message", seen=message.kind, allowed="got, stop")
        if transfer is None or message.count("transfer") != transfer.number:
            return
        if message.kind == "got":
            transfer.got = max(transfer.got, min(transfer.sent, message.count("chunks")))
        if message.kind == "stop" or transfer.got == len(transfer.chunks):
            self._has[peer.client] = transfer.weights.version
            del self._transfers[peer.client]

    def _pump(self, peer: Peer) -> None:
        newest, transfer = self._newest, self._transfers.get(peer.client)
        if transfer is None:
            if newest is None or self._has.get(peer.client) == newest.version:
                return
            self._numbers += 1
            transfer = _Transfer(weights=newest, number=self._numbers, chunks=chunks(newest.flat))
            begun = self._link.send(
                peer,
                "begin",
                transfer=transfer.number,
                version=newest.version,
                manifest=newest.manifest(),
                digests=newest.digests,
            )
            if not begun:
                return
            self._transfers[peer.client] = transfer
        while transfer.sent < min(len(transfer.chunks), transfer.got + _WINDOW_CHUNKS):
            chunk = transfer.chunks[transfer.sent]
            if not self._link.send(peer, "chunk", chunk, transfer=transfer.number, index=transfer.sent):
                return
            transfer.sent += 1


@dataclass(slots=True, eq=False, kw_only=True)
class _Arriving:
    """A set of which some chunks are here."""

    weights: WeightSet
    number: int
    chunks: list[memoryview]
    got: int = 0
    checked: int = 0  # entries found finite


class WeightsSubscriber:
    """The actor's end. One thread owns it; no call blocks longer than it is told to.

    Args:
        endpoint: Address of the publisher.
        name: What to call this side in logs.
        handshake: What both sides must agree on.
        accept: Called with version and arrays of a whole, finite set before it is handed out; raises RoborlError to
            refuse it, for instance where its actions leave the limits on probe frames.
        keys: CURVE keys; None only on one machine.
        most_bytes: Largest set accepted.
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
        accept: Callable[[int, Arrays], None] | None = None,
        keys: Keys | None = None,
        most_bytes: int = 1 << 30,
        clock: Clock | None = None,
    ) -> None:
        self.version = 0
        self.refused = 0
        self.refusal = ""
        self._instance = ""
        self._accept = accept
        self._most_bytes = most_bytes
        self._buffers = Buffers()
        self._arriving: _Arriving | None = None
        self._ready: tuple[int, dict[str, NDArray[Any]]] | None = None
        self._link = ClientLink(
            endpoint,
            link="weights",
            name=name,
            handshake=handshake,
            hello=lambda: {"instance": self._instance, "version": self.version},
            keys=keys,
            limits=_LIMITS,
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

    def newest(self, timeout_s: float = 0.0) -> tuple[int, dict[str, NDArray[Any]]] | None:
        """Return version and arrays of a set that was not returned before, or None.

        Args:
            timeout_s: How long to wait for news where there is none.

        Returns:
            The newest whole and good set; its arrays are read-only and stay valid.

        Raises:
            HandshakeMismatch: If the publisher and this side do not fit together.
        """
        for message in self._link.receive(timeout_s):
            try:
                self._take(message)
            except RoborlError as error:
                self._refuse(error)
        ready, self._ready = self._ready, None
        return ready

    def wait_newest(self, timeout_s: float) -> tuple[int, dict[str, NDArray[Any]]]:
        """Wait for a set that was not returned before.

        Raises:
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
                self._arriving = None
                self._instance = instance
            case "begin":
                self._begin(message)
            case "chunk":
                self._chunk(message)
            case unknown:
                raise WireError("A weights subscriber got an unknown message", seen=unknown)

    def _begin(self, message: Message) -> None:
        number = message.count("transfer")
        self._arriving = None
        try:
            weights = self._prepare(message)
        except WireError:
            self._link.send("stop", transfer=number)
            raise
        self._arriving = _Arriving(weights=weights, number=number, chunks=chunks(weights.flat))
        if not self._arriving.chunks:
            self._finish(self._arriving)

    def _prepare(self, message: Message) -> WeightSet:
        entries, size = lay_out(message.fields.get("manifest"), most_bytes=self._most_bytes)
        digests = message.take("digests", np.ndarray)
        if digests.dtype != np.uint64 or digests.shape != (-(-size // CHUNK_BYTES),):
            raise WireError("A set of weights has the wrong number of check sums", seen=digests.shape)
        flat = self._buffers.take(size)
        return WeightSet(version=message.count("version"), entries=entries, flat=flat, digests=digests)

    def _chunk(self, message: Message) -> None:
        arriving = self._arriving
        if arriving is None or message.count("transfer") != arriving.number:
            return  # the rest of a set that was refused
        index, payload = message.count("index"), message.payload()
        if (
            index != arriving.got
            or index >= len(arriving.chunks)
            or len(payload) != len(arriving.chunks[index])
        ):
            raise WireError("A chunk of weights does not fit", seen=f"chunk {index} of {len(payload)} bytes")
        if digest(payload) != arriving.weights.digests[index]:
            raise WireError("A chunk of weights is corrupt", seen=f"chunk {index}", allowed="its check sum")
        arriving.chunks[index][:] = payload
        arriving.got += 1
        landed = min(arriving.got * CHUNK_BYTES, arriving.weights.flat.size)
        for entry in arriving.weights.entries[arriving.checked :]:
            if entry.stop > landed:
                break
            check_finite(entry.name, arriving.weights.flat[entry.start : entry.stop].view(entry.dtype))
            arriving.checked += 1
        self._link.send("got", transfer=arriving.number, chunks=arriving.got)
        if arriving.got == len(arriving.chunks):
            self._finish(arriving)

    def _finish(self, arriving: _Arriving) -> None:
        self._arriving = None
        arrays = arriving.weights.arrays()
        if self._accept is not None:
            self._accept(arriving.weights.version, arrays)
        self.version = arriving.weights.version
        self._ready = (self.version, arrays)
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
