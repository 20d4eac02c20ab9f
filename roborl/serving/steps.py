"""Steps from actors to the store: nothing lost, nothing twice, nobody waits.

The actor's ring is the memory: each record in it has a sequence number, and leaves the ring once the receiver has said
that everything up to it is durable. The sender keeps a bounded window of records on their way and goes back to the
first one that was not acknowledged after any interruption; the receiver hands each record out once, in order.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from roborl.clock import Clock
from roborl.codec import Part
from roborl.errors import DatasetError, WireError
from roborl.serving.handshake import Handshake
from roborl.serving.links import ClientLink, Peer, ServerLink
from roborl.serving.messages import Message
from roborl.serving.security import Keys
from roborl.serving.sockets import Limits

log = logging.getLogger(__name__)

_LIMITS = Limits(part_bytes=64 << 20, queue=1024)
_RING_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


class StepsSender:
    """The actor's end. One thread owns it; no call blocks longer than it is told to.

    Args:
        endpoint: Address of the receiver.
        ring_id: Name of the ring file, never used for another: the receiver counts by it.
        actor: What to call this side in logs.
        handshake: What both sides must agree on.
        acknowledged: The ring's own count of durable records at the start.
        head: The ring's last record at the start, by which a ring that lost its end is noticed; None to trust it.
        keys: CURVE keys; None only on one machine.
        window: Most records on their way.
        window_bytes: Most bytes on their way; one record may always go.
        clock: For liveness.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        ring_id: str,
        actor: str,
        handshake: Handshake,
        acknowledged: int = 0,
        head: int | None = None,
        keys: Keys | None = None,
        window: int = 64,
        window_bytes: int = 4 << 20,
        clock: Clock | None = None,
    ) -> None:
        self.acknowledged = acknowledged
        self._ring_id, self._head = ring_id, head
        self._most, self._most_bytes = window, window_bytes
        self._window: deque[tuple[int, Part]] = deque()
        self._window_bytes = 0
        self._sent = 0  # how many of the window are on their way on the present connection
        self._link = ClientLink(
            endpoint,
            link="steps",
            name=actor,
            handshake=handshake,
            hello=lambda: {"ring": ring_id, "acknowledged": self.acknowledged},
            keys=keys,
            limits=_LIMITS,
            clock=clock,
        )

    @property
    def connected(self) -> bool:
        """Whether the receiver has welcomed this side and not forgotten it."""
        return self._link.up

    @property
    def alive(self) -> bool:
        """Whether the receiver was heard within the last second."""
        return self._link.alive

    @property
    def control(self) -> Mapping[str, Any]:
        """The newest control map set by the receiver, empty before the first."""
        return self._link.note

    @property
    def next_sequence(self) -> int:
        """The sequence number that :meth:`offer` takes next."""
        return self.acknowledged + len(self._window) + 1

    @property
    def in_flight(self) -> int:
        """Records offered and not yet durable."""
        return len(self._window)

    def counters(self) -> dict[str, int]:
        """Return how often something happened on this link since it was made."""
        return dict(self._link.counters)

    def offer(self, seq: int, blob: Part) -> bool:
        """Take a record on its way, or return False where there is no room or no receiver.

        Args:
            seq: Its sequence number, :attr:`next_sequence`.
            blob: Its bytes; they must stay as they are until ``acknowledged >= seq``.

        Raises:
            WireError: If ``seq`` is not the next one.
        """
        if not self._link.up or len(self._window) >= self._most:
            return False
        if self._window and self._window_bytes + len(blob) > self._most_bytes:
            return False
        if seq != self.next_sequence:
            raise WireError(
                "A record was offered out of order",
                seen=seq,
                allowed=self.next_sequence,
                remedy="Offer next_sequence, which moves when the receiver has more than the ring knew",
            )
        self._window.append((seq, blob))
        self._window_bytes += len(blob)
        self._flush()
        return True

    def poll(self, timeout_s: float = 0.0) -> int:
        """Take in what the receiver said, resend what it needs, and return the last durable sequence number.

        Args:
            timeout_s: How long to wait for news where there is none.

        Raises:
            HandshakeMismatch: If the receiver and this side do not fit together.
            DatasetError: If the receiver has more of this ring than the ring itself.
        """
        for message in self._link.receive(timeout_s):
            try:
                match message.kind:
                    case "welcome" | "resume":
                        self._resume(message.count("durable"))
                    case "ack":
                        seq = message.count("seq")
                        if seq >= self.next_sequence:
                            raise WireError(
                                "A record was acknowledged that was never sent",
                                seen=seq,
                                allowed=self.next_sequence - 1,
                            )
                        self._acknowledge(seq)
                    case unknown:
                        raise WireError("A steps sender got an unknown message", seen=unknown)
            except WireError as error:
                self._link.malformed(error)
        self._flush()
        return self.acknowledged

    def wait_connected(self, timeout_s: float) -> None:
        """Wait for the receiver's welcome.

        Raises:
            DeadlineExceeded: If it does not come in time.
            HandshakeMismatch: If the receiver and this side do not fit together.
        """

        def welcomed(wait_s: float) -> bool | None:
            self.poll(wait_s)
            return self.connected or None

        self._link.wait_for(timeout_s, welcomed)

    def set_status(self, status: Mapping[str, Any]) -> None:
        """Let the receiver know ``status``, a small map; the newest always arrives while the link is up."""
        self._link.set_note(status)

    def close(self) -> None:
        """Leave. What is not durable stays in the ring."""
        self._link.close()
        self._window.clear()

    def _resume(self, durable: int) -> None:
        if self._head is not None and durable > max(self._head, self.next_sequence - 1):
            # Going on would give new records the numbers of old ones, and the receiver would drop them as duplicates.
            raise DatasetError(
                f"The receiver has more of ring {self._ring_id} than the ring itself",
                seen=f"record {durable} at the receiver",
                allowed=f"up to record {max(self._head, self.next_sequence - 1)}, the ring's last",
                remedy="The ring lost its end, as after a loss of power: move its file away, and a new one is made",
            )
        self._acknowledge(durable)
        self._sent = 0

    def _acknowledge(self, seq: int) -> None:
        while self._window and self._window[0][0] <= seq:
            self._window_bytes -= len(self._window.popleft()[1])
            self._sent = max(0, self._sent - 1)
        self.acknowledged = max(self.acknowledged, seq)

    def _flush(self) -> None:
        while self._link.up and self._sent < len(self._window):
            seq, blob = self._window[self._sent]
            if not self._link.send("step", blob, seq=seq):
                return
            self._sent += 1


class ReceivedStep(NamedTuple):
    """A record as it came: which ring, which number, which bytes (of :func:`roborl.codec.join`)."""

    ring_id: str
    seq: int
    blob: Part


@dataclass(slots=True, kw_only=True)
class RingState:
    """What the receiver knows of one ring.

    Attributes:
        actor: What the sender calls itself.
        received: Highest sequence number handed out.
        durable: Highest sequence number acknowledged.
        duplicates: Records that came again and were dropped.
        gaps: Records that came too early and were asked for again.
        alive: Whether its sender was heard within the last second.
        status: Newest status map from its sender.
    """

    actor: str
    received: int
    durable: int
    duplicates: int = 0
    gaps: int = 0
    alive: bool = True
    status: Mapping[str, Any]


class StepsReceiver:
    """The store's end, for any number of actors.

    Args:
        endpoint: Address to listen on; port 0 takes a free one, see :attr:`endpoint`.
        handshake: What actors must agree with.
        last_sequence: Returns the last durable sequence number of a ring, 0 for a new one.
        keys: CURVE keys; None only on one machine.
        clock: For liveness.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        handshake: Handshake,
        last_sequence: Callable[[str], int],
        keys: Keys | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._last_sequence = last_sequence
        self._rings: dict[str, RingState] = {}
        self._peers: dict[str, Peer] = {}
        self._control: dict[str, Mapping[str, Any]] = {}
        self._asked: set[str] = set()
        self._owed: set[str] = set()  # rings whose last acknowledgement could not be sent yet
        self._link = ServerLink(
            endpoint,
            link="steps",
            handshake=handshake,
            welcome=self._welcome,
            keys=keys,
            limits=_LIMITS,
            clock=clock,
        )
        self.endpoint = self._link.endpoint
        self.refusals = self._link.refusals

    def poll(self, timeout_s: float, *, most: int = 64) -> list[ReceivedStep]:
        """Return up to ``most`` records, each once and in the order of its ring; wait for the first.

        Their bytes stay valid as long as they are referenced. Call at least five times a second, since the beats that
        tell actors of this side's life are sent from here.
        """
        for ring_id in list(self._owed):
            self.acknowledge(ring_id, self._rings[ring_id].durable)
        steps = []
        for peer, message in self._link.receive(timeout_s, most=most):
            try:
                step = self._step(peer, message)
            except WireError as error:
                self._link.malformed(peer, error)
            else:
                if step is not None:
                    steps.append(step)
        return steps

    def acknowledge(self, ring_id: str, seq: int) -> None:
        """Tell the sender of a ring that everything up to ``seq`` is durable."""
        state = self._rings[ring_id]
        state.durable = max(state.durable, seq)
        if self._link.send(self._peers[ring_id], "ack", seq=state.durable):
            self._owed.discard(ring_id)
        else:
            self._owed.add(ring_id)

    def set_control(self, control: Mapping[str, Any], *, ring_id: str | None = None) -> None:
        """Let one sender, or all present and future ones, know ``control``: a small map such as ``{"mode": "pause"}``.

        It is a state, not a command: it is repeated with every beat, and survives reconnections of either side's link.
        """
        for ring in self._rings if ring_id is None else (ring_id,):
            self._control[ring] = dict(control)
            if ring in self._peers:
                self._link.set_note(self._peers[ring], control)
        if ring_id is None:
            self._control[""] = dict(control)

    @property
    def rings(self) -> Mapping[str, RingState]:
        """What is known of each ring that greeted, with the liveness and status of its sender."""
        for ring_id, peer in self._peers.items():
            self._rings[ring_id].alive = self._link.alive(peer)
            self._rings[ring_id].status = peer.note
        return self._rings

    def counters(self) -> dict[str, int]:
        """Return how often something happened on this link since it was made."""
        return dict(self._link.counters)

    def close(self) -> None:
        """Free the address. Senders keep what was not acknowledged."""
        self._link.close()

    def _welcome(self, peer: Peer, message: Message) -> Mapping[str, Any]:
        ring_id, acknowledged = message.take("ring", str), message.count("acknowledged")
        if not _RING_ID.fullmatch(ring_id):
            raise WireError("A ring has a name that cannot stand in a file name", seen=ring_id[:80])
        state = self._rings.get(ring_id)
        if state is None:
            durable = self._last_sequence(ring_id)
            state = RingState(actor=peer.name, received=durable, durable=durable, status={})
            self._rings[ring_id] = state
        if acknowledged > state.received:
            log.warning(
                "ring %s: records up to %d were acknowledged, but this store has them only up to %d",
                ring_id,
                acknowledged,
                state.received,
            )
            state.received = state.durable = acknowledged
        state.actor = peer.name
        self._peers[ring_id] = peer
        self._asked.discard(ring_id)
        peer.own_note = self._control.get(ring_id, self._control.get("", {}))
        return {"durable": state.durable}

    def _step(self, peer: Peer, message: Message) -> ReceivedStep | None:
        ring_id = next((ring for ring, known in self._peers.items() if known is peer), None)
        if message.kind != "step":
            raise WireError("A steps receiver got an unknown message", seen=message.kind, allowed="step")
        if ring_id is None:  # another sender has greeted with the same ring since
            return None
        state, seq, blob = self._rings[ring_id], message.count("seq"), message.payload()
        if seq <= state.received:
            state.duplicates += 1
            return None
        if seq > state.received + 1:
            state.gaps += 1
            if ring_id not in self._asked:
                self._asked.add(ring_id)
                self._link.send(peer, "resume", durable=state.durable)
            return None
        self._asked.discard(ring_id)
        state.received = seq
        return ReceivedStep(ring_id, seq, blob)
