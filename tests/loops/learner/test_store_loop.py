from __future__ import annotations

import random
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl import whole_files
from roborl.clock import FakeClock
from roborl.codec import Part, join
from roborl.data.arena import ArenaReader
from roborl.data.episodes import EpisodeInfo
from roborl.data.sealed import episode_of, read_arrivals
from roborl.data.store import Store
from roborl.errors import ConfigError, DatasetError
from roborl.loops.learner import store as store_module
from roborl.loops.learner.store import DemoImport, StoreLoop, imported
from roborl.records import Arrival, pack_record
from roborl.serving.handshake import Handshake
from roborl.serving.steps_receiver import StepsReceiver
from roborl.serving.steps_sender import StepsSender
from roborl.testing.experience import (
    check_arrival,
    episode_records,
    store_spec,
)
from roborl.types import EndCause, Episode, EpisodeKey

SPEC = store_spec(max_steps=6, capacity_bytes=1 << 22)


class Wire:
    """Hands out records once each, in the order of their ring, and remembers acknowledgements."""

    def __init__(self) -> None:
        self.coming: deque[tuple[str, int, Part]] = deque()
        self.acknowledged: dict[str, int] = {}

    def poll(self, timeout_s: float) -> list[tuple[str, int, Part]]:
        found, self.coming = list(self.coming), deque()
        return found

    def acknowledge(self, ring_id: str, seq: int) -> None:
        assert seq > self.acknowledged.get(ring_id, 0)
        self.acknowledged[ring_id] = seq


class Disk:
    """A store that refuses while it is full."""

    def __init__(self) -> None:
        self.kept: dict[str, list[tuple[int, Part]]] = {}
        self.last: dict[str, int] = {}
        self.full = False
        self.error: Exception = DatasetError("The disk is full")

    def last_sequence(self, ring_id: str) -> int:
        return self.last.get(ring_id, 0)

    def adopt(self, ring_id: str, acknowledged: int) -> None:
        self.last[ring_id] = acknowledged

    def ingest(self, ring_id: str, sequence: int, blob: Part) -> None:
        if self.full:
            raise self.error
        if sequence != self.last_sequence(ring_id) + 1:
            raise DatasetError("not the next")
        self.kept.setdefault(ring_id, []).append((sequence, blob))
        self.last[ring_id] = sequence


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=60))
def test_nothing_is_acknowledged_before_it_is_stored_and_all_is_in_the_end(
    history: list[tuple[str, bool]],
) -> None:
    wire, disk, clock = Wire(), Disk(), FakeClock()
    loop = StoreLoop(wire, disk, clock=clock)
    sent = {"a": 0, "b": 0}
    for ring_id, full in history:
        sent[ring_id] += 1
        wire.coming.append((ring_id, sent[ring_id], b"x"))
        disk.full = full
        clock.advance(0.3)
        loop.turn(0)
        for ring, sequence in wire.acknowledged.items():
            assert sequence <= disk.last_sequence(ring)
    disk.full = False
    clock.advance(1.0)
    loop.turn(0)
    for ring, count in sent.items():
        assert [sequence for sequence, _ in disk.kept.get(ring, [])] == list(range(1, count + 1))
        assert wire.acknowledged.get(ring, 0) == count
    assert loop.records == sum(sent.values())
    assert loop.waiting == 0


def mutated(blob: bytes, rng: random.Random) -> bytes:
    """Return a record of which a little is wrong, in its header for the most part."""
    broken = bytearray(blob)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(broken), 300 if rng.random() < 0.9 else len(broken)))
        match rng.randrange(4):
            case 0:
                broken[at] = rng.randrange(256)
            case 1:
                broken[at] ^= 1 << rng.randrange(8)
            case 2 if len(broken) > 8:
                del broken[at : at + rng.randint(1, 4)]
            case _:
                broken[at:at] = rng.randbytes(2)
    return bytes(broken)


@pytest.mark.parametrize(
    "records", [600, pytest.param(60_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_a_store_that_is_sent_nonsense_keeps_all_that_others_send_and_opens_again(
    tmp_path: Path, records: int
) -> None:
    """Over real links. Who sends it keeps to the protocol: all of it is received, and comes to the store."""
    rng = random.Random(records)
    keys = [EpisodeKey(actor="honest", incarnation=1, episode=n) for n in range(8)]
    good = [join(pack_record(record)) for key in keys for record in episode_records(key, 5)]
    theirs = [
        join(pack_record(record))
        for n in range(50)
        for record in episode_records(EpisodeKey(actor="arm", incarnation=1, episode=n), 4)
    ]
    with ExitStack() as opened:
        store = opened.enter_context(Store(tmp_path / "store", SPEC))
        receiver = StepsReceiver(
            "tcp://127.0.0.1:*", handshake=Handshake(), last_sequence=store.last_sequence
        )
        opened.callback(receiver.close)
        honest, attacker = (
            StepsSender(receiver.endpoint, ring_id=name, actor=name, handshake=Handshake())
            for name in ("honest", "attacker")
        )
        opened.callback(honest.close)
        opened.callback(attacker.close)
        loop = StoreLoop(receiver, store)
        until_s = time.monotonic() + 60.0 + records / 100
        while honest.acknowledged < len(good) or attacker.acknowledged < records:
            assert time.monotonic() < until_s, "not all of it was acknowledged"
            honest.poll(0)
            attacker.poll(0)
            # As many of the one as of the other, in share.
            if honest.next_sequence <= len(good) * attacker.next_sequence // records:
                honest.offer(honest.next_sequence, good[honest.next_sequence - 1])
            if attacker.next_sequence <= records:
                seq = attacker.next_sequence
                attacker.offer(seq, mutated(theirs[seq % len(theirs)], rng))
            loop.turn(0)
        assert loop.faults == loop.waiting == 0
        assert store.counts["refused"] > records // 4
    with Store(tmp_path / "store", SPEC) as store:
        assert store.last_sequence("honest") == len(good)
        assert store.last_sequence("attacker") == records
        infos = {info.key: info for info in store.infos()}
        for key in keys:
            assert (infos[key].observations, infos[key].end) == (6, EndCause.TIME_LIMIT)
            arrivals = list(read_arrivals(tmp_path / "store" / "store.zarr" / str(key)))
            assert [record.index for record in arrivals] == list(range(6))
            for record in arrivals:
                check_arrival(record)


@pytest.mark.parametrize("error", [DatasetError("The disk is full"), OSError(28, "No space left on device")])
def test_a_full_disk_is_tried_again_at_a_measured_pace(error: Exception) -> None:
    wire, disk, clock = Wire(), Disk(), FakeClock()
    loop = StoreLoop(wire, disk, clock=clock, pause_s=0.5)
    disk.full, disk.error = True, error
    wire.coming.append(("a", 1, b"x"))
    for _ in range(10):
        loop.turn(0)
        clock.advance(0.1)
    assert loop.faults == 2
    assert loop.waiting == 1
    disk.full = False
    clock.advance(0.5)
    assert loop.turn(0) == 1
    assert wire.acknowledged == {"a": 1}


def test_what_another_store_acknowledged_is_taken_note_of() -> None:
    wire, disk = Wire(), Disk()
    loop = StoreLoop(wire, disk, clock=FakeClock())
    wire.coming += [("a", 41, b"x"), ("a", 42, b"y")]
    assert loop.turn(0) == 2
    assert disk.kept["a"] == [(41, b"x"), (42, b"y")]
    assert wire.acknowledged == {"a": 42}


def test_what_the_recording_has_taken_is_learnt_from_however_full_the_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replay memory has its room from the start: it writes no file that the disk could refuse behind the recording."""
    wire, clock, written = Wire(), FakeClock(), whole_files.whole_file

    def full(path: Path, *, sync: bool = False) -> AbstractContextManager[Path]:
        if path.parent == tmp_path / "store" / "arena":
            raise OSError(28, "No space left on device")
        return written(path, sync=sync)

    key = EpisodeKey(actor="arm", incarnation=1, episode=0)
    wire.coming += [("a", n, join(pack_record(r))) for n, r in enumerate(episode_records(key, 3), start=1)]
    with Store(tmp_path / "store", SPEC) as store:
        demos = DemoImport("a", lambda: map(demo, range(2)), store, tmp_path / "demos.json", clock=clock)
        loop = StoreLoop(wire, store, clock=clock)
        with monkeypatch.context() as disk:
            disk.setattr(whole_files, "whole_file", full)
            demos.turn()
            loop.turn(0)
        clock.advance(1.0)
        loop.turn(0)
        while not demos.complete:
            demos.turn()
        assert ArenaReader(tmp_path / "store").slots().keys() == {info.key for info in store.infos()}
        assert demos.imported == 2
        assert store.counts["refused"] == 0


class Shelf:
    """A store that takes each episode once."""

    def __init__(self) -> None:
        self.keys: list[EpisodeKey] = []

    def import_episode(self, episode: Episode) -> bool:
        if episode.key in self.keys:
            return False
        self.keys.append(episode.key)
        return True


def demo(number: int) -> Episode:
    key = EpisodeKey(actor="demo", incarnation=1, episode=number)
    arrivals = [record for record in episode_records(key, 2) if isinstance(record, Arrival)]
    info = EpisodeInfo(key=key, ordinal=1, task="t", observations=3, end=EndCause.SUCCESS)
    return episode_of(info, arrivals)


@given(st.integers(1, 5), st.integers(0, 8))
def test_demonstrations_come_in_once_whenever_the_process_dies(count: int, turns: int) -> None:
    marker = Path(tempfile.mkdtemp()) / "demos.json"
    shelf, read = Shelf(), 0

    def episodes() -> Iterator[Episode]:
        nonlocal read
        read += 1
        return map(demo, range(count))

    first = DemoImport("a", episodes, shelf, marker)
    for _ in range(turns):
        first.turn()
    second = DemoImport("a", episodes, shelf, marker)
    while not second.complete:
        second.turn()
    assert [key.episode for key in shelf.keys] == list(range(count))
    assert first.imported + second.imported == count
    third = DemoImport("a", episodes, shelf, marker)
    assert third.complete
    assert read == (1 if turns > count else 2)
    assert DemoImport("", episodes, shelf, marker).complete
    another = DemoImport("another", episodes, shelf, marker)
    while not another.complete:
        another.turn()
    assert another.imported == count, "none passes for one of the first source"
    assert len(set(shelf.keys)) == 2 * count


@given(st.integers(0, 3))
def test_another_source_after_a_stop_in_mid_import_is_kept_apart_and_the_first_goes_on(turns: int) -> None:
    marker, shelf = Path(tempfile.mkdtemp()) / "demos.json", Shelf()
    first = DemoImport("a", lambda: map(demo, range(4)), shelf, marker)
    for _ in range(turns):
        first.turn()
    another = DemoImport("b", lambda: map(demo, range(4)), shelf, marker)
    while not another.complete:
        another.turn()
    assert another.imported == 4, "none passes for one of the first source"
    assert (imported("a", marker), imported("b", marker)) == (False, True)
    again = DemoImport("a", lambda: map(demo, range(4)), shelf, marker)
    while not again.complete:
        again.turn()
    assert again.imported == 4 - turns
    assert len(set(shelf.keys)) == 8
    assert imported("a", marker)
    assert imported("b", marker)


def take(
    source: str, count: int, shelf: Shelf, marker: Path, *, turns: int = 1000, held: Sequence[str] = ()
) -> int:
    """Import a source that holds so many episodes; return how many were taken."""
    contents = list(held) or [f"content {number}" for number in range(count)]
    demos = DemoImport(source, lambda: map(demo, range(count)), shelf, marker, lambda: contents)
    while turns and not demos.complete:
        demos.turn()
        turns -= 1
    return demos.imported


def test_what_a_dataset_has_gained_is_taken_and_nothing_twice(tmp_path: Path) -> None:
    marker, shelf = tmp_path / "demos.json", Shelf()
    assert take("a", 3, shelf, marker) == 3
    assert take("a", 3, shelf, marker) == 0
    assert take("a", 5, shelf, marker, turns=4) == 1
    assert take("a", 5, shelf, marker) == 1
    assert [key.episode for key in shelf.keys] == list(range(5))
    assert len({key.incarnation for key in shelf.keys}) == 1
    assert take("a", 6, shelf, marker, held="abcdef") == 0, "numbers stand for other episodes now"
    gone = DemoImport("a", Mock(), shelf, marker, Mock(side_effect=DatasetError("not there")))
    assert gone.complete, "what is in the store is not needed any more"


def test_a_dataset_is_the_same_however_its_path_is_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, shelf = tmp_path / "demos.json", Shelf()
    (tmp_path / "recorded").mkdir()
    (tmp_path / "link").symlink_to("recorded")
    monkeypatch.chdir(tmp_path)
    assert take("recorded", 3, shelf, marker) == 3
    for other in ("recorded/", "./recorded", str(tmp_path / "recorded"), "link"):
        assert imported(other, marker)
        assert take(other, 3, shelf, marker) == 0
    assert not imported("another", marker)
    marker.write_text('["recorded"]')  # as an earlier release wrote it
    assert take("recorded/", 4, shelf, marker) == 0
    assert take("recorded", 5, shelf, marker) == 2, "since then it is known what it held"


def test_a_dataset_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    def broken() -> Iterator[Episode]:
        raise DatasetError("another action size")
        yield

    with pytest.raises(ConfigError, match="in a cannot be used: another action size"):
        DemoImport("a", broken, Shelf(), tmp_path / "demos.json")


def test_a_dataset_that_comes_down_to_no_demonstration_is_told_before_anything_is_noted(
    tmp_path: Path,
) -> None:
    """A run that counted it as taken would wait for ever for something to learn from."""
    marker = tmp_path / "demos.json"
    with pytest.raises(ConfigError, match=r"in a cannot be used: .*no demonstration.*--demos\.success all"):
        DemoImport("a", lambda: iter(()), Shelf(), marker)
    assert not marker.exists()
    assert not DemoImport("a", lambda: map(demo, range(1)), Shelf(), marker).complete


@pytest.mark.parametrize(
    "error", [DatasetError("not finite", seen="nan", remedy="Delete it."), KeyError("reward")]
)
def test_a_demonstration_that_cannot_be_used_ends_the_run_whichever_it_is(
    error: Exception, tmp_path: Path
) -> None:
    def broken() -> Iterator[Episode]:
        yield from map(demo, range(2))
        raise error

    shelf, marker = Shelf(), tmp_path / "demos.json"
    demos = DemoImport("a", broken, shelf, marker)
    demos.turn()
    with pytest.raises(ConfigError) as caught:
        demos.turn()
    assert len(shelf.keys) == 2
    assert not imported("a", marker)
    assert caught.value.problem.startswith("The demonstrations in a cannot be used: ")
    assert str(caught.value.seen) in ("nan", "'reward'")
    assert caught.value.allowed == "a dataset whose every episode fits the bench"
    assert caught.value.remedy in (
        "Delete it. Start again in a new run folder",
        "Start again in a new run folder",
    )


def test_a_demonstration_that_does_not_fit_the_store_ends_the_run(tmp_path: Path) -> None:
    class Strict(Shelf):
        def import_episode(self, episode: Episode) -> bool:
            raise DatasetError("It does not fit", seen="action_dim is 9, the store's is 3")

    demos = DemoImport("a", lambda: map(demo, range(2)), Strict(), tmp_path / "demos.json")
    with pytest.raises(ConfigError, match="action_dim is 9"):
        demos.turn()


@pytest.mark.parametrize("refused", ["the first note", "an episode", "the last note"])
def test_demonstrations_wait_for_a_disk_that_is_full(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shelf, clock, marker = Shelf(), FakeClock(), tmp_path / "demos.json"
    demos = DemoImport("a", lambda: map(demo, range(2)), shelf, marker, clock=clock)
    turns = {"the first note": 0, "an episode": 1, "the last note": 2}[refused]
    assert all(demos.turn() for _ in range(turns))
    full = Mock(side_effect=OSError(28, "No space left on device"))
    with monkeypatch.context() as patched:
        patched.setattr(Shelf, "import_episode", full)
        patched.setattr(store_module, "write_whole", full)
        for _ in range(3):
            assert not demos.turn()
        assert full.call_count == 1, "it rests between two attempts"
        clock.advance(0.5)
        assert not demos.turn()
    assert caplog.text.count("demonstrations in a wait to be stored: [Errno 28] No space") == 2
    assert not demos.complete
    clock.advance(0.5)
    while not demos.complete:
        demos.turn()
    assert [key.episode for key in shelf.keys] == [0, 1]
    assert (demos.imported, imported("a", marker)) == (2, True)
