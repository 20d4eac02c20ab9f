from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.clock import NS, FakeClock
from roborl.errors import ConfigError
from roborl.hil.supervisor import Intervention, InterventionConfig, PolicyOnly, Reading, Trigger
from roborl.types import Observation, Source

OBSERVATION = Observation(frames={}, state=np.zeros(3, np.float32), stamp_ns=0)
PROPOSED = np.float32([0.1, 0.2])


class Desk:
    """A person's device on a fake clock; decisions come every 0.1 s."""

    def __init__(self, **config: object) -> None:
        self.clock = FakeClock(NS)
        self.reading: Reading | None = None
        self.supervisor = Intervention(
            lambda: self.reading,
            self.clock,
            InterventionConfig(**config),  # type: ignore[arg-type]
        )

    def decide(self, action: list[float] | None = None, *, clutch: bool = False) -> Source:
        self.clock.advance(0.1)
        if action is not None:
            self.reading = Reading(action=np.float32(action), clutch=clutch, stamp_ns=self.clock.now_ns())
        self.action, source = self.supervisor.decide(OBSERVATION, PROPOSED)
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
    assert desk.supervisor.takeovers == 2
    np.testing.assert_array_equal(desk.action, np.float32([0.9, 0.0]))


def test_moving_takes_over_and_keeps_the_arm_for_a_while() -> None:
    desk = Desk(trigger=Trigger.MOTION, hold_over_s=0.35)
    moves = [[0, 0], [0.5, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
    sources = [desk.decide(move) for move in moves]
    assert [source is Source.PERSON for source in sources] == [False, True, True, True, True, False, False]
    assert desk.supervisor.takeovers == 1


def test_a_device_that_falls_silent_gives_the_arm_back() -> None:
    desk = Desk(trigger=Trigger.CLUTCH, stale_s=0.25)
    assert desk.decide([1, 1], clutch=True) is Source.PERSON
    assert [desk.decide() for _ in range(3)] == [Source.PERSON, Source.PERSON, Source.POLICY]
    assert desk.supervisor.stale == 1


def test_a_button_takes_over_without_the_clutch() -> None:
    desk = Desk(trigger=Trigger.CLUTCH)
    desk.supervisor.force(True)
    assert desk.decide([0.5, 0.5]) is Source.PERSON
    desk.supervisor.force(False)
    assert desk.decide([0.5, 0.5]) is Source.POLICY


@given(st.lists(st.floats(width=32), min_size=2, max_size=2))
def test_whatever_the_device_says_the_action_is_within_limits(action: list[float]) -> None:
    desk = Desk(trigger=Trigger.CLUTCH)
    source = desk.decide(action, clutch=True)
    assert np.isfinite(desk.action).all()
    assert np.abs(desk.action).max() <= 1.0
    assert (source is Source.PERSON) == bool(np.isfinite(action).all())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="stale_s"):
        InterventionConfig(stale_s=-1.0)
