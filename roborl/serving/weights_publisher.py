"""The trainer's end of a weights link."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roborl.clock import Clock
from roborl.errors import WireError
from roborl.serving.buffers import Buffers
from roborl.serving.handshake import Handshake
from roborl.serving.messages import BEAT_S, Message
from roborl.serving.security import Keys
from roborl.serving.server_link import Peer, ServerLink
from roborl.serving.weight_layout import Arrays
from roborl.serving.weight_sets import LIMITS, Packing

log = logging.getLogger(__name__)

_WINDOW_CHUNKS = 16
_WAKE_EVERY = 4  # chunks


@dataclass(slots=True, eq=False, kw_only=True)
class _Transfer:
    """One set on its way to one subscriber."""

    packing: Packing
    number: int
    stream: bool  # the bytes travel; otherwise the subscriber fetches them from memory
    sent: int = 0
    got: int = 0


class WeightsPublisher:
    """The trainer's end. A thread of its own serves the subscribers; :meth:`publish` copies and returns.

    Subscribers take the first chunks of a set while the last are still copied and checked; a set that turns out not to be
    finite is dropped on the way.

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
            limits=LIMITS,
            clock=clock,
        )
        self.endpoint = self._link.endpoint
        self.refusals = self._link.refusals
        self._buffers = Buffers(shared=self.endpoint.startswith("ipc://"))
        self._newest: Packing | None = None  # whole and good
        self._offer: Packing | None = None  # the newest, or what is to become it
        self._transfers: dict[str, _Transfer] = {}
        self._has: dict[str, int] = {}
        self._numbers = 0
        self._closing = False
        self._failure: Exception | None = None
        self._status: dict[str, dict[str, Any]] = {}
        self._thread = threading.Thread(target=self._run, name="weights publisher", daemon=True)
        self._thread.start()

    def publish(self, version: int, arrays: Arrays) -> None:
        """Make ``arrays`` the set that every subscriber gets, now or when it joins.

        Rolling back is publishing an older set under a new version.

        Args:
            version: Higher than any published before, and than 0.
            arrays: The actor's weights by name, numpy, finite. They are copied before this returns.

        Raises:
            WireError: If a value is not finite or the version not new; the last set stays. If the serving thread has
                failed, with its reason.
        """
        if self._failure is not None:
            raise WireError(
                "The thread that serves weights has failed", seen=repr(self._failure)
            ) from self._failure
        if version <= self.version:
            raise WireError(
                "Weights were published under a version that is not new",
                seen=version,
                allowed=f"above {self.version}",
                remedy="To roll back, publish the older set under a new version",
            )
        packing = Packing(version, arrays, self._buffers)
        self._offer = packing
        try:
            for whole in packing.fill(arrays):
                if whole % _WAKE_EVERY == 1:
                    self._link.wake()
            self._newest = packing
        finally:
            self._offer = self._newest
            self._link.wake()

    @property
    def version(self) -> int:
        """The version published last, 0 before the first."""
        return 0 if self._newest is None else self._newest.weights.version

    def subscribers(self) -> dict[str, dict[str, Any]]:
        """Return for each subscriber's name its "alive", "version" in use, and "refused" sets with the last reason."""
        return dict(self._status)

    def close(self) -> None:
        """Stop serving and free the address."""
        self._closing = True
        self._link.wake()
        self._thread.join(timeout=5.0)
        self._link.close()

    def _run(self) -> None:
        try:
            self._serve()
        except (
            Exception
        ) as error:  # whatever it was, a thread must not die in silence: the next publish raises it
            log.exception("the thread that serves weights has failed")
            self._failure = error

    def _serve(self) -> None:
        while not self._closing:
            for peer, message in self._link.receive(BEAT_S):
                try:
                    self._answer(peer, message)
                except WireError as error:
                    self._link.malformed(peer, error)
            for peer in list(self._link.peers.values()):
                self._pump(peer)
            self._forget_strangers()
            self._status = {
                peer.name: {"alive": self._link.alive(peer), **peer.note}
                for peer in self._link.peers.values()
            }

    def _forget_strangers(self) -> None:
        # A transfer that nobody will finish would keep its whole set in memory.
        known = {peer.client for peer in self._link.peers.values()}
        for client in (self._transfers.keys() | self._has.keys()) - known:
            self._transfers.pop(client, None)
            self._has.pop(client, None)

    def _welcome(self, peer: Peer, message: Message) -> Mapping[str, Any]:
        # A greeting means that whatever was under way is lost.
        self._transfers.pop(peer.client, None)
        same = message.take("instance", str) == self._link.instance
        self._has[peer.client] = message.count("version") if same else 0
        return {}

    def _answer(self, peer: Peer, message: Message) -> None:
        transfer = self._transfers.get(peer.client)
        if message.kind not in ("got", "stop", "stream", "again"):
            raise WireError(
                "A publisher got an unknown message", seen=message.kind, allowed="got, stop, stream, again"
            )
        if transfer is None or message.count("transfer") != transfer.number:
            return
        if message.kind in ("stream", "again"):
            # Begun anew, under another number: what is still on its way of this one counts no more.
            del self._transfers[peer.client]
            self._begin(peer, stream=message.kind == "stream")
            return
        if message.kind == "got":
            transfer.got = max(transfer.got, min(transfer.sent, message.count("chunks")))
        if message.kind == "stop" or transfer.got == len(transfer.packing.chunks):
            if not transfer.packing.failed:
                self._has[peer.client] = transfer.packing.weights.version
            del self._transfers[peer.client]

    def _pump(self, peer: Peer) -> None:
        transfer = self._transfers.get(peer.client)
        if transfer is not None and transfer.packing.failed:
            if not self._link.send(peer, "drop", transfer=transfer.number):
                return
            transfer = None
            del self._transfers[peer.client]
        transfer = transfer or self._begin(peer)
        if transfer is None:
            return
        packing = transfer.packing
        while transfer.sent < min(packing.whole, transfer.got + _WINDOW_CHUNKS):
            index = transfer.sent
            payload = packing.chunks[index] if transfer.stream else None
            digest = int(packing.digests[index])
            if not self._link.send(
                peer, "chunk", payload, transfer=transfer.number, index=index, digest=digest
            ):
                return
            transfer.sent += 1

    def _begin(self, peer: Peer, *, stream: bool = False) -> _Transfer | None:
        """Offer a subscriber what it does not have; None where there is nothing, or it cannot be told."""
        offer = self._offer
        if offer is None or self._has.get(peer.client) == offer.weights.version:
            return None
        self._numbers += 1
        transfer = _Transfer(packing=offer, number=self._numbers, stream=stream or offer.memory is None)
        begun = self._link.send(
            peer,
            "begin",
            transfer=transfer.number,
            version=offer.weights.version,
            manifest=offer.weights.manifest(),
            memory=None if stream else offer.memory,
        )
        if not begun:
            return None
        self._transfers[peer.client] = transfer
        return transfer
