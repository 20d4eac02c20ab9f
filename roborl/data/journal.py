"""What the control process writes its records with: a ring that knows which episode is open."""

from __future__ import annotations

from pathlib import Path

from roborl.codec import split
from roborl.data.ring import Ring
from roborl.errors import DatasetError
from roborl.records import Arrival, Begin, End, Record, Verdict, pack_record, unpack_record
from roborl.types import EndCause, EpisodeKey


class Journal:
    """Commits the records of one actor; survives the death of its process.

    A new journal on an old ring first ends the episode that the last process left open, as ``actor_lost``, and counts
    one more incarnation.

    Args:
        path: The ring file, made where there is none.
        actor: Name of the actor, part of every key.
        slots: Records the ring holds while the learner is away.
        slot_bytes: Longest record.

    Raises:
        DatasetError: As :meth:`Ring.continue_or_create` does.
    """

    def __init__(self, path: Path, *, actor: str, slots: int, slot_bytes: int) -> None:
        self.ring = Ring.continue_or_create(path, slots=slots, slot_bytes=slot_bytes)
        self.actor = actor
        open_at = _open_episode(self.ring)
        if open_at is not None:
            key, index = open_at
            self.commit(End(key=key, index=index, cause=EndCause.ACTOR_LOST))
        self.incarnation = self.ring.start_incarnation()
        self._episodes = 0

    def next_key(self) -> EpisodeKey:
        """Return the key of the next episode; each call gives another."""
        key = EpisodeKey(actor=self.actor, incarnation=self.incarnation, episode=self._episodes)
        self._episodes += 1
        return key

    def has_room(self, max_steps: int) -> bool:
        """Return whether a whole episode fits: begin, T + 1 arrivals, a verdict, its end, and one to close it later."""
        return self.ring.free_slots >= max_steps + 5

    def commit(self, record: Record) -> int:
        """Commit one record and return its sequence number. Never blocks.

        Raises:
            DatasetError: As :meth:`Ring.append` does.
        """
        return self.ring.append(pack_record(record))

    def close(self) -> None:
        """Close the ring; an open episode stays open for the next journal to end."""
        self.ring.close()


def _open_episode(ring: Ring) -> tuple[EpisodeKey, int] | None:
    for sequence in range(ring.head, max(0, ring.head - ring.slots), -1):
        try:
            view = ring.read(sequence)
        except DatasetError:
            return None  # Its slot was being reused, so it was acknowledged: the store closes that episode by itself.
        record = unpack_record(split(view))
        match record:
            case Begin():
                return record.key, 0
            case Arrival():
                return record.key, record.index
            case End():
                return None
            case Verdict():
                continue
    return None
