"""The whole way: a LeRobotDataset on disk to a saved model and its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roborl.cli.main import main
from roborl.data.dataset_episode import DatasetEpisode, Subtask
from roborl.data.lerobot_writer import DatasetWriter
from roborl.errors import DatasetError
from roborl.loops.reward_training.training_episodes import split, to_training
from roborl.rewards.sarm.checkpoint import load_sarm
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.types import EndCause

type World = Callable[[str, int], TrainingEpisode]


def as_recorded(episode: TrainingEpisode) -> DatasetEpisode:
    steps = episode.frames - 1
    return DatasetEpisode(
        task=episode.task,
        images=episode.images,
        state=episode.state,
        action=np.zeros((steps, 2), np.float32),
        reward=np.zeros(steps, np.float32),
        success=episode.success,
        end=EndCause.SUCCESS if episode.success else EndCause.TIME_LIMIT,
        subtasks=tuple(Subtask(name=n, start=a, end=b) for n, a, b in episode.subtasks or ()),
        failure="" if episode.success else episode.kind,
        benchmark_progress=episode.benchmark,
    )


def test_a_dataset_becomes_a_model_with_figures(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = [world("success", seed) for seed in range(5)] + [world("miss", 10), world("miss", 11)]
    discarded = replace(as_recorded(world("undo", 12)), discarded=True)
    with DatasetWriter(
        tmp_path / "data",
        fps=10,
        cameras={"front": (32, 32), "wrist": (32, 32)},
        state_names=["x", "y", "closed"],
        action_names=["dx", "dy"],
        benchmark_progress=True,
    ) as writer:
        for episode in [*map(as_recorded, episodes), discarded]:
            writer.append(episode)
    arguments = ["--dataset", str(tmp_path / "data"), "--out", str(tmp_path / "model")]
    small = ["--model.image_px", "32", "--model.frame_dim", "16", "--model.dim", "16", "--model.members", "2"]
    brief = [
        "--training.steps",
        "5",
        "--training.episodes_per_step",
        "3",
        "--training.windows_per_episode",
        "4",
    ]
    bars = ["leak<=0.00001", "successes==1", "forward>=2"]
    require = [word for bar in bars for word in ("--require", bar)]
    assert main(["train-reward", *arguments, *small, *brief, *require]) == 1
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert figures.pop("exit") == 1
    assert (figures["require"], figures["missed"]) == (bars, ["forward>=2"])
    assert "successes==1: met" in err
    assert "forward>=2: not met" in err
    assert figures == json.loads((tmp_path / "model" / "report.json").read_text())
    assert list(figures["stages"]) == ["reach", "carry"]
    assert figures["held_out"]["successes"] == 1
    assert [f["kind"] for f in figures["held_out"]["failures"]] == ["miss"]
    assert figures["leak"] < 1e-5
    assert "value order, successes" in err
    assert "time only" in err
    model = load_sarm(tmp_path / "model")
    assert model.info.version == figures["version"]
    assert model.info.cameras == ("front", "wrist")


@pytest.mark.parametrize("kind", ["sarm", "perceptual", "pairs"])
def test_a_bar_that_cannot_be_read_is_refused_before_anything_is_trained(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", kind, "--dataset", "d", "--out", "o"]
    assert main(["train-reward", *arguments, "--require", "voc>=0.9"]) == 2
    err = capsys.readouterr().err
    assert "voc>=0.9" in err
    assert "forward" in err


def test_bars_on_a_judge_of_pairs_that_nothing_measures_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--model", "pairs", "--dataset", "d", "--out", "o", "--require", "forward>=0.9"]
    assert main(["train-reward", *arguments]) == 2
    assert "--measured" in capsys.readouterr().err


def test_every_kind_is_held_out_and_the_choice_is_the_seeds(world: World) -> None:
    episodes = [world("success", seed) for seed in range(10)] + [world("miss", seed) for seed in range(2)]
    train, held_out = split(episodes, 0.2, seed=3)
    assert len(train) + len(held_out) == 12
    assert sorted(e.kind for e in held_out) == ["miss", "success", "success"]
    assert [id(e) for e in split(episodes, 0.2, seed=3)[1]] == [id(e) for e in held_out]
    assert not split(episodes, 0.0, seed=3)[1]
    assert len(split(episodes[:1], 0.5, seed=3)[0]) == 1


def test_an_episode_without_a_verdict_is_a_success(world: World) -> None:
    recorded = replace(as_recorded(world("success", 0)), success=None, subtasks=())
    episode = to_training(recorded)
    assert episode.success
    assert episode.subtasks is None


def test_a_missing_camera_is_named(world: World) -> None:
    with pytest.raises(DatasetError, match="lacks a camera"):
        to_training(as_recorded(world("success", 0)), ["front", "top"])
