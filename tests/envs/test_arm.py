import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.clock import NS, FakeClock
from roborl.envs.arm import Arm
from roborl.envs.bench import Bench, CameraUse, WatchdogConfig, load_bench, make_robot, resolve
from roborl.errors import ConfigError, RobotError, ShapeError
from roborl.testing.stub_robot import Fault, StubRobot, StubRobotConfig

LEFT = np.array([0.0, 1.0, 0.0, 0.0], dtype=np.float32)


def stub_arm(fault: str = "", *, after: int = 0, slow_s: float = 0.01) -> tuple[Arm, StubRobot]:
    bench = Bench(
        robot=StubRobotConfig(fault=fault, fault_after=after, slow_s=slow_s),
        model="so101_sim",
        task="wave",
        max_steps=20,
        cameras={
            "front": CameraUse(height_px=48, width_px=40),
            "wrist": CameraUse(height_px=64, width_px=64),
        },
        watchdog=WatchdogConfig(stale_s=0.2, frozen_frames=3, action_deadline_s=0.5),
    )
    clock = FakeClock()
    robot = StubRobot(bench.robot, sleep=clock.advance)
    return Arm(bench, robot, clock), robot


def run(arm: Arm, steps: int, *, pause_s: float = 0.0) -> None:
    arm.connect()
    for index in range(steps):
        arm.observe(index)
        arm.begin_step(LEFT if index % 16 < 8 else -LEFT)
        for _ in range(arm.ticks_per_step):
            arm.tick()
        time.sleep(pause_s)


def test_a_healthy_robot_runs_and_its_frames_have_the_recording_resolution() -> None:
    arm, robot = stub_arm()
    run(arm, 10)
    observation = arm.observe(10)
    assert observation.images["front"].shape == (48, 40, 3)
    assert observation.frames["wrist"].id == 10
    assert observation.state.shape == (arm.state_dim,)
    assert len(robot.sent) == 50


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault.SLOW_CAMERA, "stale"),
        (Fault.FROZEN_CAMERA, "frozen"),
        (Fault.DEAD_CAMERA, "no observation"),
        (Fault.BUS_TIMEOUT, "set-point"),
        (Fault.BUS_HICCUP, "set-point"),
        (Fault.LOST_JOINT, r"not a finite number.*shoulder_pan.pos.*nan.*finite position.*calibration"),
    ],
)
def test_each_fault_is_raised_as_a_robot_error_within_a_few_steps(fault: Fault, message: str) -> None:
    arm, robot = stub_arm(fault, after=12)
    with pytest.raises(RobotError, match=message):
        # A camera that delivers nothing new is stale after two of these pauses, before it is frozen.
        run(arm, 12, pause_s=0.12 if fault is Fault.SLOW_CAMERA else 0.0)
    assert len(robot.sent) <= 12 + 4 * arm.ticks_per_step


def test_a_slow_bus_is_only_slow() -> None:
    """What it costs is the control loop's to judge."""
    arm, robot = stub_arm(Fault.SLOW_BUS, after=5, slow_s=1.5)
    run(arm, 3)
    assert len(robot.sent) == 15
    # Ten set-points and three looks.
    assert arm.observe(3, images=False).stamp_ns == 13 * 1.5 * NS


def test_a_bus_that_is_silent_from_the_start_says_so_at_connect() -> None:
    arm, _ = stub_arm(Fault.BUS_TIMEOUT)
    with pytest.raises(RobotError, match=r"does not report its joints.*no status packet"):
        arm.connect()


def test_a_joint_that_is_lost_reaches_neither_state_nor_set_point() -> None:
    arm, robot = stub_arm(Fault.LOST_JOINT, after=7)
    with pytest.raises(RobotError, match="not a finite number"):
        run(arm, 3)
    for read in (arm.begin_episode, lambda: arm.observe(3, images=False)):
        with pytest.raises(RobotError, match="not a finite number"):
            read()
    arm.hold()
    assert np.isfinite(robot.sent).all()


def test_after_a_hiccup_a_new_episode_goes_on() -> None:
    arm, robot = stub_arm(Fault.BUS_HICCUP, after=3)
    with pytest.raises(RobotError):
        run(arm, 4)
    arm.begin_episode()
    arm.begin_step(LEFT)
    arm.tick()
    assert len(robot.sent) == 4


@given(st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=12))
@settings(max_examples=25)
def test_the_stored_action_is_the_motion_that_was_sent(actions: list[list[float]]) -> None:
    """Law 10: a stored action is the motion that was sent."""
    arm, robot = stub_arm()
    arm.connect()
    for values in actions:
        before = arm.kinematics.position(robot.joints)
        gripper = robot.joints[5]
        stored = arm.begin_step(np.array(values, dtype=np.float32))
        for _ in range(arm.ticks_per_step):
            arm.tick()
        arm.observe(0, images=False)
        moved = arm.kinematics.position(robot.joints) - before
        np.testing.assert_allclose(moved / arm.bench.action.step_m, stored[:3], atol=0.05)
        np.testing.assert_allclose((robot.joints[5] - gripper) / 34.0, stored[3], atol=0.011)
        assert np.abs(stored).max() <= 1.0


def test_an_arm_that_is_thrown_about_goes_no_other_way_than_what_is_stored() -> None:
    """Joints that turn round at their largest speeds need several ticks for it, each of them another number."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        arm, robot = stub_arm()
        arm.connect()
        for action in rng.choice(np.float32([-1, 0, 1]), (60, 4)):
            before = arm.kinematics.position(robot.joints)
            stored = arm.begin_step(action)
            for _ in range(arm.ticks_per_step):
                arm.tick()
            arm.observe(0, images=False)
            moved = (arm.kinematics.position(robot.joints) - before) / arm.bench.action.step_m
            np.testing.assert_allclose(moved, stored[:3], atol=0.05)


def step(arm: Arm, robot: StubRobot, action: list[float]) -> np.ndarray:
    """Carry an action out; return how the end effector moved, m."""
    before = arm.kinematics.position(robot.joints)
    arm.begin_step(np.array(action, dtype=np.float32))
    for _ in range(arm.ticks_per_step):
        arm.tick()
    arm.observe(0, images=False)
    return arm.kinematics.position(robot.joints) - before


def test_an_arm_at_the_edge_of_its_workspace_slides_along_and_its_gripper_closes() -> None:
    """The straight way of the joints between two points of a face bends out of the box by a fraction of a millimetre."""
    arm, robot = stub_arm()
    arm.connect()
    for _ in range(14):
        step(arm, robot, [0.0, 1.0, 0.0, 0.0])
    for _ in range(3):
        robot.joints[5] = 100.0
        arm.begin_episode()
        moved = step(arm, robot, [-0.8, 1.0, 0.0, -1.0])
        np.testing.assert_allclose(moved, [-0.012, 0.0, 0.0], atol=1e-3)
        assert robot.joints[5] == pytest.approx(75.0, abs=0.1)  # as far as its leash


def box_m(arm: Arm) -> np.ndarray:
    """The corners of the workspace, m, (2, 3)."""
    return np.array([arm.bench.safety.workspace_low_m, arm.bench.safety.workspace_high_m])


# Pushed against two or three faces, then away from them or along: by its bent way the last push leaves the tip half a millimetre outside.
@pytest.mark.parametrize(
    ("pushes", "away"),
    [
        ([(-1, -1, 1)], (1, 0, 0)),
        ([(-1, -1, 1)], (0.4, 0.8, 1)),
        ([(0, 0, 1), (-1, 1, 1)], (0.76, -1, 1)),
        ([(0, -1, -1), (1, -1, -1)], (-1, 0, -0.3)),
    ],
)
def test_no_face_of_the_workspace_locks_the_arm(
    pushes: list[tuple[float, ...]], away: tuple[float, ...]
) -> None:
    arm, robot = stub_arm()
    arm.connect()
    for push in pushes:
        for _ in range(25):
            step(arm, robot, [*push, 0.0])
    moved = sum(step(arm, robot, [*away, 0.0]) for _ in range(4))
    assert np.linalg.norm(moved) > 0.02


def test_an_arm_that_walks_about_stands_still_only_where_its_reach_ends() -> None:
    arm, robot = stub_arm()
    arm.connect()
    rng = np.random.default_rng(3)
    low, high = box_m(arm)
    for _ in range(40):
        push = np.clip(rng.normal(size=3), -1.0, 1.0)
        for _ in range(8):
            before = arm.kinematics.position(arm.set_point)
            wanted = np.clip(before + push * arm.bench.action.step_m, low, high) - before
            joints = arm.kinematics.solve(before + 0.25 * wanted, arm.set_point)
            missed = np.linalg.norm(arm.kinematics.position(joints) - before - 0.25 * wanted)
            moved = step(arm, robot, [*push, 0.0])
            after = before + moved
            assert np.all((after > low - 0.0005 - 1e-9) & (after < high + 0.0005 + 1e-9))
            if np.linalg.norm(wanted) > 0.004 and missed < 1e-4:
                assert np.linalg.norm(moved) > 0.0005


def test_a_tip_outside_its_workspace_stays_until_it_is_moved_and_then_comes_back() -> None:
    arm, robot = stub_arm()
    robot.joints = arm.kinematics.solve(np.array([0.2, 0.0, 0.15]), robot.joints, iterations=50)
    arm.connect()
    np.testing.assert_allclose(step(arm, robot, [0.0] * 4), np.zeros(3), atol=1e-5)
    high = box_m(arm)[1]
    assert arm.kinematics.position(robot.joints)[2] > high[2] + 0.02
    for _ in range(8):
        moved = step(arm, robot, [0.0, 0.5, 0.0, 0.0])
        assert -0.0076 < moved[2] < 1e-4, "no faster than it was to move"
    assert arm.kinematics.position(robot.joints)[2] < high[2]


@pytest.mark.parametrize("place", [(0.2, 0.0, 0.11), (0.295, 0.0, 0.07), (0.25, 0.1, 0.1), (0.2, 0.0, 0.12)])
def test_a_zero_action_holds_the_place_also_where_the_fingers_cannot_be_upright(
    place: tuple[float, float, float],
) -> None:
    arm, robot = stub_arm()
    arm.connect()
    for _ in range(20):
        way = (np.array(place) - arm.kinematics.position(robot.joints)) / arm.bench.action.step_m
        step(arm, robot, [*np.clip(way, -1.0, 1.0), 0.0])
    np.testing.assert_allclose(arm.kinematics.position(robot.joints), place, atol=5e-4)
    for _ in range(100):
        step(arm, robot, [0.0] * 4)
    np.testing.assert_allclose(arm.kinematics.position(robot.joints), place, atol=5e-4)


def test_an_action_that_is_not_finite_moves_nothing_and_is_counted() -> None:
    arm, _ = stub_arm()
    arm.connect()
    np.testing.assert_allclose(arm.begin_step(np.full(4, np.nan, dtype=np.float32)), np.zeros(4), atol=1e-6)
    assert arm.limits_hit["not_finite"] == 1


def test_an_action_of_another_size_is_refused() -> None:
    arm, _ = stub_arm()
    arm.connect()
    with pytest.raises(ShapeError, match="action"):
        arm.begin_step(np.zeros(6, dtype=np.float32))


def test_holding_repeats_the_last_set_point_and_drops_the_plan() -> None:
    arm, robot = stub_arm()
    arm.connect()
    arm.begin_step(LEFT)
    arm.tick()
    arm.hold()
    arm.tick()
    np.testing.assert_array_equal(robot.sent[1], robot.sent[0])
    np.testing.assert_array_equal(robot.sent[2], robot.sent[0])


def send_home(arm: Arm) -> None:
    while arm.begin_return():
        for _ in range(arm.ticks_per_step):
            arm.tick()


@pytest.mark.parametrize("resting", [[0, -104, 98, 75, 0, 1], [0, -105, 97.6, 70, 0, 2]])
def test_an_arm_that_rests_on_its_stops_gets_home(resting: list[float]) -> None:
    arm, robot = stub_arm()
    robot.joints = np.array(resting, float)
    arm.connect()
    send_home(arm)
    arm.check_home()
    np.testing.assert_allclose(robot.joints, arm.model.home, atol=0.5)


def test_an_arm_that_cannot_get_home_within_its_limits_says_so() -> None:
    arm, robot = stub_arm()
    robot.joints = np.array([79, -93, 44, -62, 119, 54], float)
    arm.connect()
    send_home(arm)
    with pytest.raises(RobotError, match=r"cannot get to its home pose.*shoulder_pan.pos 79.*by hand"):
        arm.check_home()


def test_a_robot_that_is_not_calibrated_is_named_before_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, robot = stub_arm()
    monkeypatch.setattr(StubRobot, "is_calibrated", False)
    with pytest.raises(ConfigError, match=r"not calibrated.*lerobot-calibrate"):
        arm.connect()
    assert robot.sent == []


def test_an_action_that_nothing_limits_is_stored_as_it_is() -> None:
    arm, _ = stub_arm()
    arm.connect()
    action = np.array([0.3, -0.4, 0.2, -0.5], dtype=np.float32)
    np.testing.assert_array_equal(arm.begin_step(action), action)


def test_set_points_are_interpolated_over_the_policy_period() -> None:
    arm, robot = stub_arm()
    arm.connect()
    arm.begin_step(LEFT)
    for _ in range(arm.ticks_per_step):
        arm.tick()
    pans = np.array([joints[0] for joints in robot.sent])
    steps = np.diff(np.concatenate([[arm.model.home[0]], pans]))
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-6)


def test_the_state_is_scaled_to_its_limits() -> None:
    arm, robot = stub_arm()
    arm.connect()
    robot.joints = arm.model.upper.copy()
    np.testing.assert_allclose(arm.observe(0, images=False).state[:6], np.ones(6))
    robot.joints = arm.model.lower.copy()
    np.testing.assert_allclose(arm.observe(0, images=False).state[:6], -np.ones(6))


def test_benches_in_the_repository_load_and_state_everything() -> None:
    desk = load_bench("so101_desk")
    assert desk.task
    assert desk.max_steps > 0
    assert not desk.simulated
    simulated = load_bench("so101_sim", ["--robot.scene=ClearTable", "--control_hz=30"])
    assert simulated.task == "put the red, yellow and purple cubes into the tray"
    assert simulated.max_steps == 160
    assert simulated.robot.control_hz == 30


def test_a_camera_that_a_physical_bench_leaves_out_is_not_opened() -> None:
    both = load_bench("so101_desk")
    assert list(both.robot.cameras) == ["front", "wrist"]
    one = resolve(replace(both, cameras={"front": CameraUse(height_px=48, width_px=64)}))
    robot = make_robot(one)
    assert list(robot.cameras) == list(one.robot.cameras) == ["front"]
    assert (robot.id, one.robot.port, robot.cameras["front"].fps) == ("desk", both.robot.port, 30)


def test_a_simulated_bench_draws_its_cameras_at_recording_resolution() -> None:
    large = load_bench("so101_sim", ["--image_px=96"])
    assert large.cameras["wrist"] == CameraUse(height_px=96, width_px=96)
    assert large.robot.cameras["front"].width == 96
    one = load_bench("so101_sim", ["--cameras={front: {height_px: 48, width_px: 64}}"])
    assert make_robot(one).observation_features["front"] == (48, 64, 3)
    assert "wrist" not in one.robot.cameras


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--control_hz=33", "divide"),
        ("--robot.scene=Juggle", "Juggle"),
        ("--robot.randomisation=wild", "wild"),
        ("--model=ur5", "no such robot"),
        ("--cameras={front: {height_px: tall, width_px: 3}}", "height_px"),
        ("--cameras={ceiling: {height_px: 64, width_px: 64}}", "ceiling"),
        ("--cameras={front: {height_px: 0, width_px: 64}}", "height_px of a camera is out of range"),
        ("--image_px=0", "image_px is out of range"),
        ("--policy_hz=0", r"policy_hz is out of range. Found: 0.0. Allowed: finite and above 0. Correct it"),
        ("--control_hz=.inf", "control_hz is out of range"),
        ("--time_scale=-1", "time_scale is out of range"),
        ("--max_steps=-5", "max_steps is out of range"),
        ("--watchdog.stale_s=.nan", "watchdog.stale_s is out of range. Found: nan"),
        ("--watchdog.stale_s=0", "watchdog.stale_s is out of range"),
        ("--watchdog.stale_s=250", "Allowed: finite and above 0 and at most 60"),
        ("--watchdog.action_deadline_s=.nan", "watchdog.action_deadline_s is out of range"),
        ("--watchdog.action_deadline_s=0", "watchdog.action_deadline_s is out of range"),
        ("--watchdog.tick_deadline_s=-1", "watchdog.tick_deadline_s is out of range"),
        ("--watchdog.operator_silence_s=-2", "watchdog.operator_silence_s is out of range"),
        ("--watchdog.frozen_frames=-1", "watchdog.frozen_frames is out of range"),
        ("--action.step_m=12", "action.step_m is out of range. Found: 12.0"),
        ("--action.step_m=.nan", "action.step_m is out of range"),
        ("--action.leash_m=.inf", "action.leash_m is out of range"),
        ("--safety.velocity_scale=.nan", "safety.velocity_scale is out of range"),
        ("--safety.workspace_high_m=[.inf, 0.15, 0.12]", "The x of safety.workspace_high_m is out of range"),
        (
            "--safety={workspace_low_m: [120, -150, 15], workspace_high_m: [300, 150, 120]}",
            r"workspace_low_m is out of the arm's reach. Found: \[120.0.*in metres, none beyond 0.55",
        ),
        ("--safety.workspace_high_m=[0.3, 0.15, 0.07]", r"home pose.*Found: z from 0.01 to 0.07 m.*0.076 m"),
    ],
)
def test_a_bench_that_cannot_be_is_refused_by_field(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Arm(bench := load_bench("so101_sim", [override]), make_robot(bench), FakeClock())


def test_a_simulated_bench_alone_may_wait_for_an_action_as_long_as_it_likes() -> None:
    """A slow policy on a processor may try itself there; beside an arm so long a wait is a slip."""
    slow = "--watchdog.action_deadline_s=120"
    assert load_bench("so101_sim", [slow]).watchdog.action_deadline_s == 120.0
    refusal = r"watchdog.action_deadline_s is out of range. Found: 120\.0. Allowed: .* at most 60"
    with pytest.raises(ConfigError, match=refusal):
        load_bench("so101_desk", [slow])


def test_a_physical_bench_cannot_run_faster_than_life() -> None:
    with pytest.raises(ConfigError, match="faster than life"):
        load_bench("so101_desk", ["--time_scale=4"])


@pytest.mark.parametrize("said", ["", " "])
def test_a_physical_bench_says_what_the_arm_does_when_control_dies(said: str) -> None:
    with pytest.raises(
        ConfigError, match=r"Found: if_control_dies=.*for example: if_control_dies: the servos"
    ):
        load_bench("so101_desk", [f"--if_control_dies={said}"])
    assert load_bench("so101_sim", ["--if_control_dies="]).simulated


def test_a_plugin_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"plug-in.*no_such_module"):
        load_bench("so101_sim", plugins=["no_such_module"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--robot.use_degrees=false", "other units than degrees"),
        ("--robot.max_relative_target=5", "not executed"),
    ],
)
def test_settings_that_would_falsify_angles_or_stored_actions_are_refused(
    override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_bench("so101_desk", [override])
