"""What LeRobot trains on a recorded dataset is evaluated and run without any mapping, and is not learnt on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lerobot.configs import FeatureType
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.feature_utils import dataset_to_policy_features

from roborl.cli.main import main
from roborl.errors import ConfigError
from roborl.loops.actor.act import run_actor
from roborl.loops.actor.act_config import ActConfig
from roborl.loops.learner.learn import prepare
from roborl.loops.learner.learn_config import LearnConfig
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


def test_no_learner_is_asked_to_learn_on_it(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not fine-tune a LeRobot policy"):
        prepare(LearnConfig(run=tmp_path / "run", policy=str(trained)))
    with pytest.raises(ConfigError, match="takes no weights from a learner"):
        run_actor(ActConfig(run=tmp_path / "act", policy=trained, weights="tcp://127.0.0.1:1"))
    assert not (tmp_path / "act").exists()


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
