"""What a store's folder holds after any process was killed at any instant, read from the folder alone."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from roborl.codec import split
from roborl.data.episodes import EpisodeInfo
from roborl.data.log import FIRST_ENTRY, RecordLog, entries, read_ordinal
from roborl.data.sealed import read_info, rewrite_info
from roborl.errors import DatasetError, WireError
from roborl.records import Arrival, Begin, Verdict, unpack_record
from roborl.types import EpisodeKey
from roborl.whole_files import write_whole

_log = logging.getLogger(__name__)
LATE = "late.log"


@dataclass(kw_only=True)
class Recovered:
    """The state of a store on disk.

    Attributes:
        infos: All episodes.
        logs: Log of each episode that is open, or ended and not sealed.
        late: The log of records that came after their episode was over, or that nothing could be done with.
        last: Highest sequence number taken of each ring.
        ordinal: Highest ordinal ever given to an episode, 0 before the first.
        counts: What had to be repaired.
    """

    infos: dict[EpisodeKey, EpisodeInfo] = field(default_factory=dict)
    logs: dict[EpisodeKey, RecordLog] = field(default_factory=dict)
    late: RecordLog
    last: Counter[str] = field(default_factory=Counter)
    ordinal: int = 0
    counts: Counter[str] = field(default_factory=Counter)


def recover(root: Path, *, sync: bool) -> Recovered:
    """Read a store's folder, cut torn tails, and remove logs of episodes that are sealed.

    Raises:
        DatasetError: If ``late.log`` is not a log.
    """
    late_path = root / "logs" / LATE
    # Shorter than its preamble, it was torn while it was made.
    if not late_path.exists() or late_path.stat().st_size < FIRST_ENTRY:
        RecordLog.create(late_path, 0).close()
    found = Recovered(late=RecordLog.recover(late_path, sync=sync))
    found.last.update(_read_sequences(root))
    found.ordinal = _read_ordinal(root)
    for folder in sorted((root / "store.zarr").iterdir()):
        if folder.is_dir():
            try:
                info = read_info(folder)
            except DatasetError as error:
                found.counts["unreadable"] += 1
                _log.warning("%s", error)
            else:
                _note(found, info)
    for path in sorted((root / "logs").glob("*.log")):
        if path.name != LATE:
            _recover_log(found, path, sync=sync)
    noted = {key: info.verdict for key, info in found.infos.items() if key not in found.logs}
    for entry in entries(late_path):
        if entry.ring_id:
            found.last[entry.ring_id] = max(found.last[entry.ring_id], entry.sequence)
        verdict = _verdict(entry.blob)
        if verdict is not None and verdict.key in found.infos:
            info = found.infos[verdict.key]
            found.infos[verdict.key] = info.with_record(verdict) or info
    for key, info in found.infos.items():
        if key in noted and noted[key] != info.verdict:
            folder = root / "store.zarr" / str(key)
            # Killed between taking the verdict and noting it there.
            rewrite_info(folder, info, sync=sync)
    return found


def write_sequences(root: Path, last: Mapping[str, int]) -> None:
    """Keep the sequence numbers beside the data, so that deleting old episodes does not take them back."""
    write_whole(root / "sequences.json", json.dumps(dict(last)).encode())


def write_ordinal(root: Path, ordinal: int, *, sync: bool) -> None:
    """Keep the highest ordinal beside the data, so that deleting the newest episodes does not take it back.

    Raises:
        OSError: If the disk does not take it.
    """
    write_whole(root / "last_ordinal", str(ordinal), sync=sync)


def replay(path: Path) -> EpisodeInfo | None:
    """Return what a log says about its episode, None where not even its beginning is whole.

    Raises:
        DatasetError: If it is not a log.
    """
    ordinal = read_ordinal(path)
    info: EpisodeInfo | None = None
    for entry in entries(path):
        record = unpack_record(split(entry.blob))
        if info is None:
            info = EpisodeInfo.from_begin(record, ordinal) if isinstance(record, Begin) else None
        else:
            info = info.with_record(record) or info
        info = info and info.taken(entry.ring_id, entry.sequence)
    return info


def logged_arrivals(path: Path, start: int = 0) -> Iterator[Arrival]:
    """Yield the arrivals of a log from index ``start`` on.

    Raises:
        FileNotFoundError: If the episode has been sealed meanwhile.
    """
    for entry in entries(path):
        record = unpack_record(split(entry.blob))
        if isinstance(record, Arrival) and record.index >= start:
            yield record


def _recover_log(found: Recovered, path: Path, *, sync: bool) -> None:
    try:
        key = EpisodeKey.parse(path.stem)
        if key in found.infos:
            path.unlink()  # Sealed; the process was killed before it could remove the log.
            return
        log = RecordLog.recover(path, sync=sync)
        info = replay(path)
    except (DatasetError, WireError, ValueError) as error:
        info, log = None, None
        _log.warning("log %s holds nothing: %s", path.name, error)
    if info is None or log is None:
        # Killed while the log was made: nothing in it was acknowledged.
        if log is not None:
            log.close()
        path.replace(path.with_name(path.name + ".empty"))
        found.counts["empty_logs"] += 1
        return
    if path.with_name(path.name + ".damaged").exists():
        found.counts["damaged_logs"] += 1
    found.logs[key] = log
    _note(found, info)


def _note(found: Recovered, info: EpisodeInfo) -> None:
    found.infos[info.key] = info
    found.ordinal = max(found.ordinal, info.ordinal)
    for ring_id, sequence in info.sequences.items():
        found.last[ring_id] = max(found.last[ring_id], sequence)


def _read_sequences(root: Path) -> dict[str, int]:
    """Read what :func:`write_sequences` kept. Where it is torn, the episodes themselves still say what was taken."""
    path = root / "sequences.json"
    try:
        return {str(k): int(v) for k, v in json.loads(path.read_bytes()).items()} if path.exists() else {}
    except (ValueError, TypeError, AttributeError) as error:
        _log.warning("%s is torn and is made again: %s", path, error)
        return {}


def _read_ordinal(root: Path) -> int:
    """Read what :func:`write_ordinal` kept. Where it is torn, the episodes themselves still have theirs."""
    path = root / "last_ordinal"
    try:
        return int(path.read_bytes()) if path.exists() else 0
    except ValueError as error:
        _log.warning("%s is torn and is made again: %s", path, error)
        return 0


def _verdict(blob: memoryview) -> Verdict | None:
    try:
        record = unpack_record(split(blob))
    except WireError:
        return None
    return record if isinstance(record, Verdict) else None
