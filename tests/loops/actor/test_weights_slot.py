"""Sets of weights from the I/O to the inference process: whole, the newest, and unchanged for as long as they are used."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.codec import encode, join
from roborl.errors import ConfigError, WireError
from roborl.loops.actor import weights_slot
from roborl.loops.actor.mapped_file import map_file
from roborl.loops.actor.weights_slot import WeightsSlot
from roborl.serving.weight_layout import WeightSet


def weights(version: int, size: int = 1000) -> WeightSet:
    return WeightSet.of(version, {"bias": np.full(size, version, np.float32)})


def received(slot: WeightsSlot, version: int, size: int = 1000) -> WeightSet:
    """As a subscriber does it: straight into the slot's memory."""
    made = weights(version, size)
    flat, _ = slot.take(made.flat.size)
    flat[:] = made.flat
    return WeightSet(version=version, entries=made.entries, flat=flat)


def values(found: WeightSet | None) -> set[float]:
    assert found is not None
    return set(found.arrays()["bias"].tolist())


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("weights-*.bin"))


def test_weights_arrive_whole_and_newest(tmp_path: Path) -> None:
    slot = WeightsSlot(tmp_path)
    assert slot.read() is None
    for version in (1, 2, 3):
        arrays = {f"layer.{n}": np.full((n, 3), version, np.float32) for n in range(300)}
        slot.write(WeightSet.of(version, arrays | {"scale": np.full((), version, np.float32)}))
        found = WeightsSlot(tmp_path).read()
        assert found is not None
        assert found.version == version
        again = found.arrays()
        assert len(again) == 301
        np.testing.assert_array_equal(again["layer.299"], arrays["layer.299"])
        assert again["scale"].shape == ()
        assert not again["layer.299"].flags.writeable


def test_what_was_received_in_the_slots_memory_is_not_copied(tmp_path: Path) -> None:
    slot, reader = WeightsSlot(tmp_path), WeightsSlot(tmp_path)
    mine = received(slot, 1)
    slot.write(mine)
    found = reader.read()
    assert found is not None
    mine.flat[:4] = np.float32([9]).view(np.uint8)
    assert found.arrays()["bias"][0] == 9, "both look at the same memory"


def test_sets_in_use_are_never_written_again_and_others_are(tmp_path: Path) -> None:
    slot, reader = WeightsSlot(tmp_path), WeightsSlot(tmp_path)
    held = []
    for version in range(1, 31):
        slot.write(received(slot, version))
        found = reader.read()
        if version in (3, 4, 17):
            held.append(found)
        del found
    assert [values(found) for found in held] == [{3}, {4}, {17}]
    assert len(files(tmp_path)) <= 5, "three that are held, the newest, and one to be filled"


def test_a_set_that_is_never_published_gives_its_memory_back(tmp_path: Path) -> None:
    slot = WeightsSlot(tmp_path)
    slot.write(received(slot, 1))
    for version in range(2, 9):
        received(slot, version)
    assert values(slot.read()) == {1}
    assert len(files(tmp_path)) == 4


def test_two_sets_on_their_way_have_two_places(tmp_path: Path) -> None:
    slot = WeightsSlot(tmp_path)
    first, second = received(slot, 1), received(slot, 2)
    slot.write(second)
    assert values(slot.read()) == {2}
    assert set(first.arrays()["bias"].tolist()) == {1}


def test_sets_of_another_size_leave_no_files_behind(tmp_path: Path) -> None:
    slot, reader = WeightsSlot(tmp_path), WeightsSlot(tmp_path)
    slot.write(received(slot, 1))
    held = reader.read()
    slot.write(received(slot, 2, size=2000))
    slot.write(received(slot, 3, size=2000))
    assert values(held) == {1}
    assert values(reader.read()) == {3}
    assert {path.name.split("-")[1] for path in files(tmp_path)} == {"8000"}


def test_room_for_what_is_usually_needed_is_there_from_the_first_set_on(tmp_path: Path) -> None:
    slot, reader = WeightsSlot(tmp_path), WeightsSlot(tmp_path)
    received(slot, 1)
    assert len(files(tmp_path)) == 4
    good = on_trial = None
    for version in range(2, 12):
        slot.write(received(slot, version))
        if version % 2:  # every other one is read, and the one before it is still the last good one
            good, on_trial = on_trial, reader.read()
            assert values(on_trial) == {version}
    assert good is not None
    assert len(files(tmp_path)) == 4


def test_a_set_without_arrays_is_one(tmp_path: Path) -> None:
    slot = WeightsSlot(tmp_path)
    slot.write(WeightSet.of(1, {}))
    found = slot.read()
    assert found is not None
    assert (found.version, found.arrays()) == (1, {})


def test_the_newest_outlives_its_writer_and_is_not_filled_by_the_next(tmp_path: Path) -> None:
    first = WeightsSlot(tmp_path)
    first.write(received(first, 1))
    del first
    second = WeightsSlot(tmp_path)
    received(second, 2)
    assert values(WeightsSlot(tmp_path).read()) == {1}


_WRITER = """
import sys, numpy as np
from pathlib import Path
from roborl.loops.actor.weights_slot import WeightsSlot
from roborl.serving.weight_layout import WeightSet
slot, version = WeightsSlot(Path(sys.argv[1])), int(sys.argv[2])
while True:
    version += 1
    made = WeightSet.of(version, {"bias": np.full(250_000, version, np.float32)})
    flat, _ = slot.take(made.flat.size)
    for start in range(0, flat.size, 100_000):
        flat[start : start + 100_000] = made.flat[start : start + 100_000]
    slot.write(WeightSet(version=version, entries=made.entries, flat=flat))
    del flat, made
    if version % 100 == 1: print(version, flush=True)
"""


def test_no_reader_ever_sees_half_a_set_whenever_the_writer_is_killed(tmp_path: Path) -> None:
    reader, last, kept = WeightsSlot(tmp_path), 0, []
    for kill in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(last)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            until_s = time.monotonic() + 0.1 + 0.037 * kill
            while time.monotonic() < until_s:
                found = reader.read()
                if found is not None:
                    assert values(found) == {found.version}
                    assert found.version >= last
                    last = found.version
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
        kept.append(reader.read())
    assert [values(found) for found in kept] == [{found.version} for found in kept if found is not None]
    assert len(kept) == 5
    assert len(files(tmp_path)) <= 8


def test_what_is_no_news_of_weights_is_said(tmp_path: Path) -> None:
    (tmp_path / "weights.news").write_bytes(join(encode({"a": 1})))
    with pytest.raises(WireError, match="no news of weights"):
        WeightsSlot(tmp_path).read()


def test_a_set_that_was_replaced_before_it_was_held_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot, reader = WeightsSlot(tmp_path), WeightsSlot(tmp_path)
    slot.write(received(slot, 1))
    hold, held = WeightsSlot._hold, []

    def late(self: WeightsSlot, name: str, size: int) -> np.ndarray | None:
        if not held:
            for version in range(2, 7):  # all files are filled anew, this one too
                slot.write(received(slot, version))
        held.append(name)
        return hold(self, name, size)

    monkeypatch.setattr(WeightsSlot, "_hold", late)
    found = reader.read()
    assert found is not None
    assert (found.version, values(found)) == (6, {6})
    assert len(held) == 2


def test_a_set_is_told_from_an_earlier_one_of_its_size_whatever_came_in_between(tmp_path: Path) -> None:
    slot, reader = WeightsSlot(tmp_path), WeightsSlot(tmp_path)
    for other in (2000, 0):
        for seen in (False, True):
            slot.write(received(slot, 1))
            assert values(reader.read()) == {1}
            slot.write(WeightSet.of(2, {"bias": np.zeros(other, np.float32)}))
            if seen:
                reader.read()
            slot.write(received(slot, 3))
            assert values(reader.read()) == {3}


def test_sets_of_an_earlier_session_make_room_for_those_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = WeightsSlot(tmp_path)
    first.write(received(first, 1))
    monkeypatch.setattr(weights_slot, "map_file", within(5 * 8064, tmp_path))
    second = WeightsSlot(tmp_path)
    second.write(received(second, 2, size=2000))
    assert values(WeightsSlot(tmp_path).read()) == {2}


def test_want_of_room_is_final_for_the_first_set_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = WeightsSlot(tmp_path)
    monkeypatch.setattr(weights_slot, "map_file", within(3 * 4032, tmp_path))
    with pytest.raises(ConfigError, match="no room"):
        received(slot, 1)
    monkeypatch.setattr(weights_slot, "map_file", within(4 * 4032, tmp_path))
    held = []
    for version in range(1, 5):
        slot.write(received(slot, version))
        held.append(slot.read())
    with pytest.raises(MemoryError, match="no room"):
        received(slot, 5)
    with pytest.raises(MemoryError, match="no room"):
        received(WeightsSlot(tmp_path), 5)
    del held[0]
    slot.write(received(slot, 5))
    assert values(slot.read()) == {5}


def within(room: int, folder: Path) -> Any:
    """A memory disk of so many bytes."""

    def mapped(path: Path, size: int, header: bytes) -> mmap.mmap:
        there = {found.name: found.stat().st_size for found in files(folder)}
        if path.name not in there and sum(there.values()) + size > room:
            raise ConfigError("There is no room")
        return map_file(path, size, header)

    return mapped
