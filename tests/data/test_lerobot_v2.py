"""A dataset of LeRobot's second version is read like one of its third, and never written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roborl.data.annotations import write_annotations
from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_files import fingerprint
from roborl.data.lerobot_info import describe
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_writer import DatasetWriter
from roborl.data.relabel_sources import open_sources
from roborl.errors import DatasetError
from roborl.loops.rabc.filter_config import FilterConfig
from roborl.loops.rabc.filter_dataset import filter_dataset
from roborl.loops.rabc.label_config import LabelDatasetConfig
from roborl.loops.rabc.label_dataset import label_dataset
from roborl.loops.video import write_video

LENGTHS = [3, 4, 5]


def shade(episode: int, t: int) -> int:
    return 40 * (episode + 1) + 20 * t


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes in two chunks, in the layout that ports of Open X-Embodiment have."""
    root = tmp_path_factory.mktemp("v2") / "bridge_orig_lerobot"
    (root / "meta").mkdir(parents=True)
    key, vector = "observation.images.image_0", {"dtype": "float32", "names": None}
    picture = {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channel"]}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "widowx",
        "fps": 5,
        "splits": {"train": "0:3"},
        "chunks_size": 2,
        "total_episodes": 3,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            key: picture,
            "observation.state": {**vector, "shape": [8]},
            "action": {**vector, "shape": [7]},
            **{
                name: {"dtype": "int64", "shape": [1], "names": None}
                for name in ("frame_index", "episode_index", "index", "task_index")
            },
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    tasks = ["open the drawer", "close it"]
    lines = [{"task_index": i, "task": task} for i, task in enumerate(tasks)]
    (root / "meta" / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start, lines = 0, []
    for episode, length in enumerate(LENGTHS):
        chunk, name = f"chunk-{episode // 2:03d}", f"episode_{episode:06d}"
        (root / "data" / chunk).mkdir(parents=True, exist_ok=True)
        columns = {
            "observation.state": pa.array([[float(t)] * 8 for t in range(length)], pa.list_(pa.float32())),
            "action": pa.array([[t / 10] * 7 for t in range(length)], pa.list_(pa.float32())),
            "timestamp": pa.array([t / 5 for t in range(length)], pa.float32()),
            "frame_index": range(length),
            "episode_index": [episode] * length,
            "index": range(start, start + length),
            "task_index": [episode % 2] * length,
        }
        pq.write_table(pa.table(columns), root / "data" / chunk / f"{name}.parquet")
        frames = [np.full((32, 48, 3), shade(episode, t), np.uint8) for t in range(length)]
        write_video(root / "videos" / chunk / key / f"{name}.mp4", frames, fps=5)
        lines.append({"episode_index": episode, "tasks": [tasks[episode % 2]], "length": length})
        start += length
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_episodes_are_read_as_those_of_the_third_version(port: Path) -> None:
    info = describe(port)
    assert (info.fps, info.episodes, info.robot_type) == (5, 3, "widowx")
    assert (dict(info.cameras), info.tasks) == ({"image_0": (32, 48)}, ("open the drawer", "close it"))
    found = list(read_episodes(port))
    assert [(e.index, e.steps, e.task, e.success, e.repeated_last) for e in found] == [
        (0, 3, "open the drawer", True, True),
        (1, 4, "close it", True, True),
        (2, 5, "open the drawer", True, True),
    ]
    for e, episode in enumerate(found):
        means = episode.images["image_0"].mean(axis=(1, 2, 3))[:-1]
        np.testing.assert_allclose(means, [shade(e, t) for t in range(LENGTHS[e])], atol=3)
    assert len(fingerprint(port)) == 16


def test_its_episodes_are_sources_with_single_frames(port: Path) -> None:
    found = list(open_sources(str(port)))
    assert [(s.episode, s.count, s.task, s.camera, s.rate_hz, s.split) for s in found] == [
        ("000000", 3, "open the drawer", "image_0", 5.0, "train"),
        ("000001", 4, "close it", "image_0", 5.0, "train"),
        ("000002", 5, "open the drawer", "image_0", 5.0, "train"),
    ]
    pictures = found[2].read([4, 1])
    assert {i: round(float(p.mean()) / 20) * 20 for i, p in pictures.items()} == {
        1: shade(2, 1),
        4: shade(2, 4),
    }


def test_nothing_is_written_in_this_form(port: Path) -> None:
    before = (port / "meta" / "info.json").read_bytes()
    with pytest.raises(
        DatasetError, match=r"another format version\. Found: v2\.1\. Allowed: v3\.x\. Convert"
    ):
        write_annotations(port, {0: [Subtask(name="reach", start=0, end=2)]})
    with pytest.raises(DatasetError, match=r"another format version"):
        DatasetWriter(port, fps=5, cameras={"image_0": (32, 48)}, state_names=["a"], action_names=["b"])
    assert (port / "meta" / "info.json").read_bytes() == before


def test_labels_that_a_conversion_would_outdate_are_told_before_the_work_and_not_filtered_by(
    port: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = f"convert_dataset_v21_to_v30 --repo-id=local/{port.name} --root={port} --push-to-hub=false"
    config = LabelDatasetConfig(dataset=str(port), reward="brightness", out=tmp_path / "labels")
    labelled = label_dataset(config)
    assert told in caplog.text
    with pytest.raises(DatasetError, match=rf"another format version.*v2\.1.*{told}"):
        filter_dataset(FilterConfig(dataset=str(port), progress=str(labelled.path)))


@pytest.mark.parametrize(
    ("name", "text"), [("episodes", None), ("episodes", "{"), ("episodes", '{"length": 3}'), ("tasks", "[1]")]
)
def test_a_list_that_is_torn_is_told(name: str, text: str | None, port: Path, tmp_path: Path) -> None:
    for path in (port / "meta").iterdir():
        (tmp_path / "d" / "meta").mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / "meta" / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "d" / "meta" / f"{name}.jsonl"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(
        DatasetError, match=rf"A list of the dataset.*{name}\.jsonl, line.*Allowed: JSON with"
    ):
        describe(tmp_path / "d")
