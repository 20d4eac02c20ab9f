"""What the operator's buttons ask between two episodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from roborl.clock import FakeClock
from roborl.hil.presses import Button, Presses, PressSender
from roborl.loops.actor.orders import Orders
from roborl.types import EpisodeKey

KEY = EpisodeKey(actor="arm", incarnation=1, episode=4)


def test_a_discard_between_two_episodes_is_told_to_have_no_effect_with_the_arm_at_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, orders = PressSender(tmp_path, "test"), Orders(Presses(tmp_path), FakeClock())
    keys.press(Button.DISCARD)
    orders.rest()
    assert "discard has no effect" in caplog.text
    caplog.clear()
    keys.press(Button.DISCARD)
    assert not orders.asks_for_stop()
    assert not caplog.messages, "a terminal that is held would keep the arm in mid-air"
    orders.begin(KEY)
    assert len(caplog.messages) == 1
    assert not orders.discard
    keys.press(Button.DISCARD)
    orders.listen(0)
    assert orders.discard


def test_a_verdict_before_the_first_episode_of_a_start_is_told_to_have_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, orders = PressSender(tmp_path, "test"), Orders(Presses(tmp_path), FakeClock())
    keys.press(Button.SUCCESS)
    orders.rest()
    assert "the verdict has no effect" in caplog.text
    assert not orders.late
