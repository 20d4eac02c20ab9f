import numpy as np
import pytest
from lerobot.robots.config import RobotConfig
from lerobot.robots.utils import make_robot_from_config
from lerobot.utils.errors import DeviceNotConnectedError
from lerobot.utils.import_utils import make_device_from_device_class

from roborl.envs.sim_robot import SimOperator, SimRobot
from roborl.errors import ConfigError, RobotError
from roborl.plugins import robots


@pytest.fixture
def robot(tmp_path) -> SimRobot:
    made = make_robot_from_config(robots.SimRobotConfig(scene="PickCube", calibration_dir=tmp_path))
    yield made
    made.disconnect()


def test_lerobot_knows_the_type_by_name() -> None:
    assert RobotConfig.get_choice_class("so101_sim") is robots.SimRobotConfig


def test_lerobot_finds_the_class_by_its_naming_rule(tmp_path) -> None:
    made = make_device_from_device_class(robots.SimRobotConfig(calibration_dir=tmp_path))
    assert isinstance(made, robots.SimRobot)


def test_features_are_known_before_connecting_and_kept_to(robot: SimRobot) -> None:
    features = robot.observation_features
    assert features["front"] == (64, 64, 3)
    assert features["gripper.pos"] is float
    robot.connect()
    seen = robot.get_observation()
    assert set(seen) == set(features)
    for name, feature in features.items():
        if isinstance(feature, tuple):
            assert seen[name].shape == feature
            assert seen[name].dtype == np.uint8
        else:
            assert isinstance(seen[name], feature)


def test_actions_are_clipped_to_the_joint_limits_and_what_was_done_is_returned(robot: SimRobot) -> None:
    robot.connect()
    done = robot.send_action({"gripper.pos": 250.0, "shoulder_pan.pos": -500.0})
    assert done["gripper.pos"] == 100.0
    assert done["shoulder_pan.pos"] == -110.0
    assert set(done) == set(robot.action_features)


def test_time_passes_in_send_action_alone_by_one_control_period(robot: SimRobot) -> None:
    robot.connect()
    before = robot.scene.data.time
    robot.get_observation()
    robot.bus.sync_read("Present_Position")
    assert robot.scene.data.time == before
    robot.send_action({})
    assert robot.scene.data.time - before == pytest.approx(1 / 50)


def test_an_unconnected_robot_refuses(robot: SimRobot) -> None:
    with pytest.raises(DeviceNotConnectedError):
        robot.get_observation()
    with pytest.raises(DeviceNotConnectedError):
        robot.send_action({})
    with pytest.raises(RobotError, match="not connected"):
        robot.cameras["front"].read()


def test_the_bus_shim_reads_and_writes_as_the_tools_do(robot: SimRobot) -> None:
    robot.connect()
    assert tuple(robot.bus.motors) == robot.model.joint_names
    for _ in range(40):
        robot.bus.sync_write("Goal_Position", {"shoulder_pan": 12.0})
    assert robot.bus.sync_read("Present_Position")["shoulder_pan"] == pytest.approx(12.0, abs=0.5)
    assert set(robot.bus.sync_read("Present_Current")) == set(robot.model.joint_names)
    with pytest.raises(RobotError, match="Torque_Enable"):
        robot.bus.sync_write("Torque_Enable", {})


def test_a_camera_that_the_scene_does_not_have_is_refused(tmp_path) -> None:
    cameras = {"ceiling": robots.SimCameraConfig(fps=10, width=64, height=64)}
    with pytest.raises(ConfigError, match=r"ceiling.*front"):
        SimRobot(robots.SimRobotConfig(cameras=cameras, calibration_dir=tmp_path))


def test_the_operator_resets_by_seed_and_presses_only_for_success(robot: SimRobot) -> None:
    operator = SimOperator(robot)
    robot.connect()
    operator.reset(3)
    first = robot.get_observation()
    operator.reset(4)
    operator.reset(3)
    again = robot.get_observation()
    assert operator.verdict() is None
    np.testing.assert_array_equal(first["front"], again["front"])
