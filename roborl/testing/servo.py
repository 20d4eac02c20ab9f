"""One emulated STS3215: its registers, its power, and how it turns towards its goal."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag

from lerobot.motors.encoding_utils import decode_sign_magnitude, encode_sign_magnitude
from lerobot.motors.feetech.tables import (
    MODEL_NUMBER_TABLE,
    STS_SMS_SERIES_CONTROL_TABLE,
    STS_SMS_SERIES_ENCODINGS_TABLE,
)

_TURN = 4096
# Registers below are kept without power, where Lock was 0 when they were written.
_KEPT_BELOW = STS_SMS_SERIES_CONTROL_TABLE["Torque_Enable"][0]
_READ_ONLY = {"Firmware_Major_Version", "Firmware_Minor_Version", "Model_Number"} | {
    name for name in STS_SMS_SERIES_CONTROL_TABLE if name.startswith("Present_")
}
_FACTORY = {
    "Firmware_Major_Version": 3,
    "Firmware_Minor_Version": 10,
    "Model_Number": MODEL_NUMBER_TABLE["sts3215"],
    "Return_Delay_Time": 250,
    "Response_Status_Level": 1,
    "Max_Position_Limit": _TURN - 1,
    "Max_Temperature_Limit": 70,
    "Max_Voltage_Limit": 80,
    "Min_Voltage_Limit": 40,
    "Max_Torque_Limit": 1000,
    "Phase": 12,
    "P_Coefficient": 32,
    "D_Coefficient": 32,
    "Protection_Current": 500,
    "Angular_Resolution": 1,
    "Protective_Torque": 20,
    "Protection_Time": 200,
    "Overload_Torque": 80,
}
_AT_POWER_ON = {"Torque_Limit": 1000, "Lock": 1, "Present_Voltage": 74, "Present_Temperature": 30}


class ServoFault(IntFlag):
    """Bits of a status packet's error byte."""

    VOLTAGE = 1
    ANGLE = 2
    OVERHEAT = 4
    OVERCURRENT = 8
    OVERLOAD = 32


class Servo:
    """Turns towards its goal at a bounded speed while its torque is on, and stays where it is without.

    It keeps the goal that it was given last, whoever turns it meanwhile. While a fault is upon it, it has no torque.

    Args:
        id: Its number on the bus.
        now_s: The clock that it moves by.
        speed_per_s: Steps that it turns in a second, of 4096 a turn; 0: it turns only as it is placed.

    Attributes:
        powered: Whether it has power.
        silent: Whether it has fallen off the bus: it hears and says nothing, and holds on.
        fault: What is upon it; tests set it.
        was_limp: Whether its torque has been off since a test last cleared this.
    """

    def __init__(self, id: int, now_s: Callable[[], float], speed_per_s: float = 3000.0) -> None:
        self.silent, self.was_limp, self.powered = False, True, True
        self._now_s, self._speed_per_s, self._since_s = now_s, speed_per_s, now_s()
        self._fault = ServoFault(0)
        # In steps as the magnet stands, before Homing_Offset.
        self._angle = float(_TURN // 2)
        self._memory = bytearray(256)
        for name, value in {**_FACTORY, "ID": id}.items():
            self._put(name, value)
        self._kept = bytes(self._memory[:_KEPT_BELOW])
        self.power(True)

    @property
    def id(self) -> int:
        """Its number on the bus."""
        return self["ID"]

    @property
    def fault(self) -> ServoFault:
        """What is upon it."""
        return self._fault

    @fault.setter
    def fault(self, fault: ServoFault) -> None:
        self.turn()
        self._fault = fault
        self._put("Status", int(fault))
        self.was_limp |= bool(fault)

    @property
    def answers(self) -> bool:
        """Whether it takes part on the bus."""
        return self.powered and not self.silent

    def __getitem__(self, name: str) -> int:
        """Return a register as LeRobot's driver understands it."""
        self.turn()
        return self._get(name)

    def keep(self, name: str, value: int) -> None:
        """Write a register for good, as somebody does who has unlocked it and locks it again."""
        self._put(name, value)
        self._kept = bytes(self._memory[:_KEPT_BELOW])

    @property
    def driven_to(self) -> int | None:
        """Where it turns to, in steps as it reports them, within its limits; None while it has no torque."""
        if not self.powered or not self._memory[_address("Torque_Enable")] or self._fault:
            return None
        return min(
            self._get("Max_Position_Limit"), max(self._get("Min_Position_Limit"), self._get("Goal_Position"))
        )

    def place(self, position: int) -> None:
        """Turn it by hand to where it reports ``position``."""
        self.turn()
        self._angle = float(position + self["Homing_Offset"])

    def hold(self) -> None:
        """Put its torque on where it stands, as an earlier process left it."""
        self._put("Goal_Position", self["Present_Position"])
        self.write(_address("Torque_Enable"), b"\1")
        self.was_limp = False

    def power(self, on: bool) -> None:
        """Cut its power or give it back; it then wakes without torque, with what it keeps."""
        self.turn()
        self.powered = on
        self._fault, self.was_limp = ServoFault(0), True
        self._memory[_KEPT_BELOW:] = bytes(len(self._memory) - _KEPT_BELOW)
        self._memory[:_KEPT_BELOW] = self._kept
        for name, value in _AT_POWER_ON.items():
            self._put(name, value)
        self._put("Goal_Position", self["Present_Position"])

    def read(self, address: int, length: int) -> bytes:
        """Return registers as they lie in its memory."""
        self.turn()
        return bytes(self._memory[address : address + length])

    def write(self, address: int, data: bytes) -> None:
        """Take registers; what can only be read stays as it is."""
        self.turn()
        for place, value in enumerate(data, start=address):
            if place not in _FIXED:
                self._memory[place] = value
        if not self._memory[_address("Lock")]:
            self._kept = bytes(self._memory[:_KEPT_BELOW])
        self.was_limp |= not self._memory[_address("Torque_Enable")]

    def turn(self) -> None:
        """Move on to where it stands by now."""
        now_s, before_s = self._now_s(), self._since_s
        self._since_s = now_s
        offset = self._get("Homing_Offset")
        goal, reach = self.driven_to, self._speed_per_s * (now_s - before_s)
        # Without a speed nothing is written: whoever places it may do so from another thread.
        if goal is not None and reach:
            self._angle += max(-reach, min(reach, goal + offset - self._angle))
        self._put("Present_Position", round(self._angle) - offset)

    def _get(self, name: str) -> int:
        address, length = STS_SMS_SERIES_CONTROL_TABLE[name]
        value = int.from_bytes(self._memory[address : address + length], "little")
        sign = STS_SMS_SERIES_ENCODINGS_TABLE.get(name)
        return value if sign is None else int(decode_sign_magnitude(value, sign))

    def _put(self, name: str, value: int) -> None:
        address, length = STS_SMS_SERIES_CONTROL_TABLE[name]
        sign = STS_SMS_SERIES_ENCODINGS_TABLE.get(name)
        raw = value if sign is None else encode_sign_magnitude(value, sign)
        self._memory[address : address + length] = int(raw).to_bytes(length, "little")


def _address(name: str) -> int:
    address: int = STS_SMS_SERIES_CONTROL_TABLE[name][0]
    return address


_FIXED = {
    place
    for name in _READ_ONLY
    for address, length in [STS_SMS_SERIES_CONTROL_TABLE[name]]
    for place in range(address, address + length)
}
