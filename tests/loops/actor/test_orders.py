"""What the operator's buttons ask between two episodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from roborl.clock import FakeClock
from roborl.hil.keyboard import Listener
from roborl.hil.presses import Button, Presses, PressSender
from roborl.loops.actor.orders import Orders
from roborl.loops.actor.status import StatusSlot, on_screen
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


@pytest.mark.parametrize("button", [Button.SUCCESS, Button.FAILURE, Button.DISCARD])
def test_what_is_pressed_before_the_first_picture_of_an_episode_judges_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, button: Button
) -> None:
    """The one before is still to be seen while the arm is looked at."""
    status = StatusSlot(tmp_path, "control")
    keys, orders = PressSender(tmp_path, "pad"), Orders(Presses(tmp_path), FakeClock())
    listener = Listener(sender=keys, on_screen=lambda: on_screen(status, "arm"))
    assert on_screen(status, "arm") is None
    status["begun"], status["incarnation"], status["episode"], status["index"] = 5, 1, 4, -1
    orders.begin(KEY)
    assert listener.hear(button)
    orders.listen(0)
    assert (orders.end, orders.verdict, orders.discard, orders.late) == (None, None, False, [])
    status["index"] = 0
    assert on_screen(status, "arm") == (KEY, 0)
    assert listener.hear(button)
    orders.listen(1)
    assert orders.end is not None
    assert orders.verdict is None or orders.verdict.index == 0
    orders.finish(1)
    orders.rest()
    assert "No picture of the coming episode" in caplog.text


def test_a_verdict_before_the_first_episode_of_a_start_is_told_to_have_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, orders = PressSender(tmp_path, "test"), Orders(Presses(tmp_path), FakeClock())
    keys.press(Button.SUCCESS)
    orders.rest()
    assert "the verdict has no effect" in caplog.text
    assert not orders.late
