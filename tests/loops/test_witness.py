"""The account of a witness: nothing is wrong with a faithful store, and every kind of unfaithfulness is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from roborl.codec import join, split
from roborl.data.arena import Columns, read_layout
from roborl.data.journal import Journal
from roborl.data.store import Store
from roborl.loops.witness import RingWitness, compare
from roborl.records import Arrival, Record, pack_record, unpack_record
from roborl.testing.experience import episode_records, store_spec
from roborl.types import EndCause, EpisodeKey

SPEC = store_spec(max_steps=6)
STEPS, EPISODES = 4, 3
ARRIVALS = EPISODES * (STEPS + 1)


@dataclass
class Rig:
    """An actor with its witness, and a store that may be lied to."""

    journal: Journal
    witness: RingWitness
    root: Path

    def act(self) -> list[EpisodeKey]:
        keys = [self.journal.next_key() for _ in range(EPISODES)]
        for key in keys:
            for record in episode_records(key, STEPS):
                self.journal.commit(record)
                self.witness.look()
        return keys

    def store(self, forge: Callable[[int, Record], list[Record]] = lambda number, record: [record]) -> None:
        ring = self.journal.ring
        with Store(self.root, SPEC) as store:
            sequence = 0
            for number in range(1, ring.head + 1):
                for record in forge(number, unpack_record(split(bytes(ring.read(number))))):
                    sequence += 1
                    store.ingest("ring", sequence, join(pack_record(record)))
            store.wait_sealed(10.0)

    def account(self) -> dict[str, int]:
        return {name: count for name, count in compare([self.witness], self.root).items() if count}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    journal = Journal(tmp_path / "ring.bin", actor="arm", slots=16, slot_bytes=4096)
    witness = RingWitness(tmp_path / "ring.bin")
    # The ring is far shorter than the run: its reader frees it all the time.
    commit = journal.commit

    def commit_and_free(record: Record) -> int:
        sequence = commit(record)
        journal.ring.acknowledge(max(0, sequence - 1))
        return sequence

    journal.commit = commit_and_free  # type: ignore[method-assign]
    rig = Rig(journal, witness, tmp_path / "store")
    yield rig
    witness.close()
    journal.close()


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Rig]:
    journal = Journal(tmp_path / "ring.bin", actor="arm", slots=64, slot_bytes=4096)
    rig = Rig(journal, RingWitness(tmp_path / "ring.bin"), tmp_path / "store")
    yield rig
    rig.witness.close()
    journal.close()


FAITHFUL = {"episodes": EPISODES, "committed": ARRIVALS, "stored": ARRIVALS, "in_memory": ARRIVALS}


def test_a_faithful_store_has_all_of_it_once(whole: Rig) -> None:
    whole.act()
    whole.store()
    assert whole.account() == FAITHFUL


def test_a_witness_that_looks_often_follows_a_ring_that_is_reused(rig: Rig) -> None:
    rig.act()
    assert rig.journal.ring.head > rig.journal.ring.slots
    assert rig.witness.overtaken == 0
    assert sum(len(episode.digests) for episode in rig.witness.episodes.values()) == ARRIVALS


def test_a_witness_that_comes_too_late_says_so(rig: Rig) -> None:
    rig.witness.look = lambda: None  # type: ignore[method-assign]
    rig.act()
    del rig.witness.look
    late = RingWitness(rig.journal.ring.path)
    late.look()
    assert late.overtaken == rig.journal.ring.head - rig.journal.ring.slots
    late.close()


def test_what_was_not_stored_is_lost(whole: Rig) -> None:
    whole.act()
    # The last arrival and the end of the last episode.
    last = whole.journal.ring.head - 1
    whole.store(lambda number, record: [record] if number < last else [])
    account = whole.account()
    assert account["lost"] == 1
    assert account["ends_differ"] == 1


def test_what_nobody_committed_is_foreign(whole: Rig) -> None:
    whole.act()
    foreign = EpisodeKey(actor="arm", incarnation=9, episode=0)
    head = whole.journal.ring.head
    whole.store(lambda number, record: [record, *(episode_records(foreign, STEPS) if number == head else [])])
    assert whole.account() == FAITHFUL | {"foreign": STEPS + 1}


@pytest.mark.parametrize("part", ["state", "picture", "action", "reward"])
def test_what_says_something_else_than_was_committed_is_altered(whole: Rig, part: str) -> None:
    whole.act()

    def forge(number: int, record: Record) -> list[Record]:
        if number != 4:
            return [record]
        assert isinstance(record, Arrival)
        assert record.command is not None
        seen = record.observation
        match part:
            case "state":
                return [replace(record, observation=replace(seen, state=seen.state + 1))]
            case "picture":
                pixels = seen.frames["wrist"].rgb.copy()
                pixels[0, 0, 0] ^= 1
                wrist = replace(seen.frames["wrist"], rgb=pixels)
                return [replace(record, observation=replace(seen, frames={**seen.frames, "wrist": wrist}))]
            case "action":
                return [replace(record, command=replace(record.command, action=record.command.proposed))]
        return [replace(record, reward=0.5)]

    whole.store(forge)
    assert whole.account() == FAITHFUL | {"altered": 1}


@pytest.mark.parametrize("column", ["state", "action", "frames", "reward"])
def test_replay_memory_unlike_its_recording_is_altered(whole: Rig, column: str) -> None:
    whole.act()
    whole.store()
    folder = whole.root / "arena"
    columns = Columns(folder, read_layout(folder), write=True)
    row = int(columns.table["start"][columns.table["ordinal"] == 2][0]) + 1
    if column == "frames":
        columns.frames["front"][row, 5, 5, 0] ^= 1
    else:
        getattr(columns, column)[row] += np.float32(0.25)
    assert whole.account() == FAITHFUL | {"altered": 1}


def test_pictures_of_one_instant_with_the_state_of_another_are_noticed(whole: Rig) -> None:
    keys = whole.act()
    whole.store()
    digests = whole.witness.episodes[keys[1]].digests
    digests[1], digests[2] = (1, digests[2][1]), (2, digests[1][1])
    assert whole.account()["altered"] == 2


def test_another_end_is_noticed(whole: Rig) -> None:
    keys = whole.act()
    whole.store()
    whole.witness.episodes[keys[0]].end = EndCause.SUCCESS
    assert whole.account() == FAITHFUL | {"ends_differ": 1}
