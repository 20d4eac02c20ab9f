"""What LeRobot trains on a recorded dataset is evaluated and run without any mapping, and learnt on in a run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.configs import FeatureType
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.feature_utils import dataset_to_policy_features

from roborl.cli.main import main
from roborl.errors import ConfigError
from roborl.learning.publish import VersionShelf
from roborl.learning.weighted import WeightedConfig
from roborl.loops.actor.act import run_actor
from roborl.loops.actor.act_config import ActConfig
from roborl.loops.learner.algorithms import _chunk_steps
from roborl.loops.learner.learn import prepare
from roborl.loops.learner.learn_config import LearnConfig, RunFolder
from roborl.loops.run_files import read_lines
from roborl.policies import load_policy
from roborl.policies.lerobot_learning import OnlineForm
from roborl.testing.tiny_policies import build_tiny_policy


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDatasetMetadata:
    """A dataset of one scripted Reach episode, as LeRobot reads it."""
    folder = tmp_path_factory.mktemp("reach") / "demos"
    assert main(["record", "--scene", "Reach", "--scripted", "1", "--out", str(folder)]) == 0
    return LeRobotDatasetMetadata("local/reach", root=folder)


@pytest.fixture(scope="module")
def trained(recorded: LeRobotDatasetMetadata, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy with the features and statistics that LeRobot takes from that dataset."""
    features = dataset_to_policy_features(recorded.features)
    cameras = {
        key.removeprefix("observation.images."): feature.shape[1:]
        for key, feature in features.items()
        if feature.type is FeatureType.VISUAL
    }
    others = {
        key: feature.shape for key, feature in features.items() if feature.type is not FeatureType.VISUAL
    }
    assert set(others) == {"observation.state", "action"}
    return build_tiny_policy(
        tmp_path_factory.mktemp("act") / "pretrained_model",
        cameras=cameras,
        state_dim=others["observation.state"][0],
        action_dim=others["action"][0],
        statistics=recorded.stats,
    )


def test_it_runs_an_episode(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.jsonl"
    command = ["evaluate", "--policy", str(trained), "--scene", "Reach", "--episodes", "1"]
    assert main([*command, "--bench_overrides", "[--max_steps=6]", "--table", str(table)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["episodes"], report["policy"]) == (1.0, str(trained))
    (line,) = (json.loads(line) for line in table.read_text().splitlines())
    assert (line["steps"], line["end"], line["policy_version"]) == (6, "time_limit", 0)


def test_another_bench_is_refused_in_words(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smaller = "[--max_steps=6, --image_px=32]"
    command = ["evaluate", "--policy", str(trained), "--scene", "Reach", "--episodes", "1"]
    assert main([*command, "--bench_overrides", smaller]) != 0
    said = capsys.readouterr()
    assert "trained on pictures of another size" in said.err
    assert "Traceback" not in said.err


def test_a_run_is_made_ready_with_a_whole_copy_and_says_what_learns(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reach = ["--robot.scene=Reach"]
    head = WeightedConfig(learn=["model.action_head"])
    config = LearnConfig(run=tmp_path / "run", bench_overrides=reach, policy=str(trained), weighted=head)
    with caplog.at_level("INFO"):
        prepare(config)
    run = RunFolder(config.run)
    assert OnlineForm.read(run.policy) == OnlineForm(image_px=64, learn=("model.action_head",))
    assert {path.name for path in trained.iterdir()} < {path.name for path in run.policy.iterdir()}
    assert "Algorithm: weighted" in caplog.text
    assert "MB in each published version" in caplog.text
    (line,) = read_lines(run.metrics, "run")
    assert line["algorithm"] == "weighted"
    for change, words in (
        ({"algorithm": "rlpd"}, "algorithm cannot learn this policy"),
        ({"weighted": WeightedConfig(learn=["all"])}, "made ready for other settings"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            prepare(replace(config, resume=True, **change))  # type: ignore[arg-type]
        assert all((caught.value.seen, caught.value.allowed, caught.value.remedy))


def test_an_algorithm_that_cannot_learn_the_policy_is_refused_before_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"algorithm cannot learn this policy.*the small policy"):
        prepare(LearnConfig(run=tmp_path / "run", algorithm="weighted"))
    assert not RunFolder(tmp_path / "run").policy.exists()


def test_a_policy_that_is_no_runs_takes_no_weights(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes weights only as the policy of a run"):
        run_actor(ActConfig(run=tmp_path / "act", policy=trained, weights="tcp://127.0.0.1:1"))
    assert not (tmp_path / "act").exists()


@pytest.mark.parametrize(("asked", "steps"), [(0, 4), (3, 3)])
def test_chunks_are_as_long_as_the_policy_acts_them_out(trained: Path, asked: int, steps: int) -> None:
    policy, config = (
        load_policy(trained),
        LearnConfig(weighted=WeightedConfig(n_step=asked), algorithm="weighted"),
    )
    assert _chunk_steps(config.weighted, policy) == steps
    with pytest.raises(ConfigError, match="does not predict chunks of this length"):
        _chunk_steps(WeightedConfig(n_step=5), policy)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_learns_in_a_run_is_evaluated_and_goes_home(
    trained: Path, recorded: LeRobotDatasetMetadata, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["train", "--policy", str(trained), "--demos", str(recorded.root), "--run", str(run)]
    command += ["--bench_overrides", "[--robot.scene=Reach, --max_steps=12]", "--episodes", "3"]
    # Between two episodes the arm waits for what it has earned, and so for other weights.
    command += ["--trainer.budget.ratio", "0.5", "--trainer.budget.hold_actors_at", "2"]
    command += ["--trainer.budget.start_at", "4", "--trainer.publish_every", "2", "--trainer.probes", "2"]
    command += ["--weighted.batch_size", "8", "--weighted.encoder", "cnn"]
    assert main([*command, "--weighted.learn", "[model.decoder, model.action_head]"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["trainer"]["version"] > 2
    assert report["trainer"]["refused_versions"] == 0
    assert any(line["policy_version"] > 1 for line in read_lines(RunFolder(run).metrics, "episode"))
    weights = VersionShelf(RunFolder(run).versions)
    first, last = weights.get(1), weights.get(weights.versions()[-1])
    assert any(not np.array_equal(first[name], last[name]) for name in first)
    for policy in (str(run), report["pretrained_model"]):
        evaluation = ["evaluate", "--policy", policy, "--scene", "Reach", "--episodes", "1"]
        assert main([*evaluation, "--bench_overrides", "[--max_steps=6]"]) == 0


@pytest.mark.slow
def test_what_lerobot_train_leaves_is_evaluated_as_it_is(
    recorded: LeRobotDatasetMetadata, tmp_path: Path
) -> None:
    size = "dim_model=32 n_heads=2 dim_feedforward=64 n_encoder_layers=1 use_vae=false chunk_size=4 n_action_steps=4"
    policy = f"type=act push_to_hub=false device=cpu pretrained_backbone_weights=null {size}"
    run = "steps=2 save_freq=2 batch_size=4 num_workers=0 env_eval_freq=0"
    told = [f"--policy.{word}" for word in policy.split()] + [f"--{word}" for word in run.split()]
    told += [
        f"--dataset.root={recorded.root}",
        "--dataset.repo_id=local/reach",
        f"--output_dir={tmp_path / 'out'}",
    ]
    subprocess.run([sys.executable, "-m", "lerobot.scripts.lerobot_train", *told], check=True)
    folder = tmp_path / "out/checkpoints/last/pretrained_model"
    command = ["evaluate", "--policy", str(folder), "--scene", "Reach", "--episodes", "1"]
    assert main([*command, "--bench_overrides", "[--max_steps=6]"]) == 0


def test_an_actor_runs_it(trained: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"run": tmp_path / "act", "policy": trained, "explore": False, "episodes": 1}
    report = run_actor(
        ActConfig(**config, bench_overrides=["--robot.scene=Reach", "--max_steps=4"], drain_s=0.0)
    )
    assert (report["episodes"], report["steps"], report["policy_version"]) == (1, 4, 0)
    assert report["restarts"] == {"control": 0, "inference": 0, "io": 0}
