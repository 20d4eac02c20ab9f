"""Sub-tasks survive both of LeRobot's formats."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.rewards.sarm.sarm_utils import find_stage_and_tau

from roborl.data.annotations import (
    from_episode_row,
    from_language,
    read_keyframes,
    stage_names,
    stage_shares,
    write_annotations,
)
from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_files import replace_table
from roborl.data.lerobot_info import describe
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_writer import DatasetWriter
from roborl.errors import DatasetError
from roborl.testing.episodes import ACTION, CAMERAS, STATE, random_episode, write_episodes
from roborl.types import EndCause


def mark(name: str, start: int, end: int) -> Subtask:
    return Subtask(name=name, start=start, end=end)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    # Two files of episodes and of data, where row numbers within a file are not episode numbers.
    for i in range(2):
        write_episodes(
            tmp_path / "d", random_episode(2 * i, subtasks=()), random_episode(2 * i + 1, subtasks=())
        )
    return tmp_path / "d"


def dataset_writer(path: Path, *, benchmark_progress: bool = False) -> DatasetWriter:
    return DatasetWriter(
        path,
        fps=10,
        cameras=CAMERAS,
        state_names=STATE,
        action_names=ACTION,
        benchmark_progress=benchmark_progress,
        checkpoint_every=2,
    )


def test_annotations_stand_in_both_formats_and_are_read_from_each(dataset: Path) -> None:
    given = {0: [mark("reach", 1, 3), mark("lift", 3, 6)], 2: [mark("reach", 0, 2), mark("lift", 2, 5)]}
    shares = write_annotations(dataset, given)
    assert shares == pytest.approx({"reach": (0.4 + 0.4) / 2, "lift": 0.6})
    assert describe(dataset).stages == ("reach", "lift")
    assert [list(e.subtasks) for e in read_episodes(dataset)] == [given[0], [], given[2], []]
    stock = LeRobotDataset("local/d", root=dataset)
    assert len(stock) == 28
    row = stock.meta.episodes[2]
    # LeRobot's own labeller finds the stages where they were put.
    stage = find_stage_and_tau(
        3, 7, row["sparse_subtask_names"], row["sparse_subtask_start_frames"], row["sparse_subtask_end_frames"],
        list(shares), shares,
    )  # fmt: skip
    assert stage == (1, pytest.approx(1 / 3))
    spoken = stock[15]["language_persistent"]
    assert [(r["content"], r["style"]) for r in spoken] == [("reach", "subtask"), ("lift", "subtask")]
    assert stock[8]["language_persistent"] == []
    assert from_language(spoken, fps=10, last=5) == tuple(given[2])


def test_the_language_format_alone_is_enough(dataset: Path) -> None:
    write_annotations(dataset, {1: [mark("reach", 0, 2), mark("lift", 2, 6)]})
    write_annotations(dataset, {}, language=False)
    assert [len(e.subtasks) for e in read_episodes(dataset)] == [0, 2, 0, 0]


def test_a_second_annotation_replaces_the_first(dataset: Path) -> None:
    write_annotations(dataset, {0: [mark("reach", 0, 6)], 1: [mark("reach", 0, 6)]})
    write_annotations(dataset, {0: [mark("grasp", 0, 6)]})
    assert [[s.name for s in e.subtasks] for e in read_episodes(dataset)] == [["grasp"], [], [], []]
    spoken = LeRobotDataset("local/d", root=dataset)[0]["language_persistent"]
    assert [r["content"] for r in spoken] == ["grasp"]


def test_an_annotated_dataset_can_be_continued(dataset: Path) -> None:
    write_annotations(dataset, {0: [mark("reach", 0, 6)]}, language=False)
    write_episodes(dataset, random_episode(9))
    assert [len(e.subtasks) for e in read_episodes(dataset)] == [1, 0, 0, 0, 2]


@pytest.mark.parametrize("prefix", ["sparse", "dense"])
def test_recording_goes_on_after_an_annotation_which_stays_in_both_formats(
    dataset: Path, prefix: str
) -> None:
    write_annotations(dataset, {0: [mark("reach", 0, 3), mark("lift", 3, 6)]}, prefix=prefix)
    before = sorted((dataset / "data").glob("*/*.parquet"))
    whole = [path.read_bytes() for path in before]
    with dataset_writer(dataset) as writer:
        for number in (4, 5, 6):  # A checkpoint between them.
            writer.append(
                random_episode(number, subtasks=() if number == 5 else random_episode(number).subtasks)
            )
    assert [path.read_bytes() for path in before] == whole
    assert [len(e.subtasks) for e in read_episodes(dataset)] == [2, 0, 0, 0, 2, 0, 2]
    stock = LeRobotDataset("local/d", root=dataset)
    frames = [stock[7 * index + 2] for index in range(7)]
    assert [len(f["language_persistent"]) for f in frames] == [2, 0, 0, 0, 2, 0, 2]
    assert [f["language_events"] for f in frames] == [[]] * 7


@pytest.mark.parametrize("end", [4, 3])
def test_a_dataset_with_marks_that_lerobot_did_not_check_can_be_continued(dataset: Path, end: int) -> None:
    """Its tool gives whole seconds: one sub-task may begin before the last one's end, or end where it begins."""
    theirs = (mark("reach", 0, 4), mark("lift", 3, end))
    write_annotations(dataset, {0: theirs}, language=False, fresh=())
    write_episodes(dataset, random_episode(9))
    first, *_, last = read_episodes(dataset, with_images=False)
    assert first.subtasks == theirs
    assert last.subtasks == random_episode(9).subtasks
    shares = json.loads((dataset / "meta" / "temporal_proportions_sparse.json").read_text())
    assert all(share > 0 for share in shares.values())


@pytest.mark.parametrize("before", ["write_annotations", "write_language"])
def test_a_kill_before_new_marks_are_written_beside_old_ones_loses_neither(
    dataset: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write_annotations(dataset, {0: [mark("reach", 0, 6)]})
    with monkeypatch.context() as patch:
        patch.setattr(f"roborl.data.lerobot_writer.{before}", killed)
        with pytest.raises(KeyboardInterrupt):
            write_episodes(dataset, random_episode(9))
    with dataset_writer(dataset):
        pass
    stock = LeRobotDataset("local/d", root=dataset)
    assert [len(stock[7 * index]["language_persistent"]) for index in range(5)] == [1, 0, 0, 0, 2]


@pytest.mark.parametrize("written", [0, 1])
def test_a_recording_completes_what_a_killed_annotation_left(
    dataset: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def killed(path: Path, *given: Any, **options: Any) -> None:
        if len(done) == written:
            raise KeyboardInterrupt
        done.append(path)
        replace_table(path, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr("roborl.data.annotations.replace_table", killed)
        with pytest.raises(KeyboardInterrupt):
            write_annotations(dataset, {index: [mark("reach", 0, 6)] for index in range(4)})
    write_episodes(dataset, random_episode(9))
    stock = LeRobotDataset("local/d", root=dataset)
    assert [len(stock[7 * index]["language_persistent"]) for index in range(5)] == [1, 1, 1, 1, 2]


def test_a_column_that_new_episodes_lack_is_told_before_they_are_recorded(tmp_path: Path) -> None:
    progress = np.linspace(0, 1, 7, dtype=np.float32)
    with dataset_writer(tmp_path / "d", benchmark_progress=True) as writer:
        writer.append(random_episode(0, benchmark_progress=progress))
    with pytest.raises(
        DatasetError, match=r"lack.*benchmark\.progress.*Allowed.*benchmark progress here too"
    ):
        dataset_writer(tmp_path / "d")


@pytest.mark.parametrize(
    ("marks", "match"),
    [
        ({9: [mark("reach", 0, 2)]}, r"not there.*9.*Allowed: 0 to 3"),
        ({0: [mark("reach", 0, 7)]}, r"reach.*frames 0 to 7.*Allowed: 0 to 6"),
        ({0: [mark("reach", 0, 4), mark("lift", 3, 6)]}, r"lift.*Allowed: 4 to 6"),
    ],
)
def test_annotations_that_do_not_fit_change_nothing(
    dataset: Path, marks: dict[int, list[Subtask]], match: str
) -> None:
    with pytest.raises(DatasetError, match=match):
        write_annotations(dataset, marks)
    assert describe(dataset).stages == ()


@given(st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=3), min_size=1, max_size=8))
def test_shares_are_a_mean_of_ratios_and_sum_to_one(durations: list[list[int]]) -> None:
    annotated = []
    for lengths in durations:
        edges = [sum(lengths[:i]) for i in range(4)]
        annotated.append([mark(n, edges[i], edges[i + 1]) for i, n in enumerate("abc")])
    shares = stage_shares(annotated)
    assert list(shares) == ["a", "b", "c"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["a"] == pytest.approx(sum(d[0] / sum(d) for d in durations) / len(durations))


def test_failures_teach_no_shares(tmp_path: Path) -> None:
    drop = [mark("reach", 0, 2), mark("lift", 2, 3), mark("reach", 3, 6)]
    write_episodes(
        tmp_path / "d",
        random_episode(0),
        random_episode(1, success=False, end=EndCause.FAILURE, failure="drop", subtasks=tuple(drop)),
    )
    info = describe(tmp_path / "d")
    assert info.stages == ("reach", "lift")
    shares = json.loads((tmp_path / "d/meta/temporal_proportions_sparse.json").read_text())
    assert shares == stage_shares([random_episode(0).subtasks])
    assert list(list(read_episodes(tmp_path / "d"))[1].subtasks) == drop


def test_stages_are_ordered_by_when_they_happen() -> None:
    assert stage_names(
        [[mark("z", 0, 5), mark("a", 5, 9)], [mark("z", 0, 2), mark("m", 2, 3), mark("a", 3, 9)]]
    ) == (
        "z",
        "m",
        "a",
    )


def test_files_with_times_only_are_read() -> None:
    row = {
        "episode_index": 0,
        "subtask_names": ["reach", "lift"],
        "subtask_start_times": [0, 2],
        "subtask_end_times": [2, 5],
    }
    assert from_episode_row(row, fps=10, last=47) == (mark("reach", 0, 20), mark("lift", 20, 47))


def test_a_broken_annotation_is_named() -> None:
    row = {
        "episode_index": 3,
        "sparse_subtask_names": ["a", "b"],
        "sparse_subtask_start_frames": [0],
        "sparse_subtask_end_frames": [1, 2],
    }
    with pytest.raises(DatasetError, match=r"Episode 3.*2 names, 1 starts"):
        from_episode_row(row, fps=10, last=9)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("k.yaml", "2:\n- {name: reach, start: 0, end: 4}\n- {name: lift, start: 4, end: 9}\n"),
        ("k.json", '{"2": [{"name": "reach", "start": 0, "end": 4}, {"name": "lift", "start": 4, "end": 9}]}'),
        ("k.csv", "episode,name,start,end\n2,reach,0,4\n2,lift,4,9\n"),
        ("l.json", json.dumps([
            {"anotation": "reach", "start_frame_id": 0, "end_frame_id": 4},  # codespell:ignore anotation
            {"anotation": "lift", "start_frame_id": 4, "end_frame_id": 9},  # codespell:ignore anotation
        ])),
    ],
)  # fmt: skip
def test_keyframes_come_in_four_forms(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_keyframes(tmp_path / name, episode=2) == {2: (mark("reach", 0, 4), mark("lift", 4, 9))}


@pytest.mark.parametrize(
    "text", ["reach", "- 3", "{0: [{start: 1, end: 2}]}", "{0: [{name: a, start: x, end: 2}]}"]
)
def test_unreadable_keyframes_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "k.yaml").write_text(text)
    with pytest.raises(DatasetError, match="keyframes"):
        read_keyframes(tmp_path / "k.yaml")


def test_keyframes_of_real_episodes_are_read(table_data: Path) -> None:
    marks = read_keyframes(table_data / "episode_001" / "annotated_keyframes.json")[0]
    assert len(marks) == 16
    assert marks[0] == mark("subtask1", 8, 147)
    assert all(a.end == b.start for a, b in pairwise(marks))


def test_torn_shares_leave_the_stages_to_the_episodes(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    (tmp_path / "d" / "meta" / "temporal_proportions_sparse.json").write_text("")
    assert describe(tmp_path / "d").stages == ("reach", "lift")
