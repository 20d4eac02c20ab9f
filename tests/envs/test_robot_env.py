import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from roborl.clock import FakeClock
from roborl.envs.arm import Arm
from roborl.envs.bench import Bench, CameraUse, load_bench
from roborl.envs.registration import NAMES
from roborl.envs.robot_env import RobotEnv
from roborl.errors import ConfigError, RobotError, SafetyStop
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.rewards.model import score_episode
from roborl.rewards.sarm.checkpoint import freeze_sarm
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.training.labels import StagePlan
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


UNDER_THE_TABLE = {
    "red_cube": (0.2, 0.0, -0.4),
    "blue_cube": (0.1, -0.1, -0.4),
    "green_pad": (0.25, 0.1, -0.5),
}
ELSEWHERE_UNDER_IT = {
    "red_cube": (0.1, 0.1, -0.3),
    "blue_cube": (0.2, 0.1, -0.3),
    "green_pad": (0.15, -0.1, -0.45),
}
IN_SIGHT = {**UNDER_THE_TABLE, "red_cube": (0.25, 0.0, 0.013)}


@pytest.fixture
def differing() -> Iterator[Callable[..., set[str]]]:
    """What differs between two episodes with one seed, in which a policy acts and a reward model scores: law 12's check."""
    env = make()
    names, state_dim = tuple(env.bench.cameras), env.arm.state_dim
    torch.manual_seed(0)
    shape = SmallPolicyConfig(cameras=names, image_px=32, state_dim=state_dim, action_dim=4)
    policy = SmallPolicy(shape)
    config, plan = SarmConfig(image_px=32, use_state=True), StagePlan(names=("put it there",), shares=(1.0,))
    network = SarmNetwork(config, plan, names, state_dim)
    model = freeze_sarm(network, plan, cameras=names, tasks=(env.task,), state_dim=state_dim)

    def episode(places: dict[str, tuple[float, float, float]]) -> dict[str, list[Any]]:
        env.reset(seed=4)
        policy.reset()
        scene, books = env.scene, places["red_cube"]
        free = scene.model.jnt_bodyid[scene.model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
        assert {*(scene.model.body(body).name for body in free), "green_pad"} == set(places)
        for body, place in places.items():
            scene.place(body, np.array(place))
        scene.task._carry_m = scene.task._reach_m = books[0] + 1.0
        scene._held_s = abs(books[1])
        env.step(np.zeros(4, np.float32))
        seen = [env.last_observation]
        actions = []
        for _ in range(4):
            actions.append(policy.act(seen[-1])[0])
            env.step(actions[-1])
            seen.append(env.last_observation)
        scores = [score.progress for score in score_episode(model, env.task, seen)]
        assert len(set(scores)) > 1
        views = [view for o in seen for view in (o.state, *(frame.rgb for frame in o.frames.values()))]
        return {"observations": views, "actions": actions, "scores": scores}

    def compare(*both: dict[str, tuple[float, float, float]]) -> set[str]:
        first, second = map(episode, both)
        return {name for name in first if not all(map(np.array_equal, first[name], second[name]))}

    yield compare
    env.close()


def test_what_no_camera_sees_changes_no_observation_no_action_and_no_score(
    differing: Callable[..., set[str]],
) -> None:
    """Law 12: neither hidden bodies nor the simulator's books reach what a policy or reward model is given."""
    assert differing(UNDER_THE_TABLE, ELSEWHERE_UNDER_IT) == set()
    assert differing(UNDER_THE_TABLE, IN_SIGHT) == {"observations", "actions", "scores"}


@pytest.mark.parametrize("body", list(UNDER_THE_TABLE))
def test_the_pose_of_a_hidden_body_that_leaks_into_the_state_is_noticed(
    differing: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    def leaking(arm: Arm, state: Callable[[Arm], Any] = Arm._state) -> Any:
        return np.concatenate([state(arm)[:-3], arm.robot.scene.position(body)]).astype(np.float32)

    monkeypatch.setattr(Arm, "_state", leaking)
    assert differing(UNDER_THE_TABLE, ELSEWHERE_UNDER_IT) == {"observations", "actions", "scores"}


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


@pytest.mark.parametrize("resets", [0, 1])
def test_no_step_is_planned_or_sent_before_an_episode_has_begun(
    monkeypatch: pytest.MonkeyPatch, resets: int
) -> None:
    env, robot, person = physical()
    for _ in range(resets):
        env.reset(seed=0)
        person.stops_at = person.looks + 1
        robot.joints = env.arm.model.home - 20.0
        with pytest.raises(SafetyStop):
            env.reset(seed=1)
    sent = len(robot.sent)
    monkeypatch.setattr(env.arm, "begin_step", lambda action: pytest.fail("planned"))
    with pytest.raises(RobotError, match=r"no episode.*Found: step.*Allowed: .*reset"):
        env.step(np.zeros(4, dtype=np.float32))
    assert len(robot.sent) == sent


def test_an_episode_that_was_not_seen_to_begin_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    env, robot, _ = physical()
    env.reset(seed=0)
    with monkeypatch.context() as blind:
        blind.setattr(env.arm, "observe", Mock(side_effect=RobotError("A camera gives no picture")))
        with pytest.raises(RobotError, match="no picture"):
            env.reset(seed=1)
    sent = len(robot.sent)
    with pytest.raises(RobotError, match="no episode"):
        env.step(np.zeros(4, dtype=np.float32))
    assert len(robot.sent) == sent
    env.reset(seed=2)
    env.step(np.zeros(4, dtype=np.float32))


def timed(monkeypatch: pytest.MonkeyPatch) -> tuple[RobotEnv, FakeClock, list[int]]:
    """Return a physical bench at the begin of an episode, its clock, and when set-points go out from here on."""
    clock = FakeClock()
    monkeypatch.setattr("roborl.envs.robot_env.MonotonicClock", lambda: clock)
    env, robot, _ = physical()
    env.reset(seed=0)
    sent_ns: list[int] = []
    monkeypatch.setattr(robot, "send_action", lambda action: sent_ns.append(clock.now_ns()))
    return env, clock, sent_ns


@pytest.mark.parametrize("policy_s", [0.0, 0.002, 0.005, 0.0055, 0.012, 0.0325])
def test_set_points_of_a_physical_arm_are_a_control_period_apart_however_late_their_step_begins(
    monkeypatch: pytest.MonkeyPatch, policy_s: float
) -> None:
    """As the actor's are, and it is observed in time all the same: what is shown and what is practised have one phase."""
    env, clock, sent_ns = timed(monkeypatch)
    for _ in range(3):
        clock.advance(policy_s)
        env.step(np.zeros(4, dtype=np.float32))
        assert env.last_observation is not None
        since_ns = env.last_observation.stamp_ns - sent_ns[-1]
        assert since_ns == pytest.approx(5e6 - policy_s * 1e9 % 5e6, abs=10)
    within = np.diff(np.reshape(sent_ns, (3, 4)))
    np.testing.assert_allclose(within, 5e6, atol=10)


def test_no_set_point_of_a_physical_arm_comes_sooner_than_a_control_period_after_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, clock, sent_ns = timed(monkeypatch)
    for policy_s in (0.0045, 0.0003, 0.002, 0.0):
        clock.advance(policy_s)
        env.step(np.zeros(4, dtype=np.float32))
    np.testing.assert_allclose(np.diff(sent_ns), 5e6, atol=10)


@pytest.mark.parametrize("call", ["send_action", "get_observation"])
@pytest.mark.parametrize("late_s", [0.24, 0.26])
def test_an_episode_of_a_physical_arm_ends_where_something_stood_still(
    monkeypatch: pytest.MonkeyPatch, call: str, late_s: float
) -> None:
    """What came out of the step would else be kept as one policy period among others."""
    clock = FakeClock()
    monkeypatch.setattr("roborl.envs.robot_env.MonotonicClock", lambda: clock)
    env, robot, _ = physical()
    env.reset(seed=0)
    env.step(np.zeros(4, dtype=np.float32))
    waits = [late_s + 0.005]  # it is a control period until the tick is due

    def stand_still(*args: Any) -> Any:
        clock.advance(waits.pop() if waits else 0.0)
        return does(*args)

    does = getattr(robot, call)
    monkeypatch.setattr(robot, call, stand_still)
    if late_s < env.bench.watchdog.tick_deadline_s:
        env.step(np.zeros(4, dtype=np.float32))
        return
    with pytest.raises(RobotError, match=r"late.*Found: 0\.26 s.*Allowed: watchdog.tick_deadline_s, 0\.25 s"):
        env.step(np.zeros(4, dtype=np.float32))


def test_a_policy_may_think_as_long_as_the_bench_waits_for_an_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer wait than a control tick's is no fault of robot or machine, and before the first step nobody is in haste."""
    clock = FakeClock()
    monkeypatch.setattr("roborl.envs.robot_env.MonotonicClock", lambda: clock)
    env, robot, _ = physical()
    for _ in range(2):
        env.reset(seed=0)
        clock.advance(30.0)
        env.step(np.zeros(4, dtype=np.float32))
        for think_s in (0.3, 1.9):
            clock.advance(think_s)
            env.step(np.zeros(4, dtype=np.float32))
        clock.advance(2.1)
        sent = len(robot.sent)
        late = r"action came late.*Found: 2\.10 s.*Allowed: watchdog.action_deadline_s, 2 s.*faster policy"
        with pytest.raises(RobotError, match=late):
            env.step(np.zeros(4, dtype=np.float32))
        assert len(robot.sent) == sent
