from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roborl.codec import join, split
from roborl.data.journal import Journal
from roborl.data.ring import Ring
from roborl.errors import DatasetError
from roborl.records import Arrival, Begin, End, Verdict, unpack_record
from roborl.types import EndCause, Observation, RewardSource


def observation() -> Observation:
    return Observation(frames={}, state=np.zeros(2, np.float32), stamp_ns=1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(st.one_of(st.binary(max_size=90), st.integers(1, 5), st.just("reopen")), max_size=60),
    slots=st.integers(1, 6),
)
def test_behaves_like_a_queue_of_acknowledged_records(
    tmp_path_factory: pytest.TempPathFactory, moves: list[object], slots: int
) -> None:
    path = tmp_path_factory.mktemp("ring") / "ring.bin"
    writer, reader = Ring.create(path, slots=slots, slot_bytes=64), Ring.attach(path)
    written: list[bytes] = []
    acknowledged = 0
    for move in moves:
        if isinstance(move, bytes):
            blob = join([move, b"x"])
            if len(blob) > 64 or len(written) - acknowledged == slots:
                with pytest.raises(DatasetError):
                    writer.append([move, b"x"])
            else:
                written.append(blob)
                assert writer.append([move, b"x"]) == len(written)
        elif isinstance(move, int):
            acknowledged = min(acknowledged + move, len(written))
            reader.acknowledge(acknowledged)
        else:
            writer.close()
            writer = Ring(path, writer=True)
        assert reader.head == writer.head == len(written)
        assert writer.free_slots == slots - (len(written) - acknowledged)
        for sequence in range(acknowledged + 1, len(written) + 1):
            assert bytes(reader.read(sequence)) == written[sequence - 1]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = Ring.create(tmp_path / "ring.bin", slots=2, slot_bytes=8)
    with pytest.raises(DatasetError, match="has a writer"):
        Ring(tmp_path / "ring.bin", writer=True)
    first.close()
    Ring(tmp_path / "ring.bin", writer=True).close()


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ring.bin"
    with Ring.create(path, slots=2, slot_bytes=64) as ring:
        ring.append([b"content"])
        data = bytearray(path.read_bytes())
        data[data.index(b"content")] ^= 1
        path.write_bytes(data)
    with Ring.attach(path) as ring, pytest.raises(DatasetError, match="damaged"):
        ring.read(1)


def test_a_file_that_is_no_ring_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"abc")
    (tmp_path / "zeros").write_bytes(bytes(9000))
    for name in ("short", "zeros", "missing"):
        with pytest.raises(DatasetError):
            Ring.attach(tmp_path / name)


@pytest.mark.parametrize("size", [4095, 4096, 4097, 5000])
def test_a_ring_that_was_cut_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "r.ring"
    Ring.create(path, slots=4, slot_bytes=4096).close()
    os.truncate(path, size)
    with pytest.raises(DatasetError, match="not a ring"):
        Ring(path)


def test_a_ring_of_another_form_is_replaced_only_when_empty(tmp_path: Path) -> None:
    path = tmp_path / "ring.bin"
    with Ring.create(path, slots=2, slot_bytes=64) as ring:
        ring.append([b"a"])
        identity = ring.id
    with pytest.raises(DatasetError, match="not empty"):
        Ring.continue_or_create(path, slots=3, slot_bytes=64)
    with Ring.attach(path) as ring:
        ring.acknowledge(1)
    with Ring.continue_or_create(path, slots=3, slot_bytes=64) as ring:
        assert (ring.slots, ring.head) == (3, 0)
        assert ring.id != identity


_WRITER = """
import struct, sys
from pathlib import Path
from roborl.data.ring import Ring
ring = Ring.continue_or_create(Path(sys.argv[1]), slots=7, slot_bytes=300_000)
print("ready", flush=True)
while True:
    if ring.free_slots:
        n = ring.head + 1
        body = bytes([n % 251]) * (1 + n * 7919 % 200_000)
        ring.append([struct.pack("<Q", n), body])
"""


def test_sigkill_of_the_writer_leaves_whole_records_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ring.bin"
    rng = np.random.default_rng(0)
    expected = 1
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with Ring.attach(path) as reader:
            end = time.monotonic() + rng.uniform(0.002, 0.03)
            killed = False
            while True:
                if not killed and time.monotonic() > end:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    killed = True
                if reader.head < expected:
                    if killed:
                        break
                    continue
                number, body = split(reader.read(expected))
                assert int.from_bytes(number, "little") == expected
                assert bytes(body) == bytes([expected % 251]) * (1 + expected * 7919 % 200_000)
                del number, body
                reader.acknowledge(expected)
                expected += 1
    assert expected > 20


def records(ring: Ring) -> list[object]:
    return [unpack_record(split(ring.read(n))) for n in range(ring.acknowledged + 1, ring.head + 1)]


@pytest.mark.parametrize("tail", ["begin", "arrival", "verdict", "end"])
def test_a_new_journal_ends_what_the_last_left_open(tmp_path: Path, tail: str) -> None:
    form = {"actor": "arm", "slots": 16, "slot_bytes": 4096}
    journal = Journal(tmp_path / "ring.bin", **form)
    key = journal.next_key()
    journal.commit(Begin(key=key, task="lift"))
    if tail != "begin":
        journal.commit(Arrival(key=key, index=0, observation=observation()))
    if tail == "verdict":
        journal.commit(Verdict(key=key, index=0, success=True, source=RewardSource.OPERATOR))
    if tail == "end":
        journal.commit(End(key=key, index=0, cause=EndCause.TIME_LIMIT))
    journal.close()
    again = Journal(tmp_path / "ring.bin", **form)
    ends = [r for r in records(again.ring) if isinstance(r, End)]
    assert len(ends) == 1
    assert ends[0].key == key
    expected = EndCause.TIME_LIMIT if tail == "end" else EndCause.ACTOR_LOST
    assert ends[0].cause is expected
    assert again.next_key().incarnation == key.incarnation + 1
    again.close()


def test_two_rings_of_one_actor_give_no_two_episodes_the_same_key(tmp_path: Path) -> None:
    """As on two computers, or where the first one's file is gone with all that was counted."""
    keys = set()
    for name in ("here", "there"):
        for _ in range(3):
            journal = Journal(tmp_path / name, actor="arm", slots=4, slot_bytes=64)
            keys |= {str(journal.next_key()), str(journal.next_key())}
            journal.close()
    assert len(keys) == 12


def test_room_for_an_episode_counts_what_is_not_acknowledged(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "ring.bin", actor="arm", slots=20, slot_bytes=4096)
    assert journal.has_room(15)
    assert not journal.has_room(16)
    journal.commit(Begin(key=journal.next_key(), task="lift"))
    assert not journal.has_room(15)
    with Ring.attach(tmp_path / "ring.bin") as reader:
        reader.acknowledge(1)
    assert journal.has_room(15)


def test_append_costs_the_control_process_little(tmp_path: Path) -> None:
    image = np.zeros((2, 128, 128, 3), np.uint8)
    with Ring.create(tmp_path / "ring.bin", slots=512, slot_bytes=110_000) as ring:
        parts = [b"header", memoryview(image).cast("B")]
        times = []
        for _ in range(400):
            start = time.perf_counter_ns()
            ring.append(parts)
            times.append(time.perf_counter_ns() - start)
    assert np.median(times) < 1e6, textwrap.dedent(f"median {np.median(times) / 1e3:.0f} us for 98 kB")
