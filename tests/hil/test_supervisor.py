from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.clock import NS, FakeClock
from roborl.errors import ConfigError
from roborl.hil.supervisor import DeviceReading, Intervention, InterventionConfig, PolicyOnly, Trigger
from roborl.types import Observation, Source

OBSERVATION = Observation(frames={}, state=np.zeros(3, np.float32), stamp_ns=0)
PROPOSED = np.float32([0.1, 0.2])


class Desk:
    """A person's device on a fake clock; decisions come every 0.1 s."""

    def __init__(self, **config: object) -> None:
        self.clock = FakeClock(NS)
        self.reading: DeviceReading | None = None
        self.supervisor = Intervention(
            lambda: self.reading,
            self.clock,
            InterventionConfig(**config),  # type: ignore[arg-type]
        )

    def decide(self, action: list[float] | None = None, *, clutch: bool = False) -> Source | None:
        """Return who commands, None for nobody."""
        self.clock.advance(0.1)
        if action is not None:
            self.reading = DeviceReading(
                action=np.float32(action), clutch=clutch, stamp_ns=self.clock.now_ns()
            )
        decision = self.supervisor.decide(OBSERVATION, PROPOSED)
        if decision is None:
            return None
        self.action, source = decision
        return source


def test_without_a_person_the_policy_commands() -> None:
    action, source = PolicyOnly().decide(OBSERVATION, PROPOSED)
    assert source is Source.POLICY
    np.testing.assert_array_equal(action, PROPOSED)
    assert Desk().decide() is Source.POLICY


def test_holding_the_clutch_takes_over_and_letting_go_gives_back() -> None:
    desk = Desk(trigger=Trigger.CLUTCH)
    sources = [desk.decide([0.9, 0.0], clutch=held) for held in (False, True, True, False, True)]
    assert [source is Source.PERSON for source in sources] == [False, True, True, False, True]
    np.testing.assert_array_equal(desk.action, np.float32([0.9, 0.0]))


def test_moving_takes_over_and_keeps_the_arm_for_a_while() -> None:
    desk = Desk(trigger=Trigger.MOTION, hold_over_s=0.35)
    moves = [[0, 0], [0.5, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
    sources = [desk.decide(move) for move in moves]
    assert [source is Source.PERSON for source in sources] == [False, True, True, True, True, False, False]


@pytest.mark.parametrize("trigger", list(Trigger))
def test_a_device_that_falls_silent_while_the_person_has_the_arm_gives_it_to_nobody(trigger: Trigger) -> None:
    desk = Desk(trigger=trigger, stale_s=0.25)
    assert desk.decide([1, 1], clutch=True) is Source.PERSON
    assert desk.supervisor.connected
    assert [desk.decide() for _ in range(3)] == [Source.PERSON, Source.PERSON, None]
    assert not desk.supervisor.connected


def test_a_device_that_falls_silent_while_the_policy_has_the_arm_changes_nothing() -> None:
    desk = Desk(stale_s=0.25)
    assert [desk.decide([1, 1])] + [desk.decide() for _ in range(4)] == [Source.POLICY] * 5
    assert not desk.supervisor.connected


def test_taking_over_with_a_silent_device_stops_the_arm_and_has_to_be_said_again() -> None:
    desk = Desk()
    desk.supervisor.force(True)
    assert [desk.decide(), desk.decide([1, 1])] == [None, Source.POLICY]


def test_a_button_takes_over_without_the_clutch() -> None:
    desk = Desk(trigger=Trigger.CLUTCH)
    desk.supervisor.force(True)
    assert desk.decide([0.5, 0.5]) is Source.PERSON
    desk.supervisor.force(False)
    assert desk.decide([0.5, 0.5]) is Source.POLICY


def test_what_a_button_took_over_is_given_back_at_the_episodes_end() -> None:
    desk = Desk(trigger=Trigger.CLUTCH)
    desk.supervisor.force(True)
    assert desk.decide([0.5, 0.5]) is Source.PERSON
    desk.supervisor.release()
    assert desk.decide([0.0, 0.0]) is Source.POLICY
    desk.supervisor.force(True)
    assert desk.decide([0.5, 0.5]) is Source.PERSON, "pressed between two episodes it counts for the next one"
    desk.supervisor.release()
    assert desk.decide([0.5, 0.5], clutch=True) is Source.PERSON, "a clutch that is held is no button"


@given(st.lists(st.floats(width=32), min_size=2, max_size=2))
def test_whatever_the_device_says_the_action_is_within_limits(action: list[float]) -> None:
    desk = Desk(trigger=Trigger.CLUTCH)
    assert desk.decide([0, 0], clutch=True) is Source.PERSON
    source = desk.decide(action, clutch=True)
    assert np.abs(desk.action).max() <= 1.0
    assert source is (Source.PERSON if np.isfinite(action).all() else None)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="stale_s"):
        InterventionConfig(stale_s=-1.0)
