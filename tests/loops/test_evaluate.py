"""An evaluation counts right, on scenes of its own, and its bar sets the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from roborl.cli.main import main
from roborl.config import parse
from roborl.envs.bench import load_bench
from roborl.envs.experts import make_expert
from roborl.envs.robot_env import RobotEnv
from roborl.errors import ConfigError
from roborl.loops.actor.act_config import ActConfig
from roborl.loops.evaluate import FIGURES, LINGER_FRAMES, EvaluatedEpisode, Evaluation, evaluate
from roborl.loops.requirements import Requirement
from roborl.loops.rollout import run_episode
from roborl.loops.seeds import scene_seed
from roborl.loops.video import draw_progress, write_video
from roborl.rewards.fake import BrightnessModel
from roborl.rewards.metrics import wilson_interval
from roborl.types import Observation

SEEDS = [scene_seed("evaluation", 0, i) for i in range(4)]


class Lazy:
    """The expert on every other scene, nothing on the rest."""

    version = 7

    def __init__(self, env: RobotEnv) -> None:
        self._expert = make_expert(env.scene, action=env.bench.action)
        self._episode = 0

    def reset(self) -> None:
        self._episode += 1
        self._expert.reset()

    def act(self, observation: Observation) -> NDArray[np.float32]:
        return self._expert.act(observation) if self._episode % 2 else np.zeros((3, 4), np.float32)


def reach(**options: Any) -> Callable[[], RobotEnv]:
    return lambda: RobotEnv(load_bench("so101_sim", ["--robot.scene=Reach", "--max_steps=10"]), **options)


class Lost:
    """Its second action is no number."""

    version = 3

    def reset(self) -> None:
        pass

    def act(self, _: Observation) -> NDArray[np.float32]:
        return np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]], np.float32)


def test_a_policy_whose_actions_are_not_finite_is_no_policy_that_fails() -> None:
    with pytest.raises(ConfigError, match="not finite") as caught:
        evaluate(lambda _: Lost(), reach(images=False), SEEDS[:1])
    assert "nan" in str(caught.value.seen)
    assert all((caught.value.allowed, caught.value.remedy))


def test_successes_are_counted_scene_by_scene(tmp_path: Path) -> None:
    told: list[int] = []
    result = evaluate(
        Lazy,
        reach(images=False),
        SEEDS,
        table=tmp_path / "t.jsonl",
        on_episode=lambda _, done: told.append(done),
    )
    assert [o.success for o in result.outcomes] == [True, False, True, False]
    assert [o.seed for o in result.outcomes] == SEEDS
    assert result.outcomes[1].steps == 10
    assert result.outcomes[1].end == "time_limit"
    figures = result.figures()
    assert figures["success"] == 0.5
    assert (figures["success_low"], figures["success_high"]) == wilson_interval(2, 4)
    assert figures["mean_steps"] == np.mean([o.steps for o in result.outcomes])
    assert told == [1, 2, 3, 4]
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["success"] for line in lines] == [True, False, True, False]
    assert lines[0]["policy_version"] == 7
    again = evaluate(Lazy, reach(images=False), SEEDS)
    assert [(o.success, o.steps) for o in again.outcomes] == [(o.success, o.steps) for o in result.outcomes]


def test_the_video_shows_what_the_reward_model_said(tmp_path: Path) -> None:
    result = evaluate(
        Lazy, reach(), SEEDS[:2], video=tmp_path / "v.mp4", video_episodes=2, reward_model=BrightnessModel()
    )
    assert all(0 < (o.final_progress or 0) < 1 for o in result.outcomes)
    with av.open(str(tmp_path / "v.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264"
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(stream)]
    assert len(frames) == sum(o.steps + 1 + LINGER_FRAMES for o in result.outcomes)
    # A spectator's view of 384 px, two cameras of 144 px in a column beside it, the strip of progress below.
    assert frames[0].shape == (288 + 64, 384 + 144, 3)


def test_a_chunk_is_used_up_unless_told_otherwise() -> None:
    class Chunky:
        version = 0
        asked = 0

        def reset(self) -> None: ...

        def act(self, observation: Observation) -> NDArray[np.float32]:
            self.asked += 1
            return np.zeros((4, 4), np.float32)

    env, policy = reach(images=False)(), Chunky()
    assert run_episode(env, policy, seed=0).steps == 10
    assert policy.asked == 3
    run_episode(env, policy, seed=0, replan_steps=1)
    assert policy.asked == 13
    env.close()


def test_a_policy_of_another_bench_is_refused() -> None:
    class Wide:
        version = 0

        def reset(self) -> None: ...

        def act(self, observation: Observation) -> NDArray[np.float32]:
            return np.zeros((1, 6), np.float32)

    with pytest.raises(ConfigError, match=r"\(1, 6\).*Allowed: \(h, 4\)"):
        evaluate(lambda _: Wide(), reach(images=False), SEEDS[:1])


@pytest.mark.parametrize(
    ("text", "success", "holds"),
    [
        ("success>=0.8", 0.8, True),
        (" success > 0.8 ", 0.8, False),
        ("success_low>=.5", 0.9, True),
        ("mean_steps<=1e2", 0.0, True),
        ("success==1", 1.0, True),
        ("mean_steps_of_successes<50", 0.0, False),
    ],
)
def test_bars(text: str, success: float, holds: bool) -> None:
    figures = dict.fromkeys(FIGURES, success) | {"mean_steps": 40.0, "mean_steps_of_successes": math.nan}
    assert Requirement.parse(text, FIGURES).holds(figures) is holds


@given(st.text(max_size=40))
def test_nothing_but_a_bar_is_read(text: str) -> None:
    try:
        found = Requirement.parse(text, FIGURES)
    except ConfigError:
        return
    assert found.name in FIGURES


@pytest.mark.parametrize("text", ["success", "won>=1", "success>=__import__('os')", "success>=0.8 or 1", ""])
def test_what_is_no_bar_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"requirement.*Allowed: one of success"):
        Requirement.parse(text, FIGURES)


@pytest.mark.parametrize(("bar", "code"), [("success>=0.8", 0), ("mean_steps<=1", 1), ("won>=1", 2)])
def test_the_bar_sets_the_exit_code(
    bar: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--policy", "scripted", "--scene", "Reach", "--episodes", "2", "--require", bar]
    assert main([*command, "--table", str(tmp_path / "t.jsonl")]) == code
    said = capsys.readouterr()
    if code == 2:
        assert "requirement cannot be read" in said.err
        return
    report = json.loads(said.out)
    assert (report["success"], report["episodes"], report["met"]) == (1.0, 2.0, code == 0)
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 2


def test_a_physical_bench_is_told_the_command_that_measures_a_policy_on_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", "--policy", "outputs/desk", "--bench", "so101_desk"]) == 2
    told = capsys.readouterr().err.partition("roborl act ")[2].split()
    config = parse(ActConfig, [word.rstrip(".") for word in told], prog="roborl act")
    assert (config.bench, config.policy, config.episodes) == ("so101_desk", Path("outputs/desk"), 50)
    assert config.alone


def test_any_reward_model_may_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "--policy", "scripted", "--scene", "Reach", "--episodes", "1"]
    assert main([*command, "--reward", "brightness", "--table", str(tmp_path / "t.jsonl")]) == 0
    assert 0.0 < json.loads((tmp_path / "t.jsonl").read_text())["final_progress"] < 1.0
    assert main([*command, "--reward", "nobody"]) == 1
    assert "no reward model" in capsys.readouterr().err


def test_without_a_success_the_steps_of_successes_are_not_a_number() -> None:
    lost = EvaluatedEpisode(seed=0, success=False, end="failure", steps=3, policy_version=0, wall_s=0.0)
    figures = Evaluation(outcomes=(lost,)).figures()
    assert math.isnan(figures["mean_steps_of_successes"])
    assert "0/1" in Evaluation(outcomes=(lost,)).sentence()


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("episodes", -3, 1), ("episodes", 0, 1), ("replan_steps", -1, 0), ("threads", 0, 1)],
)
def test_numbers_that_mean_nothing_are_refused(
    option: str, value: int, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--policy", "scripted", "--scene", "Reach", f"--{option}", str(value)]) == 2
    assert f"{option} is too small. Found: {value}. Allowed: {least} or more" in capsys.readouterr().err


def test_an_evaluation_needs_scenes() -> None:
    with pytest.raises(ConfigError, match="needs scenes"):
        evaluate(Lazy, reach(images=False), [])


def test_the_curve_rises_with_progress() -> None:
    picture = np.zeros((100, 200, 3), np.uint8)
    low, high = (draw_progress(picture, [0.0, value], length=2)[100:] for value in (0.1, 0.9))
    blue = [np.argwhere((strip == (40, 100, 200)).all(axis=2))[:, 0].mean() for strip in (low, high)]
    assert blue[1] < blue[0] - 5


def test_a_video_needs_a_frame(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one frame"):
        write_video(tmp_path / "v.mp4", [], fps=10)
    assert list(tmp_path.iterdir()) == []


def test_a_film_appears_whole_and_what_cannot_be_written_is_seen_before_the_first_episode(
    tmp_path: Path,
) -> None:
    def frames() -> Iterator[NDArray[np.uint8]]:
        yield np.zeros((16, 16, 3), np.uint8)
        raise KeyboardInterrupt

    (tmp_path / "film.mp4").write_text("the one before")
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "film.mp4", frames(), fps=10)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the one before"]

    def never() -> RobotEnv:
        raise AssertionError("nothing is evaluated")

    for place in ({"video": tmp_path}, {"table": tmp_path}):
        with pytest.raises(IsADirectoryError):
            evaluate(Lazy, never, SEEDS, **place)  # type: ignore[arg-type]
