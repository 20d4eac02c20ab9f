import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.envs.actions import ActionConfig, ActionMap
from roborl.envs.bench import load_bench
from roborl.envs.kinematics import Kinematics
from roborl.envs.robot_model import load_robot_model
from roborl.errors import ConfigError

MODEL = load_robot_model("so101_sim")
KINEMATICS = Kinematics(MODEL)
LOW, HIGH = np.array([0.12, -0.16, 0.010]), np.array([0.32, 0.16, 0.12])
HERE = MODEL.home - (0, 0, 0, 0, 0, 50)

unit = st.floats(-1.0, 1.0)


def action_map(kind: str = "ee_delta", **settings: float) -> ActionMap:
    return ActionMap(KINEMATICS, ActionConfig(kind=kind, **settings), LOW, HIGH)


@given(st.lists(unit, min_size=4, max_size=4))
@settings(max_examples=60)
def test_the_executed_action_is_the_one_asked_for_where_nothing_limits_it(values: list[float]) -> None:
    actions, asked = action_map(gripper_leash=100.0), np.array(values, dtype=np.float32)
    target = actions.target(asked, HERE, HERE)
    np.testing.assert_allclose(actions.executed(HERE, target), asked, atol=0.02)


@given(st.lists(unit, min_size=6, max_size=6))
@settings(max_examples=40)
def test_joint_deltas_move_each_joint_by_its_share(values: list[float]) -> None:
    actions, asked = action_map("joint_delta", gripper_leash=100.0), np.array(values, dtype=np.float32)
    target = actions.target(asked, HERE, HERE)
    np.testing.assert_allclose(target[:5] - HERE[:5], 6.0 * asked[:5], atol=1e-4)
    np.testing.assert_allclose(actions.executed(HERE, target), asked, atol=1e-5)


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.integers(1, 30))
@settings(max_examples=40)
def test_the_set_point_never_leads_a_blocked_arm_by_more_than_the_leash(
    values: list[float], steps: int
) -> None:
    actions = action_map()
    set_point = HERE
    for _ in range(steps):
        set_point = actions.target(np.array(values, dtype=np.float32), set_point, HERE)
    lead = KINEMATICS.position(set_point) - KINEMATICS.position(HERE)
    assert np.linalg.norm(lead) < 0.03 + 0.003
    assert abs(set_point[5] - HERE[5]) <= 25.0 + 1e-6


SAG = np.array([0.0, 4.8, 4.8, 3.2, 0.0, 0.0])


@pytest.mark.parametrize(("kind", "sag"), [("ee_delta", SAG), ("joint_delta", 3.0 * SAG)])
def test_an_arm_that_hangs_further_below_its_set_point_than_the_leash_does_not_sink_after_it(
    kind: str, sag: np.ndarray
) -> None:
    actions, set_point = action_map(kind), HERE
    for _ in range(50):
        set_point = actions.target(np.zeros(actions.size, np.float32), set_point, set_point + sag)
    np.testing.assert_allclose(set_point, HERE, atol=1e-3)


@given(st.lists(unit, min_size=4, max_size=4), st.lists(st.floats(-12, 12), min_size=5, max_size=5))
@settings(max_examples=40)
def test_a_lead_beyond_the_leash_grows_no_further(values: list[float], behind: list[float]) -> None:
    actions, measured = action_map(), HERE + np.append(behind, 0.0)
    here = KINEMATICS.position(measured)
    before = np.linalg.norm(KINEMATICS.position(HERE) - here)
    target = actions.target(np.array(values, np.float32), HERE, measured)
    assert np.linalg.norm(KINEMATICS.position(target) - here) < max(0.03, before) + 0.003


def test_a_gripper_that_is_forced_open_yields_to_its_leash() -> None:
    measured = HERE + np.array([0, 0, 0, 0, 0, 40.0])
    assert action_map().target(np.zeros(4, np.float32), HERE, measured)[5] == measured[5] - 25.0


def test_an_arm_that_sags_and_lags_goes_level_on_the_desk() -> None:
    """Servos of 0.15 s behind a set-point at full speed."""
    action = load_bench("so101_desk").action
    actions = ActionMap(KINEMATICS, action, LOW, HIGH)
    set_point = KINEMATICS.solve(np.array([0.2, -0.1, 0.1]), HERE)
    joints = set_point + SAG
    for _ in range(15):
        set_point = actions.target(np.float32([0, 1, 0, 0]), set_point, joints)
        joints = joints + (1.0 - np.exp(-0.1 / 0.15)) * (set_point + SAG - joints)
    np.testing.assert_allclose(
        KINEMATICS.position(set_point), [0.2, -0.1 + 15 * action.step_m, 0.1], atol=1e-3
    )


@pytest.mark.parametrize(
    "direction", [(1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1), (-1, 0, 0), (1, 1, 1)]
)
def test_the_target_stays_in_the_box_however_long_it_is_pushed(direction: tuple[int, ...]) -> None:
    actions, joints = action_map(), HERE
    for _ in range(60):
        joints = actions.target(np.array([*direction, 0], dtype=np.float32), joints, joints)
    position = KINEMATICS.position(joints)
    assert np.all(position > LOW - 0.003)
    assert np.all(position < HIGH + 0.003)


def test_a_step_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="step_m"):
        ActionConfig(step_m=0.0)


@pytest.mark.parametrize("kind", ["ee_delta", "joint_delta"])
def test_a_way_too_long_for_one_step_is_gone_in_the_same_direction(kind: str) -> None:
    actions = action_map(kind)
    goal = KINEMATICS.solve(KINEMATICS.position(HERE) + np.array([0.06, 0.02, 0.0]), HERE)
    goal[MODEL.gripper_index] -= 10.0
    action = actions.executed(HERE, goal)
    whole = goal - HERE if kind == "joint_delta" else np.append([0.06, 0.02, 0.0], -10.0)
    arm = slice(0, -1)
    assert np.abs(action[arm]).max() == pytest.approx(1.0)
    np.testing.assert_allclose(action[arm], whole[arm] / np.abs(whole[arm]).max(), atol=0.01)
    assert action[-1] == pytest.approx(-10.0 / actions.unit[-1])
