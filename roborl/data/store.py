"""The store: takes each committed record exactly once, keeps the recording, and feeds the replay memory.

On disk, under one root::

    store.json      the form of its data
    last_ordinal    the highest place in the order of arrival that was given to an episode
    logs/           one append-only log per episode that is open or not yet sealed, and late.log
    store.zarr/     one group per finished episode
    arena/          replay memory, rebuilt from the above whenever it cannot be trusted

How far each ring has been taken is read from logs and groups, so no separate count can disagree with the data.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from roborl.codec import Part, join, split
from roborl.data.arena import ArenaLayout
from roborl.data.arena_writer import ArenaWriter
from roborl.data.episodes import EpisodeInfo, Kind, is_actors
from roborl.data.log import RecordLog
from roborl.data.recovery import logged_arrivals, recover, write_ordinal, write_sequences
from roborl.data.sealed import create_root, read_arrivals, rewrite_info, seal, to_arrivals
from roborl.data.sealer import Sealer
from roborl.data.spec import StoreSpec, check_form, misfit
from roborl.errors import DatasetError, WireError
from roborl.locks import lock
from roborl.records import Arrival, Begin, End, Record, Verdict, pack_record, unpack_record
from roborl.types import EndCause, Episode, EpisodeKey, RewardSource

__all__ = ["Store", "StoreSpec"]
_log = logging.getLogger(__name__)


class Store:
    """The only writer of a store's folder; opening it recovers whatever a killed process left.

    Args:
        root: The folder, made where there is none.
        spec: The form of its data. Cameras and dimensions must be those it was made with; the rest may change.
        sync: Flush every record to the disk itself before it counts as taken, and every episode before its log goes, so
            that they survive the loss of power and not only the death of any process.
        alive: Called between episodes while the replay memory is filled, which takes minutes where there are thousands.

    Raises:
        DatasetError: If another process has it, or its recording has another form; the message names the field.
        ConfigError: If the replay memory is too small for two episodes.
    """

    def __init__(
        self, root: Path, spec: StoreSpec, *, sync: bool = False, alive: Callable[[], None] = lambda: None
    ) -> None:
        layout = ArenaLayout.fitting(
            cameras=tuple(spec.cameras),
            image_px=spec.image_px,
            state_dim=spec.state_dim,
            action_dim=spec.action_dim,
            capacity_bytes=spec.capacity_bytes,
            max_steps=spec.max_steps,
        )
        self.root, self.spec = root, spec
        self._sync = sync
        self._zarr, self._staging = root / "store.zarr", root / "staging"
        (root / "logs").mkdir(parents=True, exist_ok=True)
        self._lock_file = _take_lock(root)
        try:
            check_form(root, spec)
        except DatasetError:
            self._lock_file.close()
            raise
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir()
        create_root(self._zarr)
        found = recover(root, sync=sync)
        self._infos, self._open, self._late, self._last = found.infos, found.logs, found.late, found.last
        self._ordinal = found.ordinal
        self.counts: Counter[str] = found.counts
        self._lock = threading.Lock()  # Over infos and attributes, which the sealing thread also touches.
        self._arena = ArenaWriter(root / "arena", layout)
        self._told_of_room = False
        self._fill_arena(alive)
        self._sealer = Sealer(self._seal)
        for key in [key for key in self._open if self._infos[key].end is not None]:
            self._finish(key)

    def last_sequence(self, ring_id: str) -> int:
        """Return up to which record of a ring everything is durable here, 0 for a ring never met."""
        return self._last[ring_id]

    def adopt(self, ring_id: str, acknowledged: int) -> None:
        """Take note that a ring's reader was told earlier that everything up to ``acknowledged`` is durable.

        Those records will not be sent again. They are missing here only where the folder was deleted or replaced by an
        older copy; that is counted and logged.
        """
        missing = acknowledged - self._last[ring_id]
        if missing > 0:
            self.counts["acknowledged_elsewhere"] += missing
            _log.warning("%d records of ring %s were acknowledged by another store", missing, ring_id)
            self._last[ring_id] = acknowledged
            write_sequences(self.root, self._last)

    def ingest(self, ring_id: str, sequence: int, blob: Part) -> None:
        """Take one record of a ring, durably; one that was taken before is dropped.

        Records of a ring come in order. One that makes no sense where it comes (a wrong shape, an arrival of an episode
        that is over or of another ring) is kept in ``late.log``, counted, and not used.

        Raises:
            DatasetError: If the record is not the next of its ring, or the disk did not take it. Then it was not taken.
        """
        last = self._last[ring_id]
        if sequence <= last:
            self.counts["duplicates"] += 1
            return
        if sequence != last + 1:
            raise DatasetError(
                "A record is not the next of its ring",
                seen=f"{sequence} of ring {ring_id}",
                allowed=last + 1,
                remedy="Send again from there",
            )
        try:
            record = unpack_record(split(blob))
        except WireError as error:
            self._refuse(ring_id, sequence, blob, str(error))
        else:
            self._take(record, ring_id, sequence, blob)
        self._last[ring_id] = sequence

    def import_episode(
        self,
        episode: Episode,
        *,
        kind: Kind | None = None,
        meta: Mapping[str, str | int | float] | None = None,
    ) -> bool:
        """Put a finished episode from elsewhere into this store; return False where it is here already.

        Without a ``kind`` it is a demonstration, or a recorded failure where it is known to have failed.

        Raises:
            DatasetError: If its form is not that of the store, or it would leave no room in the replay memory for what
                happens online.
        """
        if episode.key in self._infos:
            return False
        arrivals = list(to_arrivals(episode))
        for arrival in arrivals:
            problem = misfit(self.spec, arrival)
            if problem:
                raise DatasetError(
                    "An episode does not fit this store",
                    seen=f"{problem}, in episode {episode.key}",
                    allowed="the cameras and sizes of the store",
                    remedy="Use a recording of this bench",
                )
        info = EpisodeInfo(
            key=episode.key,
            ordinal=self._next_ordinal(),
            task=episode.task,
            kind=kind or ("failure" if episode.success is False else "demo"),
            meta=dict(meta or {}),
            observations=len(arrivals),
            end=episode.end,
        )
        if episode.success and not episode.end.terminated:
            verdict = Verdict(key=episode.key, index=info.steps, success=True, source=RewardSource.OPERATOR)
            info = replace(info, verdict=verdict)
        if info.recorded:
            rows = _recorded_rows(self._infos.values()) + info.observations
            self._arena.layout.check_room(rows, self.spec.max_steps)
        seal(self._zarr, self._staging, info, arrivals, sync=self._sync)
        self._set(info)
        self._load(info)
        return True

    def infos(self) -> list[EpisodeInfo]:
        """Return what is known of each episode, in the order of arrival."""
        with self._lock:
            return sorted(self._infos.values(), key=lambda info: info.ordinal)

    def health(self) -> dict[str, int]:
        """Return counts of what is held, of what waits, and of everything unusual.

        Raises:
            RoborlError: If finished episodes are not sealed any more.
        """
        self._sealer.check()
        return {
            "episodes": len(self._infos),
            "open": len(self._open),
            "unsealed": self._sealer.pending,
            "seal_failures": self._sealer.failed,
            "evicted": self._arena.evicted,
            **self.counts,
        }

    def wait_sealed(self, timeout_s: float) -> bool:
        """Wait until every finished episode is sealed; return False where that takes longer."""
        return self._sealer.wait(timeout_s) and not self._sealer.failed

    def close(self) -> None:
        """Finish the sealing under way and give the folder back, once. Open episodes stay open."""
        if self._lock_file.closed:
            return
        self._sealer.close()
        for log in self._open.values():
            log.close()
        self._late.close()
        write_sequences(self.root, self._last)
        self._lock_file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, record: Record, ring_id: str, sequence: int, blob: Part) -> None:
        info, log = self._infos.get(record.key), self._open.get(record.key)
        if info is not None and ring_id != info.ring_id and not isinstance(record, Verdict):
            why = f"episode {record.key} is of another ring; are there two actors of that name?"
            self._refuse(ring_id, sequence, blob, why)
            return
        if isinstance(record, Begin):
            if info is not None:
                self._refuse(ring_id, sequence, blob, f"episode {record.key} began before")
                return
            if is_actors(ring_id):
                self._close_lost(record.key)
            self._begin(record, ring_id, sequence, blob)
            return
        problem = misfit(self.spec, record) if isinstance(record, Arrival) else None
        after = None if info is None or problem else info.with_record(record)
        if after is None:
            self._refuse(ring_id, sequence, blob, problem or f"it does not continue episode {record.key}")
            return
        if log is None:  # A verdict on an episode that is over.
            self._late.append(ring_id, sequence, blob)
            self._amend(after)
            return
        log.append(ring_id, sequence, blob)
        self._set(after.taken(ring_id, sequence))
        if isinstance(record, Arrival):
            if not self._arena.write(record):
                self.counts["steps_not_in_memory"] += 1
        else:
            self._arena.update(after)
        if isinstance(record, End):
            self._finish(record.key)

    def _begin(self, record: Begin, ring_id: str, sequence: int, blob: Part) -> None:
        ordinal = self._next_ordinal()
        log = RecordLog.create(self._log_path(record.key), ordinal, sync=self._sync)
        try:
            log.append(ring_id, sequence, blob)
        except DatasetError:
            log.close()  # On a full disk this is tried again and again.
            raise
        self._open[record.key] = log
        info = EpisodeInfo.from_begin(record, ordinal).taken(ring_id, sequence)
        self._set(info)
        self._place(info, self.spec.max_steps + 1)

    def _close_lost(self, key: EpisodeKey) -> None:
        # An actor runs one episode at a time: what it left open it will never go on with.
        open_there = [other for other in self._open if other.actor == key.actor]
        for other in [other for other in open_there if is_actors(self._infos[other].ring_id)]:
            info = self._infos[other]
            end = End(key=other, index=info.steps, cause=EndCause.ACTOR_LOST)
            self._open[other].append("", 0, join(pack_record(end)))
            ended = info.with_record(end)
            assert ended is not None, "an open episode takes its end"
            self.counts["actors_lost"] += 1
            self._set(ended)
            self._arena.update(ended)
            self._finish(other)

    def _refuse(self, ring_id: str, sequence: int, blob: Part, why: str) -> None:
        self._late.append(ring_id, sequence, blob)
        self.counts["refused"] += 1
        if self.counts["refused"] in (1, 10, 100) or self.counts["refused"] % 1000 == 0:
            _log.warning("record %d of ring %s is kept and not used: %s", sequence, ring_id, why)

    def _amend(self, info: EpisodeInfo) -> None:
        with self._lock:
            self._infos[info.key] = info
            folder = self._zarr / str(info.key)
            if folder.exists():
                rewrite_info(folder, info, sync=self._sync)
        self._arena.update(info)

    def _finish(self, key: EpisodeKey) -> None:
        self._open.pop(key).close()
        self._sealer.submit(key)

    def _seal(self, key: EpisodeKey) -> None:
        path = self._log_path(key)
        with self._lock:
            info = self._infos[key]
        folder = seal(self._zarr, self._staging, info, logged_arrivals(path), sync=self._sync)
        with self._lock:
            if self._infos[key] != info:  # A verdict came while it was being compressed.
                rewrite_info(folder, self._infos[key], sync=self._sync)
        path.unlink()

    def _fill_arena(self, alive: Callable[[], None]) -> None:
        infos = self.infos()
        self._arena.keep_only(info.key for info in infos)
        if self._arena.reused:
            oldest = self._arena.oldest_evictable() or 0
            wanted = [i for i in infos if i.key in self._arena or i.recorded or i.ordinal > oldest]
        else:
            replayed = [i for i in infos if i.kind != "evaluation"]
            room = self._arena.layout.rows - _recorded_rows(replayed)
            wanted = []
            for info in reversed(replayed):
                room -= 0 if info.recorded else max(info.observations, 1)
                if info.recorded or room >= 0:
                    wanted.insert(0, info)
            self.counts["episodes_not_in_memory"] += len(replayed) - len(wanted)
        for info in wanted:
            alive()
            self._load(info)
        self._arena.mark_complete()

    def _load(self, info: EpisodeInfo) -> None:
        """Bring an episode's rows in the replay memory up to what is recorded of it."""
        is_open = info.end is None
        self._place(info, self.spec.max_steps + 1 if is_open else max(1, info.observations))
        present = self._arena.observations(info.key)
        if info.key in self._arena and present < info.observations:
            try:
                for arrival in self._recorded(info.key, present):
                    if not self._arena.write(arrival):
                        break
            except DatasetError as error:
                self.counts["unreadable"] += 1
                _log.warning("%s is not sampled: %s", info.key, error)
                info = replace(info, discarded=True)
        self._arena.update(info)

    def _place(self, info: EpisodeInfo, rows: int) -> None:
        if info.kind == "evaluation" or info.key in self._arena or self._arena.place(info, rows):
            return
        self.counts["episodes_not_in_memory"] += 1
        if not self._told_of_room:
            self._told_of_room = True
            why = f"recorded and open episodes leave no room for {rows} observations in the replay memory"
            _log.warning(
                "%s is not learnt from, and so may be others: %s; raise store.capacity_bytes", info.key, why
            )

    def _recorded(self, key: EpisodeKey, start: int) -> Iterator[Arrival]:
        folder = self._zarr / str(key)
        if folder.exists():
            return read_arrivals(folder, start)
        return logged_arrivals(self._log_path(key), start)

    def _set(self, info: EpisodeInfo) -> None:
        self._ordinal = max(self._ordinal, info.ordinal)
        with self._lock:
            self._infos[info.key] = info

    def _next_ordinal(self) -> int:
        """Return an ordinal for an episode, noted on the disk: labels go by it, also where an earlier one is deleted."""
        write_ordinal(self.root, ordinal := self._ordinal + 1, sync=self._sync)
        return ordinal

    def _log_path(self, key: EpisodeKey) -> Path:
        return self.root / "logs" / f"{key}.log"


def _recorded_rows(infos: Iterable[EpisodeInfo]) -> int:
    """Return how much of the replay memory recorded episodes take, in observations."""
    return sum(max(info.observations, 1) for info in infos if info.recorded)


def _take_lock(root: Path) -> TextIO:
    file = open(root / "lock", "w")  # noqa: SIM115  (held for as long as the store is open)
    try:
        lock(
            file,
            root,
            busy="This store is open in another process",
            remedy="Stop that process or choose another folder",
        )
    except DatasetError:
        file.close()
        raise
    return file
