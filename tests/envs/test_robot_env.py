import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from roborl.clock import FakeClock
from roborl.envs.bench import Bench, CameraUse, load_bench
from roborl.envs.registration import NAMES
from roborl.envs.robot_env import RobotEnv
from roborl.errors import ConfigError, SafetyStop
from roborl.testing.stub_robot import StubRobot, StubRobotConfig


def make(scene: str = "PickPlace", *overrides: str, images: bool = True) -> RobotEnv:
    return RobotEnv(load_bench("so101_sim", [f"--robot.scene={scene}", *overrides]), images=images)


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_has_no_complaint(name: str) -> None:
    env = gymnasium.make(f"roborl.envs.registration:roborl/{name}-v0", render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # agent_pos may leave [-1, 1] and has no bounds, which the checker remarks upon.
        warnings.filterwarnings("ignore", message=".*Box observation space.*infinity")
        check_env(env)
    env.close()


@pytest.mark.parametrize("randomisation", ["off", "strong"])
def test_equal_seeds_and_actions_give_equal_episodes_to_the_last_bit(randomisation: str) -> None:
    episodes = []
    for _ in range(2):
        env = make("PickPlace", f"--robot.randomisation={randomisation}")
        rng, seen = np.random.default_rng(3), []
        for seed in (5, 6):
            observation, _ = env.reset(seed=seed)
            for _ in range(8):
                seen.append(observation)
                observation, *_ = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
        env.close()
        episodes.append(seen)
    for first, second in zip(*episodes, strict=True):
        np.testing.assert_array_equal(first["agent_pos"], second["agent_pos"])
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(first["pixels"][camera], second["pixels"][camera])


def test_different_seeds_give_different_starts() -> None:
    env = make(images=False)
    starts = []
    for seed in range(4):
        env.reset(seed=seed)
        starts.append(env.scene.position("red_cube"))
    assert len({tuple(start) for start in starts}) == 4
    env.close()


def test_randomised_looks_change_the_pictures_but_not_the_starts() -> None:
    pictures, starts = [], []
    for strength in ("off", "mild", "strong"):
        env = make("PickPlace", f"--robot.randomisation={strength}")
        observation, _ = env.reset(seed=1)
        pictures.append(observation["pixels"]["front"].astype(int))
        starts.append(env.scene.position("red_cube"))
        env.close()
    np.testing.assert_array_equal(starts[0], starts[1])
    np.testing.assert_array_equal(starts[0], starts[2])
    mild, strong = (np.abs(picture - pictures[0]).mean() for picture in pictures[1:])
    assert 1.0 < mild < strong


def test_what_no_camera_sees_changes_no_observation() -> None:
    """Law 12: neither hidden bodies nor the simulator's books reach what a policy or reward model is given."""
    env = make()

    def episode(hidden: tuple[float, float, float]) -> list[np.ndarray]:
        env.reset(seed=4)
        env.scene.place("blue_cube", np.array(hidden))
        env.scene.task._carry_m = hidden[0] + 1.0
        env.scene._held_s = abs(hidden[1])
        rng, seen = np.random.default_rng(0), []
        for _ in range(5):
            observation, *_ = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
            seen += [observation["agent_pos"], *observation["pixels"].values()]
        return seen

    under_the_table, elsewhere_under_it = episode((0.2, 0.0, -0.4)), episode((0.1, 0.1, -0.3))
    in_sight = episode((0.25, 0.0, 0.013))
    env.close()
    assert all(np.array_equal(a, b) for a, b in zip(under_the_table, elsewhere_under_it, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(under_the_table, in_sight, strict=True))


def test_an_episode_ends_at_its_time_limit_without_success() -> None:
    env = make("Reach", "--max_steps=4", images=False)
    env.reset(seed=0)
    away = np.array([-1, 0, 1, 0], dtype=np.float32)
    results = [env.step(away) for _ in range(4)]
    assert [r[3] for r in results] == [False, False, False, True]
    assert not any(r[2] or r[1] or r[4]["is_success"] for r in results)
    env.close()


def test_the_executed_action_is_bounded_and_reported() -> None:
    env = make("Reach", images=False)
    env.reset(seed=0)
    info = env.step(np.array([9.0, 0.0, 0.0, 0.0], dtype=np.float32))[4]
    np.testing.assert_allclose(info["executed"][:3], [1.0, 0.0, 0.0], atol=0.05)
    env.close()


def test_a_scene_that_does_not_exist_is_refused_with_the_names_that_do() -> None:
    with pytest.raises(ConfigError, match=r"Juggle.*PickPlace"):
        make("Juggle")


def test_state_only_work_never_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(images=False)
    monkeypatch.setattr(env.scene, "render", lambda *_, **__: pytest.fail("a camera was read"))
    observation, _ = env.reset(seed=0)
    env.step(np.zeros(4, dtype=np.float32))
    assert set(observation) == {"agent_pos"}
    env.close()


def test_control_ticks_never_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    env.reset(seed=0)
    monkeypatch.setattr(env.scene, "render", lambda *_, **__: pytest.fail("a camera was read"))
    env.arm.begin_step(np.ones(4, dtype=np.float32))
    for _ in range(7):
        env.arm.tick()
    env.close()


def test_an_interpreter_that_never_closed_its_cameras_exits_silently() -> None:
    code = (
        "from roborl.envs.robot_env import RobotEnv; env = RobotEnv(); env.reset(seed=0);"
        "other = RobotEnv(); other.reset(seed=0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_where_nothing_can_draw_the_error_says_what_to_install() -> None:
    code = "from roborl.envs.robot_env import RobotEnv; RobotEnv().reset(seed=0)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "", "MUJOCO_GL": "disable", "HOME": "/tmp"},
    )
    assert done.returncode == 1
    assert "RobotError: The simulated cameras cannot be drawn. Found: MUJOCO_GL=disable" in done.stderr
    assert "Allowed: a working EGL" in done.stderr
    assert "Install one of them" in done.stderr


class Person:
    """Says that the scene is ready, and may stop the arm at some look."""

    def __init__(self, stops_at: int = -1) -> None:
        self.robot: Any = None
        self.stops_at, self.looks = stops_at, 0
        self.moved_before_ready = -1

    def reset(self, seed: int | None) -> None:
        self.moved_before_ready = len(self.robot.sent)

    def verdict(self) -> bool | None:
        self.looks += 1
        if self.looks == self.stops_at:
            raise SafetyStop("The person stopped the recording")
        return None


def physical(stops_at: int = -1) -> tuple[RobotEnv, StubRobot, Person]:
    bench = Bench(
        robot=StubRobotConfig(),
        model="so101_sim",
        task="wave",
        max_steps=20,
        control_hz=200,
        policy_hz=50,
        cameras={"front": CameraUse(height_px=48, width_px=40)},
    )
    person = Person(stops_at)
    env = RobotEnv(bench, operator=person)
    robot = person.robot = env.arm.robot
    assert isinstance(robot, StubRobot)
    robot.joints = env.arm.model.home - 20.0
    return env, robot, person


def test_a_physical_arm_moves_home_only_once_its_operator_is_ready() -> None:
    env, robot, person = physical()
    env.reset(seed=0)
    assert person.moved_before_ready == 0
    assert len(robot.sent) > 10
    np.testing.assert_allclose(robot.joints, env.arm.model.home, atol=0.5)


def test_a_person_stops_the_arm_on_its_way_home() -> None:
    env, robot, _ = physical(stops_at=5)
    with pytest.raises(SafetyStop):
        env.reset(seed=0)
    assert len(robot.sent) == 5


@pytest.mark.parametrize("policy_s", [0.0, 0.0325])
def test_a_physical_arm_is_observed_a_control_period_after_its_last_set_point(
    monkeypatch: pytest.MonkeyPatch, policy_s: float
) -> None:
    """As the actor observes it: what is shown and what is practised have one phase."""
    clock = FakeClock()
    monkeypatch.setattr("roborl.envs.robot_env.MonotonicClock", lambda: clock)
    env, robot, _ = physical()
    env.reset(seed=0)
    sent_ns: list[int] = []
    monkeypatch.setattr(robot, "send_action", lambda action: sent_ns.append(clock.now_ns()))
    for _ in range(3):
        clock.advance(policy_s)
        env.step(np.zeros(4, dtype=np.float32))
        assert env.last_observation is not None
        assert env.last_observation.stamp_ns - sent_ns[-1] == pytest.approx(5e6, abs=10)
    assert np.diff(sent_ns).max() <= 5e6 + 10 + policy_s * 1e9
    assert np.diff(sent_ns).min() >= 1e6 - 10, "nor are two set-points sent at once"
