import numpy as np
import pytest

from roborl.envs.bench import load_bench
from roborl.envs.experts import Noise, make_expert
from roborl.envs.failure_kinds import Failure
from roborl.envs.failures import failure_maker, failures_of
from roborl.envs.robot_env import RobotEnv
from roborl.envs.tasks.registry import TASKS
from roborl.errors import ConfigError

NAMES = sorted(TASKS)


def state_only(name: str, *overrides: str) -> RobotEnv:
    return RobotEnv(load_bench("so101_sim", [f"--robot.scene={name}", *overrides]), images=False)


def rollout(env: RobotEnv, script, seed: int) -> tuple[bool, list[float]]:
    env.reset(seed=seed)
    script.reset()
    progress = [env.scene.privileged_progress()]
    while True:
        _, reward, terminated, truncated, _ = env.step(script.act(env.last_observation)[0])
        progress.append(env.scene.privileged_progress())
        if terminated or truncated:
            return reward == 1.0, progress


def successes(name: str, seeds: range, noise: Noise | None = None, *overrides: str) -> float:
    env = state_only(name, *overrides)
    script = make_expert(env.scene, action=env.bench.action, noise=noise, seed=1)
    rate = np.mean([rollout(env, script, seed)[0] for seed in seeds])
    env.close()
    return float(rate)


@pytest.mark.parametrize("name", NAMES)
def test_experts_solve_their_tasks(name: str) -> None:
    seeds = range(6) if name == "ClearTable" else range(16)
    assert successes(name, seeds) >= 0.96


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", NAMES)
def test_experts_solve_98_percent_of_200_seeds(name: str) -> None:
    assert successes(name, range(1000, 1200)) >= 0.98


@pytest.mark.parametrize("name", ["Reach", "PickPlace"])
def test_experts_that_stray_still_solve_most(name: str) -> None:
    assert successes(name, range(20), Noise(action=0.3, detours=0.3)) >= 0.9


def test_experts_speak_joint_deltas_too() -> None:
    assert successes("PickPlace", range(8), None, "--action.kind=joint_delta") >= 0.9


@pytest.mark.parametrize("name", NAMES)
def test_privileged_progress_rises_along_an_expert_episode_and_ends_at_one(name: str) -> None:
    env = state_only(name)
    script = make_expert(env.scene, action=env.bench.action)
    falls = []
    for seed in range(2 if name == "ClearTable" else 5):
        success, progress = rollout(env, script, seed)
        assert success
        assert 0.0 <= progress[0] < 0.2
        assert progress[-1] == 1.0
        assert min(progress) >= 0.0
        falls.append(np.maximum(0.0, -np.diff(progress)).max())
    env.close()
    assert np.median(falls) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_each_failure_fails(name: str) -> None:
    env = state_only(name, "--max_steps=60")
    for kind in failures_of(env.scene):
        script = failure_maker(kind, env.scene, action=env.bench.action, noise=Noise(action=0.1), seed=2)
        for seed in range(2000, 2002):
            assert not rollout(env, script, seed)[0], f"{kind} with seed {seed}"
    env.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", NAMES)
def test_each_failure_fails_on_many_seeds(name: str) -> None:
    env = state_only(name)
    for kind in failures_of(env.scene):
        script = failure_maker(kind, env.scene, action=env.bench.action, noise=Noise(action=0.15), seed=3)
        solved = [rollout(env, script, seed)[0] for seed in range(3000, 3030)]
        assert sum(solved) <= 1, kind
    env.close()


def test_undone_work_loses_its_progress() -> None:
    env = state_only("PickPlace")
    script = failure_maker("undo", env.scene, action=env.bench.action)
    _, progress = rollout(env, script, 0)
    env.close()
    assert max(progress) > 0.7
    assert progress[-1] < 0.45


def test_the_wrong_object_earns_no_progress() -> None:
    env = state_only("PickPlace")
    script = failure_maker(Failure.WRONG_OBJECT, env.scene, action=env.bench.action)
    _, progress = rollout(env, script, 0)
    placed = env.scene.position("blue_cube") - env.scene.position("green_pad")
    env.close()
    assert np.abs(placed[:2]).max() < 0.03
    assert max(progress) < 0.3


def test_a_miss_finds_a_way_though_the_hand_stands_at_the_object() -> None:
    env = state_only("PickCube")
    env.reset(seed=0)
    expert = make_expert(env.scene, action=env.bench.action)
    expert.reset()
    body = env.scene.position("red_cube")
    while np.linalg.norm(env.scene.tool() - body) > 0.02:
        env.step(expert.act(env.last_observation)[0])
    script = failure_maker(Failure.MISS, env.scene, action=env.bench.action, seed=0)
    for _ in range(15):
        env.step(script.act(env.last_observation)[0])
    away = np.linalg.norm(env.scene.tool()[:2] - body[:2])
    env.close()
    assert away > 0.03


@pytest.mark.parametrize("kind", ["near_miss", "wander"])
def test_what_never_holds_the_cube_earns_no_more_than_the_reach(kind: str) -> None:
    env = state_only("PickPlace")
    script = failure_maker(kind, env.scene, action=env.bench.action, seed=4)
    highest = [max(rollout(env, script, seed)[1]) for seed in range(6)]
    env.close()
    assert np.median(highest) < 0.41


def test_a_failure_that_a_task_does_not_have_is_refused() -> None:
    env = state_only("Reach")
    with pytest.raises(ConfigError, match=r"drop.*miss"):
        failure_maker("drop", env.scene)
    env.close()
