from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.clock import NS, FakeClock
from roborl.hil.devices import DeltaMap, DeviceReader, LeaderMap
from roborl.hil.presses import Button

NAMES = ("a.pos", "b.pos")


class Pad:
    """A LeRobot teleoperator with events."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"delta_x": 0.0}
        self.events: dict[str, Any] = {}

    def get_action(self) -> dict[str, Any]:
        return self.values

    def get_teleop_events(self) -> dict[str, Any]:
        return self.events


class Arm:
    """A leader arm: values, no events."""

    values = {"a.pos": 0.0, "b.pos": 0.0}  # noqa: RUF012

    def get_action(self) -> dict[str, Any]:
        return self.values


def test_a_pad_speaks_the_policys_language() -> None:
    values = {"delta_x": 0.5, "delta_y": -2.0, "delta_z": 0.0, "gripper": 2}
    np.testing.assert_allclose(DeltaMap()(values, 0), [0.5, -1.0, 0.0, 1.0])
    np.testing.assert_allclose(DeltaMap()({"delta_x": 1.0}, 0), [1.0, 0.0, 0.0, 0.0])
    assert DeltaMap()({}, 0).dtype == np.float32


def between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """An action of 1 moves a joint by 10."""
    return np.clip((after - before) / 10, -1, 1).astype(np.float32)


@given(
    speed=st.floats(-80, 80), read_s=st.sampled_from([0.01, 0.016, 0.05, 0.1, 0.3]), start=st.floats(-90, 90)
)
def test_a_leader_that_moves_steadily_gives_its_speed_per_policy_step(
    speed: float, read_s: float, start: float
) -> None:
    """However often it is read, and wherever it stands."""
    leader = LeaderMap(NAMES, between, 0.1, gripper=1, gripper_step=10.0)
    action = np.zeros(2)
    for reading in range(12):
        at_s = reading * read_s
        action = leader({"a.pos": start + speed * at_s, "b.pos": 3.0}, int(at_s * NS))
    np.testing.assert_allclose(action, [speed * 0.1 / 10, 0.0], atol=abs(speed) * 0.1 / 10 * 0.25 + 1e-5)


def test_a_gripper_that_was_squeezed_quickly_goes_on_until_it_is_closed() -> None:
    leader = LeaderMap(NAMES, between, 0.1, gripper=1, gripper_step=10.0)
    closed = 0.0
    for reading in range(60):
        at_s = reading / 60
        action = leader({"a.pos": 0.0, "b.pos": 50.0 if at_s < 0.2 else 0.0}, int(at_s * NS))
        if reading % 6 == 0:  # one policy step
            closed += float(action[1])
    assert closed == pytest.approx(-5.0, abs=0.3)
    assert action[1] == 0.0


def test_a_leader_at_rest_asks_for_no_motion() -> None:
    leader = LeaderMap(NAMES, between, 0.1, gripper=1, gripper_step=10.0)
    for reading in range(5):
        action = leader({"a.pos": 40.0, "b.pos": -3.0}, reading * NS // 50)
    np.testing.assert_array_equal(action, [0, 0])


def test_events_become_buttons_once_per_press() -> None:
    pad, clock = Pad(), FakeClock(NS)
    reader = DeviceReader(pad, DeltaMap(), clock)
    assert reader.read()[1] == []
    seen = []
    for events in (
        {"success": True, "terminate_episode": True},
        {"success": True},
        {"terminate_episode": True, "success": False},
        {},
        {"rerecord_episode": True, "terminate_episode": True},
    ):
        pad.events = events
        seen.append(reader.read()[1])
    assert seen == [[Button.SUCCESS], [], [Button.FAILURE], [], [Button.DISCARD]]


def test_the_clutch_is_the_devices_own_word() -> None:
    pad, clock = Pad(), FakeClock(NS)
    reader = DeviceReader(pad, DeltaMap(), clock)
    pad.events = {"is_intervention": True}
    reading, _ = reader.read()
    assert reading.clutch
    assert reading.stamp_ns == NS
    arm_reading, buttons = DeviceReader(
        Arm(), LeaderMap(NAMES, between, 0.1, gripper=1, gripper_step=10.0), clock
    ).read()
    assert not arm_reading.clutch
    assert buttons == []
