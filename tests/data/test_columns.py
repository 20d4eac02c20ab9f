from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from roborl.codec import join
from roborl.data import columns as columns_module
from roborl.data.arena import ArenaReader, map_array
from roborl.data.columns import (
    ProgressColumns,
    active_version,
    load_labels,
    save_labels,
    switch,
    versions,
)
from roborl.data.store import Store, StoreSpec
from roborl.errors import DatasetError, ShapeError
from roborl.records import pack_record
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM, episode_records
from roborl.types import EpisodeKey

SPEC = StoreSpec(
    cameras=CAMERAS,
    image_px=8,
    state_dim=STATE_DIM,
    action_dim=ACTION_DIM,
    max_steps=12,
    capacity_bytes=100_000,
)


def key(episode: int) -> EpisodeKey:
    return EpisodeKey(actor="arm", incarnation=1, episode=episode)


def feed(store: Store, episode: int, steps: int = 5, *, take: int | None = None) -> None:
    for record in list(episode_records(key(episode), steps))[:take]:
        store.ingest("ring", store.last_sequence("ring") + 1, join(pack_record(record)))


def column(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, np.float32)


def test_a_column_grows_in_frame_order_and_keeps_its_first_labels(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        feed(store, 0, take=5)
        arena = ArenaReader(tmp_path)
        columns = ProgressColumns(arena, "v1", write=True)
        assert columns.labelled(key(0)) == 0
        assert columns.write(key(0), 0, column(0.1, 0.2), column(0, 0))
        assert columns.write(key(0), 1, column(0.9, 0.3), column(0, 0.5))
        assert columns.labelled(key(0)) == 3
        row = arena.table["start"][arena.slots()[key(0)]]
        np.testing.assert_array_equal(columns.progress[row : row + 3], column(0.1, 0.2, 0.3))
        np.testing.assert_array_equal(columns.spread[row : row + 3], column(0, 0, 0.5))
        with pytest.raises(DatasetError, match="do not continue"):
            columns.write(key(0), 4, column(0.5), column(0))
        with pytest.raises(DatasetError, match="do not continue"):
            columns.write(key(0), 3, column(0.5, 0.5), column(0, 0))
        # The next process goes on where this one was killed.
        assert ProgressColumns(ArenaReader(tmp_path), "v1", write=True).labelled(key(0)) == 3
        assert not columns.write(key(7), 0, column(0.5), column(0))
        assert not columns.mark_deadline(key(7))


@pytest.mark.parametrize(
    "wrong", [(1.01, 0), (-0.01, 0), (np.nan, 0), (0.5, -1), (0.5, np.nan), (0.5, np.inf)]
)
def test_labels_out_of_range_are_refused(tmp_path: Path, wrong: tuple[float, float]) -> None:
    with Store(tmp_path, SPEC) as store:
        feed(store, 0)
        columns = ProgressColumns(ArenaReader(tmp_path), "v1", write=True)
        with pytest.raises(ShapeError):
            columns.write(key(0), 0, column(wrong[0]), column(wrong[1]))
        with pytest.raises(ShapeError):
            columns.write(key(0), 0, column(0.5, 0.5), column(0))
        assert columns.labelled(key(0)) == 0


def test_columns_of_another_replay_memory_are_replaced_by_whoever_writes_them(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        feed(store, 0)
        assert store.wait_sealed(20)
        arena = ArenaReader(tmp_path)
        columns = ProgressColumns(arena, "v1", write=True)
        columns.write(key(0), 0, np.full(6, 0.5, np.float32), np.zeros(6, np.float32))
        assert columns.save(key(0))
        path = tmp_path / "arena" / "progress" / "v1" / "episodes.table"
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(DatasetError, match="another size"):
            ProgressColumns(arena, "v1")
        again = ProgressColumns(arena, "v1", write=True)
        assert again.labelled(key(0)) == 0
        assert again.restore([key(0)]) == 1
        assert ProgressColumns(arena, "v1").labelled(key(0)) == 6


def test_an_entry_used_again_starts_without_labels(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        feed(store, 0)
        arena = ArenaReader(tmp_path)
        columns = ProgressColumns(arena, "v1", write=True)
        columns.write(key(0), 0, np.full(6, 0.5, np.float32), np.zeros(6, np.float32))
        columns.mark_deadline(key(0))
        slot = arena.slot(key(0))
        episode = 0
        while key(0) in arena.slots():
            episode += 1
            feed(store, episode)
            arena.refresh()
        taken = next(k for k, s in arena.slots().items() if s == slot)
        assert columns.labelled(taken) == 0
        assert columns.labelled(key(0)) == 0
        assert columns.write(taken, 0, column(0.1), column(0))
        assert columns.table["deadline"][slot] == 0
        assert columns.labelled(taken) == 1


def test_an_episode_takes_no_labels_over_from_one_whose_recording_was_deleted(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        feed(store, 0)
        feed(store, 1)
        assert store.wait_sealed(20)
        columns = ProgressColumns(ArenaReader(tmp_path), "v1", write=True)
        columns.write(key(1), 0, np.full(6, 0.9, np.float32), np.zeros(6, np.float32))
    shutil.rmtree(tmp_path / "store.zarr" / str(key(1)))
    with Store(tmp_path, SPEC) as store:
        feed(store, 2)
        columns = ProgressColumns(ArenaReader(tmp_path), "v1", write=True)
        assert columns.labelled(key(2)) == 0
        assert [info.ordinal for info in store.infos()] == [1, 3]


def test_final_columns_are_saved_with_the_episode_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, spread = np.linspace(0, 1, 6, dtype=np.float32), np.full(6, 0.125, np.float32)
    with Store(tmp_path, SPEC) as store:
        feed(store, 0, take=7)  # All arrivals, and no end.
        arena = ArenaReader(tmp_path)
        columns = ProgressColumns(arena, "v1", write=True)
        columns.write(key(0), 0, progress, spread)
        assert not columns.save(key(0)), "it is open"
        store.ingest("ring", 8, join(pack_record(list(episode_records(key(0), 5))[-1])))
        assert store.wait_sealed(20)
        arena.refresh()
        assert columns.save(key(0), {"stride": 2})
        assert columns.save(key(0)), "again does no harm"
        feed(store, 1)
        assert store.wait_sealed(20)
        arena.refresh()
        assert not columns.save(key(1)), "it is not labelled"
    saved = zarr.open_array(tmp_path / "store.zarr" / str(key(0)) / "progress_v1", mode="r")
    assert dict(saved.attrs) == {"version": "v1", "columns": ["progress", "spread"], "stride": 2}
    (tmp_path / "arena" / "boot").unlink()
    with Store(tmp_path, SPEC):
        columns = ProgressColumns(ArenaReader(tmp_path), "v1", write=True)
        assert columns.labelled(key(0)) == 0, "the memory was built anew"
        assert columns.restore(columns.reader.slots()) == 1
        assert columns.labelled(key(0)) == 6
        row = columns.reader.table["start"][columns.reader.slots()[key(0)]]
        np.testing.assert_array_equal(columns.progress[row : row + 6], progress)
        np.testing.assert_array_equal(columns.spread[row : row + 6], spread)
        monkeypatch.setattr(columns_module, "load_labels", None)
        assert columns.restore([key(0)]) == 0, "what is here is not opened again"


def test_saved_labels_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path, SPEC) as store:
        feed(store, 0)
        assert store.wait_sealed(20)
    ones = np.ones(6, np.float32)
    with pytest.raises(DatasetError, match="wait for their episode"):
        save_labels(tmp_path, key(3), "v1", ones, ones)
    real = Path.rename

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save_labels(tmp_path, key(0), "v1", ones, ones)
    monkeypatch.setattr(Path, "rename", real)
    assert load_labels(tmp_path, key(0), "v1") is None
    save_labels(tmp_path, key(0), "v1", ones, 0 * ones)
    loaded = load_labels(tmp_path, key(0), "v1")
    assert loaded is not None
    np.testing.assert_array_equal(loaded, [ones, 0 * ones])
    # A sealed episode with labels in it still reads as itself.
    with Store(tmp_path, SPEC) as store:
        assert store.infos()[0].observations == 6


def test_labels_that_the_disk_refuses_take_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store.zarr" / str(key(0))).mkdir(parents=True)
    real, ones = zarr.create_array, np.ones(6, np.float32)

    def full(*args: object, **form: object) -> None:
        real(*args, **form)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(zarr, "create_array", full)
        with pytest.raises(OSError, match="No space left"):
            save_labels(tmp_path, key(0), "v1", ones, ones)
    assert list((tmp_path / "labels.tmp").iterdir()) == []
    save_labels(tmp_path, key(0), "v1", ones, ones)
    np.testing.assert_array_equal(load_labels(tmp_path, key(0), "v1"), [ones, ones])


def test_labels_of_what_the_memory_held_give_way_to_those_of_the_whole_episode(tmp_path: Path) -> None:
    """An actor may run longer episodes than the replay memory has blocks for, until it is built anew."""
    spec = replace(SPEC, max_steps=5)
    whole, spread = np.linspace(0, 1, 9, dtype=np.float32), np.full(9, 0.125, np.float32)
    with Store(tmp_path, spec) as store:
        feed(store, 0, steps=8)
        assert store.wait_sealed(20)
        columns = ProgressColumns(ArenaReader(tmp_path), "v1", write=True)
        columns.write(key(0), 0, whole[:6], spread[:6])
        assert columns.save(key(0))
    (tmp_path / "arena" / "boot").unlink()
    with Store(tmp_path, spec):
        columns = ProgressColumns(ArenaReader(tmp_path), "v1", write=True)
        columns.restore([key(0)])
        assert columns.labelled(key(0)) == 6
        columns.write(key(0), 6, whole[6:], spread[6:])
        assert columns.save(key(0))
    np.testing.assert_array_equal(load_labels(tmp_path, key(0), "v1"), [whole, spread])
    save_labels(tmp_path, key(0), "v1", spread[:6], spread[:6])
    np.testing.assert_array_equal(load_labels(tmp_path, key(0), "v1"), [whole, spread])


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("part", ["zarr.json", "c/0/0"])
def test_saved_labels_that_a_loss_of_power_tore_are_left_out_and_made_again(
    tmp_path: Path, part: str, gone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store.zarr" / str(key(0))).mkdir(parents=True)
    ones = np.ones(6, np.float32)
    save_labels(tmp_path, key(0), "v1", ones, ones, sync=True)
    torn = tmp_path / "store.zarr" / str(key(0)) / "progress_v1" / part
    if gone:
        torn.unlink()
    else:
        torn.write_bytes(b"")
    assert load_labels(tmp_path, key(0), "v1") is None
    assert "torn" in caplog.text
    save_labels(tmp_path, key(0), "v1", 0 * ones, ones)
    np.testing.assert_array_equal(load_labels(tmp_path, key(0), "v1"), [0 * ones, ones])


def test_what_is_saved_is_on_the_disk_before_it_has_its_name_where_the_store_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store.zarr" / str(key(0))).mkdir(parents=True)
    flushed: list[str] = []
    monkeypatch.setattr("os.fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")))
    save_labels(tmp_path, key(0), "v1", np.ones(6, np.float32), np.ones(6, np.float32), sync=True)
    assert {"zarr.json", "0"} <= {Path(path).name for path in flushed[:-1]}
    assert all("labels.tmp" in path for path in flushed[:-1])
    assert flushed[-1] == str(tmp_path / "store.zarr" / str(key(0)))


def test_a_column_that_a_kill_left_half_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", killed)
        # A kill leaves what is there: nothing is tidied up after it.
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            map_array(tmp_path / "progress.f32", "<f4", (100,), write=True)
    assert map_array(tmp_path / "progress.f32", "<f4", (100,), write=True).shape == (100,)


def test_the_active_version_is_one_that_exists(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        feed(store, 0)
        arena = ArenaReader(tmp_path)
        assert active_version(tmp_path) is None
        with pytest.raises(DatasetError, match="no labels of this version"):
            switch(tmp_path, "v1")
        with pytest.raises(DatasetError, match="no labels of this version"):
            ProgressColumns(arena, "v1")
        with pytest.raises(DatasetError, match="cannot name a folder"):
            ProgressColumns(arena, "../v1", write=True)
        ProgressColumns(arena, "v1", write=True)
        switch(tmp_path, "v1")
        assert (active_version(tmp_path), versions(tmp_path)) == ("v1", ["v1"])


def test_a_torn_name_of_the_active_version_is_none(tmp_path: Path) -> None:
    (tmp_path / "arena" / "progress").mkdir(parents=True)
    (tmp_path / "arena" / "progress" / "active.json").write_text("")
    assert active_version(tmp_path) is None
