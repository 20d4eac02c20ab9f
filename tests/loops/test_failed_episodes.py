"""Of which episodes nobody says whether they succeeded, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roborl.data.rlds.importing import import_rlds
from roborl.errors import DatasetError
from roborl.loops.benchmarks.reward_cohort import read_cohort
from roborl.loops.benchmarks.reward_config import BenchRewardConfig
from roborl.loops.footage import read_footage
from roborl.loops.reward_training.training_episodes import read_training
from roborl.testing.episodes import lerobot_recording, random_episode, write_episodes
from roborl.testing.rlds import rlds_episode, write_rlds
from roborl.types import EndCause

UNJUDGED = {"success": None, "end": EndCause.TIME_LIMIT}


@pytest.fixture
def exported(tmp_path: Path) -> str:
    """As of a run: two successes, a failure, two time-outs that nobody judged."""
    failed = {"success": False, "end": EndCause.FAILURE}
    changes = ({}, UNJUDGED, failed, {}, UNJUDGED)
    write_episodes(tmp_path / "run", *(random_episode(i, **c) for i, c in enumerate(changes)))
    return str(tmp_path / "run")


def test_what_nobody_judged_is_left_out_and_counted_where_others_are_judged(
    exported: str, caplog: pytest.LogCaptureFixture
) -> None:
    read, _ = read_training(exported)
    assert {i: e.success for i, e in read.items()} == {0: True, 2: False, 3: True}
    filmed, _ = read_footage(exported)
    assert [e.kind for e in filmed] == ["success", "failure", "success"]
    cohort = read_cohort(BenchRewardConfig(dataset=[exported]))
    assert len(cohort.validation) + len(cohort.test) == 3
    said = [m for m in caplog.messages if "2 episodes are left out, of which nobody says" in m]
    assert len(said) == 3
    told, _ = read_training(exported, failed=[1])
    assert {i: e.success for i, e in told.items()} == {0: True, 1: False, 2: False, 3: True}
    with pytest.raises(DatasetError, match="have no verdict"):
        read_training(exported, episodes=[0, 1])
    with pytest.raises(DatasetError, match="no instruction or verdict"):
        read_footage(exported, episodes=[0, 1])


def test_a_dataset_that_judges_no_episode_holds_successes_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_episodes(tmp_path / "silent", *(random_episode(i, **UNJUDGED) for i in range(3)))
    silent = str(tmp_path / "silent")
    read, _ = read_training(silent, failed=[1])
    assert [e.success for e in read.values()] == [True, False, True]
    assert "nobody says of 2 episodes whether they succeeded, and they are taken for successes" in caplog.text
    assert len(read_footage(silent)[0]) == 3
    assert len(read_cohort(BenchRewardConfig(dataset=[silent])).test) == 2
    caplog.clear()
    lerobot_recording(tmp_path / "people", [4, 4])
    assert [e.success for e in read_training(str(tmp_path / "people"))[0].values()] == [True, True]
    assert not caplog.messages


def test_an_import_says_how_many_nobody_judged_and_they_teach_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    unpaid = rlds_episode(1, reward=np.zeros(7, np.float32))
    write_rlds(tmp_path / "mine" / "1.0.0", [rlds_episode(0), unpaid])
    imported = import_rlds(tmp_path / "mine", tmp_path / "out", rate_hz=5)
    assert (imported.episodes, imported.unjudged) == (2, 1)
    assert "nobody says of 1 of these episodes" in caplog.text
    read, _ = read_training(str(tmp_path / "out"))
    assert [(e.success, e.kind) for e in read.values()] == [(True, "success")]
