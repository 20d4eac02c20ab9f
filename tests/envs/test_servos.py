"""An arm that holds a place is connected without letting go of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from roborl.envs.servos import keeping_hold


class Bus:
    """Servos that run to their goals as soon as they have torque."""

    def __init__(self, torque: list[int]) -> None:
        self.torque = dict(enumerate(torque))
        self.places = {name: 10 * name for name in self.torque}
        self.goals = {name: place if torque[name] else 999 for name, place in self.places.items()}
        self.was_limp: set[int] = set()
        self.ran_away: set[int] = set()

    def sync_read(self, register: str, motors: Any = None, **options: Any) -> dict[int, int]:
        assert options["normalize"] is False
        found = {"Torque_Enable": self.torque, "Present_Position": self.places}[register]
        return {name: value for name, value in found.items() if motors is None or name in motors}

    def write(self, register: str, motor: int, value: int, *, normalize: bool, num_retry: int) -> None:
        assert (register, normalize) == ("Goal_Position", False)
        self.goals[motor] = value

    def enable_torque(self, motors: Any = None, num_retry: int = 0) -> None:
        for name in motors or self.torque:
            self.torque[name] = 1
            if self.goals[name] != self.places[name]:
                self.ran_away.add(name)

    @contextlib.contextmanager
    def torque_disabled(self) -> Iterator[None]:
        self.was_limp |= set(self.torque)
        yield
        self.enable_torque()


class Follower:
    """Connects as LeRobot's serial arms do."""

    def __init__(self, *torque: int) -> None:
        self.bus = Bus(list(torque))

    def configure(self) -> None:
        with self.bus.torque_disabled():
            pass

    def connect(self) -> None:
        self.configure()


@pytest.mark.parametrize(
    ("torque", "let_go"), [((1, 1, 1), set()), ((1, 0, 1), set()), ((0, 0, 0), {0, 1, 2})]
)
def test_servos_that_hold_are_not_let_go_and_others_hold_where_they_stand(
    torque: tuple[int, ...], let_go: set[int]
) -> None:
    robot: Any = Follower(*torque)
    with keeping_hold(robot):
        robot.connect()
    assert robot.bus.was_limp == let_go
    assert all(robot.bus.torque.values())
    assert not robot.bus.ran_away
    robot.connect()
    assert robot.bus.was_limp == {0, 1, 2}, "LeRobot's own way is back"


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
