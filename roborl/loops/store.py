"""The store process: takes records off the wire, makes them durable, and only then acknowledges them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from roborl.clock import NS, Clock, MonotonicClock
from roborl.codec import Part
from roborl.errors import DatasetError, WireError

log = logging.getLogger(__name__)


class StepsLink(Protocol):
    """The receiving end of the steps of all actors."""

    def poll(self, timeout_s: float) -> Sequence[tuple[str, int, Part]]:
        """Return (ring, sequence number, record) as they came in, waiting up to ``timeout_s`` for the first."""
        ...

    def acknowledge(self, ring_id: str, sequence: int) -> None:
        """Tell an actor that all its records up to ``sequence`` are durable."""
        ...


class RecordSink(Protocol):
    """Where records become durable."""

    def ingest(self, ring_id: str, seq: int, blob: Part) -> object:
        """Make one record durable; a record that is there already is left out."""
        ...


class StoreLoop:
    """One turn: receive, write, acknowledge.

    A record that cannot be written because of the disk is not acknowledged: its actor keeps it and sends it again. A
    record that is no record at all would be sent for ever; it is handed to ``reject`` and then acknowledged.

    Args:
        link: Where records come from.
        sink: Where they become durable.
        reject: Keeps the bytes of an unreadable record, with the reason.
        clock: Paces the pause after a failing disk.
        pause_s: That pause.

    Attributes:
        records: Records taken since the start, repeats included.
        rejected: Unreadable ones among them.
        disk_faults: Turns that a disk error cut short.
    """

    def __init__(
        self,
        link: StepsLink,
        sink: RecordSink,
        *,
        reject: Callable[[str, int, Part, str], None],
        clock: Clock | None = None,
        pause_s: float = 0.5,
    ) -> None:
        self._link, self._sink, self._reject = link, sink, reject
        self._clock: Clock = clock or MonotonicClock()
        self._pause_s = pause_s
        self.records = self.rejected = self.disk_faults = 0

    def turn(self, timeout_s: float = 0.1) -> int:
        """Handle what has come in; return how many records were acknowledged."""
        durable: dict[str, int] = {}
        stalled: set[str] = set()
        taken = 0
        for ring_id, sequence, blob in self._link.poll(timeout_s):
            if ring_id in stalled:
                continue
            try:
                self._take(ring_id, sequence, blob)
            except OSError as error:
                # What follows in this ring must not overtake the record that failed.
                stalled.add(ring_id)
                self.disk_faults += 1
                log.error(
                    "Record %d of %s is not stored yet: %s. Its actor keeps it", sequence, ring_id, error
                )
                continue
            durable[ring_id] = sequence
            taken += 1
        for ring_id, sequence in durable.items():
            self._link.acknowledge(ring_id, sequence)
        if stalled:
            self._clock.sleep_until(self._clock.now_ns() + int(self._pause_s * NS))
        return taken

    def _take(self, ring_id: str, sequence: int, blob: Part) -> None:
        self.records += 1
        try:
            self._sink.ingest(ring_id, sequence, blob)
        except (WireError, DatasetError) as error:
            self.rejected += 1
            log.error("Record %d of %s is put aside: %s", sequence, ring_id, error)
            self._reject(ring_id, sequence, blob, str(error))

    def report(self) -> dict[str, Any]:
        """Return the counters."""
        return {"records": self.records, "rejected": self.rejected, "disk_faults": self.disk_faults}
