"""A gamepad that is pulled out while the person has the arm, and plugged in again, with LeRobot's own driver over SDL."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from roborl.envs.bench import load_bench
from roborl.errors import RobotError
from roborl.hil.presses import Button, Presses
from roborl.hil.supervisor import DeviceReading
from roborl.loops.actor import teleop
from roborl.loops.actor.act_config import ActConfig, Card, shared_folder
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.teleop import ReadingSlot
from roborl.loops.actor.teleoperators import connect_teleoperator, disconnect_teleoperator, read_teleoperator
from roborl.loops.bench_scales import scales
from roborl.loops.by_hand import HandPolicy
from roborl.loops.supervise import Child
from roborl.types import EpisodeKey

pygame = pytest.importorskip("pygame")

_CLUTCH, _FORWARD = 5, 1
_GAMEPAD, _AXES, _BUTTONS = 1, 6, 12


class Pads:
    """Gamepads of SDL's own making."""

    def __init__(self) -> None:
        pygame.joystick.init()
        maps = Path("/proc/self/maps").read_text().split()
        self._sdl = ctypes.CDLL(next(path for path in maps if "libSDL2-2" in path))
        self._sdl.SDL_JoystickFromInstanceID.restype = ctypes.c_void_p

    def plug_in(self) -> None:
        """Plug one in."""
        assert self._sdl.SDL_JoystickAttachVirtual(_GAMEPAD, _AXES, _BUTTONS, 0) >= 0

    def pull_out(self, place: int = 0) -> None:
        """Pull one out."""
        assert self._sdl.SDL_JoystickDetachVirtual(place) == 0

    def hold(self) -> None:
        """Hold the clutch of the first and push its stick forward."""
        number = pygame.joystick.Joystick(0).get_instance_id()
        pad = ctypes.c_void_p(self._sdl.SDL_JoystickFromInstanceID(number))
        self._sdl.SDL_JoystickSetVirtualAxis(pad, _FORWARD, ctypes.c_int16(-32767))
        self._sdl.SDL_JoystickSetVirtualButton(pad, _CLUTCH, ctypes.c_uint8(1))


@pytest.fixture
def pads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pads]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    if not Path("/proc/self/maps").is_file():
        pytest.skip("SDL's library is found through Linux's list of a process's files")
    yield Pads()
    pygame.quit()


class Supervised:
    """Stands for the supervision of the device process; does what the test says at each sign of life."""

    def __init__(self, *deeds: Callable[[], object]) -> None:
        self._deeds = list(deeds)
        self.stopping = False

    def ready(self, import_s: float) -> None:
        """Nobody waits for it."""

    def beat(self) -> None:
        """Go on to the next deed, and stop after the last."""
        if self._deeds:
            self._deeds.pop(0)()
        else:
            self.stopping = True


def with_a_pad(run: Path) -> ActConfig:
    """Return the configuration of an actor that has a pad, and whose control process is there."""
    (run / "pad.yaml").write_text("type: gamepad\n")
    config = ActConfig(bench_overrides=["--robot.scene=Reach"], run=run, teleop=str(run / "pad.yaml"))
    bench = load_bench(config.bench, config.bench_overrides)
    Card(
        actor="arm",
        bench=config.bench,
        cameras={},
        state_dim=1,
        action_dim=4,
        real_time=True,
        policy_hz=bench.policy_hz,
        scales=asdict(scales(bench)),
    ).write(shared_folder(config.run, config.actor))
    return config


def test_a_press_on_a_pad_carries_the_observation_that_was_on_the_screen(
    pads: Pads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control may be away for a moment, and then hears of an episode that is over."""
    config = with_a_pad(tmp_path)
    folder = shared_folder(config.run, config.actor)
    control = StatusSlot(folder, "control")
    control["begun"], control["incarnation"], control["episode"], control["index"] = 4, 5, 3, 12
    still = DeviceReading(action=np.zeros(4, np.float32), clutch=False, stamp_ns=0)
    monkeypatch.setattr(teleop.DeviceReader, "read", lambda self: (still, [Button.SUCCESS]))
    pads.plug_in()
    presses = Presses(folder)
    teleop.main(cast("Child", Supervised()), config)
    (press,) = presses.take()
    key = EpisodeKey(actor="arm", incarnation=5, episode=3)
    assert (press.button, press.episode, press.index) == (Button.SUCCESS, key, 12)


def test_a_pad_that_is_pulled_out_stops_the_arm_and_is_found_again(pads: Pads, tmp_path: Path) -> None:
    config = with_a_pad(tmp_path)
    slot = ReadingSlot(shared_folder(config.run, config.actor))

    def run(*deeds: Callable[[], object]) -> None:
        teleop.main(cast("Child", Supervised(*deeds)), config)

    pads.plug_in()
    with pytest.raises(RobotError, match=r"gamepad failed.*unplugged or switched off"):
        run(pads.hold, lambda: None, pads.pull_out, lambda: pytest.fail("a pad that is gone was read"))
    last = slot.newest()
    assert last is not None
    assert last.clutch, "control hears silence, and not that the person let go"
    with pytest.raises(RobotError, match="does not answer"):
        run()
    pads = Pads()
    pads.plug_in()
    run(pads.hold, lambda: None)
    again = slot.newest()
    assert again is not None
    assert again.stamp_ns > last.stamp_ns
    assert again.clutch


def test_a_recording_ends_where_its_pad_is_pulled_out_and_not_where_another_is(
    pads: Pads, tmp_path: Path
) -> None:
    (tmp_path / "pad.yaml").write_text("type: gamepad\n")
    pads.plug_in()
    teleoperator = read_teleoperator(tmp_path / "pad.yaml")
    connect_teleoperator(teleoperator)
    policy = HandPolicy.__new__(HandPolicy)
    policy._teleoperator = teleoperator
    pads.plug_in()
    policy.read()
    pads.pull_out(1)
    policy.read()
    pads.plug_in()
    pads.pull_out(0)
    with pytest.raises(RobotError, match=r"does not answer.*unplugged or switched off"):
        policy.read()
    disconnect_teleoperator(teleoperator)
