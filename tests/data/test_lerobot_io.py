"""Datasets go out and come back whole, and foreign ones are read as people have them."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import BackwardCompatibilityError
from lerobot.utils.feature_utils import dataset_to_policy_features
from packaging.version import Version
from torch.utils.data import default_collate

from roborl.data.annotations import stage_shares
from roborl.data.dataset_episode import (
    DatasetEpisode,
    Subtask,
    from_episode,
    to_episode,
)
from roborl.data.lerobot_files import fingerprint, locate
from roborl.data.lerobot_info import describe, map_cameras
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_writer import DatasetWriter, write_dataset
from roborl.errors import ConfigError, DatasetError, ShapeError
from roborl.testing.episodes import (
    ACTION,
    CAMERAS,
    STATE,
    lerobot_recording,
    random_episode,
    write_episodes,
)
from roborl.testing.rlds import rlds_episode, write_rlds
from roborl.types import EndCause, RewardSource


def assert_same(a: DatasetEpisode, b: DatasetEpisode) -> None:
    assert a.images.keys() == b.images.keys()
    for name in a.images:
        np.testing.assert_array_equal(a.images[name], b.images[name])
    for field in ("state", "action", "reward"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    for field in ("task", "success", "end", "subtasks", "failure", "discarded", "repeated_last", "key"):
        assert getattr(a, field) == getattr(b, field), field
    assert a.provenance is not None
    assert b.provenance is not None
    assert a.provenance.source == b.provenance.source
    for field in ("reward_source", "verdict_index", "verdict_source", "verdict_reward", "kind", "meta"):
        assert getattr(a.provenance, field) == getattr(b.provenance, field), field
    for field in ("proposed", "policy_version", "stamp_ns"):
        np.testing.assert_array_equal(getattr(a.provenance, field), getattr(b.provenance, field))


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    given = [
        random_episode(0),
        random_episode(1, 4, success=None, end=EndCause.TIME_LIMIT, discarded=True, subtasks=()),
        random_episode(2, 5, success=False, end=EndCause.FAILURE, failure="drop", subtasks=()),
        random_episode(3, 3, success=None, end=EndCause.WATCHDOG, subtasks=()),
        random_episode(4, 3, success=True, end=EndCause.JUDGE_STOP, subtasks=()),
    ]
    write_episodes(tmp_path / "d", *given)
    for a, b in zip(given, read_episodes(tmp_path / "d"), strict=True):
        assert_same(a, b)
    info = describe(tmp_path / "d")
    assert info.cameras == CAMERAS
    assert info.state_names == tuple(STATE)
    assert info.stages == ("reach", "lift")
    assert info.ours


def test_the_round_trip_through_store_episodes_loses_nothing(tmp_path: Path) -> None:
    given = [random_episode(i, subtasks=()) for i in range(2)]
    write_episodes(tmp_path / "a", *(from_episode(to_episode(episode)) for episode in given))
    for episode, back in zip(given, read_episodes(tmp_path / "a"), strict=True):
        assert episode.provenance is not None
        # What is said about the episode as a whole stands in the store's EpisodeInfo, see test_export.
        plain = replace(
            episode.provenance, verdict_index=-1, verdict_source=RewardSource.NONE, kind="", meta={}
        )
        assert_same(back, replace(episode, provenance=plain))


def test_an_episode_without_cameras_comes_back_whole(tmp_path: Path) -> None:
    given = random_episode(0)
    assert given.provenance is not None
    alone = replace(given.provenance, stamp_ns=given.provenance.stamp_ns[:, :1])
    blind = replace(given, images={}, provenance=alone)
    write_episodes(tmp_path / "d", blind)
    (read,) = read_episodes(tmp_path / "d")
    assert_same(blind, read)
    assert [o.stamp_ns for o in to_episode(read).observations] == alone.stamp_ns[:, 0].tolist()


def test_an_episode_with_its_cameras_in_another_order_is_written_under_their_names(tmp_path: Path) -> None:
    given, other = random_episode(0), random_episode(1)
    assert other.provenance is not None
    turned = replace(
        other,
        images={name: other.images[name] for name in ("wrist", "front")},
        provenance=replace(other.provenance, stamp_ns=other.provenance.stamp_ns[:, [0, 2, 1]]),
    )
    write_episodes(tmp_path / "d", given, turned)
    for episode, read in zip((given, other), read_episodes(tmp_path / "d"), strict=True):
        assert_same(episode, read)


def test_lerobot_itself_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_episodes(tmp_path / "d", random_episode(0), random_episode(1, 4))
    stock = LeRobotDataset("local/d", root=tmp_path / "d")
    assert len(stock) == 7 + 5
    item = stock[6]
    assert item["is_last_observation"].item() is True
    assert not item["action"].any()
    assert item["observation.images.front"].shape == (3, 16, 20)
    assert item["task"] == "put the cube in bowl 0"
    # LeRobot feeds every column with these prefixes to a policy.
    fed = {key for key in stock.features if key.startswith(("observation.", "action"))}
    assert fed == {"observation.images.front", "observation.images.wrist", "observation.state", "action"}
    assert set(dataset_to_policy_features(stock.features)) == fed
    batch = default_collate([stock[0], stock[1]])
    assert batch["action"].shape == (2, 4)
    row = stock.meta.episodes[1]
    assert row["sparse_subtask_names"] == ["reach", "lift"]
    assert row["sparse_subtask_start_frames"] == [0, 3]
    shares = json.loads((tmp_path / "d/meta/temporal_proportions_sparse.json").read_text())
    assert shares == stage_shares([random_episode(0).subtasks, random_episode(1, 4).subtasks])


def test_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    write_episodes(tmp_path / "d", random_episode(1), random_episode(2))
    for i, back in enumerate(read_episodes(tmp_path / "d")):
        assert_same(back, random_episode(i))
    assert len(LeRobotDataset("local/d", root=tmp_path / "d")) == 21


def test_another_form_is_not_appended(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    with pytest.raises(DatasetError, match=r"another form.*action.*\[4\].*Allowed.*\(3,\)"):
        write_dataset(
            tmp_path / "d",
            [random_episode(1, action=np.zeros((6, 3), np.float32))],
            fps=10,
            state_names=STATE,
            action_names=ACTION[:3],
        )


@pytest.mark.parametrize("written", [0, 1, 3])
def test_a_kill_costs_no_checkpointed_episode(tmp_path: Path, written: int) -> None:
    """What a killed recording leaves is what lies in its folder at that instant."""
    with DatasetWriter(
        tmp_path / "d", fps=10, cameras=CAMERAS, state_names=STATE, action_names=ACTION, checkpoint_every=2
    ) as writer:
        for i in range(written):
            writer.append(random_episode(i))
        if not written:
            LeRobotDataset.create("local/d", fps=10, features=writer._features, root=tmp_path / "d")
        shutil.copytree(tmp_path / "d", tmp_path / "killed")
    write_episodes(tmp_path / "killed", random_episode(7))
    back = list(read_episodes(tmp_path / "killed"))
    kept = (0, 1, 7) if written > 2 else (7,)
    assert [e.key for e in back] == [random_episode(i).key for i in kept]
    for a, i in zip(back, kept, strict=True):
        assert_same(a, random_episode(i))
    assert len(LeRobotDataset("local/killed", root=tmp_path / "killed")) == 7 * len(kept)


def killed_writer(path: Path, *episodes: int) -> None:
    """Leave a dataset as a writer leaves it that is killed after these episodes, the last before its checkpoint."""
    writer = dataset_writer(path)
    for number in episodes:
        writer.append(random_episode(number))
    writer._lock.close()
    writer._dataset.finalize = writer._dataset.meta.finalize = lambda: None


def dataset_writer(path: Path) -> DatasetWriter:
    return DatasetWriter(
        path, fps=10, cameras=CAMERAS, state_names=STATE, action_names=ACTION, checkpoint_every=2
    )


def test_files_that_are_torn_while_lerobot_rewrites_them_cost_no_whole_episode(tmp_path: Path) -> None:
    killed_writer(tmp_path / "d", 0, 1, 2)
    for name in ("info.json", "stats.json", "tasks.parquet"):
        (tmp_path / "d" / "meta" / name).write_bytes(b"")
    write_episodes(tmp_path / "d", random_episode(7))
    assert [e.key for e in read_episodes(tmp_path / "d")] == [random_episode(i).key for i in (0, 1, 7)]
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    "torn", [{"meta/info.json": b""}, {"meta/tasks.parquet": b"PAR1"}, {"tmp1/front_000.mp4": b""}]
)
def test_what_is_torn_before_the_first_whole_episode_is_begun_again(
    tmp_path: Path, torn: dict[str, bytes]
) -> None:
    if "meta/info.json" not in torn:
        killed_writer(tmp_path / "d", 0)
    for name, content in torn.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(content)
    write_episodes(tmp_path / "d", random_episode(7))
    assert [e.key for e in read_episodes(tmp_path / "d")] == [random_episode(7).key]


def test_a_torn_file_that_no_recording_was_rewriting_is_told(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    (tmp_path / "d" / "meta" / "tasks.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"torn.*tasks.parquet.*Allowed"):
        list(read_episodes(tmp_path / "d"))
    with pytest.raises(DatasetError, match=r"torn.*tasks.parquet.*Allowed.*backup"):
        write_episodes(tmp_path / "d", random_episode(1))


def test_two_recordings_into_one_folder_are_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with dataset_writer(tmp_path / "d") as first:
        late = dataset_writer(tmp_path / "d")
        first.append(random_episode(0))
        for second in (lambda: dataset_writer(tmp_path / "d"), lambda: late.append(random_episode(1))):
            with pytest.raises(DatasetError, match=r"Another recording.*Allowed.*one at a time"):
                second()
        first.append(random_episode(2))
    write_episodes(tmp_path / "d", random_episode(3))
    assert [e.key for e in read_episodes(tmp_path / "d")] == [random_episode(i).key for i in (0, 2, 3)]


@pytest.mark.parametrize("part", ["_save_image", "save_episode"])
def test_a_full_disk_costs_one_episode_and_is_told(tmp_path: Path, part: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def record() -> None:
        with dataset_writer(tmp_path / "d") as writer:
            writer.append(random_episode(0))
            setattr(writer._dataset.meta if part == "save_episode" else writer._dataset.writer, part, refuse)
            writer.append(random_episode(1))

    with pytest.raises(DatasetError, match=r"No space left.*Allowed.*Make room"):
        record()
    write_episodes(tmp_path / "d", random_episode(7))
    assert [e.key for e in read_episodes(tmp_path / "d")] == [random_episode(i).key for i in (0, 7)]
    assert len(LeRobotDataset("local/d", root=tmp_path / "d")) == 14


@pytest.mark.parametrize("name", ["info.json", "stats.json", "tasks.parquet"])
def test_a_disk_that_is_full_while_lerobot_rewrites_a_file_costs_no_whole_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def tear(_: object, root: Path) -> None:
        (root / "meta" / name).write_bytes(b"")
        raise OSError(errno.ENOSPC, "No space left on device")

    def record() -> None:
        with dataset_writer(tmp_path / "d") as writer:
            writer.append(random_episode(2))
            monkeypatch.setattr(f"lerobot.datasets.dataset_metadata.write_{Path(name).stem}", tear)
            writer.append(random_episode(3, task="stack the cubes"))

    write_episodes(tmp_path / "d", random_episode(0), random_episode(1))
    with pytest.raises(DatasetError, match=r"No space left.*Allowed.*Make room"):
        record()
    monkeypatch.undo()
    # The episode is whole where its rows were out before the disk was full.
    kept = [0, 1, 2] if name == "tasks.parquet" else [0, 1, 2, 3]
    assert [e.key for e in read_episodes(tmp_path / "d")] == [random_episode(i).key for i in kept]
    stock = LeRobotDataset("local/d", root=tmp_path / "d")
    assert stock.meta.total_episodes == len(kept)
    assert len({stock[7 * i]["task"] for i in range(len(kept))}) == len(kept) - 1
    write_episodes(tmp_path / "d", random_episode(7))
    assert [e.key for e in read_episodes(tmp_path / "d")] == [random_episode(i).key for i in (*kept, 7)]
    assert not list(tmp_path.rglob(".*"))


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d" / "meta").mkdir(parents=True)
    note = tmp_path / "d" / "meta" / "note.txt"
    note.write_text("mine")
    with pytest.raises(DatasetError, match=r"something else than a dataset.*Allowed.*a new path"):
        write_episodes(tmp_path / "d", random_episode(0))
    assert note.read_text() == "mine"


def test_a_kill_before_the_annotation_leaves_a_dataset_that_goes_on(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    write_episodes(tmp_path / "d", random_episode(1))
    newest = sorted((tmp_path / "d/meta/episodes").glob("*/*.parquet"))[-1]
    table = pq.read_table(newest)
    pq.write_table(table.drop_columns([n for n in table.column_names if "subtask_" in n]), newest)
    write_episodes(tmp_path / "d", random_episode(2))
    assert [len(e.subtasks) for e in read_episodes(tmp_path / "d")] == [2, 0, 2]
    assert len(LeRobotDataset("local/d", root=tmp_path / "d")) == 21


def test_a_kill_between_a_checkpoint_and_its_annotation_loses_no_sub_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("roborl.data.lerobot_writer.write_annotations", killed)
        with pytest.raises(KeyboardInterrupt):
            write_episodes(tmp_path / "d", random_episode(0))
    with dataset_writer(tmp_path / "d"):
        assert [len(e.subtasks) for e in read_episodes(tmp_path / "d")] == [2]
    assert not list(tmp_path.rglob(".*"))


def test_a_dataset_on_the_hub_is_fetched_or_its_absence_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_episodes(tmp_path / "fetched", random_episode(0))
    asked = []

    class Hub:
        def __init__(self, name: str, **options: str) -> None:
            asked.append(name)
            if name == "someone/old":
                raise BackwardCompatibilityError(name, Version("2.1"))
            if name != "someone/here":
                raise ConnectionError("no route to the hub")
            self.root = tmp_path / "fetched"

    monkeypatch.setattr("lerobot.datasets.lerobot_dataset.LeRobotDataset", Hub)
    assert describe("someone/here").episodes == 1
    with pytest.raises(DatasetError, match=r"someone/gone.*no route to the hub.*HF_HUB_OFFLINE"):
        describe("someone/gone")
    with pytest.raises(DatasetError, match=r"no such folder here.*outputs/rech"):
        describe("outputs/rech")
    # One of version 2, which LeRobot itself does not fetch.
    old = str(tmp_path / "old")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, repo_type: old)
    assert locate("someone/old") == tmp_path / "old"
    assert asked == ["someone/here", "someone/gone", "outputs/rech", "someone/old"]


def test_benchmark_progress_is_written_on_request_only(tmp_path: Path) -> None:
    progress = np.linspace(0, 1, 7, dtype=np.float32)
    write_episodes(tmp_path / "without", random_episode(0, benchmark_progress=progress))
    write_episodes(tmp_path / "with", random_episode(0, benchmark_progress=progress), benchmark_progress=True)
    assert next(read_episodes(tmp_path / "without")).benchmark_progress is None
    np.testing.assert_array_equal(next(read_episodes(tmp_path / "with")).benchmark_progress, progress)


@pytest.mark.parametrize("video", [False, True])
def test_a_dataset_from_lerobot_record_is_taken_as_successes(tmp_path: Path, video: bool) -> None:
    lerobot_recording(tmp_path / "f", [5, 4], video=video)
    first, second = read_episodes(tmp_path / "f", cameras={"front": (32, 32), "wrist": (24, 32)})
    assert first.images["front"].shape == (6, 32, 32, 3)
    assert second.images["wrist"].shape == (5, 24, 32, 3)
    # Brightness tells the frames apart, so cameras, order and episode borders are seen to be right.
    seen = first.images["front"][:, 16, 16, 0].astype(int)
    assert np.abs(seen - [25, 50, 75, 100, 125, 125]).max() <= 12
    seen = second.images["wrist"][:, 16, 16, 1].astype(int)
    assert np.abs(seen - [230, 205, 180, 155, 155]).max() <= 12
    assert first.success is True
    assert first.end is EndCause.SUCCESS
    np.testing.assert_array_equal(first.reward, [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(first.action[:, 0], [0, 10, 20, 30, 40])
    assert first.repeated_last
    assert first.task == "Grab the cube"
    info = describe(tmp_path / "f")
    assert info.cameras == {"laptop": (48, 64), "phone": (48, 64)}
    assert not info.ours


def test_the_caller_and_the_columns_overrule_success(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [4, 4])
    told = list(read_episodes(tmp_path / "f", success={1: False}))
    assert [e.success for e in told] == [True, False]
    assert told[1].end is EndCause.FAILURE
    assert told[1].reward.sum() == 0
    lerobot_recording(tmp_path / "r", [4, 4], columns={"next.reward": np.float32([1, 0])})
    assert [e.success for e in read_episodes(tmp_path / "r")] == [True, False]


def test_what_is_no_number_says_nothing_of_success(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lerobot_recording(tmp_path / "r", [4, 4, 4], columns={"next.reward": np.float32([1, 0, 0])})
    (path,) = (tmp_path / "r" / "data").rglob("*.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("next.reward")
    values = [[float("nan"), 0.0, None, 1.0], [0.0, None, 0.0, 0.0], [None] * 4]
    flat = pa.array([number for row in values for number in row], pa.float32())
    pq.write_table(table.set_column(place, "next.reward", flat), path)
    episodes = list(read_episodes(tmp_path / "r", with_images=False))
    assert [e.success for e in episodes] == [True, False, True]
    assert [e.reward.tolist() for e in episodes] == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert [m.partition(": ")[2] for m in caplog.messages] == [
        "2 rewards are no numbers, and count as 0",
        "1 rewards are no numbers, and count as 0",
    ]


def test_a_truncated_foreign_episode_loses_its_last_transition(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [4], columns={"next.success": [False], "next.truncated": [True]})
    (only,) = read_episodes(tmp_path / "f")
    assert only.end is EndCause.TIME_LIMIT
    assert only.steps == 3
    assert not only.repeated_last
    np.testing.assert_array_equal(only.state[:, 0], [-5, 5, 15, 25])


def test_cameras_that_do_not_fit_are_named(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [3])
    with pytest.raises(DatasetError, match=r"laptop.*phone.*Allowed.*front.*wrist.*top.*camera_map"):
        next(read_episodes(tmp_path / "f", cameras=dict.fromkeys(("front", "wrist", "top"), (8, 8))))
    assert map_cameras(["laptop", "phone"], ["front", "wrist"], {"front": "phone"}) == {
        "front": "phone",
        "wrist": "laptop",
    }
    with pytest.raises(DatasetError, match="webcam"):
        map_cameras(["laptop"], ["front"], {"front": "webcam"})


def test_pictures_that_would_end_the_video_encoder_and_the_process_are_refused(tmp_path: Path) -> None:
    form: dict[str, Any] = {"fps": 10, "state_names": ["x"], "action_names": ["x"]}
    cameras = {"front": (48, 64), "wrist": (16, 640)}
    with pytest.raises(ConfigError, match=r"too small for a video.*wrist 640 x 16.*32 pixels") as refused:
        DatasetWriter(tmp_path / "d", cameras=cameras, video=True, **form)
    assert "front" not in str(refused.value)
    DatasetWriter(tmp_path / "d", cameras=cameras, video=False, **form)
    DatasetWriter(tmp_path / "d", cameras={"front": (32, 32)}, video=True, **form)


def test_other_recordings_are_told_what_takes_them(tmp_path: Path) -> None:
    rlds = write_rlds(tmp_path / "viola/1.0.0", [rlds_episode(0)])
    for place in (rlds, rlds.parent):
        with pytest.raises(DatasetError, match=f"roborl import --dataset={rlds} --out=FOLDER"):
            locate(place)
    (tmp_path / "filmed/one").mkdir(parents=True)
    (tmp_path / "filmed/one/front.mp4").touch()
    for place in (tmp_path / "filmed", tmp_path / "filmed/one"):
        with pytest.raises(
            DatasetError, match=r"videos to what takes them: with keyframes, roborl train-rew"
        ):
            locate(place)
    with pytest.raises(DatasetError, match=r"Check the path"):
        locate(tmp_path / "filmed/one/front.mp4")


def test_what_is_no_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"no LeRobotDataset.*Allowed.*hub id"):
        describe(tmp_path)
    assert list(tmp_path.iterdir()) == []
    write_episodes(tmp_path / "d", random_episode(0))
    info = tmp_path / "d/meta/info.json"
    whole = info.read_text()
    info.write_text(whole.replace("v3.0", "v1.6"))
    with pytest.raises(DatasetError, match=r"v1\.6.*convert_dataset"):
        describe(tmp_path / "d")
    info.write_text(whole[:-9])
    with pytest.raises(DatasetError, match=r"info\.json"):
        describe(tmp_path / "d")
    stated = json.loads(whole)
    for broken in (
        {name: value for name, value in stated.items() if name != "features"},
        stated | {"features": None},
        stated | {"features": {"action": {"shape": [1]}}},
        [stated],
    ):
        info.write_text(json.dumps(broken))
        with pytest.raises(
            DatasetError, match=r"info\.json cannot be read\. Found: .*Allowed: JSON as LeRobot"
        ):
            describe(tmp_path / "d")
    info.write_text(whole)
    data = next((tmp_path / "d/data").glob("*/*.parquet"))
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="cannot be read"):
        list(read_episodes(tmp_path / "d"))


def test_the_fingerprint_follows_the_order_of_the_frames(tmp_path: Path) -> None:
    write_episodes(tmp_path / "a", random_episode(0), random_episode(1))
    write_episodes(tmp_path / "b", random_episode(1), random_episode(0))
    write_episodes(tmp_path / "c", random_episode(0), random_episode(1))
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "c") != fingerprint(tmp_path / "b")


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match="reward"):
        random_episode(0, reward=np.zeros(5, np.float32))
    with pytest.raises(ShapeError, match="reach"):
        random_episode(0, subtasks=(Subtask(name="reach", start=0, end=7),))


def test_data_files_hold_one_row_group_per_episode(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0), random_episode(1))
    data = next((tmp_path / "d/data").glob("*/*.parquet"))
    assert pq.ParquetFile(data).num_row_groups == 2
