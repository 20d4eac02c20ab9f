"""What LeRobot's serial arms need beside their own methods, so that one lost byte or one pulled plug does no more harm than it must."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import termios
import time
from collections.abc import Iterator
from typing import Any

from lerobot.motors import MotorNormMode
from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.robots.robot import Robot

log = logging.getLogger(__name__)

DEVICE_FAULTS = (OSError, RuntimeError, TimeoutError, ValueError, termios.error)
"""What LeRobot's robots, buses and cameras raise when a device fails; DeviceNotConnectedError is an OSError, and what a
serial port raises whose plug was pulled is none."""

READ_RETRIES = 2
"""A packet that is lost now and then is no fault of the robot."""

_QUIET_S = 0.005
"""How long answers that are overdue may still come in, once one has."""

_OPENING = 5.0
"""By how much of its 100 a gripper that was overloaded opens."""
_OPENING_S = 0.1

_GRIPPER = "gripper"
_SILENT = "silent"
OVERLOAD = "overload"
_COEFFICIENTS = {
    "P_Coefficient": "position_p_coefficient",
    "I_Coefficient": "position_i_coefficient",
    "D_Coefficient": "position_d_coefficient",
}
"""Registers that LeRobot sets in every servo of an SO-101, and the fields of its configuration that say to what."""
_GRIPPERS_LIMITS = {"Max_Torque_Limit": 500, "Protection_Current": 250, "Overload_Torque": 25}
"""What LeRobot 0.6.1 sets in the gripper of such an arm, and in no other servo."""
_BITS = {1: "voltage", 2: "position sensor", 4: "heat", 8: "current", 32: OVERLOAD}


def steady(device: Any) -> None:
    """Make the bus of Feetech servos bear lost and late packets, and keep its port from other processes.

    LeRobot 0.6.1 asks each servo a hundred times and more while it connects, each time once only; takes an answer that came
    late for the answer to its next question, and stays one behind from then on; and lets two processes drive one arm.

    Args:
        device: A robot or teleoperator, not connected yet. One without such a bus is left as it is.
    """
    bus: Any = getattr(device, "bus", None)
    if not isinstance(bus, FeetechMotorsBus):
        return
    port, packets = bus.port_handler, bus.packet_handler
    open_port, ask, hear = port.openPort, packets.txRxPacket, packets.rxPacket
    restless = 0

    def open_alone() -> bool:
        port.is_using = False  # as a packet that failed half-way leaves it
        opened: bool = open_port()
        try:
            fcntl.flock(port.ser.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            port.closePort()
            raise OSError(
                "somebody has this port open: a run that still goes on, or the other arm of this one"
            ) from None
        return opened

    def clear() -> None:
        nonlocal restless
        if restless:
            restless -= 1
            time.sleep(_QUIET_S)
        try:
            port.ser.flush()
            port.ser.reset_input_buffer()
        except termios.error as error:  # which is no OSError, and has no name of its own
            raise OSError(*error.args) from None

    def hear_and_note(port: Any) -> Any:
        nonlocal restless
        heard = hear(port)
        if heard[1] != bus._comm_success:
            restless = (
                2  # the question asked again, whose answer the late one may pass for, and the one after it
            )
        return heard

    def ask_again(port: Any, packet: Any) -> Any:
        for _ in range(READ_RETRIES):
            answer = ask(port, packet)
            if answer[1] == bus._comm_success:
                return answer
        return ask(port, packet)

    port.openPort, port.clearPort = open_alone, clear
    packets.rxPacket, packets.txRxPacket = hear_and_note, ask_again


@contextlib.contextmanager
def keeping_hold(robot: Robot) -> Iterator[None]:
    """Let an arm hold the place it is in while it is connected: servos with torque keep it, others get it where they stand.

    LeRobot 0.6.1 configures its serial arms with the torque off: the joints of an arm in mid-air then sink, and whatever
    it carries with them. Servos under torque have settings already, for LeRobot puts the torque on last; where those are
    not the bench's, that is said. And it puts the torque on without a goal: a servo that was turned by hand meanwhile may
    still have the one of before, and runs to it.

    Args:
        robot: Not connected yet. One without servos on a bus is left as it is.
    """
    arm: Any = robot
    bus, configure = getattr(arm, "bus", None), getattr(arm, "configure", None)
    if bus is None or configure is None or not hasattr(bus, "torque_disabled"):
        yield
        return

    enable_torque = bus.enable_torque

    def hold_here(motors: Any = None, num_retry: int = 0) -> None:
        for name, place in _read(bus, "Present_Position", motors).items():
            bus.write("Goal_Position", name, place, normalize=False, num_retry=READ_RETRIES)
        enable_torque(motors, num_retry=num_retry)

    def configure_unless_holding() -> None:
        torque = _read(bus, "Torque_Enable")
        limp = [name for name, on in torque.items() if not on]
        if not limp:
            _warn_of_settings(arm)
        elif len(limp) < len(torque):
            log.warning(
                "Without torque while the others hold, and holding again now: %s", ", ".join(map(str, limp))
            )
            hold_here(limp, READ_RETRIES)
            _warn_of_settings(arm)
        else:
            configure()

    arm.configure, bus.enable_torque = configure_unless_holding, hold_here
    try:
        yield
    finally:
        del arm.configure, bus.enable_torque


def _warn_of_settings(arm: Any) -> None:
    """Say which settings of servos that hold, and so keep what they have, are not what the bench or LeRobot would set."""
    wanted = {
        register: getattr(getattr(arm, "config", None), field, None)
        for register, field in _COEFFICIENTS.items()
    }
    if None in wanted.values():
        return
    other = []
    for register, value in (wanted | _GRIPPERS_LIMITS).items():
        joints = _GRIPPER if register in _GRIPPERS_LIMITS else None
        found = {name: has for name, has in _read(arm.bus, register, joints).items() if has != value}
        if found:
            field = f" ({_COEFFICIENTS[register]})" if register in _COEFFICIENTS else ""
            kept = ", ".join(f"{name} {has}" for name, has in found.items())
            other.append(f"{register}{field} is to be {value}, and is {kept}")
    if other:
        log.warning(
            "The servos hold, and keep settings that are not the bench's: %s. To set them, support the arm, switch its power"
            " off and on, and start again",
            "; ".join(other),
        )


def connect_holding(robot: Robot, gripper: str) -> None:
    """Connect an arm without letting go of it. Its gripper may have given up: it is opened a little then.

    LeRobot 0.6.1 takes a servo that answers with a fault for missing, and no arm connects that misses one.

    Args:
        robot: Not connected yet.
        gripper: The name of its gripper.

    Raises:
        OSError: If it does not answer, or whatever else of ``DEVICE_FAULTS`` LeRobot raises.
    """
    with keeping_hold(robot):
        try:
            robot.connect(calibrate=False)
        except DEVICE_FAULTS:
            if _faults(robot) != {gripper: OVERLOAD}:
                raise
            open_a_little(robot, gripper)
            close_port(robot)
            robot.connect(calibrate=False)


def open_a_little(robot: Any, gripper: str) -> None:
    """Turn a gripper away from what it squeezes: a servo that gave up takes torque again for the other way alone.

    In its own steps and within its own limits: it may hold another calibration than the file's, which nobody has compared
    yet where the arm is being connected. Blocks for a tenth of a second.
    """
    bus = robot.bus
    place, low, high = (
        _read(bus, register, gripper)[gripper]
        for register in ("Present_Position", "Min_Position_Limit", "Max_Position_Limit")
    )
    opens = -1 if getattr(bus.calibration.get(gripper), "drive_mode", 0) else 1
    goal = place + opens * round(_OPENING / 100 * (high - low))
    # To all servos at once, so that none answers: LeRobot takes an answer with a fault in it for none.
    bus.sync_write("Goal_Position", {gripper: min(max(goal, low), high)}, normalize=False)
    time.sleep(_OPENING_S)


def _read(bus: Any, register: str, motors: Any = None) -> dict[str, int]:
    values: dict[str, int] = bus.sync_read(register, motors, normalize=False, num_retry=READ_RETRIES)
    return values


def other_units(device: Any) -> dict[str, str]:
    """Return LeRobot's word for the unit of each joint, but for the gripper, that a device on a bus does not give in degrees.

    Args:
        device: A robot or teleoperator. One without such a bus says nothing of its units.
    """
    motors = getattr(getattr(device, "bus", None), "motors", {})
    return {
        name: motor.norm_mode.value
        for name, motor in motors.items()
        if name != _GRIPPER
        and getattr(motor, "norm_mode", MotorNormMode.DEGREES) is not MotorNormMode.DEGREES
    }


def close_port(device: Any) -> None:
    """Close the serial port of a device that does not answer any more, so that it can be opened anew. Nothing is sent."""
    port = getattr(getattr(device, "bus", None), "port_handler", None)
    if port is not None and port.is_open:
        port.closePort()


def diagnosis(device: Any) -> str:
    """Return in words which servos of a device that could not be connected are silent, and which report a fault.

    LeRobot calls a servo that reports a fault missing. Blocks up to a second; the port is left as it was found.

    Returns:
        Nothing where the port is not open, or all servos are as they should be.
    """
    try:
        faults = _faults(device)
    except DEVICE_FAULTS:
        return "the port is dead: its plug was pulled"
    silent = [name for name, fault in faults.items() if fault == _SILENT]
    faulty = [f"{name} reports {fault}" for name, fault in faults.items() if fault != _SILENT]
    if silent and len(silent) == len(device.bus.motors):
        return "no servo answers: the power of the arm is off, or this is another device's port"
    said = [f"no answer from {', '.join(silent)}: look at the cables there"] if silent else []
    said += (
        [f"{', '.join(faulty)}: relieve it, let it cool down, switch its power off and on"] if faulty else []
    )
    return "; ".join(said)


def _faults(device: Any) -> dict[str, str]:
    """Return which servos are silent or report a fault, by joint; nothing where the port is not open."""
    bus: Any = getattr(device, "bus", None)
    if not isinstance(bus, FeetechMotorsBus) or not bus.is_connected:
        return {}
    port, packets = bus.port_handler, bus.packet_handler
    port.is_using = False
    faults = {}
    for name, motor in bus.motors.items():
        _, result, bits = packets.ping(port, motor.id)
        if result != bus._comm_success:
            faults[name] = _SILENT
        elif bits:
            faults[name] = _words(bits)
    return faults


def goals(bus: Any) -> dict[str, float]:
    """Return where servos are told to be, as ``<joint>.pos`` in LeRobot's units; nothing of other servos than Feetech's.

    Args:
        bus: Of a connected robot, or None.

    Raises:
        OSError: If it does not answer.
    """
    if not isinstance(bus, FeetechMotorsBus):
        return {}
    told = bus.sync_read("Goal_Position", num_retry=READ_RETRIES)
    return {f"{name}.pos": float(place) for name, place in told.items()}


def weak_servos(bus: Any) -> dict[str, str]:
    """Return why servos cannot hold their joints, by joint: those without torque, and those with a fault upon them.

    Neither shows in positions or set-points: a servo whose power was away for a moment answers as before.

    Args:
        bus: Of a connected robot; one of other servos than Feetech's tells nothing.

    Raises:
        OSError: If it does not answer.
    """
    if not isinstance(bus, FeetechMotorsBus):
        return {}
    faults, torque = _read(bus, "Status"), _read(bus, "Torque_Enable")
    weak = {name: _words(bits) for name, bits in faults.items() if bits}
    return {name: "no torque" for name, on in torque.items() if not on} | weak


def _words(bits: int) -> str:
    return ", ".join(word for bit, word in _BITS.items() if bits & bit) or f"fault {bits}"
