"""Episodes to relabel come out of datasets of every form alike, drawn so that one can say which."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roborl.data.dataset_episode import Subtask
from roborl.data.relabel_source import RelabelSource
from roborl.data.relabel_sources import open_sources, part_of
from roborl.errors import ConfigError, DatasetError
from roborl.loops.video import write_video
from roborl.testing.episodes import lerobot_recording, random_episode, write_episodes
from roborl.testing.rlds import rlds_episode, write_rlds
from roborl.types import EndCause, Image, RewardSource


class NoFilm:
    def read(self, indices: list[int]) -> dict[int, Image]:
        raise AssertionError("nobody looks at it")


def source(episode: str, **changes: str) -> RelabelSource:
    return RelabelSource(
        dataset="bridge",
        split="train",
        episode=episode,
        task="open the drawer",
        camera="front",
        rate_hz=5.0,
        count=10,
        success=True,
        film=NoFilm(),
        content="",
        origin=changes.get("origin", ""),
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("v3") / "recorded"
    black = {name: pixels * 0 for name, pixels in random_episode(4).images.items()}
    write_episodes(
        path,
        random_episode(0),
        random_episode(1, discarded=True),
        random_episode(2, success=False, end=EndCause.FAILURE),
        random_episode(3, task="  "),
        random_episode(4, images=black),
    )
    return path


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_recording_of_ours_gives_its_usable_episodes(
    recorded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = list(open_sources(str(recorded)))
    assert [(s.episode, s.success, s.count, s.camera) for s in found] == [
        ("000000", True, 7, "front"),
        ("000002", False, 7, "front"),
    ]
    assert {(s.dataset, s.split, s.rate_hz) for s in found} == {("recorded", "train", 10.0)}
    assert len({s.content for s in found}) == 2
    assert "2 episodes taken" in caplog.text
    for reason in ("1 without an instruction", "1 with a black", "1 that are to be kept out"):
        assert reason in caplog.text
    pictures = found[0].read([6, 0, 6])
    assert list(pictures) == [0, 6]
    for i, picture in pictures.items():
        np.testing.assert_array_equal(picture, random_episode(0).images["front"][i])
    assert [s.episode for s in open_sources(str(recorded), failures=False)] == ["000000"]
    assert {s.camera for s in open_sources(str(recorded), camera="wrist")} == {"wrist"}


def test_an_episode_ends_at_the_observation_that_a_verdict_judged(tmp_path: Path) -> None:
    known = random_episode(0).provenance
    assert known is not None
    judged = replace(known, verdict_index=3, verdict_source=RewardSource.JUDGE)
    marks = (Subtask(name="reach", start=0, end=2), Subtask(name="lift", start=2, end=6))
    write_episodes(
        tmp_path / "d",
        random_episode(0, end=EndCause.TIME_LIMIT, provenance=judged, subtasks=marks),
        random_episode(1, subtasks=marks[:1]),
    )
    one, whole = open_sources(str(tmp_path / "d"))
    assert (one.count, one.onset, one.success) == (4, 1.0, True)
    assert (whole.count, whole.onset) == (7, pytest.approx(2 / 6))
    with pytest.raises(DatasetError, match="Allowed: 0 to 3"):
        one.read([4])


@pytest.mark.parametrize(
    ("name", "columns", "said"),
    [
        ("my_desk", {}, None),
        ("my_desk", {"next.reward": np.float32([1, 0])}, True),
        ("my_desk", {"next.success": [False, True]}, False),
        ("viola_lerobot", {}, True),  # known as demonstrations
        ("kuka_lerobot", {}, None),  # known to hold failures
    ],
)
def test_a_foreign_episode_succeeded_where_its_file_says_so_or_all_of_its_dataset_did(
    tmp_path: Path, name: str, columns: dict[str, Sequence[float]], said: bool | None
) -> None:
    lerobot_recording(tmp_path / name, [4, 4], columns=columns)
    assert next(iter(open_sources(str(tmp_path / name)))).success is said
    left_out = Counter[str]()
    taken = list(open_sources(str(tmp_path / name), failures=False, left_out=left_out))
    assert left_out["of which nobody says whether they succeeded"] == (2 if said is None else 0)
    assert bool(taken) is (said is not None)
    assert len(list(open_sources(str(tmp_path / name), failures=False, success=True))) == 2


def test_an_episode_of_one_observation_is_left_out(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [4, 1], columns={"next.success": [True, True]})
    left_out = Counter[str]()
    assert [s.count for s in open_sources(str(tmp_path / "f"), left_out=left_out)] == [4]
    assert left_out == {"of fewer than two observations": 1}


def test_single_frames_of_a_video_are_those_of_their_episode(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "films", [4, 6], video=True)
    second = list(open_sources(str(tmp_path / "films"), camera="laptop"))[1]
    pictures = second.read([5, 2])
    for i, picture in pictures.items():
        assert abs(float(picture[:, :, 1].mean()) - 25 * (i + 1)) < 6, "frame t has brightness 25 (t + 1)"


@pytest.mark.usefixtures("cached")
def test_a_draw_is_uniform_repeatable_and_grows(tmp_path: Path) -> None:
    folder = tmp_path / "oxe"
    write_rlds(folder / "viola" / "1.0.0", [rlds_episode(seed, steps=2) for seed in range(4)])

    def drawn(cap: int, seed: int) -> list[str]:
        found = open_sources(str(folder), cap=cap, seed=seed)
        return [s.episode for s in found if s.dataset == "viola"]

    assert drawn(2, 1) == drawn(2, 1) == drawn(3, 1)[:2]
    before = drawn(2, 5)
    write_rlds(folder / "toto" / "1.0.0", [rlds_episode(9, steps=2)])
    assert drawn(2, 5) == before, "a dataset beside it changes nothing"
    first = Counter(drawn(1, seed)[0] for seed in range(60))
    assert len(first) == 4
    assert min(first.values()) > 5


@pytest.mark.usefixtures("cached")
def test_episodes_of_rlds_are_sources(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dark = rlds_episode(1)
    dark["steps"]["observation"]["image"][:] = 0
    black = rlds_episode(2)
    for name in ("image", "wrist_image"):
        black["steps"]["observation"][name][:] = 0
    given = [
        rlds_episode(0, steps=4),
        dark,
        black,
        rlds_episode(3, language_instruction=[""] * 7),
        rlds_episode(4, steps=0),
        rlds_episode(5, is_last=np.zeros(7, bool)),
    ]
    root = write_rlds(tmp_path / "austin_sirius_dataset_converted_externally_to_rlds" / "0.1.0", given)
    found = list(open_sources(str(root.parent)))
    assert [(s.episode, s.count, s.camera, s.success, s.rate_hz) for s in found] == [
        ("00000-000000", 5, "image", True, 20.0),
        ("00000-000001", 7, "wrist_image", True, 20.0),
        ("00000-000005", 7, "image", None, 20.0),
    ]
    assert [s.on_arm for s in found] == [False, True, False]
    assert {(s.dataset, s.split, s.onset) for s in found} == {(root.parent.name, "train", None)}
    for reason in ("1 without an instruction", "1 with a black", "1 of fewer than two"):
        assert reason in caplog.text
    np.testing.assert_array_equal(found[0].read([4])[4], given[0]["steps"]["observation"]["image"][4])
    (told,) = {s.success for s in open_sources(str(root), success=False)}
    assert told is False
    left_out = Counter[str]()
    judged = list(open_sources(str(root), failures=False, left_out=left_out))
    assert [s.episode for s in judged] == ["00000-000000", "00000-000001"]
    assert left_out["of which nobody says whether they succeeded"] == 1
    assert len(list(open_sources(str(root), failures=False, success=True))) == 3


@pytest.mark.usefixtures("cached")
def test_a_damaged_record_is_left_out_or_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_rlds(tmp_path / "viola" / "1.0.0", [rlds_episode(seed) for seed in range(3)])
    (shard,) = root.glob("*.tfrecord*")
    with shard.open("r+b") as handle:
        handle.seek(40)
        handle.write(b"!!")
    assert [s.episode for s in open_sources(str(root))] == ["00000-000001", "00000-000002"]
    assert "1 that cannot be read" in caplog.text
    with pytest.raises(DatasetError, match="not what was written"):
        list(open_sources(str(root), strict=True))


def test_graded_videos_are_sources_of_the_episodes_they_came_from(tmp_path: Path) -> None:
    names = {
        "toto_originalsplit_train_index_7": 5,
        "toto_originalsplit_train_index_7_1": 2,
        "toto_originalsplit_train_index_7_1_attempt_1_score_3": 3,
    }
    for i, split in enumerate(("train", "val")):
        rows = []
        for name, level in names.items():
            (tmp_path / split / "toto").mkdir(parents=True, exist_ok=True)
            frames = [np.full((32, 48, 3), 60 * t + 30, np.uint8) for t in range(3 + i)]
            write_video(tmp_path / split / "toto" / f"{name}.mp4", frames, fps=10)
            rows.append({"file_name": f"toto/{name}.mp4", "task": "scoop", "reward": level})
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(open_sources(str(tmp_path)))
    assert [(s.split, s.success, s.count) for s in found] == [
        *(("train", level == 5, 3) for level in names.values()),
        *(("val", level == 5, 4) for level in names.values()),
    ]
    assert {(s.dataset, s.rate_hz, s.origin) for s in found} == {
        ("toto", 10.0, "toto/toto_originalsplit_train_index_7")
    }
    assert len({(s.split, s.episode) for s in found}) == 6
    assert abs(float(found[0].read([1])[1].mean()) - 90) < 4
    assert len({part_of(s, {"a": 0.5, "b": 0.5}) for s in found}) == 1
    assert {s.split for s in open_sources(str(tmp_path), split="val")} == {"val"}
    with pytest.raises(DatasetError, match=r"no such split\. Found: test"):
        open_sources(str(tmp_path), split="test")
    with pytest.raises(DatasetError, match="one camera"):
        open_sources(str(tmp_path), camera="front")
    with pytest.raises(ConfigError, match="Only an RLDS dataset"):
        open_sources(str(tmp_path), instruction="task")


def test_everything_made_of_one_episode_comes_into_one_part() -> None:
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    parts = Counter(part_of(source(f"{i}"), shares) for i in range(2000))
    assert abs(parts["train"] / 2000 - 0.8) < 0.04
    assert parts["val"] > 120
    assert parts["test"] > 120
    assert len({part_of(source(f"7_{copy}", origin="7"), shares) for copy in range(9)}) == 1
    assert part_of(source("7"), shares) == part_of(source("7_1", origin="7"), shares)
    assert part_of(source("7"), {"train": 1.0, "test": 0.0}) == "train"
    with pytest.raises(ConfigError, match="do not make a whole"):
        part_of(source("7"), {"train": 0.8})


def test_what_is_not_there_is_named(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no such camera.*'front', 'wrist'"):
        open_sources(str(recorded), camera="top")
    with pytest.raises(DatasetError, match=r"no such split\. Found: test\. Allowed: \['train'\]"):
        open_sources(str(recorded), split="test")
    for wrong in ({"cap": 0}, {"rate_hz": 0.0}):
        with pytest.raises(ConfigError, match="more than 0"):
            open_sources(str(recorded), **wrong)
    with pytest.raises(DatasetError, match="nothing to relabel"):
        open_sources(str(tmp_path))
    with pytest.raises(DatasetError, match="no LeRobotDataset here"):
        open_sources(str(tmp_path / "absent"))
    (one, *_) = open_sources(str(recorded))
    with pytest.raises(DatasetError, match=r"no such observation\. Found: \[-1, 7\]\. Allowed: 0 to 6"):
        one.read([-1, 3, 7])
    assert one.read([]) == {}
