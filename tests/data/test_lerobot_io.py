"""Datasets go out and come back whole, and foreign ones are read as people have them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from roborl.data.annotations import stage_shares
from roborl.data.dataset_episode import (
    DatasetEpisode,
    Provenance,
    Subtask,
    from_episode,
    to_episode,
)
from roborl.data.lerobot_files import fingerprint
from roborl.data.lerobot_io import describe, map_cameras, read_episodes
from roborl.data.lerobot_writer import write_dataset
from roborl.data.pictures import fit
from roborl.errors import DatasetError, ShapeError
from roborl.types import EndCause, RewardSource, Source

CAMERAS = {"front": (16, 20), "wrist": (12, 12)}
STATE = [f"joint_{i}.pos" for i in range(6)]
ACTION = ["x", "y", "z", "gripper"]


def episode(seed: int, steps: int = 6, **changes: object) -> DatasetEpisode:
    rng = np.random.default_rng(seed)
    fields: dict[str, object] = {
        "task": f"put the cube in bowl {seed % 2}",
        "images": {
            name: rng.integers(0, 256, (steps + 1, *size, 3), dtype=np.uint8)
            for name, size in CAMERAS.items()
        },
        "state": rng.normal(size=(steps + 1, 6)).astype(np.float32),
        "action": rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        "reward": np.r_[np.zeros(steps - 1), 1.0].astype(np.float32),
        "success": True,
        "end": EndCause.SUCCESS,
        "subtasks": (
            Subtask(name="reach", start=0, end=2 + seed % 2),
            Subtask(name="lift", start=2 + seed % 2, end=steps),
        ),
        "key": f"arm-0001-{seed:06d}",
        "provenance": Provenance(
            proposed=rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
            source=tuple(Source(s) for s in rng.choice(list(Source), steps)),
            policy_version=rng.integers(0, 9, steps),
            reward_source=tuple(RewardSource(s) for s in rng.choice(list(RewardSource), steps)),
            stamp_ns=rng.integers(0, 1 << 60, (steps + 1, 3)),
        ),
    }
    return DatasetEpisode(**{**fields, **changes})  # type: ignore[arg-type]


def write(path: Path, *episodes: DatasetEpisode, **options: object) -> None:
    write_dataset(path, episodes, fps=10, state_names=STATE, action_names=ACTION, **options)  # type: ignore[arg-type]


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
    assert a.provenance.reward_source == b.provenance.reward_source
    for field in ("proposed", "policy_version", "stamp_ns"):
        np.testing.assert_array_equal(getattr(a.provenance, field), getattr(b.provenance, field))


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    given = [
        episode(0),
        episode(1, 4, success=None, end=EndCause.TIME_LIMIT, discarded=True, subtasks=()),
        episode(2, 5, success=False, end=EndCause.FAILURE, failure="drop", subtasks=()),
        episode(3, 3, success=None, end=EndCause.WATCHDOG, subtasks=()),
    ]
    write(tmp_path / "d", *given)
    for a, b in zip(given, read_episodes(tmp_path / "d"), strict=True):
        assert_same(a, b)
    info = describe(tmp_path / "d")
    assert info.cameras == CAMERAS
    assert info.state_names == tuple(STATE)
    assert info.stages == ("reach", "lift")
    assert info.ours


def test_the_round_trip_through_store_episodes_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a", *(from_episode(to_episode(episode(i, subtasks=()))) for i in range(2)))
    for i, back in enumerate(read_episodes(tmp_path / "a")):
        assert_same(back, episode(i, subtasks=()))


def test_lerobot_itself_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "d", episode(0), episode(1, 4))
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
    row = stock.meta.episodes[1]
    assert row["sparse_subtask_names"] == ["reach", "lift"]
    assert row["sparse_subtask_start_frames"] == [0, 3]
    shares = json.loads((tmp_path / "d/meta/temporal_proportions_sparse.json").read_text())
    assert shares == stage_shares([episode(0).subtasks, episode(1, 4).subtasks])


def test_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    write(tmp_path / "d", episode(0))
    write(tmp_path / "d", episode(1), episode(2))
    for i, back in enumerate(read_episodes(tmp_path / "d")):
        assert_same(back, episode(i))
    assert len(LeRobotDataset("local/d", root=tmp_path / "d")) == 21


def test_another_form_is_not_appended(tmp_path: Path) -> None:
    write(tmp_path / "d", episode(0))
    with pytest.raises(DatasetError, match=r"another form.*action.*\[4\].*Allowed.*\(3,\)"):
        write_dataset(
            tmp_path / "d",
            [episode(1, action=np.zeros((6, 3), np.float32))],
            fps=10,
            state_names=STATE,
            action_names=ACTION[:3],
        )


def test_a_kill_costs_no_checkpointed_episode(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_lerobot_io import *
        from roborl.data.lerobot_writer import DatasetWriter
        writer = DatasetWriter(Path({str(tmp_path / "d")!r}), fps=10, cameras=CAMERAS, state_names=STATE,
                               action_names=ACTION, checkpoint_every=2)
        for i in range(3):
            writer.append(episode(i))
        print("ready", flush=True)
        import time; time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    write(tmp_path / "d", episode(7))
    back = list(read_episodes(tmp_path / "d"))
    assert [e.key for e in back] == [episode(i).key for i in (0, 1, 7)]
    for a, i in zip(back, (0, 1, 7), strict=True):
        assert_same(a, episode(i))
    assert len(LeRobotDataset("local/d", root=tmp_path / "d")) == 21


def test_benchmark_progress_is_written_on_request_only(tmp_path: Path) -> None:
    progress = np.linspace(0, 1, 7, dtype=np.float32)
    write(tmp_path / "without", episode(0, benchmark_progress=progress))
    write(tmp_path / "with", episode(0, benchmark_progress=progress), benchmark_progress=True)
    assert next(read_episodes(tmp_path / "without")).benchmark_progress is None
    np.testing.assert_array_equal(next(read_episodes(tmp_path / "with")).benchmark_progress, progress)


def foreign(
    path: Path, rows: list[int], *, video: bool = False, fps: int = 30, extra: dict[str, object] | None = None
) -> None:
    """Write a dataset in the form that lerobot-record leaves behind."""
    names = [f"{joint}.pos" for joint in ("pan", "lift", "elbow", "flex", "roll", "gripper")]
    kind = {
        "dtype": "video" if video else "image",
        "shape": (48, 64, 3),
        "names": ["height", "width", "channels"],
    }
    dataset = LeRobotDataset.create(
        "someone/so101",
        fps=fps,
        root=path,
        robot_type="so101_follower",
        use_videos=video,
        features={
            "action": {"dtype": "float32", "shape": (6,), "names": names},
            "observation.state": {"dtype": "float32", "shape": (6,), "names": names},
            "observation.images.laptop": kind,
            "observation.images.phone": kind,
            **{
                n: {"dtype": np.asarray(v).dtype.name, "shape": (1,), "names": None}
                for n, v in (extra or {}).items()
            },
        },
    )
    for e, count in enumerate(rows):
        for t in range(count):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[:, :, e % 3] = 40 * (t + 1)
            dataset.add_frame(
                {
                    "action": np.full(6, 10 * t, np.float32),
                    "observation.state": np.full(6, 10 * t - 5, np.float32),
                    "observation.images.laptop": picture,
                    "observation.images.phone": 255 - picture,
                    "task": "Grab the cube",
                    **{
                        n: np.array([np.asarray(v)[e] if t == count - 1 else 0], np.asarray(v).dtype)
                        for n, v in (extra or {}).items()
                    },
                }
            )
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


@pytest.mark.parametrize("video", [False, True])
def test_a_dataset_from_lerobot_record_is_taken_as_successes(tmp_path: Path, video: bool) -> None:
    foreign(tmp_path / "f", [5, 4], video=video)
    first, second = read_episodes(tmp_path / "f", cameras={"front": (32, 32), "wrist": (24, 32)})
    assert first.images["front"].shape == (6, 32, 32, 3)
    assert second.images["wrist"].shape == (5, 24, 32, 3)
    # Brightness tells the frames apart, so cameras, order and episode borders are seen to be right.
    seen = first.images["front"][:, 16, 16, 0].astype(int)
    assert np.abs(seen - [40, 80, 120, 160, 200, 200]).max() <= 12
    seen = second.images["wrist"][:, 16, 16, 1].astype(int)
    assert np.abs(seen - [215, 175, 135, 95, 95]).max() <= 12
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
    foreign(tmp_path / "f", [4, 4])
    told = list(read_episodes(tmp_path / "f", success={1: False}))
    assert [e.success for e in told] == [True, False]
    assert told[1].end is EndCause.FAILURE
    assert told[1].reward.sum() == 0
    foreign(tmp_path / "r", [4, 4], extra={"next.reward": np.float32([1, 0])})
    assert [e.success for e in read_episodes(tmp_path / "r")] == [True, False]


def test_a_truncated_foreign_episode_loses_its_last_transition(tmp_path: Path) -> None:
    foreign(tmp_path / "f", [4], extra={"next.success": [False], "next.truncated": [True]})
    (only,) = read_episodes(tmp_path / "f")
    assert only.end is EndCause.TIME_LIMIT
    assert only.steps == 3
    assert not only.repeated_last
    np.testing.assert_array_equal(only.state[:, 0], [-5, 5, 15, 25])


def test_cameras_that_do_not_fit_are_named(tmp_path: Path) -> None:
    foreign(tmp_path / "f", [3])
    with pytest.raises(DatasetError, match=r"laptop.*phone.*Allowed.*front.*wrist.*top.*camera_map"):
        next(read_episodes(tmp_path / "f", cameras=dict.fromkeys(("front", "wrist", "top"), (8, 8))))
    assert map_cameras(["laptop", "phone"], ["front", "wrist"], {"front": "phone"}) == {
        "front": "phone",
        "wrist": "laptop",
    }
    with pytest.raises(DatasetError, match="webcam"):
        map_cameras(["laptop"], ["front"], {"front": "webcam"})


def test_what_is_no_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"no LeRobotDataset.*Allowed.*hub id"):
        describe(tmp_path)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "d", episode(0))
    info = tmp_path / "d/meta/info.json"
    whole = info.read_text()
    info.write_text(whole.replace("v3.0", "v2.1"))
    with pytest.raises(DatasetError, match=r"v2\.1.*convert_dataset"):
        describe(tmp_path / "d")
    info.write_text(whole[:-9])
    with pytest.raises(DatasetError, match=r"info\.json"):
        describe(tmp_path / "d")
    info.write_text(whole)
    data = next((tmp_path / "d/data").glob("*/*.parquet"))
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="cannot be read"):
        list(read_episodes(tmp_path / "d"))


def test_the_fingerprint_follows_the_order_of_the_frames(tmp_path: Path) -> None:
    write(tmp_path / "a", episode(0), episode(1))
    write(tmp_path / "b", episode(1), episode(0))
    write(tmp_path / "c", episode(0), episode(1))
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "c") != fingerprint(tmp_path / "b")


def test_resizing_keeps_geometry() -> None:
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[12:36, 36:60] = 255
    small = fit(picture, (24, 24))
    white = small[..., 0] > 127
    assert (np.ptp(np.flatnonzero(white.any(0))), np.ptp(np.flatnonzero(white.any(1)))) == (11, 11)


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match="reward"):
        episode(0, reward=np.zeros(5, np.float32))
    with pytest.raises(ShapeError, match="reach"):
        episode(0, subtasks=(Subtask(name="reach", start=0, end=7),))


def test_data_files_hold_one_row_group_per_episode(tmp_path: Path) -> None:
    write(tmp_path / "d", episode(0), episode(1))
    data = next((tmp_path / "d/data").glob("*/*.parquet"))
    assert pq.ParquetFile(data).num_row_groups == 2
