"""``roborl train`` as a user starts it: simulated arms, a served reward model, a learner, one launcher."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.cli.main import main
from roborl.data.reader import StoreReader
from roborl.learning.checkpoint import checkpoints
from roborl.learning.publish import VersionShelf
from roborl.loops.actor.act_config import shared_folder
from roborl.loops.learner.learn_config import (
    RunFolder,
)
from roborl.loops.run_files import read_lines, read_status

pytestmark = pytest.mark.timeout(240)


ROBORL = (sys.executable, "-c", "from roborl.cli.main import main; raise SystemExit(main())")


def command(run: Path, episodes: int) -> list[str]:
    return [
        *ROBORL,
        *("train", "--run", str(run)),
        *("--bench_overrides", "[--robot.scene=Reach, --time_scale=3]", "--reward", "brightness"),
        *("--episodes", str(episodes), "--actors", "2", "--finish_s", "30"),
        *("--trainer.budget.start_at", "20", "--trainer.budget.ratio", "1", "--trainer.publish_every", "20"),
        *("--rlpd.batch_size", "16", "--rlpd.members", "2", "--rlpd.width", "16"),
    ]


def finished(words: list[str]) -> dict[str, Any]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_two_actors_train_one_policy_and_a_resumed_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    first = finished(command(run.root, 4))
    assert first["episodes"] == 4
    infos = StoreReader(run.store).episodes()
    assert {info.key.actor for info in infos} == {"arm0", "arm1"}
    assert all(info.end is not None for info in infos)
    assert first["trainer"]["updates"] > 0
    assert first["labeller"]["scored"] == sum(info.observations for info in infos)
    assert set(first["restarts"].values()) == {0}
    assert (run.root / "learn.yaml").exists()
    assert checkpoints(run.checkpoints)
    assert read_lines(run.metrics, "train")
    used = {
        step.command.policy_version for i in infos for step in StoreReader(run.store).episode(i.key).steps
    }
    assert used >= {1}

    kept = run.settings("train").read_text()
    assert main(command(run.root, 6)[len(ROBORL) :]) == 2
    assert "--resume" in capsys.readouterr().err
    assert run.settings("train").read_text() == kept

    # As after a restart of the machine, for one of the two.
    shutil.rmtree(shared_folder(run.root, "arm0"))
    second = finished([*ROBORL, "train", "--run", str(run.root), "--resume", "true", "--episodes", "6"])
    assert run.settings("train").read_text() == kept.replace("episodes: 4\n", "episodes: 6\n")
    assert second["episodes"] == 6
    assert [actor["episodes"] for actor in second["actors"]] == [3, 3]
    seeds = [info.meta["seed"] for info in StoreReader(run.store).episodes()]
    assert len(set(seeds)) == 6
    assert [line["number"] for line in read_lines(run.metrics, "episode")] == list(range(1, 7))
    assert second["trainer"]["updates"] > first["trainer"]["updates"]
    versions = [line["version"] for line in read_lines(run.metrics, "version")]
    assert versions == list(range(1, len(versions) + 1))
    assert max(VersionShelf(run.versions).versions()) == versions[-1]


@pytest.mark.slow
def test_an_interrupted_run_ends_the_arms_first_and_saves(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    launcher = subprocess.Popen(
        command(run.root, 200), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(600):
            if len(read_lines(run.metrics, "episode")) >= 4 and read_status(run.status("trainer"))["updates"]:
                break
            try:
                launcher.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        os.kill(launcher.pid, signal.SIGINT)
        launcher.communicate(timeout=120)
    finally:
        launcher.kill()
    assert launcher.returncode == 0
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    ended = [event["child"] for event in events if event.get("event") == "finished"]
    assert {*ended[:2]} == {"control-arm0", "control-arm1"}
    assert ended[-4:] == ["trainer", "labeller", "store", "serve"]
    saved = checkpoints(run.checkpoints)
    assert saved
    newest = VersionShelf(run.versions)
    assert all(np.isfinite(array).all() for array in newest.get(newest.versions()[-1]).values())
