"""A labelled dataset filtered: what counts, what goes, and what stands in the dataset that is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from roborl.cli.main import main as roborl
from roborl.data.annotations import write_annotations
from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_io import read_episodes
from roborl.data.progress import Progress, progress_about, progress_path, read_progress, write_progress
from roborl.data.weights import SETTINGS, read_weights
from roborl.errors import ConfigError, DatasetError
from roborl.loops.rabc.dataset_copy import copy_episodes
from roborl.loops.rabc.filter_config import FilterConfig
from roborl.loops.rabc.filter_dataset import DISCARDED, filter_dataset, find_progress, train_command
from roborl.loops.rabc.label_config import LabelDatasetConfig
from roborl.loops.rabc.label_dataset import label_dataset
from roborl.testing.episodes import CAMERAS, random_episode, write_episodes
from roborl.types import EndCause

STEPS = 8
ASKED = {"words": "how far has it come?"}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes that come to the end, one that stalls, one that goes back, one discarded, one without scores."""
    data = tmp_path_factory.mktemp("labelled") / "d"
    write_episodes(data, *(random_episode(i, STEPS, discarded=i == 4) for i in range(6)))
    curves: Mapping[int, list[float]] = {
        0: np.linspace(0, 1, STEPS + 1).tolist(),
        1: np.linspace(0, 0.96, STEPS + 1).tolist(),
        2: [0.0, 0.1, 0.2, *[0.2] * (STEPS - 2)],
        3: [*np.linspace(0, 0.6, 5), *np.linspace(0.5, 0.3, STEPS - 4)],
        4: np.linspace(0, 1, STEPS + 1).tolist(),
    }
    spread, scored = np.zeros(STEPS + 1, np.float32), np.ones(STEPS + 1, np.bool_)
    labels = {i: Progress(np.float32(c), spread, scored) for i, c in curves.items()}
    write_progress(data, "v1", labels, about=ASKED)
    return data


def test_a_dataset_without_what_is_not_worth_cloning(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--dataset", str(labelled), "--chunk", "2", "--report", str(tmp_path / "report")]
    drop = ["--drop", "progress<0.5", "--drop", "regression>0.25", "--out", str(tmp_path / "out")]
    assert roborl(["filter", *told, *drop]) == 0
    out, said = capsys.readouterr()
    figures = json.loads(out)
    assert (figures["episodes"], figures["kept"], figures["dropped"]) == (6, 3, [2, 3, 4])
    assert "progress<0.5 (0.20)" in said
    assert "no scores" in said
    assert DISCARDED in said
    assert "lerobot-train" in said
    kept = list(read_episodes(tmp_path / "out"))
    before = list(read_episodes(labelled, episodes=[0, 1, 5]))
    for ours, theirs in zip(kept, before, strict=True):
        assert ours.steps == STEPS
        assert ours.key == theirs.key
        assert ours.subtasks == theirs.subtasks != ()
        np.testing.assert_array_equal(ours.images["front"], theirs.images["front"])
        np.testing.assert_array_equal(ours.state, theirs.state)
        np.testing.assert_array_equal(ours.action, theirs.action)
    assert len(LeRobotDataset("local/out", root=tmp_path / "out")) == 3 * (STEPS + 1)
    weights = read_weights(tmp_path / "out", Path(figures["weights"]))
    assert weights[0].tolist() == pytest.approx([1.0] * STEPS + [0.0], abs=0.05)
    assert list(read_progress(tmp_path / "out", "v1")) == [0, 1]
    assert progress_about(progress_path(tmp_path / "out", "v1")) == ASKED
    page = (tmp_path / "report" / "report.html").read_text()
    assert "3 of 6 episodes stay" in page
    assert "progress&lt;0.5" in page
    assert (tmp_path / "report" / "weights.png").stat().st_size > 1000
    rows = json.loads((tmp_path / "report" / "filter.json").read_text())["by_episode"]
    assert [row["verdict"] for row in rows][-1] == "no scores"


def test_without_a_copy_what_is_left_out_counts_for_nothing(labelled: Path) -> None:
    filtered = filter_dataset(FilterConfig(dataset=str(labelled), chunk=2, drop=["flat>0.5"]))
    weights = read_weights(labelled, filtered.weights)
    assert [e.index for e in filtered.episodes if e.dropped] == [2, 4]
    assert not weights[2].any()
    assert not weights[4].any()
    assert weights[0][:-1].min() > 0.9
    assert not weights[0][-1]  # An observation in which nothing was done.
    assert weights[5][0] == pytest.approx(np.mean(np.concatenate([weights[5][:-1]])))
    assert "--dataset.episodes=[0,1,3,5]" in filtered.command.replace("'", "")
    by_theirs = filter_dataset(FilterConfig(dataset=str(labelled), chunk=2, rule="lerobot"))
    assert set(by_theirs.kappa.values()) == {0.01}


def test_a_copy_appears_with_its_progress_and_weights_or_not_at_all(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between them, the same filtering goes on."""

    def killed(*_: object, **__: object) -> None:
        shutil.copytree(tmp_path / "run", tmp_path / "killed")
        raise KeyboardInterrupt

    monkeypatch.setattr("roborl.loops.rabc.filter_dataset.write_weights", killed)
    config = FilterConfig(dataset=str(labelled), chunk=2, drop=["progress<0.5"], out=tmp_path / "run" / "out")
    with pytest.raises(KeyboardInterrupt):
        filter_dataset(config)
    monkeypatch.undo()
    assert not list((tmp_path / "run").iterdir())
    out = tmp_path / "killed" / "out"
    assert not out.exists()
    filtered = filter_dataset(replace(config, out=out))
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert filtered.weights.parent == out
    assert read_weights(out, filtered.weights).keys() == {0, 1, 2}
    assert read_progress(out, "v1").keys() == {0, 1}


def test_two_filterings_of_a_dataset_are_two_files_that_say_how_each_was_made(labelled: Path) -> None:
    config = FilterConfig(dataset=str(labelled), chunk=2, drop=["flat>0.5"])
    first = filter_dataset(config).weights
    before = first.read_bytes()
    others = [{"drop": []}, {"rule": "lerobot"}, {"pace": 0.5}]
    assert len({first, *(filter_dataset(replace(config, **other)).weights for other in others)}) == 4  # type: ignore[arg-type]
    assert first.read_bytes() == before
    assert filter_dataset(replace(config, policy="pi0")).weights == first
    said = json.loads(pq.read_schema(first).metadata[SETTINGS])
    assert (said["drop"], said["pace"], said["doubt"]) == (["flat>0.5"], 1.0, None)


@pytest.mark.parametrize("rule", ["roborl", "lerobot"])
def test_what_came_after_a_verdict_counts_for_nothing_and_says_nothing_of_the_episode(
    tmp_path: Path, rule: Literal["roborl", "lerobot"]
) -> None:
    """Success is judged half-way; until the arm was stopped, it undid what it had done and began anew."""
    steps, judged = 40, 20
    episodes = [random_episode(seed, steps, subtasks=(), end=EndCause.OPERATOR_STOP) for seed in range(2)]
    known = episodes[0].provenance
    assert known is not None
    write_episodes(
        tmp_path / "d", *(replace(e, provenance=replace(known, verdict_index=judged)) for e in episodes)
    )
    until = np.linspace(0, 1, judged + 1)
    curve = np.concatenate([until, np.linspace(1, 0.1, 10), np.linspace(0.1, 0.6, 10)]).astype(np.float32)
    labels = Progress(curve, np.zeros(steps + 1, np.float32), np.ones(steps + 1, np.bool_))
    write_progress(tmp_path / "d", "v1", {0: labels, 1: labels})
    config = FilterConfig(
        dataset=str(tmp_path / "d"), chunk=5, rule=rule, drop=["progress<0.8", "regression>0.2"]
    )
    filtered = filter_dataset(config)
    assert len(filtered.kept) == 2
    assert [e.figures["steps"] for e in filtered.episodes] == [judged, judged]
    for weights in read_weights(tmp_path / "d", filtered.weights).values():
        assert len(weights) == steps + 1
        assert weights[:judged].min() > 0.4
        assert not weights[judged:].any()


def test_a_score_behind_the_verdict_does_not_decide_the_weights_before_it(tmp_path: Path) -> None:
    """Every fourth observation is scored; the task is done between two of them, and undone or not by the next."""
    known = random_episode(0).provenance
    assert known is not None
    judged = replace(known, verdict_index=5)
    write_episodes(tmp_path / "d", random_episode(0, end=EndCause.TIME_LIMIT, provenance=judged))
    scored = np.arange(7) % 4 == 0
    scored[-1] = True
    found = []
    for after in (0.0, 0.95):
        values = np.float32([0, 0, 0, 0, 0.95, 0.95, after])
        write_progress(tmp_path / "d", "v1", {0: Progress(values, 0 * values, scored)})
        (episode,) = filter_dataset(FilterConfig(dataset=str(tmp_path / "d"), chunk=2)).episodes
        found.append(episode.weights.tolist())
    assert found[0] == found[1] == pytest.approx([1.0] * 5)


@pytest.mark.parametrize("rule", ["roborl", "lerobot"])
@pytest.mark.parametrize("verdict", [9, 10, 11])
def test_rows_between_the_last_score_and_the_verdict_count_as_that_score_does(
    tmp_path: Path, rule: Literal["roborl", "lerobot"], verdict: int
) -> None:
    """Every fourth observation is scored; one episode falls until it is judged a failure, the other rises."""
    known = random_episode(0, 12).provenance
    assert known is not None
    judged = replace(known, verdict_index=verdict)
    fails = random_episode(0, 12, success=False, end=EndCause.TIME_LIMIT, provenance=judged)
    write_episodes(tmp_path / "d", fails, random_episode(1, 12))
    scored = np.arange(13) % 4 == 0
    falling, rising = (
        np.repeat(np.float32(said), [4, 4, 4, 1]) for said in ([0.9, 0.6, 0.3, 0.0], [0.0, 0.3, 0.6, 0.9])
    )
    labels = {i: Progress(curve, 0 * curve, scored) for i, curve in enumerate((falling, rising))}
    write_progress(tmp_path / "d", "v1", labels)
    filtered = filter_dataset(FilterConfig(dataset=str(tmp_path / "d"), chunk=8, rule=rule))
    weights = filtered.episodes[0].weights
    assert len(weights) == verdict
    assert not weights[:8].any()
    # LeRobot's rule gives a share to what stands still, as it takes the end of an episode to do.
    assert np.unique(weights[8:]).size == 1
    assert weights[8] < (0.01 if rule == "roborl" else 0.6)
    assert filtered.unknown == 0


def test_of_the_scores_that_were_asked_for_the_missing_ones_count_and_not_the_rows_that_hold_them(
    tmp_path: Path,
) -> None:
    write_episodes(tmp_path / "d", random_episode(0, 9, subtasks=()))
    scored = np.arange(10) % 4 == 0
    scored[-1] = True
    values = np.float32([0.1] * 4 + [np.nan] * 4 + [0.7, 0.9])
    write_progress(tmp_path / "d", "v1", {0: Progress(values, 0 * values, scored)})
    filtered = filter_dataset(FilterConfig(dataset=str(tmp_path / "d"), chunk=2))
    assert filtered.episodes[0].figures["missing"] == 0.25


def test_a_task_that_takes_longer_counts_as_much_and_its_pace_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {0: 10, 1: 10, 2: 10, 3: 60, 4: 60, 5: 60}
    said = {i: "fold" if n > 10 else "press" for i, n in steps.items()} | {5: "Fold."}
    write_episodes(
        tmp_path / "d",
        *(random_episode(i, n, task=said[i], subtasks=()) for i, n in steps.items()),
    )
    write_progress(
        tmp_path / "d",
        "v1",
        {
            i: Progress(
                np.linspace(0, 1, n + 1, dtype=np.float32),
                np.zeros(n + 1, np.float32),
                np.ones(n + 1, np.bool_),
            )
            for i, n in steps.items()
        },
    )
    told = ["--dataset", str(tmp_path / "d"), "--chunk", "5", "--report", str(tmp_path / "report")]
    assert roborl(["filter", *told, "--drop", "weight<0.9"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["dropped"] == []
    assert figures["kappa"] == {"press": pytest.approx(0.5), "fold": pytest.approx(5 / 60)}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "counts fully: press" in page
    assert "counts fully: fold" in page


@pytest.mark.parametrize("rule", ["roborl", "lerobot"])
def test_frames_that_were_not_scored_count_as_those_around_them(
    tmp_path: Path, rule: Literal["roborl", "lerobot"]
) -> None:
    """A film that grows brighter evenly, watched by a judge of brightness."""
    grey = (np.arange(101) * 2).astype(np.uint8)
    images = {n: np.broadcast_to(grey[:, None, None, None], (101, *s, 3)) for n, s in CAMERAS.items()}
    write_episodes(tmp_path / "d", random_episode(0, 100, images=images, subtasks=()))
    weighed = []
    for stride in (1, 10, 20):
        labelled = label_dataset(
            LabelDatasetConfig(dataset=str(tmp_path / "d"), reward="brightness", stride=stride)
        )
        config = FilterConfig(
            dataset=str(tmp_path / "d"), chunk=8, progress=labelled.version, rule=rule, finished=0.7
        )
        weighed.append(filter_dataset(config).episodes[0].weights)
    for weights in weighed[1:]:
        assert weights == pytest.approx(weighed[0], abs=0.15)
        assert weights[:90].min() > 0.85


def test_what_cannot_be_filtered_is_told(labelled: Path, tmp_path: Path) -> None:
    config = FilterConfig(dataset=str(labelled), chunk=2)
    with pytest.raises(DatasetError, match=r"Nothing is left to clone.*0 of 6 episodes"):
        filter_dataset(replace(config, drop=["steps>0"]))
    with pytest.raises(DatasetError, match=r"no progress of this version.*v1"):
        filter_dataset(replace(config, progress="v2"))
    with pytest.raises(
        ConfigError, match=r"no policy of this kind\. Found: smolvl\. Allowed: \['act'.*'smolvla'.*--policy"
    ):
        filter_dataset(replace(config, policy="smolvl"))
    with pytest.raises(ConfigError, match=r"requirement cannot be read.*--drop"):
        FilterConfig(dataset="d", drop=["reward<1"])
    with pytest.raises(ConfigError, match="nothing to filter"):
        FilterConfig()
    with pytest.raises(DatasetError, match=r"no file of progress.*roborl label"):
        find_progress(tmp_path, "")
    assert find_progress(labelled, "roborl_progress_v1.parquet") == progress_path(labelled, "v1")
    (tmp_path / "something").mkdir()
    (tmp_path / "something" / "there").touch()
    with pytest.raises(ConfigError, match="something where the filtered"):
        copy_episodes(labelled, tmp_path / "something", [0])


def test_a_dataset_of_the_second_version_is_not_copied(labelled: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "meta").mkdir(parents=True)
    info = json.loads((labelled / "meta" / "info.json").read_text()) | {"codebase_version": "v2.1"}
    (old / "meta" / "info.json").write_text(json.dumps(info))
    lines = [json.dumps({"episode_index": i, "length": STEPS + 1}) for i in range(2)]
    (old / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    (old / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "reach"}))
    for chosen in ([0], [0, 1]):
        with pytest.raises(
            DatasetError, match=r"another format version\. Found: v2\.1\. Allowed: v3\.x\. Convert"
        ):
            copy_episodes(old, tmp_path / "out", chosen)
    assert not (tmp_path / "out").exists()


def test_a_copy_has_the_marks_that_stand_in_the_dataset_even_where_they_overlap(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", *[random_episode(seed, subtasks=()) for seed in range(3)])
    theirs = (Subtask(name="reach", start=0, end=4), Subtask(name="lift", start=3, end=6))
    write_annotations(tmp_path / "d", {0: theirs, 2: theirs}, language=False, fresh=())
    copy_episodes(tmp_path / "d", tmp_path / "out", [0, 2])
    assert [e.subtasks for e in read_episodes(tmp_path / "out", with_images=False)] == [theirs, theirs]


@pytest.mark.parametrize(
    ("kind", "published"),
    [
        ("smolvla", ["lerobot/smolvla_base"]),
        ("pi0", ["lerobot/pi0_base"]),
        ("pi05", ["lerobot/pi05_base"]),
        ("mine", []),
    ],
)
def test_the_command_begins_with_published_weights_and_takes_the_datasets_cameras(
    kind: str, published: list[str]
) -> None:
    config = FilterConfig(dataset="d", policy=kind)
    words = train_command(config, Path("a/d"), Path("a/d/w.parquet"), []).split()
    told = [word.partition("=")[2] for word in words if word.startswith("--policy.pretrained_path")]
    assert told == published
    assert not [word for word in words if word.startswith("--policy.path")]


def test_the_command_names_the_chunk_that_the_weights_are_for() -> None:
    config = FilterConfig(dataset="d", chunk=7, policy="pi0")
    words = train_command(config, Path("a/d"), Path("a/d/w.parquet"), []).split()
    assert "--policy.chunk_size=7" in words
    assert "--policy.type=pi0" in words
    assert not [word for word in words if word.startswith("--dataset.episodes")]
