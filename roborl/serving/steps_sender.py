"""The actor's end of a steps link."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from roborl.clock import Clock
from roborl.codec import MAX_RECORD_BYTES, Part
from roborl.errors import DatasetError, WireError
from roborl.serving.client_link import ClientLink
from roborl.serving.handshake import Handshake
from roborl.serving.security import Keys
from roborl.serving.sockets import Limits

log = logging.getLogger(__name__)

# Encryption makes each part some bytes longer.
LIMITS = Limits(part_bytes=MAX_RECORD_BYTES + 1024, queue=1024)


class StepsSender:
    """The actor's end. One thread owns it; no call blocks longer than it is told to.

    Args:
        endpoint: Address of the receiver.
        ring_id: Name of the ring file, never used for another: the receiver counts by it.
        actor: Name of the actor, which no other live ring of the receiver may have.
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
            limits=LIMITS,
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
            WireError: If ``seq`` is not the next one, or the record is longer than the receiver takes.
        """
        if len(blob) > MAX_RECORD_BYTES:
            # It would hang up whenever the record came, and none behind it would ever arrive.
            raise WireError(
                f"Record {seq} is too long to be sent",
                seen=f"{len(blob)} bytes",
                allowed=f"{MAX_RECORD_BYTES} bytes",
                remedy="Record smaller pictures: lower height_px and width_px under cameras in the bench file",
            )
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
            HandshakeMismatch: If the receiver and this side do not fit together, or another live actor has the name.
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
