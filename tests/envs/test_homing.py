"""The way home: slow and straight whatever the bench allows, patient with servos that lag, and yielding to what is in the way."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pytest

from roborl.clock import NS, FakeClock, Rate
from roborl.envs.actions import ActionConfig
from roborl.envs.arm import Arm
from roborl.envs.bench import Bench, load_bench
from roborl.envs.homing import go_home
from roborl.envs.safety import SafetyConfig
from roborl.errors import RobotError
from roborl.testing.stub_robot import StubRobot, StubRobotConfig

AWAY = np.array([33.5, 35.4, -31.9, 86.5, 0.0, 10.0])
SAG = np.array([0.0, 3.0, 3.0, 2.0, 0.0, 0.0])
USUAL = ActionConfig()
QUARTER = 0.25 * np.array([180, 180, 180, 240, 240, 400])


class Servos(StubRobot):
    """A robot that gets a share of its way at each set-point, may sag, and may be held up.

    Attributes:
        share: Of the way to the set-point that is made in a control period.
        stop: Nothing gets beyond it, (n,): the shoulder is lifted by the way home, and lowers its angle.
        sag: How far it hangs below where it is told to be, (n,).
    """

    share, stop, sag = 1.0, np.full(6, -np.inf), np.zeros(6)

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        before = self.joints
        super().send_action(action)
        self.joints = np.maximum(before + self.share * (self.joints + self.sag - before), self.stop)
        return dict(action)


def make_arm(action: ActionConfig = USUAL, *, policy_hz: float = 10.0, **safety: float) -> tuple[Arm, Servos]:
    bench = Bench(
        robot=StubRobotConfig(),
        model="so101_sim",
        task="wave",
        max_steps=20,
        policy_hz=policy_hz,
        action=action,
        safety=SafetyConfig(**safety),
    )
    robot = Servos(bench.robot)
    robot.joints = AWAY.copy()
    arm = Arm(bench, robot, FakeClock())
    arm.connect()
    return arm, robot


def home(arm: Arm) -> bool:
    return go_home(arm, Rate(arm.bench.control_hz, FakeClock()), lambda: False)


@pytest.mark.parametrize("acceleration_scale", [1.0, 0.05, 0.02])
@pytest.mark.parametrize("velocity_scale", [1.0, 0.2, 0.1, 0.03])
def test_the_way_home_is_straight_and_never_faster_than_the_bench_allows(
    velocity_scale: float, acceleration_scale: float
) -> None:
    arm, robot = make_arm(velocity_scale=velocity_scale, acceleration_scale=acceleration_scale)
    assert home(arm)
    way = np.vstack([AWAY, robot.sent])
    np.testing.assert_allclose(way[-1], arm.model.home, atol=1e-3)
    speed = np.diff(way, axis=0) * arm.bench.control_hz
    assert np.all(np.abs(speed) <= min(0.25, velocity_scale) * arm.model.max_velocity + 1e-6)
    change = np.diff(speed, axis=0) * arm.bench.control_hz
    assert np.all(np.abs(change) <= acceleration_scale * arm.model.max_acceleration + 1e-3)
    far = arm.model.home - AWAY
    share = (way - AWAY)[:, far != 0] / far[far != 0]
    np.testing.assert_allclose(share, share[:, :1].repeat(share.shape[1], axis=1), atol=1e-3)
    assert share.max() < 1.001, "it does not overshoot"


def test_where_the_workspace_box_is_in_the_way_the_arm_is_no_faster_either() -> None:
    arm, robot = make_arm()
    start = np.array([30.0, -30.0, 11.0, -87.0, 22.0, 84.0])
    robot.joints = start.copy()
    arm.connect()
    with pytest.raises(RobotError, match="cannot get to its home pose by itself"):
        home(arm)
    speed = np.abs(np.diff(np.vstack([start, robot.sent]), axis=0)) * arm.bench.control_hz
    assert np.all(speed <= QUARTER + 1e-6)


@pytest.mark.parametrize("costs_s", [[0.0], [0.012], [0.024], [0.012, 0.001], [0.024, 0.019, 0.0, 0.02]])
@pytest.mark.parametrize("policy_hz", [10.0, 50.0])
def test_set_points_on_the_way_home_go_out_a_period_apart_however_long_planning_takes(
    policy_hz: float, costs_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    arm, robot = make_arm(policy_hz=policy_hz, velocity_scale=0.1)
    clock, sent_s, costs = FakeClock(), [], cycle(costs_s)
    plan, send = arm.begin_return, robot.send_action

    def plan_slowly() -> bool:
        clock.advance(next(costs))
        return plan()

    def note(action: Mapping[str, float]) -> dict[str, float]:
        sent_s.append(clock.now_ns() / NS)
        return send(action)

    monkeypatch.setattr(arm, "begin_return", plan_slowly)
    monkeypatch.setattr(robot, "send_action", note)
    assert go_home(arm, Rate(arm.bench.control_hz, clock), lambda: False)
    gaps_s = np.diff(sent_s)
    assert gaps_s.min() > 1.0 / arm.bench.control_hz - 1e-6
    speed = np.abs(np.diff(np.array(robot.sent), axis=0)) / gaps_s[:, None]
    assert np.all(speed <= 0.1 * arm.model.max_velocity + 1e-3)


# The tip in far corners of ordinary boxes: the straight way of the joints swings out of them.
CORNERS = (
    ((0.12, -0.20, 0.015), (0.32, 0.20, 0.12), (1, 1, -1)),
    ((0.12, -0.25, 0.015), (0.30, 0.25, 0.15), (1, -1, 1)),
    ((0.15, -0.20, 0.03), (0.25, 0.20, 0.15), (1, 1, 1)),
)


@pytest.mark.parametrize(("low", "high", "corner"), CORNERS)
def test_from_a_far_corner_of_the_box_the_tip_leads_the_way_home(
    low: tuple[float, ...], high: tuple[float, ...], corner: tuple[int, ...]
) -> None:
    arm, robot = make_arm(workspace_low_m=low, workspace_high_m=high)
    robot.joints = arm.model.home.copy()
    arm.connect()
    for _ in range(40):
        arm.observe(0, images=False)
        arm.begin_step(np.array([*corner, -1], np.float32))
        for _ in range(arm.ticks_per_step):
            arm.tick()
    start = robot.joints.copy()
    robot.sent.clear()
    arm.begin_episode()
    assert home(arm)
    np.testing.assert_allclose(robot.sent[-1], arm.model.home, atol=1e-3)
    speed = np.abs(np.diff(np.vstack([start, robot.sent]), axis=0)) * arm.bench.control_hz
    assert np.all(speed <= QUARTER + 1e-6)
    tips = np.array([arm.kinematics.position(joints) for joints in robot.sent])
    assert np.all((tips > np.array(low) - 0.0005 - 1e-6) & (tips < np.array(high) + 0.0005 + 1e-6))


def test_an_arm_without_a_way_home_stays_where_it_is() -> None:
    arm, robot = make_arm()
    beside = np.array([-65.0, 28.0, 94.0, 35.0, 0.0, 5.0])
    robot.joints = beside.copy()
    arm.connect()
    with pytest.raises(RobotError, match="cannot get to its home pose by itself"):
        home(arm)
    assert np.abs(np.array(robot.sent) - beside).max() < 1e-6


def test_an_arm_that_is_folded_under_itself_does_not_go_home_through_the_table() -> None:
    arm, robot = make_arm()
    robot.joints = np.array([52.0, 78.0, 80.0, 14.0, 0.0, 5.0])
    arm.connect()
    with pytest.raises(RobotError, match=r"cannot get to its home pose by itself.*Move it by hand"):
        home(arm)
    lowest = min(arm.kinematics.position(joints)[2] for joints in robot.sent)
    assert lowest > arm.bench.safety.workspace_low_m[2] - 0.001


def test_an_arm_that_is_blocked_yields_where_it_was_stopped() -> None:
    arm, robot = make_arm()
    robot.stop = np.array([-np.inf, 20.0, *[-np.inf] * 4])
    with pytest.raises(
        RobotError, match=r"in the arm's way home. Found: shoulder_lift.pos 20, told \d\. .*leash"
    ):
        home(arm)
    told = np.array(robot.sent)[:, 1]
    # The leash, and what the set-point makes in a policy period until it is noticed.
    assert told.min() >= 20.0 - arm.bench.action.leash_deg - QUARTER[1] / arm.bench.policy_hz
    np.testing.assert_array_equal(robot.sent[-1], robot.joints)
    robot.stop = np.full(6, -np.inf)
    arm.hold()
    assert robot.joints[1] == 20.0, "nothing snaps once the way is free"


def test_what_the_joints_and_what_the_gripper_may_miss_is_said_of_each() -> None:
    arm, robot = make_arm(ActionConfig(leash_deg=12.0, gripper_leash=8.0))
    robot.stop = np.array([-np.inf, 20.0, *[-np.inf] * 4])
    with pytest.raises(
        RobotError, match="within 12 degrees of where it is told to be, the gripper within 8;"
    ):
        home(arm)


def test_an_arm_that_sags_as_far_as_the_desk_file_says_begins_its_episodes() -> None:
    arm, robot = make_arm(load_bench("so101_desk").action)
    robot.sag = np.array([0.0, 6.5, 6.5, 0.0, 0.0, 0.0])
    assert home(arm)


def test_an_arm_that_is_held_up_just_before_its_home_yields_too() -> None:
    arm, robot = make_arm()
    robot.stop = np.array([-np.inf, arm.model.home[1] + 8.0, *[-np.inf] * 4])
    with pytest.raises(RobotError, match=r"shoulder_lift.pos -8, told -16\."):
        home(arm)
    np.testing.assert_array_equal(arm.set_point, robot.joints)


@pytest.mark.parametrize("late_s", [0.05, 0.15, 0.3])
def test_servos_that_are_late_and_sag_are_waited_for(late_s: float) -> None:
    arm, robot = make_arm()
    robot.share = 1.0 - np.exp(-1.0 / (late_s * arm.bench.control_hz))
    robot.sag = SAG
    assert home(arm)
    np.testing.assert_allclose(robot.joints, arm.model.home + SAG, atol=2.5)


def test_an_arm_that_is_stopped_on_its_way_plans_no_further() -> None:
    arm, robot = make_arm()
    assert not go_home(arm, Rate(50.0, FakeClock()), lambda: len(robot.sent) == 7)
    assert len(robot.sent) == 7


def test_an_arm_that_sags_sinks_neither_when_episodes_begin_nor_when_it_sets_out_for_home() -> None:
    arm, robot = make_arm(velocity_scale=0.1)
    robot.sag = SAG
    for _ in range(4):
        arm.begin_episode()
        for _ in range(10):
            arm.hold()
    np.testing.assert_array_equal(robot.joints, AWAY + SAG)
    robot.sent.clear()
    arm.begin_episode()
    assert home(arm)
    speed = np.abs(np.diff(np.vstack([AWAY, robot.sent]), axis=0)) * arm.bench.control_hz
    assert np.all(speed <= 0.1 * arm.model.max_velocity + 1e-6)


def test_a_joint_that_is_beyond_its_leash_begins_where_it_is() -> None:
    arm, robot = make_arm()
    robot.joints = AWAY + np.array([3.0, 13.0, 0.0, 0.0, 0.0, 26.0])
    arm.begin_episode()
    np.testing.assert_array_equal(arm.set_point, AWAY + np.array([0.0, 13.0, 0.0, 0.0, 0.0, 26.0]))
    robot.stop = np.array([-np.inf, 40.0, *[-np.inf] * 4])
    with pytest.raises(RobotError, match="in the arm's way home"):
        home(arm)
    arm.begin_episode()
    np.testing.assert_array_equal(
        arm.set_point, robot.joints, "nor does it lean again on what it gave way to"
    )
