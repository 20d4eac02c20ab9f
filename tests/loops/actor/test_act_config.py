"""Tests for the memory that the processes of an actor share: whose it is, and when it is given back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roborl.errors import ConfigError
from roborl.loops.actor import act_config
from roborl.loops.actor.act_config import Card, give_back_memory, shared_folder


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory disk of the test's own."""
    disk = tmp_path / "memory"
    disk.mkdir()
    monkeypatch.setattr(act_config, "_MEMORY_DISK", disk)
    return disk


def test_memory_of_a_run_that_was_killed_stays_for_the_start_that_goes_on(tmp_path: Path) -> None:
    left = shared_folder(tmp_path / "run", "arm") / "ring.bin"
    left.write_bytes(b"steps")
    assert give_back_memory() == 0
    assert shared_folder(tmp_path / "run", "arm") / "ring.bin" == left
    assert left.read_bytes() == b"steps"


def test_memory_of_a_run_whose_folder_is_gone_is_given_back(tmp_path: Path) -> None:
    gone = [shared_folder(tmp_path / "outputs" / "old", name) for name in ("arm", "learner")]
    kept = shared_folder(tmp_path / "run", "arm")
    shutil.rmtree(tmp_path / "outputs")
    assert give_back_memory() == 2
    assert [folder.exists() for folder in (*gone, kept)] == [False, False, True]


def test_a_run_on_a_disk_that_is_not_there_now_keeps_its_memory(tmp_path: Path) -> None:
    folder = shared_folder(tmp_path / "drive" / "run", "arm")
    whose = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(whose | {"device": whose["device"] + 1}))
    shutil.rmtree(tmp_path / "drive")
    assert give_back_memory() == 0
    assert folder.exists()


def test_runs_of_one_folder_give_back_all_they_have(tmp_path: Path) -> None:
    own, other = (shared_folder(tmp_path / name / "run", "arm") for name in ("own", "other"))
    assert give_back_memory(of=tmp_path / "own") == 1
    assert (own.exists(), other.exists()) == (False, True)


def test_without_a_memory_disk_the_folder_lies_in_the_run(tmp_path: Path, memory: Path) -> None:
    memory.rmdir()
    assert shared_folder(tmp_path / "run", "arm") == tmp_path / "run" / "shared" / "arm"
    assert give_back_memory() == 0


CARD = Card(
    actor="arm",
    bench="desk.yaml",
    cameras={"front": (240, 320, 3)},
    state_dim=9,
    action_dim=2,
    real_time=True,
    task="t",
    policy_hz=10.0,
    control_hz=50.0,
    max_steps=150,
    image_px=64,
    outcome="auto",
    scales={"model": "so101_sim", "state_low": (-1.0, 0.12), "action_unit": (0.015, 34.0)},
    safety={"workspace_low_m": (0.12, -0.16, 0.01), "velocity_scale": 0.6},
)


@pytest.mark.parametrize(
    "edited",
    [
        {"scales": dict(CARD.scales or {}, action_unit=(0.005, 34.0))},
        {"cameras": {"front": (480, 640, 3)}},
        {"policy_hz": 5.0},
        {"control_hz": 100.0},
        {"max_steps": 20000},
        {"image_px": 96},
        {"outcome": "judge"},
        {"task": "u"},
    ],
)
def test_a_bench_file_whose_numbers_mean_something_else_is_not_gone_on_with(
    tmp_path: Path, edited: dict[str, Any]
) -> None:
    CARD.check_restart(tmp_path)
    CARD.write(tmp_path)
    with pytest.raises(ConfigError, match="was edited while the arm is in use") as caught:
        replace(CARD, **edited).check_restart(tmp_path)
    error = caught.value
    assert all((error.problem, error.seen, error.allowed, error.remedy))
    assert next(iter(edited)) in str(error.seen)
    assert "desk.yaml" in error.remedy


def test_a_limit_may_be_corrected_while_the_arm_is_in_use_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CARD.write(tmp_path)
    CARD.check_restart(tmp_path)
    assert not caplog.messages
    replace(CARD, safety=CARD.safety | {"velocity_scale": 0.1}).check_restart(tmp_path)
    assert "safety.velocity_scale is 0.1 now, after 0.6" in caplog.text
