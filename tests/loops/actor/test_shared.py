"""Slots, doorbell, status: whole values only, whoever dies when."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.codec import encode
from roborl.errors import ConfigError, ShapeError, WireError
from roborl.loops.actor.judge_stop import LiveSlot
from roborl.loops.actor.shared import (
    Chunk,
    ChunkSlot,
    Doorbell,
    ObservationSlot,
    Request,
    Slot,
    ValueSlot,
)
from roborl.loops.actor.status import StatusSlot, late_bucket
from roborl.loops.actor.teleop import ReadingSlot
from roborl.types import EpisodeKey, Frame, Observation

KEY = EpisodeKey(actor="arm", incarnation=2, episode=3)


@given(st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=8))
@settings(max_examples=30)
def test_a_reader_has_the_newest_value_once(tmp_path_factory: pytest.TempPathFactory, values: list) -> None:
    path = tmp_path_factory.mktemp("slot") / "a.slot"
    writer, reader, seen = Slot(path, 200), Slot(path, 200), 0
    assert reader.read() is None
    for value in values:
        writer.write(value)
        found = reader.read(seen)
        assert found is not None
        seen, blob = found
        assert blob.endswith(b"".join(value))
        assert reader.read(seen) is None
    assert seen == len(values)


def number_slot(folder: Path) -> ValueSlot[int]:
    return ValueSlot(
        folder / "a.slot", 200, "A number", lambda n: {"n": n}, lambda message: int(message["n"])
    )


def test_a_value_is_there_for_whoever_looks_and_is_new_to_each_reader_once(tmp_path: Path) -> None:
    writer, reader = (number_slot(tmp_path) for _ in range(2))
    assert reader.newest() is reader.unseen() is None
    writer.publish(1)
    writer.publish(2)
    assert (reader.unseen(), reader.unseen()) == (2, None)
    assert (reader.newest(), reader.unseen()) == (2, None)


def test_a_value_that_is_too_large_is_refused_and_the_last_one_stays(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "a.slot", 100)
    slot.write([b"good"])
    with pytest.raises(ShapeError, match="does not fit"):
        slot.write([bytes(200)])
    assert slot.read()[1].endswith(b"good")


def test_all_who_make_a_slot_at_once_have_the_same_one(tmp_path: Path) -> None:
    together = threading.Barrier(3)

    def make(path: Path) -> Slot:
        together.wait(30)
        return Slot(path, 100)

    with ThreadPoolExecutor(3) as pool:
        for number in range(200):
            slots = list(pool.map(make, [tmp_path / f"{number}.slot"] * 3))
            slots[0].write([b"heard"])
            assert [slot.read() is not None for slot in slots] == [True] * 3
            for slot in slots:
                slot.close()


def test_a_slot_that_memory_has_no_room_for_is_told_with_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"no room.*\d+ bytes for .*a\.slot: No space.*Allowed: \d+ bytes"):
        number_slot(tmp_path)
    assert not list(tmp_path.glob("*a.slot*"))
    monkeypatch.undo()
    number_slot(tmp_path)


def test_a_foreign_file_is_no_slot(tmp_path: Path) -> None:
    (tmp_path / "a.slot").write_bytes(b"x" * 500)
    with pytest.raises(WireError, match="not a shared slot"):
        Slot.attach(tmp_path / "a.slot")


# In a process of its own, not forked: one that is forked while other threads run may never come to its first write.
WRITE_FOR_EVER = """
import sys
from pathlib import Path
from roborl.loops.actor.shared import Slot

slot, value = Slot(Path(sys.argv[1]), 1 << 18), 0
while True:
    value = (value + 1) % 251
    slot.write([bytes([value]) * (200_000 + value)])
"""


def test_no_reader_ever_sees_half_a_value_while_writers_are_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.slot"
    reader, random, seen, whole = Slot(path, 1 << 18), np.random.default_rng(0), 0, 0
    for _ in range(8):
        first = reader.sequence + 1
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)])
        deadline = time.monotonic() + 60
        while reader.sequence < first and time.monotonic() < deadline:
            time.sleep(0.001)
        until = time.monotonic() + random.uniform(0.02, 0.1)
        while time.monotonic() < until:
            whole += check(reader.read(seen))
            seen = reader.sequence if whole % 2 else seen
        writer.kill()
        writer.wait()
        # What the dead one had published last is still whole, and its successor goes on from there.
        before = reader.sequence
        assert check(reader.read()) == 1
        assert Slot(path, 1 << 18).write([b"\7" * 200_007]) == before + 1
    assert whole > 20


def check(found: tuple[int, bytes] | None) -> int:
    if found is None:
        return 0
    blob = np.frombuffer(found[1], np.uint8)[8:]
    assert len(blob) == 200_000 + int(blob[0])
    assert (blob == blob[0]).all()
    return 1


def observation(index: int) -> Observation:
    rgb = np.random.default_rng(index).integers(0, 255, (6, 5, 3), np.uint8)
    frame = Frame(rgb=rgb, camera="front", stamp_ns=index, id=index)
    return Observation(frames={"front": frame}, state=np.arange(4, dtype=np.float32), stamp_ns=index)


def test_an_observation_arrives_as_it_was_published(tmp_path: Path) -> None:
    cameras = {"front": (6, 5, 3)}
    writer, reader = ObservationSlot(tmp_path, cameras, 4), ObservationSlot(tmp_path, cameras, 4)
    assert reader.wait(0.0) is None
    writer.publish(Request(key=KEY, index=1, wanted=True, observation=observation(1)))
    writer.publish(Request(key=KEY, index=2, wanted=False, after_person=True, observation=observation(2)))
    request = reader.wait(1.0)
    assert request is not None
    assert (request.key, request.index, request.wanted, request.after_person) == (KEY, 2, False, True)
    np.testing.assert_array_equal(request.observation.images["front"], observation(2).images["front"])
    np.testing.assert_array_equal(request.observation.state, observation(2).state)
    assert request.observation.frames["front"].id == 2
    assert reader.unseen() is None


def test_a_chunk_covers_its_own_steps_of_its_own_episode(tmp_path: Path) -> None:
    writer, reader = ChunkSlot(tmp_path), ChunkSlot(tmp_path)
    writer.publish(Chunk(key=KEY, first=4, actions=np.ones((3, 2), np.float32), policy_version=9))
    chunk = reader.unseen()
    assert chunk is not None
    assert [chunk.covers(KEY, index) for index in range(3, 9)] == [False, True, True, True, False, False]
    assert not chunk.covers(EpisodeKey(actor="arm", incarnation=2, episode=4), 5)
    assert chunk.policy_version == 9
    assert reader.unseen() is None


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: ObservationSlot(folder, {"front": (6, 5, 3)}, 4),
        ChunkSlot,
        ReadingSlot,
        LiveSlot,
    ],
    ids=["observation", "chunk", "device", "live"],
)
def test_what_is_no_value_is_a_wire_error_once(
    make: Callable[[Path], ValueSlot[Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    reader = make(tmp_path)
    writer = Slot.attach(tmp_path / f"{request.node.callspec.id}.slot")
    endless = dict.fromkeys(("index", "first", "stamp_ns"), float("inf"))
    whole = {"key": str(KEY), "action": 0.0, "actions": 0.0, "clutch": 0, "wanted": 0, "progress": 0.0}
    for message in (
        {},
        {"key": 3},
        {"key": "x"},
        {"action": "x"},
        whole | endless,
        {"frames": 1, "key": str(KEY)},
    ):
        writer.write(encode(message))
        with pytest.raises(WireError, match="is malformed"):
            reader.unseen()
        assert reader.unseen() is None
    writer.write([b"\xff"])
    with pytest.raises(WireError):
        reader.unseen()


def test_a_doorbell_never_keeps_the_ringer(tmp_path: Path) -> None:
    bell = Doorbell(tmp_path / "bell")
    assert not bell.wait(0.0)
    for _ in range(100_000):
        bell.ring()
    assert bell.wait(0.0)


def test_status_outlives_its_process_and_lateness_is_never_understated(tmp_path: Path) -> None:
    status = StatusSlot(tmp_path, "control")
    late_ns = np.random.default_rng(0).lognormal(11, 2, 5000).astype(int)
    for late in late_ns:
        status.record_lateness(int(late))
        status.add("ticks")
    again = StatusSlot(tmp_path, "control")
    again.begin()
    assert again["ticks"] == 5000
    assert again["late_max_ns"] == late_ns.max()
    for quantile in (0.5, 0.99):
        true_ms = np.quantile(late_ns, quantile) / 1e6
        assert true_ms <= again.lateness_ms(quantile) <= true_ms * 1.07
    assert not again.fresh(1.0)
    again.ready(0.0)
    assert StatusSlot(tmp_path, "control").fresh(1.0)


@given(st.integers(0, 10**11), st.integers(0, 10**11))
def test_later_is_never_in_an_earlier_bucket(one: int, other: int) -> None:
    assert (one <= other) <= (late_bucket(one) <= late_bucket(other))
