from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.data.arena import PAD, ArenaLayout, ArenaReader
from roborl.data.arena_writer import ArenaWriter, pad_into
from roborl.data.episodes import EpisodeInfo, Kind
from roborl.errors import DatasetError
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM, check_instants
from roborl.types import EndCause, EpisodeKey

LAYOUT = ArenaLayout(
    cameras=tuple(CAMERAS), image_px=8, state_dim=STATE_DIM, action_dim=ACTION_DIM, rows=100, episodes=12
)


@settings(max_examples=60)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_border_repeats_the_edge(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    target = np.zeros((height + 2 * PAD, width + 2 * PAD, 3), np.uint8)
    pad_into(target, image, np.empty_like(target))
    np.testing.assert_array_equal(target, np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), mode="edge"))


@settings(max_examples=40)
@given(sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3), st.booleans()), max_size=40))
def test_blocks_never_overlap_and_the_oldest_go_first(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int, bool]]
) -> None:
    writer = ArenaWriter(tmp_path_factory.mktemp("arena") / "arena", LAYOUT)
    placed: list[tuple[int, bool]] = []
    for n, (rows, demo, ended) in enumerate(sizes, start=1):
        key = EpisodeKey(actor="a", incarnation=1, episode=n)
        info = EpisodeInfo(
            key=key,
            ordinal=n,
            task="t",
            kind="demo" if demo == 0 else "online",
            end=EndCause.SUCCESS if ended else None,
        )
        if writer.place(info, rows):
            placed.append((n, demo == 0))
            if ended:
                writer.update(info)
        table = writer.columns.table
        live = table[table["ordinal"] > 0]
        blocks = sorted(zip(live["start"].tolist(), live["reserved"].tolist(), strict=True))
        assert all(a + size <= b for (a, size), (b, _) in pairwise(blocks))
        assert not blocks or blocks[-1][0] + blocks[-1][1] <= LAYOUT.rows
        held = set(live["ordinal"].tolist())
        for ordinal, is_demo in placed:
            if is_demo or not sizes[ordinal - 1][2]:
                assert ordinal in held, "demonstrations and open episodes stay"
        evictable = [o for o, is_demo in placed if not is_demo and sizes[o - 1][2]]
        gone = [o not in held for o in evictable]
        assert gone == sorted(gone, reverse=True), "the oldest first"


def test_nothing_is_evicted_for_an_episode_that_can_never_fit(tmp_path: Path) -> None:
    writer = ArenaWriter(tmp_path / "arena", LAYOUT)

    def place(number: int, rows: int, kind: Kind, *, ended: bool = True) -> bool:
        key = EpisodeKey(actor="a", incarnation=1, episode=number)
        info = EpisodeInfo(key=key, ordinal=number, task="t", kind=kind)
        there = writer.place(info, rows)
        if ended:
            writer.columns.table["observations"][writer.columns.table["ordinal"] == number] = rows
            writer.update(replace(info, observations=rows, end=EndCause.TIME_LIMIT))
        return there

    # Of 100 rows 50 may be taken back, but never more than 30 in one piece.
    assert all((place(1, 30, "online"), place(2, 40, "demo"), place(3, 20, "online")))
    assert place(4, 10, "online", ended=False)
    assert not place(5, 31, "demo")
    assert writer.evicted == 0
    assert place(6, 30, "demo")
    assert writer.evicted == 1
    assert not place(7, 21, "online")
    assert place(8, 20, "online")
    assert writer.evicted == 2


def test_nothing_is_evicted_for_want_of_an_entry_that_is_never_given_back(tmp_path: Path) -> None:
    writer = ArenaWriter(tmp_path / "arena", replace(LAYOUT, episodes=1))
    infos = [
        EpisodeInfo(
            key=EpisodeKey(actor="a", incarnation=1, episode=n), ordinal=n, task="t", kind="demo", end=end
        )
        for n, end in ((1, EndCause.SUCCESS), (2, EndCause.SUCCESS))
    ]
    assert [writer.place(info, 5) for info in infos] == [True, False]


def test_a_folder_that_is_no_arena_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no replay memory"):
        ArenaReader(tmp_path)
    ArenaWriter(tmp_path / "arena", LAYOUT).mark_complete()
    with open(tmp_path / "arena" / "state.f32", "r+b") as file:
        file.truncate(10)
    with pytest.raises(DatasetError, match="another size"):
        ArenaReader(tmp_path)
    (tmp_path / "arena" / "layout.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        ArenaReader(tmp_path)


def test_an_arena_is_read_once_it_is_filled_and_not_after_the_machine_was_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ArenaWriter(tmp_path / "arena", LAYOUT)
    with pytest.raises(DatasetError, match="no replay memory"):
        ArenaReader(tmp_path)
    writer.mark_complete()
    ArenaReader(tmp_path)
    monkeypatch.setattr("roborl.data.arena.boot_id", lambda: "another run of the machine")
    with pytest.raises(DatasetError, match="no replay memory"):
        ArenaReader(tmp_path)
    assert not ArenaWriter(tmp_path / "arena", LAYOUT).reused


def test_an_arena_stays_in_use_until_the_next_one_is_filled(tmp_path: Path) -> None:
    first = ArenaWriter(tmp_path / "arena", LAYOUT)
    first.columns.state[0] = 1
    first.mark_complete()
    reader = ArenaReader(tmp_path)
    again = ArenaWriter(tmp_path / "arena", LAYOUT)
    again.mark_complete()
    assert again.reused
    assert not reader.refresh(), "one that is used again is the same"
    larger = ArenaWriter(tmp_path / "arena", replace(LAYOUT, rows=200))
    assert not reader.refresh()
    assert reader.layout == LAYOUT
    assert (reader.columns.state[0] == 1).all()
    larger.mark_complete()
    assert reader.refresh()
    assert not reader.refresh()
    assert reader.layout.rows == len(reader.columns.state) == 200


_WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from roborl.data.arena import ArenaLayout
from roborl.data.arena_writer import ArenaWriter
from roborl.data.episodes import EpisodeInfo, Kind
from roborl.testing.experience import *
layout = ArenaLayout(
    cameras=tuple(CAMERAS), image_px=8, state_dim=STATE_DIM, action_dim=ACTION_DIM, rows=100, episodes=12
)
writer = ArenaWriter(Path(sys.argv[1]) / "arena", layout)
writer.mark_complete()
for n in range(1, 1_000_000):
    key = EpisodeKey(actor="a", incarnation=1, episode=n % 250)
    info = EpisodeInfo(key=key, ordinal=n, task="t")
    assert writer.place(info, 13)
    for index in range(4 + n % 9):
        writer.write(arrival(key, index))
        info = replace(info, observations=index + 1)
    writer.update(replace(info, end=EndCause.TIME_LIMIT))
    if n == 8:
        print("ready", flush=True)
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Draw with one thread: where the writer has the other processor, two wait for each other until all has changed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_reader_never_mixes_episodes_while_rows_are_taken_back(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        reader = ArenaReader(tmp_path)
        sampler = Sampler(reader, SamplingConfig(n_step=2, need_labels=False), seed=0)
        stop, batches, newest = time.monotonic() + 60, 0, set()
        # As long as it takes to see the writer take rows back again and again.
        while (batches < 100 or len(newest) < 40) and time.monotonic() < stop:
            sampler.refresh()
            batch = sampler.sample(64)
            check_instants(batch.images, batch.state, batch.action)
            check_instants(batch.next_images, batch.next_state)
            np.testing.assert_array_equal(batch.next_state[:, 1], batch.state[:, 1])
            np.testing.assert_array_equal(batch.next_state[:, 2], batch.state[:, 2] + batch.horizon)
            assert (batch.horizon >= 1).all()
            batches += 1
            newest.add(int(reader.table["ordinal"].max()))
        assert batches >= 100
        assert len(newest) >= 40, "the writer did take rows back meanwhile"
    finally:
        process.kill()
        process.wait()
