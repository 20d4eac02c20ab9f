import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.envs.kinematics import Kinematics
from roborl.envs.robot_model import load_robot_model
from roborl.envs.safety import Limit, SafetyConfig, SafetyFilter, SetPoint
from roborl.errors import ConfigError

MODEL = load_robot_model("so101_sim")
KINEMATICS = Kinematics(MODEL)
PERIOD_S = 0.02
CONFIG = SafetyConfig(velocity_scale=0.5, acceleration_scale=0.5)
FILTER = SafetyFilter(KINEMATICS, CONFIG, PERIOD_S)
SLACK_M = 0.0005
REST = SetPoint(joints=MODEL.home, velocity=np.zeros(6))

wild = st.lists(st.floats(-1e4, 1e4) | st.just(float("nan")) | st.just(float("inf")), min_size=6, max_size=6)


def outside_m(joints: np.ndarray) -> float:
    position = KINEMATICS.position(joints)
    low, high = np.array(CONFIG.workspace_low_m), np.array(CONFIG.workspace_high_m)
    return float(np.maximum(low - position, position - high).max())


@given(st.lists(wild, min_size=1, max_size=8))
@settings(max_examples=60)
def test_no_sequence_of_wishes_breaks_a_limit(wishes: list[list[float]]) -> None:
    before = REST
    for wish in wishes:
        after, _ = FILTER(np.array(wish), before)
        speed = (after.joints - before.joints) / PERIOD_S
        assert np.all(np.isfinite(after.joints))
        assert np.all(after.joints >= MODEL.lower - 1e-9)
        assert np.all(after.joints <= MODEL.upper + 1e-9)
        assert np.all(np.abs(speed) <= 0.5 * MODEL.max_velocity + 1e-6)
        assert outside_m(after.joints) <= max(SLACK_M, outside_m(before.joints)) + 1e-6
        before = after


def test_joints_that_are_too_slow_hold_the_others_back_but_not_the_gripper() -> None:
    change = np.array([0.1, -30.0, 20.0, -10.0, 0.0, -2.0])
    after, hit = FILTER(MODEL.home + change, REST)
    done = (after.joints - MODEL.home) / np.where(change == 0.0, 1.0, change)
    assert hit == {Limit.VELOCITY, Limit.ACCELERATION}
    np.testing.assert_allclose(
        done[:4], 0.04, rtol=1e-6
    )  # 3000 degrees/s² for one tick of 0.02 s, of 30 degrees.
    assert done[5] == pytest.approx(1.0)


def test_an_arm_that_turns_round_keeps_to_the_way_between_both_motions() -> None:
    there = np.array([10.0, -80.0, 90.0, -110.0, 0.0, 0.0])
    moving = SetPoint(joints=MODEL.home, velocity=there)
    after, _ = FILTER(MODEL.home - there * PERIOD_S * 0.9, moving)
    share = after.velocity[:4] / there[:4]
    assert share.max() < 1.0
    np.testing.assert_allclose(share, share[0], rtol=1e-6)


@given(wild)
@settings(max_examples=40)
def test_equal_inputs_give_equal_outputs(wish: list[float]) -> None:
    first, hit_first = FILTER(np.array(wish), REST)
    second, hit_second = FILTER(np.array(wish), REST)
    assert np.array_equal(first.joints, second.joints)
    assert hit_first == hit_second


def test_a_wish_within_all_limits_passes_unchanged_and_uncounted() -> None:
    wish = MODEL.home + 0.2
    wish[MODEL.gripper_index] = MODEL.home[MODEL.gripper_index]
    after, hit = FILTER(wish, REST)
    np.testing.assert_array_equal(after.joints, wish)
    assert hit == frozenset()


@pytest.mark.parametrize(
    ("wish", "limit"),
    [
        (np.full(6, np.nan), Limit.NOT_FINITE),
        (MODEL.upper + 50, Limit.POSITION),
        (MODEL.home + np.array([20, 0, 0, 0, 0, 0]), Limit.VELOCITY),
        (MODEL.home + np.array([1.7, 0, 0, 0, 0, 0]), Limit.ACCELERATION),
    ],
)
def test_each_limit_is_reported_by_name(wish: np.ndarray, limit: Limit) -> None:
    assert limit in FILTER(wish, REST)[1]


def test_the_end_effector_stops_at_the_workspace_box() -> None:
    before = REST
    low = np.array([0.2, 0.0, CONFIG.workspace_low_m[2] - 0.03])
    goal = KINEMATICS.solve(low, MODEL.home, iterations=50)
    hits = set()
    for _ in range(100):
        before, hit = FILTER(goal, before)
        hits |= hit
    assert Limit.WORKSPACE in hits
    assert KINEMATICS.position(before.joints)[2] > CONFIG.workspace_low_m[2] - SLACK_M - 1e-6


def test_the_edge_of_the_box_does_not_hold_the_gripper() -> None:
    low = np.array([0.2, 0.0, CONFIG.workspace_low_m[2] - SLACK_M])
    edge = SetPoint(joints=KINEMATICS.solve(low, MODEL.home, iterations=50), velocity=np.zeros(6))
    below = KINEMATICS.solve(low - [0.0, 0.0, 0.01], edge.joints, iterations=50)
    below[MODEL.gripper_index] -= 1.0
    after, hit = FILTER(below, edge)
    assert Limit.WORKSPACE in hit
    assert after.joints[MODEL.gripper_index] == pytest.approx(edge.joints[MODEL.gripper_index] - 1.0)


def test_an_arm_that_starts_outside_may_come_back_but_not_go_further() -> None:
    above = SetPoint(
        joints=np.array([0.0, -20.0, -20.0, 60.0, 0.0, 50.0]),
        velocity=np.zeros(6),
    )
    assert outside_m(above.joints) > 0.02
    back, _ = FILTER(above.joints + 0.1 * (MODEL.home - above.joints), above)
    assert outside_m(back.joints) < outside_m(above.joints)
    away, hit = FILTER(above.joints - 0.05 * (MODEL.home - above.joints), above)
    assert outside_m(away.joints) <= outside_m(above.joints) + 1e-6
    assert Limit.WORKSPACE in hit


# Folded under itself and turned aside, low beside the table's middle: a straight way of the joints goes through the table.
BESIDE = ([52, 78, 80, 14, 0, 5], [25, 61, 86, 17, 0, 5], [-65, 28, 94, 35, 0, 5])


@pytest.mark.parametrize("beside", BESIDE)
def test_an_arm_beside_its_box_goes_no_lower_than_one_inside(beside: list[float]) -> None:
    before = SetPoint(joints=np.array(beside, float), velocity=np.zeros(6))
    assert outside_m(before.joints) > 0.05
    hits = set()
    for share in np.linspace(0, 1, 400):
        before, hit = FILTER(beside + share * (MODEL.home - beside), before)
        hits |= hit
        assert KINEMATICS.position(before.joints)[2] > CONFIG.workspace_low_m[2] - SLACK_M - 1e-6
    assert Limit.WORKSPACE in hits


def test_an_empty_box_or_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="workspace"):
        SafetyConfig(workspace_low_m=(0.5, 0.0, 0.0), workspace_high_m=(0.4, 0.1, 0.1))
    with pytest.raises(ConfigError, match="velocity_scale"):
        SafetyConfig(velocity_scale=0.0)


# As folded arms were found resting on their stops: lift and elbow a little beyond the model's limits.
RESTING = ([0, -104, 98, 75, 0, 1], [0, -105, 97.6, 70, 0, 2], [3, -106, 99, 75, 0, 0])


@pytest.mark.parametrize("resting", RESTING)
def test_a_robot_beyond_its_joint_limits_comes_back_within_all_others(resting: list[float]) -> None:
    before = SetPoint(joints=np.array(resting, float), velocity=np.zeros(6))
    beyond = np.maximum(MODEL.lower - before.joints, before.joints - MODEL.upper)
    for share in np.linspace(0, 1, 400):
        after, _ = FILTER(resting + share * (MODEL.home - resting), before)
        assert np.all(np.abs(after.joints - before.joints) / PERIOD_S <= 0.5 * MODEL.max_velocity + 1e-6)
        still = np.maximum(MODEL.lower - after.joints, after.joints - MODEL.upper)
        assert np.all(still <= np.maximum(beyond, 0.0) + 1e-9), "never further"
        before, beyond = after, still
    np.testing.assert_allclose(before.joints, MODEL.home, atol=1e-6)
