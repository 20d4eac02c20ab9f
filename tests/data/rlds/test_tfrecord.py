"""Records come out as they went in, a torn file up to where it is torn, and never as something else."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from roborl.data.rlds import tfrecord
from roborl.data.rlds.tfrecord import RecordFile, masked_crc
from roborl.errors import DatasetError
from roborl.testing.rlds import write_records

RECORDS = [b"", b"one", bytes(range(256)) * 9]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "records"
    write_records(path, RECORDS)
    return path


def test_the_checksum_is_the_known_one() -> None:
    # CRC-32C of these digits is 0xE3069283 (RFC 3720). Rotated right by 15 that is 0x2507C60D; with 0xA282EAD8:
    assert masked_crc(b"123456789") == 0xC78AB0E5
    # Of 32 zeros it is 0x8A9136AA (RFC 3720, B.4): 0x6D551522 rotated.
    assert masked_crc(bytes(32)) == (0x6D551522 + 0xA282EAD8) & 0xFFFFFFFF
    # Of nothing it is 0.
    assert masked_crc(b"") == 0xA282EAD8


def test_a_file_laid_out_by_hand_is_read(tmp_path: Path) -> None:
    """One record of nine digits; the checksum of its length, CRC-32C of 0900000000000000, is that of any TensorFlow."""
    length = struct.pack("<Q", 9)
    path = tmp_path / "by-hand"
    path.write_bytes(
        length + struct.pack("<I", masked_crc(length)) + b"123456789" + bytes.fromhex("e5b08ac7")
    )
    assert RecordFile(path).read(0) == b"123456789"


def test_records_are_read_in_any_order(shard: Path) -> None:
    file = RecordFile(shard, strict=True)
    assert len(file) == 3
    assert [file.read(i) for i in (2, 0, 1)] == [RECORDS[2], RECORDS[0], RECORDS[1]]
    with pytest.raises(DatasetError, match=r"no such record.*Allowed: 0 to 2"):
        file.read(3)


def test_a_file_is_gone_through_once_for_as_long_as_it_is_the_same(
    shard: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    find = tfrecord.find_records
    monkeypatch.setattr(tfrecord, "find_records", lambda path: seen.append(path) or find(path))
    assert len(RecordFile(shard)) == len(RecordFile(shard)) == 3
    assert len(seen) == 1
    write_records(shard, RECORDS[:2])
    assert len(RecordFile(shard)) == 2
    assert len(seen) == 2
    (kept,) = cache.iterdir()
    for junk in (b"", b"no archive", kept.read_bytes()[:-40]):
        kept.write_bytes(junk)
        assert len(RecordFile(shard)) == 2
    status = shard.stat()
    with kept.open("wb") as handle:
        np.savez(
            handle,
            stamp=np.array([status.st_size, status.st_mtime_ns]),
            offsets=np.array([0, 1 << 40]),
            lengths=np.array([1 << 40, 3]),
            torn=np.array(""),
        )
    assert RecordFile(shard).read(1) == b"one", "an index that cannot be this file's is made again"


def test_a_cache_that_cannot_be_written_is_done_without(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert RecordFile(shard).read(1) == b"one"


@pytest.mark.parametrize("cut", [1, 4, 7, 12, 30])
def test_a_torn_file_is_read_up_to_its_last_whole_record(
    cut: int, shard: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.truncate(shard, 16 + 19 + cut)
    file = RecordFile(shard)
    assert [file.read(i) for i in range(len(file))] == RECORDS[:2]
    assert f"is torn: 2 whole records are read, then {cut} " in caplog.text
    with pytest.raises(DatasetError, match=r"is torn\. Found: .*2 whole records.*Allowed: .*Fetch"):
        RecordFile(shard, strict=True)


def test_a_header_that_is_none_ends_the_file_there(shard: Path, caplog: pytest.LogCaptureFixture) -> None:
    with shard.open("r+b") as handle:
        handle.seek(16 + 19)
        handle.write(b"\xff" * 8)
    assert len(RecordFile(shard)) == 2
    assert "no header at byte 35" in caplog.text


def test_bytes_that_were_changed_are_noticed_in_their_record_alone(shard: Path) -> None:
    with shard.open("r+b") as handle:
        handle.seek(16 + 13)
        handle.write(b"!")
    file = RecordFile(shard, strict=True)
    assert file.read(2) == RECORDS[2]
    with pytest.raises(DatasetError, match=r"not what was written\. Found: record 1 of .*at byte 16"):
        file.read(1)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "packed.gz"
    packed.write_bytes(b"\x1f\x8b\x08\x00" + bytes(60))
    with pytest.raises(DatasetError, match="no TFRecord file"):
        RecordFile(packed)
    with pytest.raises(DatasetError, match=r"cannot be read\. Found: .*No such file"):
        RecordFile(tmp_path / "absent")
    with pytest.raises(DatasetError, match="cannot be read"):
        RecordFile(tmp_path)
    (tmp_path / "empty").touch()
    assert len(RecordFile(tmp_path / "empty", strict=True)) == 0
