from __future__ import annotations

import fcntl
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from roborl.cli.train_reward import main as train_reward
from roborl.errors import DatasetError
from roborl.locks import FolderLock, lock
from roborl.loops.reward_training.train_reward import TrainRewardConfig


def test_a_folder_is_kept_for_one_and_given_back(tmp_path: Path) -> None:
    first = FolderLock(tmp_path, "Somebody works here")
    with pytest.raises(DatasetError, match=r"Somebody works here\. Found: .*Wait until it is done, or"):
        FolderLock(tmp_path, "Somebody works here")
    first.close()
    first.close()
    FolderLock(tmp_path).close()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    keeper = """
import sys
from pathlib import Path
from roborl.locks import FolderLock
kept = FolderLock(Path(sys.argv[1]))
print("kept", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", keeper, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"kept\n"
    with pytest.raises(DatasetError):
        FolderLock(tmp_path)
    process.kill()
    process.communicate(timeout=30)
    FolderLock(tmp_path).close()


def test_a_file_that_is_taken_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as ours, path.open("a") as theirs:
        lock(ours, path, busy="Taken")
        with pytest.raises(DatasetError, match="Taken"):
            lock(theirs, path, busy="Taken")
        theirs.write("still open")


def test_without_locks_on_the_file_system_there_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    FolderLock(tmp_path).close()
    assert "cannot be locked" in caplog.text


def test_two_trainings_do_not_write_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "reward"
    out.mkdir()
    with (
        closing(FolderLock(out)),
        pytest.raises(DatasetError, match="Another training writes into this folder"),
    ):
        train_reward(TrainRewardConfig(dataset=tmp_path / "none", out=out))
