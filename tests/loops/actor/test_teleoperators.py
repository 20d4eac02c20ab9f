"""Teleoperators are connected without a question at the terminal, and what is amiss is said."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lerobot.motors import Motor, MotorNormMode
from lerobot.teleoperators import utils
from lerobot.teleoperators.so_leader import SOLeaderTeleopConfig

from roborl.errors import ConfigError, RobotError
from roborl.loops.actor.teleoperators import connect_teleoperator, read_teleoperator


class Leader:
    """Connects as LeRobot's leader arms do."""

    name, id, calibration_fpath = "so_leader", "desk", "calibration/desk.json"
    config = SOLeaderTeleopConfig(port="/dev/ttyACM1", id="desk")

    def __init__(self, *, calibrated: bool = True, port: bool = True) -> None:
        self.bus, self.is_calibrated, self._port = object(), calibrated, port
        self.connected, self.read = False, 0

    def connect(self, calibrate: bool = True) -> None:
        if not self._port:
            raise ConnectionError("Could not connect on port '/dev/ttyACM1'.\nTry lerobot-find-port\n")
        if calibrate:
            input("Move it to the middle and press ENTER....")
        self.connected = True

    def get_action(self) -> dict[str, float]:
        self.read += 1
        return {}


class Pad:
    """Connects as LeRobot's gamepad does: without a word where none is plugged in, and with the signal taken."""

    name = "gamepad"

    def __init__(self) -> None:
        self.gamepad: Any = None

    def connect(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def is_calibrated(self) -> bool:
        return True

    def get_action(self) -> dict[str, float]:
        return {"delta_x": self.gamepad.get_axis(0)}


def leader_in(unit: MotorNormMode) -> Any:
    """Return what a leader arm looks like that LeRobot has made, its body joint in this unit."""
    joint, gripper = (Motor(1, "xl330-m288", unit), Motor(2, "xl330-m288", MotorNormMode.RANGE_0_100))
    return SimpleNamespace(bus=SimpleNamespace(motors={"elbow_flex": joint, "gripper": gripper}))


def test_a_gamepad_without_its_driver_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks() -> None:
        raise ImportError("'pygame' is required but not installed")

    pad = Pad()
    monkeypatch.setattr(pad, "connect", lacks)
    with pytest.raises(ConfigError, match=r"lacks its driver.*pygame.*roborl\[gamepad\]"):
        connect_teleoperator(pad)


def test_a_gamepads_driver_is_missed_before_anything_is_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    (tmp_path / "pad.yaml").write_text("type: gamepad\n")
    with pytest.raises(ConfigError, match=r"gamepad lacks its driver.*no pygame.*roborl\[gamepad\]"):
        read_teleoperator(tmp_path / "pad.yaml")


def test_a_leader_is_connected_without_a_question() -> None:
    leader = Leader()
    connect_teleoperator(leader)
    assert leader.connected
    assert leader.read == 1, "it answers"


def test_a_leader_that_is_not_calibrated_is_named_with_the_command() -> None:
    with pytest.raises(ConfigError, match=r"id 'desk'.*--teleop.type=so101_leader"):
        connect_teleoperator(Leader(calibrated=False))


def test_a_port_with_nothing_behind_it_is_a_robot_error_on_one_line() -> None:
    with pytest.raises(
        RobotError, match=r"so_leader does not answer.*ttyACM1.*Try lerobot-find-port\. "
    ) as caught:
        connect_teleoperator(Leader(port=False))
    assert "\n" not in str(caught.value)


def test_a_gamepad_that_is_not_plugged_in_is_found_at_once_and_sigterm_still_ends_the_process() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RobotError, match="gamepad does not answer"):
        connect_teleoperator(Pad())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_gamepad_that_is_not_missed_once_it_is_gone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pad.yaml").write_text("type: gamepad\nhidapi_fallback: true\n")
    with pytest.raises(ConfigError, match=r"pulled out.*hidapi_fallback=true.*Leave it out"):
        read_teleoperator(tmp_path / "pad.yaml")


@pytest.mark.parametrize("kind", ["keyboard_ee", "keyboard"])
def test_a_keyboard_is_refused_as_a_device_and_the_reason_is_given(tmp_path: Path, kind: str) -> None:
    (tmp_path / "keys.yaml").write_text(f"type: {kind}\n")
    with pytest.raises(ConfigError, match=rf"forget keys that are held.*{kind}.*gamepad"):
        read_teleoperator(tmp_path / "keys.yaml")


@pytest.mark.parametrize("kind", ["koch_leader", "omx_leader"])
def test_a_leader_whose_driver_knows_no_degrees_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(
        utils, "make_teleoperator_from_config", lambda config: leader_in(MotorNormMode.RANGE_M100_100)
    )
    (tmp_path / "leader.yaml").write_text(f"type: {kind}\nport: /dev/ttyACM1\nid: leader\n")
    with pytest.raises(
        ConfigError, match=rf"other units than degrees.*{kind}: elbow_flex range_m100_100\..*so101_leader"
    ):
        read_teleoperator(tmp_path / "leader.yaml")


def test_a_leader_in_degrees_is_taken_with_its_gripper_in_parts_of_100(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = leader_in(MotorNormMode.DEGREES)
    monkeypatch.setattr(utils, "make_teleoperator_from_config", lambda config: made)
    (tmp_path / "leader.yaml").write_text("type: so101_leader\nport: /dev/ttyACM1\nid: leader\n")
    assert read_teleoperator(tmp_path / "leader.yaml") is made
