"""An arm that holds a place is connected without letting go of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from roborl.envs.servos import keeping_hold


class Bus:
    def __init__(self, torque: list[int]) -> None:
        self.torque = dict(enumerate(torque))
        self.was_limp = False

    def sync_read(self, register: str, *, normalize: bool, num_retry: int) -> dict[int, int]:
        assert (register, normalize) == ("Torque_Enable", False)
        return dict(self.torque)

    @contextlib.contextmanager
    def torque_disabled(self) -> Iterator[None]:
        self.was_limp = True
        yield
        self.torque = dict.fromkeys(self.torque, 1)


class Follower:
    """Connects as LeRobot's serial arms do."""

    def __init__(self, *torque: int) -> None:
        self.bus = Bus(list(torque))

    def configure(self) -> None:
        with self.bus.torque_disabled():
            pass

    def connect(self) -> None:
        self.configure()


@pytest.mark.parametrize(("torque", "limp"), [((1, 1, 1), False), ((1, 0, 1), True), ((0, 0, 0), True)])
def test_servos_that_all_hold_are_not_let_go(torque: tuple[int, ...], limp: bool) -> None:
    robot: Any = Follower(*torque)
    with keeping_hold(robot):
        robot.connect()
    assert robot.bus.was_limp is limp
    assert all(robot.bus.torque.values())
    robot.connect()
    assert robot.bus.was_limp, "LeRobot's own way is back"


def test_lerobots_arm_configures_itself_by_the_method_and_the_register_that_are_used_here() -> None:
    import inspect

    from lerobot.motors.feetech.tables import STS_SMS_SERIES_CONTROL_TABLE
    from lerobot.robots.so_follower.so_follower import SOFollower

    assert "self.configure()" in inspect.getsource(SOFollower.connect)
    assert "self.bus.torque_disabled()" in inspect.getsource(SOFollower.configure)
    assert "Torque_Enable" in STS_SMS_SERIES_CONTROL_TABLE


def test_a_robot_without_servos_on_a_bus_is_left_as_it_is() -> None:
    class Other:
        def configure(self) -> str:
            return "its own way"

    robot: Any = Other()
    with keeping_hold(robot):
        assert robot.configure() == "its own way"
    assert vars(robot) == {}
