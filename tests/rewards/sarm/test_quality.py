"""The bars of a reward model: on the simulated arm, from recorded demonstrations, and on a filmed real robot."""

from __future__ import annotations

from pathlib import Path

import pytest

from roborl.config import parse
from roborl.envs.robot_env import RobotEnv
from roborl.loops.record import record_scripted
from roborl.loops.reward_training.train_reward import TrainRewardConfig, train_reward
from roborl.loops.scripts import failure_kinds, script_maker
from roborl.rewards.sarm.config import SarmTraining


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pick_and_place_is_judged_from_pictures_alone(tmp_path: Path) -> None:
    env = RobotEnv("so101_sim")
    env.reset(seed=0)
    record_scripted(
        env,
        tmp_path / "data",
        script_maker(noise=0.2, detours=0.3),
        demonstrations=20,
        failures=5,
        failure_kinds=failure_kinds(env),
        benchmark_progress=True,
    )
    env.close()
    result = train_reward(
        TrainRewardConfig(
            dataset=str(tmp_path / "data"), out=tmp_path / "model", training=SarmTraining(budget_s=1500.0)
        )
    )
    ours, clock = result.ours, result.by_time
    assert ours.successes == 4
    assert ours.forward >= 0.95
    assert ours.backward <= -0.7
    assert ours.frozen < 0.05
    assert ours.undone > 0.8
    assert ours.error <= 0.08
    assert result.leak < 1e-5
    for mine, its in zip(ours.failures, clock.failures, strict=True):
        assert mine.error < its.error, mine.kind
        assert mine.excess < its.excess, mine.kind


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_filmed_episode_of_a_real_robot_teaches_to_follow_another(
    table_data: Path, tmp_path: Path
) -> None:
    recipe = Path(__file__).parents[3] / "datasets" / "table.yaml"
    words = ["--config_path", str(recipe), "--dataset", str(table_data), "--out", str(tmp_path)]
    result = train_reward(parse(TrainRewardConfig, words, prog="train-reward"))
    assert result.steps == result.planned_steps
    assert result.ours.forward >= 0.9
    assert result.ours.backward <= -0.7
    assert result.ours.spliced > result.by_time.spliced
    assert result.ours.spliced_error < result.by_time.spliced_error
