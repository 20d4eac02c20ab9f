"""The whole way: datasets on disk to a small judge of hops, and from there with one demonstration to another task."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roborl.cli.main import main
from roborl.errors import ConfigError, DatasetError
from roborl.loops.reward_training import train_pairs
from roborl.loops.reward_training.train_pairs import TrainPairsConfig, train_pairs_on
from roborl.loops.reward_training.training_episodes import read_training
from roborl.rewards.dopamine import DopamineConfig
from roborl.rewards.pairs.config import PairNetworkConfig, PairTraining
from roborl.rewards.registry import load_reward_model
from roborl.testing.episodes import crossing_episode, write_episodes

FRONT = DopamineConfig()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    shown = [crossing_episode(seed, turns=turns) for seed, turns in enumerate((9, 14))]
    failed = crossing_episode(8, turns=12, stops_at=8)
    write_episodes(tmp_path / "other", *(replace(e, task="another task") for e in (*shown, failed)))
    write_episodes(tmp_path / "demo", *shown)
    unseen = crossing_episode(5, turns=12), crossing_episode(6, turns=12, stops_at=8)
    write_episodes(tmp_path / "test", *unseen, benchmark_progress=True)
    return tmp_path


def test_a_judge_is_trained_and_then_adapted_to_one_demonstration(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model.left_wrist", ""]
    small = ["--network.image_px", "32", "--network.keypoints", "2", "--network.channels", "2"]
    steps = ["--training.steps", "2", "--training.episodes", "2"]
    train = ["train-reward", "--model", "pairs", "--dataset", f"[{data / 'other'}]", *model, *steps]
    assert main([*train, *small, "--out", str(data / "first")]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["episodes"] == {"another task": 3}
    assert load_reward_model(str(data / "first")).references == {}

    go_on = ["--start", str(data / "first"), "--demonstration", str(data / "demo")]
    assert main([*train, *go_on, "--measured", str(data / "test"), "--out", str(data / "second")]) == 0
    out, err = capsys.readouterr()
    second = json.loads(out)
    assert second == json.loads((data / "second" / "report.json").read_text())
    assert second["episodes"] == {"another task": 3, "cross twice": 1}
    assert list(second["measured"]) == ["as set", "incremental", "forward", "backward", "time only"]
    assert second["measured"]["forward"]["successes"] == 1
    assert second["measured"]["time only"]["failures"][0]["final"] == pytest.approx(1.0)
    assert second["frame_ms"] > 0.0
    assert "time only" in err
    adapted = load_reward_model(str(data / "second"))
    assert adapted.info.version == second["version"] != first["version"]
    assert list(adapted.references) == ["goal/front"]

    # Without a step it is the judge from before, told of the goal.
    config = TrainPairsConfig(
        out=data / "third",
        start=str(data / "first"),
        demonstration=str(data / "demo"),
        model=FRONT,
        training=replace(TrainPairsConfig(out=data, demonstration="x").training, steps=0),
    )
    untouched = train_pairs_on(config).model
    assert untouched.judge.identity == load_reward_model(str(data / "first")).judge.identity
    assert untouched.info.version != first["version"]


def test_the_first_weights_are_the_seeds_whatever_the_process_drew_before(data: Path) -> None:
    def identity(out: str, seed: int) -> str:
        config = TrainPairsConfig(
            dataset=[str(data / "other")],
            out=data / out,
            model=replace(FRONT, left_wrist=""),
            network=PairNetworkConfig(image_px=32, keypoints=2, channels=2),
            training=PairTraining(steps=1, episodes=2, learning_rate=1e-9, seed=seed),
        )
        return train_pairs_on(config).model.judge.identity

    first, again, other = identity("a", 1), identity("b", 1), identity("c", 2)
    assert first == again != other


def test_cameras_are_mapped_and_the_goal_is_kept_as_it_was_recorded(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[tuple[int, ...]]] = {}

    def watched(dataset: str, **wanted: Any) -> Any:
        read, rate_hz = read_training(dataset, **wanted)
        sizes = seen.setdefault(Path(dataset).name, set())
        sizes.update(rgb.shape for episode in read.values() for rgb in episode.images.values())
        return read, rate_hz

    monkeypatch.setattr(train_pairs, "read_training", watched)
    train_pairs_on(
        TrainPairsConfig(
            out=data / "out",
            dataset=[str(data / "other")],
            demonstration=str(data / "demo"),
            measured=str(data / "test"),
            camera_map={"top": "front"},
            model=DopamineConfig(front="top"),
            network=PairNetworkConfig(image_px=16, keypoints=2, channels=2),
            training=PairTraining(steps=2, episodes=2),
        )
    )
    small, whole = (25, 16, 16, 3), (25, 32, 32, 3)
    # Of the demonstrations one alone is read at its recorded size.
    assert seen == {"other": {small}, "demo": {small, whole}, "test": {small}}
    adapted = load_reward_model(str(data / "out"))
    assert adapted.references["goal/top"].shape == (32, 32, 3)


def test_a_single_wrist_is_taught_as_the_left_one(data: Path) -> None:
    config = TrainPairsConfig(
        out=data / "out", dataset=[str(data / "other")], model=DopamineConfig(right_wrist="wrist")
    )
    with pytest.raises(ConfigError, match="Name a single wrist as left_wrist"):
        train_pairs_on(config)
    assert not config.out.exists()


def test_a_judge_is_not_measured_on_the_demonstration_that_it_learnt_from(data: Path) -> None:
    write_episodes(data / "one", crossing_episode(0, turns=9))
    config = TrainPairsConfig(
        out=data / "out",
        dataset=[str(data / "other")],
        demonstration=str(data / "demo"),
        measured=str(data / "demo"),
        model=FRONT,
        network=PairNetworkConfig(image_px=16, keypoints=2, channels=2),
        training=PairTraining(steps=2, episodes=2),
    )
    assert train_pairs_on(config).measured["as set"].successes == 1  # of two
    with pytest.raises(ConfigError, match=r"10 Hz in the demonstration, observation_hz 30"):
        train_pairs_on(replace(config, out=data / "fast", model=replace(FRONT, observation_hz=30.0)))
    with pytest.raises(DatasetError, match="measured on what it learnt from"):
        train_pairs_on(
            replace(config, out=data / "two", demonstration=str(data / "one"), measured=str(data / "one"))
        )


def test_a_judge_is_not_measured_on_what_the_one_that_it_goes_on_from_learnt_from(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = [crossing_episode(seed, turns=9) for seed in range(20, 23)]
    write_episodes(data / "seen", *seen, benchmark_progress=True)
    write_episodes(data / "mixed", seen[0], crossing_episode(30, turns=11), seen[2], benchmark_progress=True)
    small = ["--network.image_px", "16", "--network.keypoints", "2", "--network.channels", "2"]
    train = ["train-reward", "--model", "pairs", "--model.left_wrist", "", *small]
    train += ["--training.steps", "2", "--training.episodes", "2"]
    assert main([*train, "--dataset", f"[{data / 'seen'}]", "--out", str(data / "first")]) == 0
    adapt = [*train, "--start", str(data / "first"), "--demonstration", str(data / "demo")]
    capsys.readouterr()
    assert main([*adapt, "--measured", str(data / "mixed"), "--out", str(data / "second")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["measured"]["as set"]["successes"], report["left_out"]) == (
        1,
        {"other_tasks": 0, "learnt_from": 2},
    )
    bar = ["--require", "forward>=-1"]
    assert main([*adapt, "--measured", str(data / "seen"), *bar, "--out", str(data / "third")]) != 0
    assert "measured on what it learnt from" in capsys.readouterr().err
    # It is refused before anything is trained.
    assert not (data / "third" / "model.safetensors").exists()


def test_a_judge_is_measured_on_the_task_of_its_demonstration_alone(data: Path) -> None:
    config = TrainPairsConfig(
        out=data / "out",
        dataset=[str(data / "other")],
        demonstration=str(data / "demo"),
        measured=str(data / "several"),
        model=FRONT,
        network=PairNetworkConfig(image_px=16, keypoints=2, channels=2),
        training=PairTraining(steps=2, episodes=2),
    )
    foreign = [replace(crossing_episode(seed, turns=9), task="quite different") for seed in (40, 41)]
    write_episodes(data / "several", crossing_episode(42, turns=12), *foreign)
    result = train_pairs_on(config)
    assert result.measured["as set"].successes == 1
    assert result.left_out == {"other_tasks": 2, "learnt_from": 0}
    write_episodes(data / "foreign", *foreign)
    with pytest.raises(DatasetError, match=r"demonstration's task.*'quite different'.*'cross twice'"):
        train_pairs_on(replace(config, out=data / "two", measured=str(data / "foreign")))


def test_marks_that_cannot_be_measured_by_are_refused_before_anything_is_trained(data: Path) -> None:
    write_episodes(data / "plain", replace(crossing_episode(0, turns=9), subtasks=()))
    write_episodes(data / "marked", crossing_episode(5, turns=12))
    config = TrainPairsConfig(
        out=data / "out",
        demonstration=str(data / "plain"),
        measured=str(data / "marked"),
        model=FRONT,
        network=PairNetworkConfig(image_px=16, keypoints=2, channels=2),
        training=PairTraining(steps=2, episodes=2),
    )
    with pytest.raises(DatasetError, match=r"not marked as.*across.*in episode 0.*no marks.*annotate"):
        train_pairs_on(config)
    assert not (data / "out").exists()


def test_what_does_not_go_together_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to learn from"):
        TrainPairsConfig(out=data / "out")
    with pytest.raises(ConfigError, match="without a picture of the goal"):
        TrainPairsConfig(out=data / "out", dataset=["a"], measured="b")
    twice = TrainPairsConfig(
        out=data / "out", dataset=[str(data / "demo")], demonstration=str(data / "demo"), model=FRONT
    )
    with pytest.raises(ConfigError, match="learnt from other episodes"):
        train_pairs_on(twice)
