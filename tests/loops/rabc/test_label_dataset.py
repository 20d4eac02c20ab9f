"""Labels of a dataset are those of its reward model, whatever stands in between: a server, a kill, a foreign file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from roborl.cli.main import main as roborl
from roborl.data.dataset_episode import to_episode
from roborl.data.lerobot_io import read_episodes
from roborl.data.progress import (
    ABOUT,
    Progress,
    every_so_many,
    progress_path,
    progress_version,
    read_progress,
    write_progress,
)
from roborl.errors import ConfigError, DatasetError
from roborl.loops.rabc.label_config import LabelDatasetConfig
from roborl.loops.rabc.label_dataset import label_dataset
from roborl.loops.rabc.label_journal import LabelJournal
from roborl.loops.references_config import ReferencesConfig
from roborl.loops.score_episodes import read_ahead
from roborl.loops.serve import ServeConfig, serving
from roborl.rewards.fake import BrightnessJudge, BrightnessModel, Glance
from roborl.rewards.model import JudgeDown, score_episode
from roborl.rewards.pool_config import PoolConfig
from roborl.testing.episodes import lerobot_recording, random_episode, write_episodes

VERSION = "brightness-all"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "d"
    write_episodes(path, *(random_episode(i, steps=5 + i) for i in range(4)))
    return path


@pytest.fixture
def data(written: Path, tmp_path: Path) -> Path:
    """Four episodes of 6 to 9 observations, of two tasks, without labels."""
    return Path(shutil.copytree(written, tmp_path / "d"))


def expected(dataset: Path, model: BrightnessModel | None = None) -> dict[int, list[float]]:
    model = model or BrightnessModel()
    return {
        e.index: [
            s.progress for s in score_episode(model, e.task, to_episode(replace(e, key="")).observations)
        ]
        for e in read_episodes(dataset)
    }


def test_every_observation_has_the_score_that_its_model_gives_alone(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert roborl(["label", "--dataset", str(data), "--reward", "brightness", "--at_once", "3"]) == 0
    out, told = capsys.readouterr()
    figures = json.loads(out)
    assert (figures["version"], figures["episodes"], figures["observations"]) == (VERSION, 4, 30)
    assert (figures["missing"], figures["present"]) == (0, 0)
    assert figures["observations_per_s"] > 0
    assert "4/4  episode" in told
    found = read_progress(data, VERSION)
    for index, values in expected(data).items():
        np.testing.assert_array_equal(found[index][0], np.float32(values))
    assert Path(figures["progress"]) == progress_path(data, VERSION)
    assert progress_version(progress_path(data, VERSION)) == VERSION
    assert not list(data.glob(".*journal"))


def test_with_a_stride_every_so_many_and_the_last_are_scored_and_held_in_between(data: Path) -> None:
    asked: list[int] = []

    class Counting(BrightnessJudge):
        def answer(self, queries: Sequence[Glance]) -> list[tuple[float, float]]:
            asked.append(len(queries))
            return super().answer(queries)

    with serving({"m": BrightnessModel(judge=Counting())}) as server:
        config = LabelDatasetConfig(dataset=str(data), server=server.endpoint, stride=3)
        labelled = label_dataset(config)
        label_dataset(replace(config, stride=1))
    assert labelled.version == f"{VERSION}-every3"
    for index, values in expected(data).items():
        last = len(values) - 1
        held = [values[t if t == last else t - t % 3] for t in range(len(values))]
        np.testing.assert_array_equal(labelled.progress[index].values, np.float32(held))
        assert np.flatnonzero(labelled.progress[index].scored).tolist() == sorted({*range(0, last, 3), last})
    # Of 6, 7, 8 and 9 observations; then of all 30, into another file.
    assert sum(asked) == (2 + 1) + 3 + (3 + 1) + (3 + 1) + 30
    assert len(read_progress(data, VERSION)) == len(read_progress(data, f"{VERSION}-every3")) == 4


def test_a_foreign_dataset_has_a_score_in_each_of_its_rows_from_cameras_by_other_names(
    tmp_path: Path,
) -> None:
    lerobot_recording(tmp_path / "f", [4, 6])
    with serving({"m": BrightnessModel(("front",), image_px=16)}) as server:
        config = LabelDatasetConfig(dataset=str(tmp_path / "f"), server=server.endpoint)
        with pytest.raises(
            ConfigError, match=r"cameras that are not recorded.*label.*--camera_map '\{MODEL: DATASET\}'"
        ):
            label_dataset(config)
        labelled = label_dataset(replace(config, camera_map={"front": "laptop"}))
    rows = [25 * (t + 1) / 3 / 255 for t in range(6)]
    assert labelled.progress[0][0] == pytest.approx(rows[:4], abs=1e-3)
    assert labelled.progress[1][0] == pytest.approx(rows, abs=1e-3)
    assert labelled.value_order == pytest.approx(1.0)
    table = pq.read_table(labelled.path)
    assert table.column("index").to_pylist() == list(range(10))


def test_what_a_kill_left_is_not_scored_again(data: Path) -> None:
    class Killed(Exception):
        pass

    def die(index: int, labels: object, done: int, of: int) -> None:
        if done == 2:
            raise Killed

    config = LabelDatasetConfig(dataset=str(data), reward="brightness", at_once=1)
    with pytest.raises(Killed):
        label_dataset(config, on_episode=die)
    assert not progress_path(data, VERSION).exists()
    (journal,) = data.glob(".*journal")
    journal.write_bytes(journal.read_bytes() + b'{"episode": 2, "progr')
    again = label_dataset(config)
    assert again.written == (2, 3)
    for index, values in expected(data).items():
        np.testing.assert_array_equal(again.progress[index][0], np.float32(values))
    assert list(read_progress(data, VERSION)) == [0, 1, 2, 3]
    assert label_dataset(config).written == ()


def test_labels_of_a_run_that_are_coarser_or_end_early_are_not_taken_for_whole(data: Path) -> None:
    """As an export has them: of every observation, of every fourth, and as far as the fourth."""
    whole, every_fourth, begun = (
        np.ones(6, np.bool_),
        every_so_many(4, 7),
        np.arange(8) < 4,
    )
    found = {
        i: Progress(np.where(s | (i == 1), 0.3, np.nan).astype(np.float32), np.zeros(len(s), np.float32), s)
        for i, s in enumerate((whole, every_fourth, begun))
    }
    write_progress(data, VERSION, found)
    labelled = label_dataset(LabelDatasetConfig(dataset=str(data), reward="brightness"))
    assert labelled.written == (1, 2, 3)
    for index, values in expected(data).items():
        given = np.full(6, 0.3) if index == 0 else values
        np.testing.assert_array_equal(read_progress(data, VERSION)[index].values, np.float32(given))
    assert label_dataset(LabelDatasetConfig(dataset=str(data), reward="brightness")).written == ()


def test_a_stopped_labelling_keeps_what_it_has(data: Path) -> None:
    seen: list[int] = []
    config = LabelDatasetConfig(dataset=str(data), reward="brightness", at_once=1)
    stopped = label_dataset(
        config, on_episode=lambda index, *_: seen.append(index), stopping=lambda: len(seen) > 0
    )
    assert stopped.stopped
    assert not stopped.path.exists()
    assert label_dataset(config).written == tuple(i for i in range(4) if i not in seen)


def test_a_dataset_that_changed_is_labelled_anew_in_a_folder_of_its_own(data: Path, tmp_path: Path) -> None:
    config = LabelDatasetConfig(dataset=str(data), reward="brightness", out=tmp_path / "labels")
    path = label_dataset(config).path
    table = pq.read_table(path)
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"roborl_dataset_fingerprint": b"other"}),
        path,
    )
    again = label_dataset(config)
    assert again.written == (0, 1, 2, 3)
    assert again.path.parent == tmp_path / "labels"


def test_an_observation_without_a_score_is_missing_and_counted(data: Path) -> None:
    class Blind(BrightnessJudge):
        def answer(self, queries: Sequence[Glance]) -> list[tuple[float, float]]:
            odd = [q.now[0].shape == (16, 20, 3) and int(q.now[0][0, 0, 0]) % 2 for q in queries]
            return [
                (float("nan"), 0.0) if blind else reply
                for blind, reply in zip(odd, super().answer(queries), strict=True)
            ]

    with serving({"m": BrightnessModel(judge=Blind())}) as server:
        labelled = label_dataset(LabelDatasetConfig(dataset=str(data), server=server.endpoint))
    blind = {e.index: [bool(int(p[0, 0, 0]) % 2) for p in e.images["front"]] for e in read_episodes(data)}
    assert {i: np.isnan(v).tolist() for i, (v, *_) in labelled.progress.items()} == blind
    missing = sum(map(sum, blind.values()))
    assert missing > 0
    assert labelled.figures()["missing"] == missing
    assert labelled.figures()["reasons"] == {"no reply": missing}


def test_a_judge_that_is_away_for_a_while_leaves_no_hole(data: Path) -> None:
    asked = [0]

    class Away(BrightnessJudge):
        def answer(self, queries: Sequence[Glance]) -> list[tuple[float, float]]:
            asked[0] += 1
            if 2 <= asked[0] <= 4:
                raise JudgeDown("No endpoint of the judge answers")
            return super().answer(queries)

    pool = PoolConfig(max_batch=4, retry_s=0.02)
    served = ServeConfig(endpoint="tcp://127.0.0.1:*", pool=pool)
    with serving({"m": BrightnessModel(judge=Away())}, served) as server:
        labelled = label_dataset(LabelDatasetConfig(dataset=str(data), server=server.endpoint))
    assert asked[0] > 4
    assert labelled.figures()["missing"] == 0
    for index, values in expected(data).items():
        np.testing.assert_array_equal(labelled.progress[index][0], np.float32(values))


def test_what_the_judge_gave_no_answer_on_is_asked_again_by_the_next_labelling(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    class Mute(BrightnessJudge):
        def answer(self, queries: Sequence[Glance]) -> list[tuple[float, float]]:
            replies = super().answer(queries)
            if not asked:  # of the first episode
                replies[0] = (float("nan"), 0.0)
            asked.append(len(queries))
            return replies

    with serving({"m": BrightnessModel(judge=Mute())}) as server:
        args = ["label", "--dataset", str(data), "--server", server.endpoint, "--at_once", "1"]
        assert roborl(args) == 1
        out, told = capsys.readouterr()
        figures = json.loads(out)
        assert (figures["episodes"], figures["unanswered"]) == (4, 1)
        assert "run the same again" in told
        lacking = [int(np.isnan(values).sum()) for values, *_ in read_progress(data, VERSION).values()]
        assert lacking == [1, 0, 0, 0]  # what stands there can be used meanwhile
        assert sum(asked) == 30
        assert roborl(args) == 0
        assert sum(asked) == 30 + 6
    figures = json.loads(capsys.readouterr().out)
    assert (figures["present"], figures["missing"], figures["unanswered"]) == (3, 0, 0)
    for index, values in expected(data).items():
        np.testing.assert_array_equal(read_progress(data, VERSION)[index][0], np.float32(values))
    assert not list(data.glob(".*journal"))


def test_two_versions_are_two_files(data: Path) -> None:
    with serving({"a": BrightnessModel(("front",)), "b": BrightnessModel(("wrist",))}) as server:
        paths = {
            label_dataset(LabelDatasetConfig(dataset=str(data), server=server.endpoint, model=name)).path
            for name in "ab"
        }
    assert len(paths) == 2


def test_what_the_version_is_the_hash_of_goes_with_the_labels(data: Path) -> None:
    model = BrightnessModel()
    about = {"kind": "brightness", "prompt": "5ha256", "asked": {"frames": 8}}
    model.info = replace(model.info, about=about)
    with serving({"m": model}) as server:
        labelled = label_dataset(LabelDatasetConfig(dataset=str(data), server=server.endpoint))
    told = pq.read_schema(labelled.path).metadata[ABOUT]
    assert json.loads(told) == about


def test_labels_of_another_task_or_another_view_are_other_labels(data: Path) -> None:
    with serving({"m": BrightnessModel(("front",))}) as server:
        asked = LabelDatasetConfig(dataset=str(data), server=server.endpoint)
        told = [
            label_dataset(replace(asked, **changes))
            for changes in (
                {},
                {"task": "one"},
                {"task": "another"},
                {"camera_map": {"front": "front"}},
                {"camera_map": {"front": "wrist"}},
            )
        ]
    plain, one, another, same, other = told
    assert len({labelled.path for labelled in (plain, one, another, other)}) == 4
    assert all(labelled.written for labelled in (plain, one, another, other))
    assert (same.path, same.written) == (plain.path, ())
    assert not np.array_equal(plain.progress[0][0], other.progress[0][0])


def test_each_task_is_shown_a_demonstration_of_its_own(data: Path) -> None:
    told: list[Any] = []

    class Noting(BrightnessModel):
        def start(self, task: str, references: Any) -> Any:
            told.append((task, sorted(references), references["goal/front"].mean()))
            return super().start(task, references)

    with serving({"m": Noting()}) as server:
        config = LabelDatasetConfig(
            dataset=str(data),
            server=server.endpoint,
            references=ReferencesConfig(path=str(data), frames=1),
        )
        labelled = label_dataset(config)
        one = label_dataset(replace(config, references=ReferencesConfig(path=str(data), frames=1, episode=1)))
    assert {task for task, _, _ in told} == {"put the cube in bowl 0", "put the cube in bowl 1"}
    assert {len({goal for task, _, goal in told[:6] if task.endswith(str(i))}) for i in (0, 1)} == {1}
    assert len(labelled.progress) == 4
    assert len({VERSION, labelled.version, one.version}) == 3


def test_two_processes_do_not_label_the_same(tmp_path: Path) -> None:
    with (
        LabelJournal(tmp_path / "j", version="v", fingerprint="f"),
        pytest.raises(DatasetError, match="Another process labels"),
    ):
        LabelJournal(tmp_path / "j", version="v", fingerprint="f")


def test_misuse_is_told() -> None:
    for wrong in ({}, {"dataset": "d"}, {"dataset": "d", "reward": "a", "server": "b"}):
        with pytest.raises(ConfigError, match="a reward model or a server"):
            LabelDatasetConfig(**wrong)
    with pytest.raises(ConfigError, match="at_once 0"):
        LabelDatasetConfig(dataset="d", reward="r", at_once=0)


def test_what_is_read_ahead_fails_where_it_is_waited_for() -> None:
    def items() -> Any:
        yield 1
        raise DatasetError("torn")

    found: list[int] = []
    with read_ahead(items()) as ahead, pytest.raises(DatasetError, match="torn"):
        found.extend(item for item in ahead if item is not None)
    assert found == [1]
