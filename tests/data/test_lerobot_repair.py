"""What a writer of ours left when it ended is mended; what is another's is refused as it is."""

from __future__ import annotations

import errno
import importlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.export import export_store
from roborl.data.lerobot_files import episode_files
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_rows import rows_of
from roborl.data.lerobot_writer import DatasetWriter
from roborl.data.rlds.importing import import_rlds
from roborl.data.store import Store, StoreSpec
from roborl.errors import DatasetError
from roborl.loops.rabc.dataset_copy import copy_episodes
from roborl.testing.episodes import ACTION, CAMERAS, STATE, lerobot_recording, random_episode, write_episodes
from roborl.testing.rlds import rlds_episode, write_rlds

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12345\n"


def contents(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset of ours in two data files and two tables of episodes."""
    write_episodes(tmp_path / "d", random_episode(0), random_episode(1))
    write_episodes(tmp_path / "d", random_episode(2))
    return tmp_path / "d"


def newest(root: Path, kind: str) -> Path:
    return episode_files(root)[-1] if kind == "episodes" else sorted((root / "data").rglob("*.parquet"))[-1]


@pytest.mark.parametrize("kind", ["episodes", "data"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(POINTER), r"torn.*file-001.parquet.*Allowed.*git lfs pull"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), r"torn.*file-001.parquet.*Allowed.*download"),
        (Path.unlink, r"not complete.*2 episodes.*Allowed.*all 3.*download"),
    ],
)
def test_what_no_writer_of_ours_left_torn_or_missing_is_told_and_stays_as_it_is(
    dataset: Path, kind: str, damage: Callable[[Path], None], told: str
) -> None:
    damage(newest(dataset, kind))
    before = contents(dataset)
    with pytest.raises(DatasetError, match=told):
        write_episodes(dataset, random_episode(3))
    assert contents(dataset) == before


@pytest.mark.parametrize("kind", ["episodes", "data"])
def test_who_reads_what_is_torn_is_told_to_run_again_what_was_writing_it(dataset: Path, kind: str) -> None:
    """Not roborl record, which refuses the form of an import, of an export and of another bench."""
    path = newest(dataset, kind)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DatasetError, match=r"Allowed.*whole.*run again what was writing it.*git lfs pull"):
        list(read_episodes(dataset))


def test_a_torn_dataset_of_another_form_is_refused_by_its_form_and_stays_as_it_is(tmp_path: Path) -> None:
    """As while lerobot-record has it open, whose newest file has no footer yet."""
    lerobot_recording(tmp_path / "d", [4, 4], fps=10)
    (path,) = (tmp_path / "d" / "data").rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-8])
    before = contents(tmp_path / "d")
    with pytest.raises(DatasetError, match=r"columns that these episodes lack.*laptop.*Allowed"):
        write_episodes(tmp_path / "d", random_episode(0))
    assert contents(tmp_path / "d") == before


@pytest.mark.parametrize("kind", ["episodes", "data"])
def test_an_export_or_import_leaves_a_torn_dataset_of_others_as_it_is(
    tmp_path: Path, dataset: Path, kind: str
) -> None:
    newest(dataset, kind).write_bytes(POINTER)
    before = contents(dataset)
    store, rlds = tmp_path / "store", write_rlds(tmp_path / "viola" / "1.0.0", [rlds_episode(0, steps=2)])
    spec = StoreSpec(
        cameras=dict(CAMERAS), image_px=12, state_dim=6, action_dim=4, max_steps=20, capacity_bytes=4 << 20
    )
    Store(store, spec).close()
    with pytest.raises(DatasetError, match=r"file-001.parquet"):
        export_store(store, dataset, fps=10, state_names=STATE, action_names=ACTION)
    with pytest.raises(DatasetError, match=r"file-001.parquet"):
        import_rlds(rlds, dataset)
    assert contents(dataset) == before


@pytest.mark.parametrize("torn", [False, True])
def test_statistics_are_those_of_the_episodes_that_a_kill_left(tmp_path: Path, torn: bool) -> None:
    wild = random_episode(2, state=np.full((7, 6), 1000, np.float32))
    form: dict[str, Any] = {"cameras": CAMERAS, "state_names": STATE, "action_names": ACTION}
    with DatasetWriter(tmp_path / "d", fps=10, **form) as writer:
        for seed in range(2):
            writer.append(random_episode(seed))
        writer.close()
        whole = json.loads((tmp_path / "d" / "meta" / "stats.json").read_text())
        writer.append(wild)
        shutil.copytree(tmp_path / "d", tmp_path / "killed")
    if torn:
        (tmp_path / "killed" / "meta" / "stats.json").write_bytes(b"")
    with DatasetWriter(tmp_path / "killed", fps=10, **form) as writer:
        assert writer.episodes == 2
    back = json.loads((tmp_path / "killed" / "meta" / "stats.json").read_text())
    assert back.keys() == whole.keys()
    for feature, figures in whole.items():
        assert back[feature].keys() == figures.keys()
        for name, value in figures.items():
            np.testing.assert_allclose(back[feature][name], value, rtol=1e-6, err_msg=f"{feature} {name}")


def shaded(seed: int, steps: int = 6) -> DatasetEpisode:
    """An episode whose pictures are of one shade, which no codec changes much."""
    shade = np.full((steps + 1, 32, 32, 3), 60 * seed + 20, np.uint8)
    return random_episode(seed, steps=steps, images={"front": shade, "wrist": shade})


def filming(path: Path) -> DatasetWriter:
    form: dict[str, Any] = {"state_names": STATE, "action_names": ACTION, "video": True}
    return DatasetWriter(path, fps=10, cameras=dict.fromkeys(CAMERAS, (32, 32)), **form)


def assert_shades(path: Path, seeds: Sequence[int]) -> None:
    for back, seed in zip(read_episodes(path), seeds, strict=True):
        assert back.key == random_episode(seed).key
        for name in CAMERAS:
            assert abs(back.images[name].mean() - (60 * seed + 20)) < 6


@pytest.mark.parametrize("goes_on", [False, True])
def test_an_episode_whose_video_fails_leaves_no_rows_and_no_pictures_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """By then LeRobot has written its rows, and its pictures of the first camera."""
    encode = "lerobot.datasets.dataset_writer.encode_video_frames"
    filmed = importlib.import_module("lerobot.datasets.dataset_writer").encode_video_frames

    def full(pictures: Path, *given: Any, **options: Any) -> None:
        if "wrist" in str(pictures):
            raise OSError(errno.ENOSPC, "No space left on device")
        filmed(pictures, *given, **options)

    with filming(tmp_path / "d") as writer:
        writer.append(shaded(0))
        monkeypatch.setattr(encode, full)
        with pytest.raises(DatasetError, match=r"No space left.*Allowed.*Make room"):
            writer.append(shaded(1))
        monkeypatch.undo()
        if goes_on:
            writer.append(shaded(2))
    there = [0, 2] if goes_on else [0]
    stock = LeRobotDataset("local/d", root=tmp_path / "d", video_backend="pyav")
    assert len(stock) == stock.meta.total_frames == 7 * len(there)
    assert [int(index) for index in stock.hf_dataset["index"]] == list(range(7 * len(there)))
    assert_shades(tmp_path / "d", there)


@pytest.mark.parametrize("chosen", [[0, 1, 2], [1, 2]])
def test_what_a_kill_left_unfinished_is_not_copied_until_it_is_mended(
    tmp_path: Path, dataset: Path, chosen: list[int]
) -> None:
    """It counts an episode that its tables do not have: a whole copy would be past mending, and LeRobot cuts none."""
    form: dict[str, Any] = {"cameras": CAMERAS, "state_names": STATE, "action_names": ACTION}
    with DatasetWriter(dataset, fps=10, **form) as writer:
        writer.append(random_episode(3))
        shutil.copytree(dataset, tmp_path / "killed")
    with pytest.raises(
        DatasetError, match=r"was killed.*\.before.*Allowed.*closed.*run again what was writing"
    ):
        copy_episodes(tmp_path / "killed", tmp_path / "copy", chosen)
    assert not (tmp_path / "copy").exists()
    with DatasetWriter(tmp_path / "killed", fps=10, **form):
        pass
    assert len(copy_episodes(tmp_path / "killed", tmp_path / "copy", chosen)) == len(chosen)


def test_pictures_of_a_killed_recording_are_in_no_later_video(tmp_path: Path) -> None:
    with filming(tmp_path / "d") as writer:
        writer.append(shaded(0))
    assert not (tmp_path / "d" / "images").exists()
    writer = filming(tmp_path / "d")
    writer._dataset = writer._open()
    for row in rows_of(shaded(1, steps=9), list(CAMERAS), progress=False):
        writer._dataset.add_frame(row)
    writer._lock.close()
    shutil.copytree(tmp_path / "d", tmp_path / "killed")
    assert list((tmp_path / "killed" / "images").rglob("*.png"))
    with filming(tmp_path / "killed") as writer:
        writer.append(shaded(2))
        writer.append(shaded(3))
    assert not (tmp_path / "killed" / "images").exists()
    assert_shades(tmp_path / "killed", [0, 2, 3])
    assert copy_episodes(tmp_path / "killed", tmp_path / "copy", [1, 2]) == {1: 0, 2: 1}
    assert_shades(tmp_path / "copy", [2, 3])


def test_pictures_and_videos_of_somebody_else_stay(tmp_path: Path, dataset: Path) -> None:
    theirs = ["images/desk.png", "images/desk/front.png", "tmp_films/a.mkv", "tmp/episode.png"]
    ours = ["images/observation.images.front/episode-000003/frame-000000.png", "tmpk3_x9a2b/front_003.mp4"]
    for name in (*theirs, *ours):
        (dataset / name).parent.mkdir(parents=True, exist_ok=True)
        (dataset / name).write_bytes(b"a picture")
    before = contents(dataset)
    write_episodes(dataset, random_episode(3))
    after = contents(dataset)
    assert {Path(name): before[Path(name)] for name in theirs}.items() <= after.items()
    assert not any((dataset / name).parent.exists() for name in ours)


def test_a_copy_names_episodes_with_more_pictures_than_rows_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filming(tmp_path / "d") as writer:
        for seed in range(3):
            writer.append(shaded(seed))
    for path in episode_files(tmp_path / "d"):
        table = pq.read_table(path)
        name = "videos/observation.images.wrist/to_timestamp"
        late = pa.array([0.7, 1.8, 2.1])
        pq.write_table(table.set_column(table.column_names.index(name), name, late), path)
    with pytest.raises(
        DatasetError,
        match=r"more or fewer pictures.*episode 1: 11 for 7 in observation.images.wrist. Allowed.*--root=\S*/d --new_repo_id=local/d_without"
        r" --new_root=\S*/d_without .*delete_episodes '--operation.episode_indices=\[1\]'",
    ):
        copy_episodes(tmp_path / "d", tmp_path / "copy", [1, 2])
    assert copy_episodes(tmp_path / "d", tmp_path / "all", [0, 1, 2]) == {0: 0, 1: 1, 2: 2}
    shutil.rmtree(tmp_path / "all")
    monkeypatch.setattr("roborl.loops.rabc.dataset_copy._check_filmed", lambda *_: None)
    with pytest.raises(AssertionError, match="length mismatch"):
        copy_episodes(tmp_path / "d", tmp_path / "copy", [1, 2])
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_video_that_is_copied_whole_may_have_more_pictures_than_rows(tmp_path: Path) -> None:
    for seeds in ((0, 1), (2, 3)):
        with filming(tmp_path / "d") as writer:
            for seed in seeds:
                writer.append(shaded(seed))
    assert len(list((tmp_path / "d" / "videos").rglob("*.mp4"))) == 2 * len(CAMERAS)
    path = episode_files(tmp_path / "d")[-1]
    table = pq.read_table(path)
    name = "videos/observation.images.wrist/to_timestamp"
    late = pa.array([*table.column(name).to_pylist()[:-1], 1.5])
    pq.write_table(table.set_column(table.column_names.index(name), name, late), path)
    assert copy_episodes(tmp_path / "d", tmp_path / "copy", [1, 2, 3]) == {1: 0, 2: 1, 3: 2}
    assert_shades(tmp_path / "copy", [1, 2, 3])
    with pytest.raises(DatasetError, match=r"more or fewer pictures.*episode 3"):
        copy_episodes(tmp_path / "d", tmp_path / "other", [0, 1, 3])
