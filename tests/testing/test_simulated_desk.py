"""README's section on an SO-101 of one's own, whole and without one."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from roborl.config import parse
from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_io import read_episodes
from roborl.data.reader import StoreReader
from roborl.envs.tasks.registry import make_task
from roborl.hil.operator import ASKS
from roborl.loops.learner.learn_config import RunFolder
from roborl.rewards.registry import find_loader
from roborl.testing.desk import DeskArm
from roborl.testing.simulated_arms import SimulatedArms
from roborl.testing.simulated_desk import Config, commands, main
from roborl.types import Source

README = Path(__file__).parents[2] / "README.md"


def test_it_runs_the_commands_that_readme_names_and_each_of_them_takes_its_options(tmp_path: Path) -> None:
    arms = SimpleNamespace(
        leader=DeskArm(tmp_path, "leader"), scene=SimpleNamespace(task=make_task("PickCube"))
    )
    told = commands(Config(folder=tmp_path), cast(SimulatedArms, arms), tmp_path / "bench.yaml")
    section = README.read_text().partition("## With your own SO-101")[2].partition("\n## ")[0]
    assert [words[0] for words in told.values()] == re.findall(
        r"roborl ([a-z-]+) --(?:bench|dataset)", section
    )
    for verb, *words in told.values():
        module: Any = importlib.import_module(f"roborl.cli.{verb.replace('-', '_')}")
        words = module.prepare_args(words) if hasattr(module, "prepare_args") else words
        settings, words = module.choose(words) if hasattr(module, "choose") else (module.Config, words)
        assert parse(settings, words, prog=verb) is not None


def test_too_little_of_anything_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path), "--episodes", "0"]) == 2
    assert "episodes is out of range" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_new_user_gets_from_the_check_to_a_practised_policy(tmp_path: Path) -> None:
    folder, wanted = tmp_path / "desk", 4
    command = [sys.executable, "-m", "roborl.testing.simulated_desk", "--folder", str(folder)]
    less = [
        "--demonstrations",
        str(wanted),
        "--reward_steps",
        "30",
        "--clone_updates",
        "40",
        "--episodes",
        "2",
    ]
    done = subprocess.run([*command, *less], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    said = (folder / "record.log").read_text()
    assert len(re.findall(rf"^{re.escape(ASKS)}", said, flags=re.M)) >= wanted, "each on a line of its own"
    demos = list(read_episodes(folder / "demos"))
    assert len(demos) == wanted
    for episode in demos:
        assert episode.success is True
        assert episode.task == "touch the red ball"
        assert {picture.shape[1:] for picture in episode.images.values()} == {(96, 96, 3)}
        assert np.abs(episode.action[:, :3]).max() > 0.3, "the arm was led"
        assert episode.subtasks == (Subtask(name="reach for the red ball", start=0, end=episode.steps),), (
            "the marks are in"
        )
        assert episode.provenance is not None
        assert set(episode.provenance.source) == {Source.PERSON}
    assert find_loader(str(folder / "reward"))().info.version.startswith("sarm-")

    run = RunFolder(folder / "run")
    practised = [info for info in StoreReader(run.store).episodes() if info.kind == "online"]
    assert len(practised) == 2
    assert (run.root / "report.html").is_file()
    trial = json.loads((folder / "trial.json").read_text())
    assert not trial["check"]["failed"]
    assert trial["train"]["labeller"]["scored"] > 0
    assert trial["act"]["episodes"] == 2
    assert trial["act"]["policy_version"] > 0
    assert max(trial["figures"]["following"]["settled"]["mean"]) < 1.0
    assert len(trial["figures"]["control_hz"]) >= wanted
