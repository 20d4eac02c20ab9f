"""Practice teaches a reward model where a policy's successes end, and nothing that nobody knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roborl.cli.main import main
from roborl.codec import join
from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.lerobot_writer import DatasetWriter
from roborl.data.store import Store
from roborl.errors import ConfigError, DatasetError
from roborl.loops.reward_training.practice import (
    Practice,
    PracticeConfig,
    measure_practice,
    read_practice,
)
from roborl.records import Arrival, Begin, End, pack_record
from roborl.rewards.training.episodes import TrainingEpisode, label_episode
from roborl.rewards.training.labels import StagePlan
from roborl.testing.episodes import random_episode
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM, episode_records, store_spec
from roborl.types import EndCause, EpisodeKey

TASK = "put the cup in the sink"
WON, LOST, STOPPED = EndCause.SUCCESS, EndCause.TIME_LIMIT, EndCause.WATCHDOG


def practise(run: Path, *ends: EndCause, task: str = TASK, hz: float = 10.0, discarded: int = -1) -> str:
    """Leave a run whose episodes ended so, each a step longer than the one before."""
    with Store(run / "store", store_spec(max_steps=40)) as store:
        for number, end in enumerate(ends):
            key = EpisodeKey(actor="arm", incarnation=1, episode=number)
            for record in episode_records(key, 5 + number, end):
                if isinstance(record, Begin):
                    record = replace(record, task=task)
                elif isinstance(record, Arrival):
                    stamp_ns = round(record.index * 1e9 / hz)
                    record = replace(record, observation=replace(record.observation, stamp_ns=stamp_ns))
                elif isinstance(record, End):
                    record = replace(record, discarded=number == discarded)
                store.ingest("ring", store.last_sequence("ring") + 1, join(pack_record(record)))
        store.wait_sealed(20.0)
    return str(run)


def read(*runs: str, held_out: float = 0.0, newest: int = 200, **differing: object) -> Practice:
    usual = {"cameras": ["front", "wrist"], "tasks": [TASK], "rate_hz": 10.0, "side_px": 8}
    config = PracticeConfig(runs=list(runs), newest=newest)
    return read_practice(config, held_out=held_out, **{**usual, **differing})  # type: ignore[arg-type]


def lengths(episodes: Sequence[TrainingEpisode]) -> list[int]:
    return [episode.frames for episode in episodes]


def test_successes_teach_and_what_came_later_measures_however_it_ended(tmp_path: Path) -> None:
    run = practise(tmp_path, WON, LOST, STOPPED, WON, WON, LOST, WON, discarded=4)
    practice = read(run, held_out=0.4)
    assert lengths(practice.lessons) == [6, 9]
    assert [(e.frames, e.success) for e in practice.held_out] == [(11, False), (12, True)]
    assert all(e.images["front"].shape[1:] == (8, 8, 3) for e in practice.lessons)
    assert lengths(read(run, newest=2).lessons) == [12]
    assert lengths(read(run, run).lessons) == [6, 9, 12] * 2


@pytest.mark.parametrize("shares", [(1.0,), (0.4, 0.6)])
def test_a_lesson_knows_its_two_ends_alone(tmp_path: Path, shares: tuple[float, ...]) -> None:
    [lesson] = read(practise(tmp_path, WON)).lessons
    plan = StagePlan(names=tuple(f"stage {n}" for n, _ in enumerate(shares)), shares=shares)
    progress = label_episode(lesson, plan, 0.6).progress
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert np.isnan(progress[1:-1]).all()
    risen = label_episode(replace(lesson, ends_only=False), StagePlan(names=("all",), shares=(1.0,)), 0.6)
    assert not np.isnan(risen.progress).any(), "a recording without marks is taken to rise evenly"


@pytest.mark.parametrize(("hz", "warned"), [(10.0, False), (8.5, False), (5.0, True), (30.0, True)])
def test_practice_keeps_its_own_rate_and_one_far_off_is_warned_of(
    tmp_path: Path, hz: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    [lesson] = read(practise(tmp_path, WON, hz=hz)).lessons
    assert lesson.frames == 6
    assert (f"there are {hz:g} in the practice of {tmp_path}" in caplog.text) == warned


@pytest.mark.parametrize(
    ("run", "asked", "seen"),
    [
        ({"ends": [LOST, STOPPED]}, {}, "1 judged episodes"),
        ({"ends": [LOST, WON]}, {"held_out": 0.5}, "1 judged episodes"),
        ({"ends": [WON], "task": "open the drawer"}, {}, "open the drawer"),
        ({"ends": [WON]}, {"cameras": ["front", "above"]}, "above"),
    ],
)
def test_practice_that_cannot_teach_is_refused_in_words(
    tmp_path: Path, run: dict[str, object], asked: dict[str, object], seen: str
) -> None:
    differing = {name: value for name, value in run.items() if name != "ends"}
    path = practise(tmp_path, *run["ends"], **differing)  # type: ignore[misc, arg-type]
    with pytest.raises(DatasetError, match=seen):
        read(path, **asked)  # type: ignore[arg-type]


def test_a_state_that_the_model_does_not_look_at_may_be_another_than_the_recordings(tmp_path: Path) -> None:
    run = practise(tmp_path, WON, LOST)
    seen, unseen = read(run, held_out=0.5), read(run, held_out=0.5, unseen_state=6)
    assert [e.state.shape for e in (*seen.lessons, *seen.held_out)] == [(6, STATE_DIM), (7, STATE_DIM)]
    assert [e.state.shape for e in (*unseen.lessons, *unseen.held_out)] == [(6, 6), (7, 6)]
    assert not any(e.state.any() for e in (*unseen.lessons, *unseen.held_out))


def test_a_folder_without_a_run_and_no_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no run in this folder"):
        read(str(tmp_path))
    with pytest.raises(ConfigError, match=r"practice\.newest"):
        PracticeConfig(newest=0)


def test_the_report_counts_the_last_word_on_each_outcome_and_no_missing_one(tmp_path: Path) -> None:
    practice = read(practise(tmp_path, WON, WON, WON, LOST), held_out=0.75)
    said = {7: 0.25, 8: np.nan, 9: 0.75}

    def watch(episode: TrainingEpisode, order: object) -> np.ndarray:
        return np.full(episode.frames, said[episode.frames])

    report = measure_practice(watch, practice)  # type: ignore[arg-type]
    assert report.taught == 1
    assert [(row.outcome, row.episodes, row.above_half) for row in report.last] == [
        ("succeeded", 1, 0),
        ("did not", 1, 1),
    ]
    assert report.as_dict()["held_out"][0]["median"] == 0.25
    assert "succeeded (1): 0 end at 0.5 or more, median 0.25" in str(report)
    unmeasured = measure_practice(watch, replace(practice, held_out=()))  # type: ignore[arg-type]
    assert str(unmeasured) == "learnt from 1 successes of practice"


def test_the_verb_learns_from_practice_and_says_what_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = practise(tmp_path / "run", *[WON, LOST] * 5)
    with DatasetWriter(
        tmp_path / "data",
        fps=10,
        cameras=CAMERAS,
        state_names=[f"s{n}" for n in range(STATE_DIM)],
        action_names=[f"a{n}" for n in range(ACTION_DIM)],
    ) as writer:
        for number in range(4):
            writer.append(recording(number))
    arguments = {
        "dataset": tmp_path / "data",
        "out": tmp_path / "model",
        "practice.runs": f"[{run}]",
        "model.image_px": 16,
        "model.frame_dim": 8,
        "model.dim": 8,
        "training.steps": 3,
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    assert main(["train-reward", *words]) == 0
    out, err = capsys.readouterr()
    practice = json.loads(out)["practice"]
    assert practice["taught"] == 4
    assert [row["episodes"] for row in practice["held_out"]] == [1, 1]
    assert "learnt from 4 successes of practice" in err
    learnt = json.loads((tmp_path / "model" / "learnt_from.json").read_text())
    assert len(learnt["episodes"]) + learnt["unnamed"] == 3 + 4


def recording(number: int) -> DatasetEpisode:
    rng = np.random.default_rng(number)
    return random_episode(
        number,
        8,
        task=TASK,
        images={name: rng.integers(0, 256, (9, *size, 3), dtype=np.uint8) for name, size in CAMERAS.items()},
        state=rng.normal(size=(9, STATE_DIM)).astype(np.float32),
        action=rng.uniform(-1, 1, (8, ACTION_DIM)).astype(np.float32),
        provenance=None,
    )
