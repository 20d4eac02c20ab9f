"""The whole way: a LeRobotDataset on disk to a perceptual reward model and its figures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from roborl.cli.main import main
from roborl.errors import ConfigError, DatasetError
from roborl.loops.reward_training.train_perceptual import TrainPerceptualConfig, train_perceptual
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.registry import load_reward_model
from roborl.testing.episodes import crossing_episode, write_episodes


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    episodes = [crossing_episode(seed, turns=turns) for seed, turns in enumerate((9, 16, 10, 15, 12))]
    failures = [crossing_episode(9, turns=12, stops_at=8), crossing_episode(10, turns=12, stops_at=8)]
    write_episodes(tmp_path / "data", *episodes, *failures, benchmark_progress=True)
    return tmp_path / "data"


def test_a_dataset_becomes_a_model_with_figures(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", str(dataset), "--out", str(tmp_path / "model")]
    assert main(["train-reward", "--model", "perceptual", *arguments, "--demonstrations", "3"]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert figures == json.loads((tmp_path / "model" / "report.json").read_text())
    assert figures["demonstrations"] == 3
    assert figures["held_out"]["successes"] == 2
    assert [(f["kind"], f["episodes"]) for f in figures["held_out"]["failures"]] == [("stall", 2)]
    assert figures["held_out"]["forward"] > 0.8
    assert figures["held_out"]["backward"] < -0.7
    assert figures["time_only"]["backward"] > 0.9
    assert figures["leak"] < 1e-5
    assert "time only" in err
    assert "frames from the nearest found" in err
    model = load_reward_model(str(tmp_path / "model"))
    assert model.info.version == figures["version"]
    assert model.info.trained_hz == 10
    assert len(list((tmp_path / "model" / "vectors").glob("*.npy"))) == 3


def test_the_number_of_steps_can_be_given_and_found_ones_lie_nearer_to_the_marks(
    dataset: Path, tmp_path: Path
) -> None:
    two = PerceptualConfig(steps=2)
    result = train_perceptual(
        TrainPerceptualConfig(dataset=str(dataset), out=tmp_path / "model", held_out=0.0, model=two)
    )
    assert result.found.steps == 2
    assert result.boundaries["found"] <= 1.0
    assert result.boundaries["even"] > 2.0


def test_cameras_are_mapped_and_failures_named(dataset: Path, tmp_path: Path) -> None:
    config = TrainPerceptualConfig(
        dataset=str(dataset), out=tmp_path / "model", held_out=0.0, camera_map={"top": "front"}, failed=[0]
    )
    result = train_perceptual(config)
    assert train_perceptual(replace(config, rate_hz=5.0)).model.info.trained_hz == 5
    assert result.model.info.cameras == ("top",)
    assert len(result.found.bounds) == 4
    assert [(one.kind, one.episodes) for one in result.ours.failures] == [("failure", 1), ("stall", 2)]


def test_several_tasks_are_refused_and_one_of_them_can_be_named(tmp_path: Path) -> None:
    ours = [replace(crossing_episode(seed, turns=9), task="Cross twice.") for seed in range(3)]
    other = [replace(crossing_episode(seed, turns=12), task="cross back") for seed in (5, 6)]
    write_episodes(tmp_path / "data", *ours, *other, crossing_episode(7, turns=9))
    config = TrainPerceptualConfig(dataset=str(tmp_path / "data"), out=tmp_path / "model")
    words = r"more than one task.*'Cross twice\.' in \[0, 1, 2, 5\], 'cross back' in \[3, 4\].*--episodes"
    with pytest.raises(DatasetError, match=words):
        train_perceptual(config)
    train_perceptual(replace(config, episodes=[0, 1, 2, 5]))


def test_a_whole_demonstration_is_no_finish(dataset: Path, tmp_path: Path) -> None:
    config = TrainPerceptualConfig(
        dataset=str(dataset), out=tmp_path / "model", model=PerceptualConfig(finish_frames=25)
    )
    with pytest.raises(
        ConfigError, match=r"finish_frames 25, 25 frames in the shortest\. Allowed: at most 24"
    ):
        train_perceptual(config)


def test_failures_alone_teach_nothing(tmp_path: Path) -> None:
    write_episodes(tmp_path / "data", crossing_episode(9, turns=12, stops_at=8), benchmark_progress=True)
    with pytest.raises(DatasetError, match="successful episodes"):
        train_perceptual(TrainPerceptualConfig(dataset=str(tmp_path / "data"), out=tmp_path / "model"))
