"""LeRobot's own driver finds in the emulated servos what it expects of real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lerobot.motors import Motor, MotorCalibration, MotorNormMode
from lerobot.motors.feetech import FeetechMotorsBus

from roborl.clock import NS, FakeClock
from roborl.testing.servo import ServoFault
from roborl.testing.servo_chain import Instruction, ServoChain

NAMES = ("pan", "lift", "jaw")


class Bench:
    """Three servos on a clock that stands still until it is set, and the driver."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.chain = ServoChain(folder / "ttyACM0", NAMES, now_s=lambda: self.clock.now_ns() / NS)
        motors = {
            name: Motor(number, "sts3215", MotorNormMode.DEGREES)
            for number, name in enumerate(NAMES, start=1)
        }
        self.bus = FeetechMotorsBus(str(self.chain.port), motors)

    def wait(self, seconds: float) -> None:
        self.clock.sleep_until(self.clock.now_ns() + int(seconds * NS))

    def positions(self) -> list[int]:
        return list(self.bus.sync_read("Present_Position", normalize=False, num_retry=3).values())


@pytest.fixture
def bench(tmp_path: Path, patient_driver: list[ServoChain]) -> Iterator[Bench]:
    made = Bench(tmp_path)
    patient_driver.append(made.chain)
    with made.chain:
        made.bus.connect(handshake=False)
        yield made
        if made.bus.is_connected:
            made.bus.port_handler.closePort()


def test_the_driver_finds_its_motors_and_their_firmware(bench: Bench) -> None:
    bench.bus._handshake()
    assert bench.bus.broadcast_ping() == {1: 777, 2: 777, 3: 777}
    assert bench.chain.broken == 0


def test_calibration_is_kept_without_power_where_it_was_not_locked(bench: Bench) -> None:
    bench.bus.disable_torque()
    wanted = {
        name: MotorCalibration(id=number, drive_mode=0, homing_offset=-40, range_min=900, range_max=3100)
        for number, name in enumerate(NAMES, start=1)
    }
    bench.bus.write_calibration(wanted)
    assert bench.bus.is_calibrated
    bench.bus.enable_torque()
    bench.bus.write("Min_Position_Limit", "jaw", 950)
    assert not bench.bus.is_calibrated
    bench.chain.power(False)
    bench.chain.power(True)
    assert bench.bus.is_calibrated
    assert not any(servo["Torque_Enable"] for servo in bench.chain.servos.values())


def test_servos_turn_to_their_goals_under_torque_alone_no_faster_than_they_can(bench: Bench) -> None:
    goals = {"pan": 2600, "lift": 1000, "jaw": 5000}
    bench.bus.sync_write("Goal_Position", goals, normalize=False)
    bench.wait(1.0)
    assert bench.positions() == [2048, 2048, 2048]
    bench.bus.enable_torque()
    bench.wait(0.1)
    assert bench.positions() == [2348, 1748, 2348]
    bench.wait(1.0)
    assert bench.positions() == [2600, 1000, 4095], "the limit of its position"
    bench.bus.write("Homing_Offset", "pan", 100)
    assert bench.positions()[0] == 2500


def test_planned_writes_wait_for_the_word(bench: Bench) -> None:
    port, handler = bench.bus.port_handler, bench.bus.packet_handler
    handler.regWriteTxRx(port, 1, 41, 1, [7])
    assert bench.bus.read("Acceleration", "pan") == 0
    handler.action(port, 0xFE)
    assert bench.bus.read("Acceleration", "pan") == 7


@pytest.mark.parametrize("fault", ["lose_every", "garble_every"])
def test_a_status_packet_that_is_lost_or_garbled_is_asked_for_again(bench: Bench, fault: str) -> None:
    setattr(bench.chain, fault, 4)
    for _ in range(3):
        assert bench.positions() == [2048, 2048, 2048]
    assert bench.chain.asked[Instruction.SYNC_READ] > 3


def test_a_servo_that_is_silent_or_at_fault_is_told(bench: Bench) -> None:
    bench.chain.servos["lift"].fault = ServoFault.OVERLOAD
    with pytest.raises(RuntimeError, match="Overload"):
        bench.bus.read("Present_Position", "lift", normalize=False)
    bench.chain.servos["lift"].silent = True
    with pytest.raises(RuntimeError, match="Missing motor IDs:\n  - 2 "):
        bench.bus._handshake()


def test_a_plug_that_is_pulled_leaves_a_dead_port_and_comes_back_under_its_name(bench: Bench) -> None:
    bench.chain.unplug()
    assert not bench.chain.port.exists()
    with pytest.raises(Exception, match="Input/output error"):
        bench.positions()
    bench.bus.port_handler.closePort()
    bench.chain.plug_in()
    bench.bus.port_handler.is_using = False
    bench.bus.connect(handshake=False)
    assert bench.positions() == [2048, 2048, 2048]


def test_bytes_take_their_time_on_the_wire(tmp_path: Path) -> None:
    with ServoChain(tmp_path / "slow", NAMES, byte_s=1e-3) as chain:
        bus = FeetechMotorsBus(str(chain.port), Bench(tmp_path).bus.motors)
        bus.connect(handshake=False)
        # Eight bytes to ask, seven to answer.
        before = chain.now_s()
        bus.read("Lock", "pan")
        assert chain.now_s() - before > 0.015
        bus.port_handler.closePort()
