"""An SO-101 through LeRobot's own driver, on an emulated bus: what a bench does with it, and with all that can fail on it."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
from lerobot.motors.feetech.tables import STS_SMS_SERIES_CONTROL_TABLE

from roborl.clock import MonotonicClock
from roborl.envs.arm import Arm
from roborl.envs.bench import load_bench, make_robot
from roborl.envs.robot_env import RobotEnv
from roborl.errors import ConfigError, RobotError
from roborl.hil.operator import Nobody
from roborl.testing.desk import DeskArm
from roborl.testing.servo import Servo, ServoFault
from roborl.testing.servo_chain import Instruction, ServoChain

# A step of a servo is 0.09 degrees, and LeRobot rounds towards zero.
STEP = 0.2


def make_arm(desk: DeskArm, **changes: object) -> Arm:
    bench = load_bench(str(desk.bench(**changes)))
    return Arm(bench, make_robot(bench), MonotonicClock())


def was_limp(desk: DeskArm) -> bool:
    return any(servo.was_limp for servo in desk.chain.servos.values())


@pytest.fixture
def arm(desk: DeskArm) -> Arm:
    made = make_arm(desk)
    made.connect()
    return made


def test_an_arm_that_holds_a_place_is_connected_stepped_and_left_holding(desk: DeskArm) -> None:
    away = desk.model.home + np.array([8.0, -10.0, 5.0, 0.0, 10.0, -20.0])
    desk.place(away)
    desk.let_hold()
    env = RobotEnv(load_bench(str(desk.bench())), operator=Nobody())
    env.reset(seed=0)
    assert not was_limp(desk)
    np.testing.assert_allclose(desk.joints(), desk.model.home, atol=2.0)
    for action in ([1, 0, 0, 0], [0, 1, 0, -0.3], [0, 0, 0, 0], [0, 0, 0, 0]):
        observation, *_, info = env.step(np.float32(action))
        np.testing.assert_allclose(info["executed"], action, atol=0.3)
    # It stands where it was told, in degrees and in hundredths of the gripper's way, and says so.
    np.testing.assert_allclose(desk.joints(), env.arm.set_point, atol=2 * STEP)
    middle, half = (
        0.5 * (desk.model.upper + desk.model.lower),
        0.5 * (desk.model.upper - desk.model.lower),
    )
    np.testing.assert_allclose(observation["agent_pos"][:6] * half + middle, desk.joints(), atol=STEP)
    assert 91 < desk.joints()[5] < 94
    assert desk.joints()[0] < -2, "the base turned towards y"
    env.close()
    assert all(desk.holds)


def test_a_limp_arm_is_given_its_settings_and_torque_where_it_stands(desk: DeskArm, arm: Arm) -> None:
    assert all(desk.holds)
    np.testing.assert_allclose(desk.joints(), desk.model.home, atol=STEP)
    assert desk.chain.servos["gripper"]["Max_Torque_Limit"] == 500
    assert desk.chain.servos["elbow_flex"]["P_Coefficient"] == 16
    arm.disconnect()


def test_settings_that_servos_under_torque_do_not_take_are_told_with_both_values(
    desk: DeskArm, arm: Arm, caplog: pytest.LogCaptureFixture
) -> None:
    arm.disconnect()
    again = make_arm(desk)
    again.connect()
    again.disconnect()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    desk.chain.servos["gripper"].keep("Overload_Torque", 80)
    other = make_arm(desk, position_p_coefficient=24)
    other.connect()
    other.disconnect()
    assert all(desk.holds)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert (
        "P_Coefficient (position_p_coefficient) is to be 24, and is shoulder_pan 16, shoulder_lift 16" in said
    )
    assert "Overload_Torque is to be 25, and is gripper 80" in said
    assert "support the arm, switch its power off and on" in said
    assert "I_Coefficient" not in said
    assert desk.chain.servos["elbow_flex"]["P_Coefficient"] == 16


def test_a_limp_arm_that_was_turned_by_hand_does_not_run_to_where_it_was_before(desk: DeskArm) -> None:
    desk.let_hold()
    for servo in desk.chain.servos.values():
        servo.write(STS_SMS_SERIES_CONTROL_TABLE["Torque_Enable"][0], b"\0")
    away = desk.model.home + np.array([40.0, -30.0, 30.0, -60.0, 0.0, -80.0])
    desk.place(away)
    stood = desk.joints()
    arm = make_arm(desk)
    arm.connect()
    time.sleep(0.2)
    assert all(desk.holds)
    np.testing.assert_allclose(desk.joints(), stood, atol=STEP)
    arm.disconnect()


def test_an_arm_that_sags_is_taken_over_from_the_process_before_as_it_was_told(
    tmp_path: Path, patient_driver: list[ServoChain]
) -> None:
    with DeskArm(tmp_path, speed_per_s=0.0) as desk:
        patient_driver.append(desk.chain)
        desk.let_hold()
        told = desk.joints()
        desk.place(desk.model.home + np.array([0.0, 3.0, 3.0, 2.0, 0.0, 0.0]))
        arm = make_arm(desk)
        arm.connect()
        np.testing.assert_allclose(arm.set_point, told, atol=STEP)
        arm.disconnect()


def test_a_servo_that_lost_its_torque_alone_costs_the_others_none(desk: DeskArm) -> None:
    desk.let_hold()
    gripper = desk.chain.servos["gripper"]
    gripper.power(False)
    gripper.power(True)
    arm = make_arm(desk)
    arm.connect()
    assert all(desk.holds)
    assert [name for name, servo in desk.chain.servos.items() if servo.was_limp] == ["gripper"]
    arm.disconnect()


@pytest.mark.parametrize("lets_go", [True, False])
def test_torque_after_disconnecting_is_as_the_bench_says(desk: DeskArm, lets_go: bool) -> None:
    arm = make_arm(desk, disable_torque_on_disconnect=lets_go)
    arm.connect()
    arm.disconnect()
    assert desk.holds == [not lets_go] * 6


@pytest.mark.parametrize("fault", ["lose_every", "garble_every"])
def test_an_arm_whose_packets_get_lost_is_connected_and_read(desk: DeskArm, fault: str) -> None:
    setattr(desk.chain, fault, 40)
    arm = make_arm(desk)
    arm.connect()
    for _ in range(10):
        arm.begin_episode()
    assert desk.chain.asked[Instruction.SYNC_READ] > 31, "some were asked for again"
    arm.disconnect()


def test_an_answer_that_comes_late_is_not_taken_for_the_next_one(desk: DeskArm, arm: Arm) -> None:
    desk.chain.late_s = 0.1
    arm.begin_episode()
    for move in (20.0, 40.0):  # Beyond its leash, so that where it stands is what it is told.
        arm.robot.send_action(desk.model.to_features(desk.model.home + move * np.eye(6)[0]))
        time.sleep(0.1)
        arm.begin_episode()
        assert arm.set_point[0] == pytest.approx(desk.model.home[0] + move, abs=STEP)
    arm.disconnect()


def test_one_arm_is_driven_by_one_process_at_a_time(desk: DeskArm, arm: Arm) -> None:
    other = make_arm(desk)
    with pytest.raises(RobotError, match="somebody has this port open"):
        other.connect()
    before = dict(desk.chain.asked)
    with pytest.raises(RobotError, match="cannot be connected"):
        other.connect()
    assert desk.chain.asked == before, "nothing was said on the other's bus"
    arm.disconnect()
    other.connect()
    other.disconnect()


def test_a_plug_that_is_pulled_is_the_robots_fault_whatever_is_asked(desk: DeskArm, arm: Arm) -> None:
    desk.chain.unplug()
    for call in (arm.hold, arm.begin_episode, lambda: arm.observe(0)):
        with pytest.raises(RobotError):
            call()
    arm.disconnect()
    desk.chain.plug_in()
    arm.connect()
    assert not any(servo.fault for servo in desk.chain.servos.values())
    arm.disconnect()


def test_a_plug_that_is_pulled_from_an_arm_to_be_let_go_is_told(desk: DeskArm) -> None:
    arm = make_arm(desk, disable_torque_on_disconnect=True)
    arm.connect()
    desk.chain.unplug()
    with pytest.raises(RobotError, match="cannot be disconnected"):
        arm.disconnect()
    assert not arm.robot.bus.is_connected, "the dead port is closed all the same"


def test_an_arm_whose_power_was_away_between_episodes_begins_none_limp(desk: DeskArm, arm: Arm) -> None:
    desk.chain.power(False)
    with pytest.raises(RobotError, match="does not report its joints"):
        arm.begin_episode()
    desk.chain.power(True)
    with pytest.raises(RobotError, match=r"shoulder_pan: no torque.*support the arm"):
        arm.begin_episode()
    arm.disconnect()


def test_a_servo_that_gave_up_is_told_before_an_episode(desk: DeskArm, arm: Arm) -> None:
    desk.chain.servos["gripper"].fault = ServoFault.OVERLOAD
    with pytest.raises(RobotError, match=r"gripper: overload\."):
        arm.begin_episode()
    arm.disconnect()


def let_come_to_itself(gripper: Servo, monkeypatch: pytest.MonkeyPatch) -> None:
    """End a gripper's fault as soon as it is told to turn the other way."""
    write = gripper.write

    def comes_to_itself(address: int, data: bytes) -> None:
        write(address, data)
        if gripper["Goal_Position"] > gripper["Present_Position"] + 1:
            gripper.fault = ServoFault(0)

    monkeypatch.setattr(gripper, "write", comes_to_itself)


def test_a_gripper_that_squeezed_for_too_long_is_opened_a_little_and_goes_on(
    desk: DeskArm, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.place(np.append(desk.model.home[:5], 30.0))
    arm.begin_episode()
    arm.hold()
    time.sleep(0.05)
    closed = desk.joints()[5]
    gripper = desk.chain.servos["gripper"]
    let_come_to_itself(gripper, monkeypatch)
    gripper.fault = ServoFault.OVERLOAD
    arm.begin_episode()
    assert desk.joints()[5] == pytest.approx(closed + 5.0, abs=STEP)
    np.testing.assert_allclose(arm.set_point, desk.joints(), atol=STEP)
    np.testing.assert_allclose(desk.joints()[:5], desk.model.home[:5], atol=STEP)

    gripper.fault = ServoFault.OVERLOAD | ServoFault.OVERHEAT
    with pytest.raises(RobotError, match=r"gripper: heat, overload\."):
        arm.begin_episode()
    assert desk.joints()[5] == pytest.approx(closed + 5.0, abs=STEP), "one that is hot is left alone"
    arm.disconnect()


def test_an_arm_whose_gripper_gave_up_is_connected_with_it_opened_a_little(
    desk: DeskArm, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.place(np.append(desk.model.home[:5], 30.0))
    desk.let_hold()
    stood = desk.joints()
    gripper = desk.chain.servos["gripper"]
    gripper.fault = ServoFault.OVERLOAD
    arm = make_arm(desk)
    with pytest.raises(RobotError, match="gripper reports overload"):
        arm.connect()
    let_come_to_itself(gripper, monkeypatch)
    desk.let_hold()
    gripper.fault = ServoFault.OVERLOAD
    arm.connect()
    opened = stood + 5.0 * np.eye(6)[5]
    np.testing.assert_allclose(desk.joints(), opened, atol=STEP)
    np.testing.assert_allclose(arm.set_point, opened, atol=STEP)
    assert [name for name, servo in desk.chain.servos.items() if servo.was_limp] == ["gripper"]
    arm.disconnect()


def test_a_gripper_that_gave_up_is_opened_though_the_file_holds_another_calibration(
    desk: DeskArm, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.place(np.append(desk.model.home[:5], 30.0))
    desk.let_hold()
    held = json.loads(desk.calibration.read_text())
    held["gripper"] |= {"range_min": 300, "range_max": 1300}
    desk.calibration.write_text(json.dumps(held))
    gripper = desk.chain.servos["gripper"]
    let_come_to_itself(gripper, monkeypatch)
    gripper.fault = ServoFault.OVERLOAD
    with pytest.raises(ConfigError, match="not calibrated"):
        make_arm(desk).connect()
    assert desk.goals()[5] == pytest.approx(35.0, abs=STEP)


@pytest.mark.parametrize(
    ("servo", "fault"), [("gripper", ServoFault.OVERHEAT), ("elbow_flex", ServoFault.OVERLOAD)]
)
def test_an_arm_with_any_other_fault_is_not_moved_as_it_is_connected(
    desk: DeskArm, servo: str, fault: ServoFault
) -> None:
    desk.let_hold()
    stood = desk.joints()
    desk.chain.servos["gripper"].fault = ServoFault.OVERLOAD
    desk.chain.servos[servo].fault |= fault
    with pytest.raises(RobotError, match="cannot be connected"):
        make_arm(desk).connect()
    np.testing.assert_allclose(desk.goals()[:5], stood[:5], atol=STEP)
    assert desk.chain.servos["gripper"]["Goal_Position"] == desk.chain.servos["gripper"]["Present_Position"]


def test_why_an_arm_cannot_be_connected_is_said_in_words(desk: DeskArm, tmp_path: Path) -> None:
    desk.chain.servos["wrist_flex"].silent = True
    desk.chain.servos["gripper"].fault = ServoFault.OVERLOAD | ServoFault.OVERHEAT
    with pytest.raises(RobotError, match=r"no answer from wrist_flex.*gripper reports heat, overload"):
        make_arm(desk).connect()
    desk.chain.power(False)
    with pytest.raises(RobotError, match="no servo answers: the power"):
        make_arm(desk).connect()
    with pytest.raises(RobotError, match=r"No such file or directory: '.*nowhere'"):
        make_arm(desk, port=str(tmp_path / "nowhere")).connect()


def test_an_arm_that_is_not_calibrated_as_its_file_says_is_refused(desk: DeskArm) -> None:
    desk.chain.servos["elbow_flex"].keep("Homing_Offset", 3)
    with pytest.raises(ConfigError, match=r"another calibration.*id 'desk'"):
        make_arm(desk).connect()
    with pytest.raises(ConfigError, match=r"not calibrated.*other\.json"):
        make_arm(desk, id="other").connect()


@pytest.mark.parametrize("text", ["", '{"shoulder_pan": {"id": 1}}', "[1]"])
def test_a_calibration_file_that_is_cut_off_is_a_fault_of_the_configuration(desk: DeskArm, text: str) -> None:
    desk.calibration.write_text(text)
    with pytest.raises(ConfigError, match=r"cannot be made.*calibrate again under id desk"):
        make_arm(desk)


@pytest.mark.slow
def test_reading_and_writing_the_bus_at_its_own_speed_takes_a_fraction_of_a_control_period(
    tmp_path: Path,
) -> None:
    with DeskArm(tmp_path, byte_s=1e-5) as desk:  # 1 Mbaud
        arm = make_arm(desk)
        arm.connect()
        took_s = []
        for index in range(300):
            began = time.perf_counter()
            arm.observe(index)
            arm.tick()
            took_s.append(time.perf_counter() - began)
        arm.disconnect()
    median_s, late_s = np.quantile(took_s, [0.5, 0.99])
    assert median_s < 0.2 / 50, f"{median_s * 1e3:.2f} ms, {late_s * 1e3:.2f} ms in one of a hundred"
