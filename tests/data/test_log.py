from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.data.log import FIRST_ENTRY, LogEntry, RecordLog, entries, read_ordinal
from roborl.errors import DatasetError

BLOBS = [b"", b"a", bytes(300), b"\x00\x01\x02" * 11]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("log") / "one.log"
    log = RecordLog.create(path, 7)
    for n, blob in enumerate(BLOBS):
        log.append("ring-a", n + 1, blob)
    log.close()
    return path.read_bytes()


def read(path: Path) -> list[tuple[str, int, bytes]]:
    return [(e.ring_id, e.sequence, bytes(e.blob)) for e in entries(path)]


EXPECTED = [("ring-a", n + 1, blob) for n, blob in enumerate(BLOBS)]


def stops(path: Path) -> list[int]:
    return [entry.stop for entry in entries(path)]


def test_reads_back_what_was_appended(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(whole)
    assert read(path) == EXPECTED
    assert read_ordinal(path) == 7
    second = list(entries(path))[1]
    assert [e.sequence for e in entries(path, second.stop)] == [3, 4]


def test_torn_at_every_byte_recovers_to_the_last_whole_record_and_goes_on(
    tmp_path: Path, whole: bytes
) -> None:
    path = tmp_path / "log"
    path.write_bytes(whole)
    ends = stops(path)
    for cut in range(FIRST_ENTRY, len(whole)):
        path.write_bytes(whole[:cut])
        log = RecordLog.recover(path)
        kept = sum(end <= cut for end in ends)
        assert read(path) == EXPECTED[:kept], cut
        log.append("ring-b", 9, b"next")
        log.close()
        assert read(path) == [*EXPECTED[:kept], ("ring-b", 9, b"next")]
    assert not list(tmp_path.glob("*.damaged"))


@pytest.mark.parametrize("cut", range(FIRST_ENTRY))
def test_a_torn_preamble_holds_nothing(tmp_path: Path, whole: bytes, cut: int) -> None:
    (tmp_path / "log").write_bytes(whole[:cut])
    with pytest.raises(DatasetError):
        RecordLog.recover(tmp_path / "log")


@settings(max_examples=150)
@given(data=st.data())
def test_a_flipped_byte_costs_its_record_and_what_follows_and_is_kept_aside(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "log"
    path.write_bytes(whole)
    ends = stops(path)
    at = data.draw(st.integers(FIRST_ENTRY, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = bytearray(whole)
    damaged[at] ^= flip
    path.write_bytes(damaged)
    RecordLog.recover(path).close()
    kept = sum(end <= at for end in ends)
    assert read(path) == EXPECTED[:kept]
    aside = path.with_name("log.damaged")
    start = ([FIRST_ENTRY, *ends])[kept]
    in_length = at - start < 4
    if not in_length:
        assert aside.read_bytes() == damaged[start:]


def test_a_growing_log_is_read_up_to_what_is_whole(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "log"
    offset, seen = FIRST_ENTRY, 0
    for size in range(FIRST_ENTRY, len(whole) + 1, 5):
        path.write_bytes(whole[:size])
        for entry in entries(path, offset):
            offset, seen = entry.stop, seen + 1
            assert isinstance(entry, LogEntry)
    path.write_bytes(whole)
    seen += len(list(entries(path, offset)))
    assert seen == len(BLOBS)


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RecordLog.create(tmp_path / "log", 1)
    log.append("r", 1, b"kept")
    real = os.writev

    def short(fd: int, buffers: Sequence[bytes]) -> int:
        real(fd, [b"".join(map(bytes, buffers))[:10]])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", short)
    with pytest.raises(DatasetError, match="No space"):
        log.append("r", 2, b"not written")
    monkeypatch.undo()
    log.append("r", 2, b"written")
    log.close()
    assert read(tmp_path / "log") == [("r", 1, b"kept"), ("r", 2, b"written")]
