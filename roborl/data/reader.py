"""Reading a store from any process, while it is written: for labelling, export and people."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from roborl.clock import NS
from roborl.codec import split
from roborl.data.episodes import EpisodeInfo
from roborl.data.log import FIRST_ENTRY, entries, read_ordinal
from roborl.data.recovery import LATE
from roborl.data.sealed import episode_of, read_arrivals, read_info
from roborl.errors import DatasetError, WireError
from roborl.records import Arrival, Begin, Verdict, unpack_record
from roborl.types import Episode, EpisodeKey, Observation

_log = logging.getLogger(__name__)
_LOOK_AGAIN_NS = 5 * NS
_TICK_NS = NS // 10


@dataclass(slots=True)
class _Tail:
    """How far a growing log has been read."""

    offset: int = FIRST_ENTRY
    info: EpisodeInfo | None = None
    arrivals: list[int] = field(default_factory=list)  # Offset of each.


class _Sealed(NamedTuple):
    """A sealed episode as it was last read."""

    stamp: tuple[int, int]
    info: EpisodeInfo
    young_until_ns: int  # Until then a verdict that came while it was being sealed may be added.


class StoreReader:
    """A read-only view of a store's recording. Nothing it does is seen by the store.

    Args:
        root: The store's folder.
        leave_out_torn: Leave out a sealed episode that is torn and tell it once, as the store does: for processes that
            have the others to work on. Without, a look at all episodes is refused.

    Raises:
        DatasetError: If there is no store.
    """

    def __init__(self, root: Path, *, leave_out_torn: bool = False) -> None:
        if not (root / "store.json").exists():
            raise DatasetError(
                "There is no store here",
                seen=root,
                allowed="the folder store of a run",
                remedy="Start the learner, which makes it",
            )
        self.root = root
        self._tails: dict[EpisodeKey, _Tail] = {}
        self._sealed: dict[str, _Sealed] = {}
        self._leave_out_torn = leave_out_torn
        self._unreadable: dict[str, tuple[int, int]] = {}  # By the stamp of what could not be read.
        self._listed_ns, self._all_due_ns = 0, 0
        self._late_offset = FIRST_ENTRY
        self._verdicts: dict[EpisodeKey, Verdict] = {}

    def episodes(self) -> list[EpisodeInfo]:
        """Return all episodes in the order of arrival, open ones as far as they have come.

        Raises:
            DatasetError: If a sealed one is torn, unless such are left out.
        """
        # Logs first: a log is removed only after its episode stands sealed, so none is missed in between.
        logged = {}
        for path in (self.root / "logs").glob("*.log"):
            if path.name != LATE:
                info = self._follow(path)
                if info is not None:
                    logged[info.key] = info
        infos = {**logged, **self._read_sealed()}
        self._follow_late()
        for key, verdict in self._verdicts.items():
            if key in infos:
                infos[key] = infos[key].with_record(verdict) or infos[key]
        self._tails = {key: tail for key, tail in self._tails.items() if key in logged}
        return sorted(infos.values(), key=lambda info: info.ordinal)

    def info(self, key: EpisodeKey) -> EpisodeInfo:
        """Return what is known of one episode.

        Raises:
            DatasetError: If the store does not have it.
        """
        for info in self.episodes():
            if info.key == key:
                return info
        raise DatasetError("The store does not have this episode", seen=str(key))

    def arrivals(self, key: EpisodeKey, start: int = 0) -> Iterator[Arrival]:
        """Yield the arrivals of an episode from index ``start`` on, as many as there are now.

        Raises:
            DatasetError: If the store does not have the episode.
        """
        path = self.root / "logs" / f"{key}.log"
        try:
            self._follow(path)
            tail = self._tails[key]
            offset = tail.arrivals[start] if start < len(tail.arrivals) else tail.offset
            opened = entries(path, offset)
            first = next(opened, None)
        except (FileNotFoundError, KeyError):
            yield from self._sealed_arrivals(key, start)
            return
        for entry in chain([first] if first else [], opened):
            record = unpack_record(split(entry.blob))
            if isinstance(record, Arrival):
                yield record

    def observations(self, key: EpisodeKey, start: int = 0) -> Iterator[Observation]:
        """Yield the observations of an episode from index ``start`` on, at recording resolution.

        Raises:
            DatasetError: If the store does not have the episode.
        """
        for arrival in self.arrivals(key, start):
            yield arrival.observation

    def episode(self, key: EpisodeKey) -> Episode:
        """Return a finished episode whole, with its T + 1 observations.

        Raises:
            DatasetError: If the store does not have it, or it is still open.
        """
        return episode_of(self.info(key), self.arrivals(key))

    def _sealed_arrivals(self, key: EpisodeKey, start: int) -> Iterator[Arrival]:
        folder = self.root / "store.zarr" / str(key)
        if not folder.exists():
            raise DatasetError("The store does not have this episode", seen=str(key))
        return read_arrivals(folder, start)

    def _follow(self, path: Path) -> EpisodeInfo | None:
        try:
            key = EpisodeKey.parse(path.stem)
            tail = self._tails.setdefault(key, _Tail())
            ordinal = read_ordinal(path) if tail.info is None else tail.info.ordinal
            for entry in entries(path, tail.offset):
                record = unpack_record(split(entry.blob))
                if isinstance(record, Begin) and tail.info is None:
                    tail.info = EpisodeInfo.from_begin(record, ordinal)
                elif tail.info is not None:
                    tail.info = tail.info.with_record(record) or tail.info
                if isinstance(record, Arrival):
                    tail.arrivals.append(tail.offset)
                if tail.info is not None:
                    tail.info = tail.info.taken(entry.ring_id, entry.sequence)
                tail.offset = entry.stop
        except (FileNotFoundError, DatasetError, ValueError):
            return None  # Sealed meanwhile, or only just being made.
        return tail.info

    def _follow_late(self) -> None:
        late = self.root / "logs" / LATE
        # A store that was killed while it was made may not have come to it.
        for entry in entries(late, self._late_offset) if late.is_file() else ():
            self._late_offset = entry.stop
            try:
                record = unpack_record(split(entry.blob))
            except WireError:
                continue  # Kept by the store because it could not be read.
            if isinstance(record, Verdict) and record.replaces(self._verdicts.get(record.key)):
                self._verdicts[record.key] = record

    def _read_sealed(self) -> dict[EpisodeKey, EpisodeInfo]:
        """Return the sealed episodes: new and young ones as they are now, the others as they were a few seconds ago at most.

        A store of many days has thousands of them; later verdicts on them come by another way.
        """
        root, now_ns = self.root / "store.zarr", time.monotonic_ns()
        if not root.is_dir():
            return {}  # The store was killed while it was made.
        changed_ns = root.stat().st_mtime_ns
        names = {name for name, sealed in self._sealed.items() if now_ns < sealed.young_until_ns}
        if now_ns >= self._all_due_ns:
            self._all_due_ns = now_ns + _LOOK_AGAIN_NS
            names.update(os.listdir(root))
        elif changed_ns != self._listed_ns:
            names.update(set(os.listdir(root)) - self._sealed.keys())
        # Within one tick of the file system's clock the folder may change once more unseen.
        self._listed_ns = changed_ns if time.time_ns() - changed_ns > _TICK_NS else 0
        for name in names:
            self._look_at(root / name, now_ns)
        return {sealed.info.key: sealed.info for sealed in self._sealed.values()}

    def _look_at(self, folder: Path, now_ns: int) -> None:
        try:
            status = (folder / "zarr.json").stat()
        except OSError:
            return  # No episode, or not one yet.
        stamp, known = (status.st_ino, status.st_mtime_ns), self._sealed.get(folder.name)
        if (known is None or known.stamp != stamp) and self._unreadable.get(folder.name) != stamp:
            try:
                info = read_info(folder)
            except DatasetError as error:
                if not self._leave_out_torn:
                    raise
                self._unreadable[folder.name] = stamp
                _log.warning("%s", error)
                return
            young_ns = _LOOK_AGAIN_NS - (time.time_ns() - status.st_mtime_ns)
            self._sealed[folder.name] = _Sealed(stamp, info, now_ns + young_ns)
