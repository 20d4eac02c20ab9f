from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.envs.kinematics import Kinematics
from roborl.envs.robot_model import load_robot_model
from roborl.envs.scene import Scene
from roborl.envs.tasks.registry import make_task
from roborl.errors import ConfigError
from roborl.paths import robot_folder

MODEL = load_robot_model("so101_sim")
KINEMATICS = Kinematics(MODEL)
SCENE = Scene(make_task("Reach"), MODEL)


def shares(size: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(0.0, 1.0), min_size=size, max_size=size)


@given(shares(6))
@settings(max_examples=50)
def test_chain_and_mujoco_model_agree_on_the_end_effector(share: list[float]) -> None:
    joints = MODEL.lower + np.array(share) * (MODEL.upper - MODEL.lower)
    for name, degrees in zip(MODEL.joint_names[:5], joints[:5], strict=True):
        SCENE.data.joint(name).qpos[0] = np.radians(degrees)
    mujoco.mj_kinematics(SCENE.model, SCENE.data)
    np.testing.assert_allclose(KINEMATICS.position(joints), SCENE.tool(), atol=1e-6)


def test_joint_limits_of_chain_and_mujoco_model_agree() -> None:
    for i, name in enumerate(MODEL.joint_names[:5]):
        limits = np.degrees(SCENE.model.joint(name).range)
        np.testing.assert_allclose(limits, [MODEL.lower[i], MODEL.upper[i]], atol=1e-3)


@given(st.floats(0.15, 0.28), st.floats(-0.10, 0.10), st.floats(0.012, 0.06))
@settings(max_examples=60)
def test_solved_points_are_met_with_the_fingers_down(x: float, y: float, z: float) -> None:
    target = np.array([x, y, z])
    if np.linalg.norm(target[:2] - (0.0388, 0.0)) > 0.235:
        return
    joints = KINEMATICS.solve(target, MODEL.home, iterations=60)
    assert np.linalg.norm(KINEMATICS.position(joints) - target) < 5e-4
    assert np.all(joints >= MODEL.lower)
    assert np.all(joints <= MODEL.upper)
    down = joints[1] + joints[2] + joints[3]  # the three joints that pitch the fingers, degrees
    assert abs(down - 90.0) < 12.0


@given(shares(6), st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=3))
@settings(max_examples=60)
def test_solving_never_leaves_the_limits_or_moves_the_gripper(share: list[float], point: list[float]) -> None:
    start = MODEL.lower + np.array(share) * (MODEL.upper - MODEL.lower)
    joints = KINEMATICS.solve(np.array(point), start)
    assert np.all(joints >= MODEL.lower - 1e-9)
    assert np.all(joints <= MODEL.upper + 1e-9)
    assert joints[MODEL.gripper_index] == start[MODEL.gripper_index]
    assert joints[4] == pytest.approx(start[4])


def test_a_robot_that_reports_other_joints_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"shoulder_pan\.pos"):
        MODEL.from_features({"waist.pos": 0.0})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("max_velocity_per_s", 0.0, "max_velocity_per_s is out of range"),
        ("max_velocity_per_s", float("nan"), "max_velocity_per_s is out of range"),
        ("max_acceleration_per_s2", -1.0, "max_acceleration_per_s2 is out of range"),
        ("axis", [0.0, 2.0, 0.0], "no unit vector"),
    ],
)
def test_a_description_that_no_limit_can_be_taken_from_is_refused(
    tmp_path: Path, field: str, value: object, words: str
) -> None:
    raw = yaml.safe_load((robot_folder("so101_sim") / "robot.yaml").read_text())
    part = raw["chain"][1] if field == "axis" else raw["joints"]["wrist_roll"]
    part[field] = value
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=words):
        load_robot_model(str(tmp_path))
