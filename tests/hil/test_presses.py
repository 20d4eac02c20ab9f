import contextlib
import os
import select
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.clock import NS, FakeClock
from roborl.errors import SafetyStop
from roborl.hil.keyboard import HELP, HELP_WITH_DEVICE, Listener, TerminalKeyboard, at_terminal
from roborl.hil.keystrokes import Keystrokes
from roborl.hil.operator import PersonOperator
from roborl.hil.presses import Button, Presses, PressSender
from roborl.loops.actor.shared import Doorbell
from roborl.types import EpisodeKey

KEY = EpisodeKey(actor="arm", incarnation=1, episode=4)


def keyboard_for(sender: PressSender, descriptor: int, **known: Any) -> TerminalKeyboard:
    return TerminalKeyboard([Listener(sender=sender, **known)], descriptor)


def test_presses_arrive_in_order_with_the_frame_that_was_shown(tmp_path: Path) -> None:
    presses = Presses(tmp_path)
    left, right = PressSender(tmp_path, "keyboard"), PressSender(tmp_path, "page")
    left.press(Button.SUCCESS, episode=KEY, index=17)
    right.press(Button.STOP)
    first, second = presses.take()
    assert (first.button, first.episode, first.index, first.device) == (Button.SUCCESS, KEY, 17, "keyboard")
    assert (second.button, second.episode, second.index) == (Button.STOP, None, None)
    assert first.stamp_ns <= second.stamp_ns <= time.monotonic_ns()
    assert presses.take() == []


def test_a_press_outlives_its_sender_and_the_absence_of_a_reader(tmp_path: Path) -> None:
    sender = PressSender(tmp_path, "pedal")
    presses = Presses(tmp_path)
    sender.press(Button.ESTOP)
    sender.close()
    presses.close()
    # With both ends gone the pipe is empty again: a stop from long ago does not stop a new run.
    assert Presses(tmp_path).take() == []


@given(st.lists(st.binary(max_size=60), max_size=10))
@settings(max_examples=40)
def test_foreign_bytes_are_counted_and_harm_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("presses")
    presses, sender = Presses(folder), PressSender(folder, "page")
    pipe = os.open(folder / "presses.pipe", os.O_WRONLY)
    for line in lines:
        os.write(pipe, line.replace(b"\n", b"") + b"\n")
    sender.press(Button.STOP)
    os.close(pipe)
    assert [press.button for press in presses.take()] == [Button.STOP]
    assert presses.malformed == len(lines)


@pytest.mark.parametrize(
    "line",
    [
        b'{"button":"stop","episode":null,"index":Infinity,"device":"pedal","stamp_ns":0}',
        b'{"button":"stop","episode":null,"index":null,"device":"pedal","stamp_ns":1e400}',
        b"[" * 3000,
        b'{"button":"stop","episode":null,"index":null,"device":"%s","stamp_ns":0}' % (b"x" * 512),
        # No record could say these, and the control process would end in writing one.
        b'{"button":"success","episode":"arm-0001-000004","index":9223372036854775808,"device":"","stamp_ns":0}',
        b'{"button":"success","episode":"an arm-0001-000004","index":3,"device":"","stamp_ns":0}',
        b'{"button":"success","episode":"arm-0001-9223372036854775808","index":3,"device":"","stamp_ns":0}',
    ],
)
def test_a_line_that_is_no_press_is_counted_and_harms_nothing(tmp_path: Path, line: bytes) -> None:
    presses, sender = Presses(tmp_path), PressSender(tmp_path, "page")
    pipe = os.open(tmp_path / "presses.pipe", os.O_WRONLY)
    os.write(pipe, line + b"\n")
    sender.press(Button.SUCCESS, episode=KEY, index=3)
    os.close(pipe)
    assert [(press.episode, press.index) for press in presses.take()] == [(KEY, 3)]
    assert presses.malformed == 1


def test_the_longest_names_that_episode_and_device_may_have_fit_into_a_line(tmp_path: Path) -> None:
    presses = Presses(tmp_path)
    key = EpisodeKey(actor="a" * 64, incarnation=(1 << 63) - 1, episode=(1 << 63) - 1)
    PressSender(tmp_path, "d" * 64).press(Button.TAKE_OVER, episode=key, index=(1 << 63) - 1)
    (press,) = presses.take()
    assert press.episode == key


def test_a_sender_is_never_kept_waiting(tmp_path: Path) -> None:
    sender = PressSender(tmp_path, "page")
    assert sum(sender.press(Button.ALIVE) for _ in range(5000)) < 5000
    assert sum(sender.press(Button.STOP) for _ in range(5000)) < 5000


def test_signs_of_life_that_nobody_reads_leave_room_for_a_stop(tmp_path: Path) -> None:
    sender = PressSender(tmp_path, "keyboard")
    while sender.press(Button.ALIVE):
        pass
    assert sender.press(Button.SUCCESS, episode=KEY, index=17)
    assert sender.press(Button.ESTOP)
    presses = Presses(tmp_path)
    assert [press.button for press in presses.take()][-2:] == [Button.SUCCESS, Button.ESTOP]
    assert sender.press(Button.ALIVE), "somebody reads again"


class Waiting(FakeClock):
    """Presses what it is given, one button for each wait."""

    def __init__(self, sender: PressSender, buttons: list[Button]) -> None:
        super().__init__(NS)
        self.sender, self.buttons = sender, buttons

    def sleep_until(self, instant_ns: int) -> None:
        super().sleep_until(instant_ns)
        if self.buttons:
            self.sender.press(self.buttons.pop(0))


def person(tmp_path: Path, buttons: list[Button]) -> tuple[PersonOperator, list[str], list[Button]]:
    said: list[str] = []
    passed: list[Button] = []
    operator = PersonOperator(
        Presses(tmp_path),
        say=said.append,
        clock=Waiting(PressSender(tmp_path, "keyboard"), buttons),
        on_press=lambda press: passed.append(press.button),
    )
    return operator, said, passed


def test_a_reset_waits_for_the_person_and_passes_late_verdicts_on(tmp_path: Path) -> None:
    operator, said, passed = person(tmp_path, [Button.ALIVE, Button.SUCCESS, Button.READY])
    early = PressSender(tmp_path, "keyboard")
    early.press(Button.READY)
    early.press(Button.FAILURE)
    operator.reset(0)
    assert len(said) == 1
    assert passed == [Button.FAILURE, Button.ALIVE, Button.SUCCESS]


def test_a_person_whom_nobody_hears_is_told_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    clock = FakeClock()
    operator = PersonOperator(
        Presses(tmp_path), say=said.append, clock=clock, stopping=lambda: clock.now_ns() > 60 * NS
    )
    with pytest.raises(SafetyStop):
        operator.reset(0)
    assert [line for line in said if "No keyboard is heard" in line] == said[1:]
    assert len(said) == 2


def test_an_emergency_stop_ends_the_wait(tmp_path: Path) -> None:
    operator, _, _ = person(tmp_path, [Button.ESTOP])
    with pytest.raises(SafetyStop):
        operator.reset(0)


@pytest.mark.parametrize("button", [Button.TAKE_OVER, Button.ESTOP])
def test_what_is_pressed_right_after_ready_is_not_lost(tmp_path: Path, button: Button) -> None:
    sender = PressSender(tmp_path, "keyboard")
    passed: list[Button] = []
    operator = PersonOperator(
        Presses(tmp_path),
        say=lambda line: [sender.press(pressed) for pressed in (Button.READY, button)],
        clock=FakeClock(),
        on_press=lambda press: passed.append(press.button),
    )
    if button is Button.ESTOP:
        with pytest.raises(SafetyStop):
            operator.reset(0)
    else:
        operator.reset(0)
        assert passed == [button]


@pytest.mark.parametrize(
    "opened",
    [Presses, lambda folder: PressSender(folder, "test"), lambda folder: Doorbell(folder / "bell")],
)
def test_an_end_that_is_closed_or_that_nobody_holds_any_more_takes_no_file(
    tmp_path: Path, opened: Callable[[Path], Any]
) -> None:
    """A process may have some thousand files, and some drivers wait on the first 1024 alone."""
    before = len(os.listdir("/proc/self/fd"))
    end = opened(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    end.close()
    end.close()
    assert len(os.listdir("/proc/self/fd")) == before
    opened(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("pressed", "begins"),
    [
        ([Button.READY, Button.STOP], False),
        ([Button.STOP, Button.READY], True),
        ([Button.READY, Button.STOP, Button.READY], True),
    ],
)
def test_a_stop_right_after_ready_takes_it_back(tmp_path: Path, pressed: list[Button], begins: bool) -> None:
    sender, clock, said = PressSender(tmp_path, "keyboard"), FakeClock(), []

    def ask(line: str) -> None:
        if not said:
            for button in pressed:
                sender.press(button)
        said.append(line)

    def stopping() -> bool:
        return clock.now_ns() > NS

    operator = PersonOperator(Presses(tmp_path), say=ask, clock=clock, stopping=stopping)
    if begins:
        operator.reset(0)
        return
    with pytest.raises(SafetyStop, match="while it waited"):
        operator.reset(0)
    assert said[1:] == ["Stopped before it began. Make the scene ready and step back, then press r."]


def test_presses_during_an_episode_are_left_to_whoever_runs_it(tmp_path: Path) -> None:
    presses = Presses(tmp_path)
    operator = PersonOperator(presses, say=lambda line: None, clock=FakeClock())
    PressSender(tmp_path, "keyboard").press(Button.SUCCESS, episode=KEY, index=3)
    assert operator.verdict() is None
    assert [(press.button, press.index) for press in presses.take()] == [(Button.SUCCESS, 3)]


def test_keys_become_presses_with_the_frame_on_the_screen(tmp_path: Path) -> None:
    presses = Presses(tmp_path)
    reading, writing = os.pipe()
    with keyboard_for(PressSender(tmp_path, "keyboard"), reading, on_screen=lambda: (KEY, 9)) as keyboard:
        for typed, button in ((b"s\n", Button.SUCCESS), (b" ", Button.STOP)):
            os.write(writing, typed)
            assert keyboard.poll() == [button]
        taken = presses.take()
    assert [(p.button, p.index) for p in taken if p.button is not Button.ALIVE] == [
        (Button.SUCCESS, 9),
        (Button.STOP, 9),
    ]
    assert Button.ALIVE in [p.button for p in taken]


def test_without_a_device_to_take_over_with_its_keys_say_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    presses = Presses(tmp_path)
    reading, writing = os.pipe()
    sender = PressSender(tmp_path, "keyboard")
    with keyboard_for(sender, reading, device=False) as keyboard:
        for typed in b"tgts":
            os.write(writing, bytes([typed]))
            assert keyboard.poll() == ([Button.SUCCESS] if typed == ord("s") else [])
    assert [press.button for press in presses.take() if press.button is not Button.ALIVE] == [Button.SUCCESS]
    assert caplog.text.count("no device to take over with: t and g do nothing") == 1
    assert "take over" in HELP_WITH_DEVICE
    assert "take over" not in HELP


def test_a_terminal_is_left_as_it_was_found(tmp_path: Path) -> None:
    master, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    presses = Presses(tmp_path)
    with keyboard_for(PressSender(tmp_path, "keyboard"), terminal) as keyboard:
        assert termios.tcgetattr(terminal)[3] != before[3]
        os.write(master, b"f")
        assert os.read(master, 64) == b"\x1b[?2004h", "pastes are to be marked"
        until = time.monotonic() + 2
        while keyboard.poll() != [Button.FAILURE]:
            assert time.monotonic() < until
    assert termios.tcgetattr(terminal)[3] == before[3]
    said = b""  # What was asked and what was put back may come one by one.
    while not said.endswith(b"\x1b[?2004l"):
        said += os.read(master, 64)
    assert said.replace(b"\x1b[5n", b"") == b"\x1b[?2004l"
    assert Button.FAILURE in [press.button for press in presses.take()]


def test_a_terminal_that_is_closed_presses_nothing_and_is_left_quietly(tmp_path: Path) -> None:
    master, terminal = os.openpty()
    with keyboard_for(PressSender(tmp_path, "keyboard"), terminal) as keyboard:
        os.close(master)
        assert keyboard.poll() == []
    os.close(terminal)


class Terminal:
    """A keyboard at a pseudo-terminal whose other end answers for as long as somebody is connected to it."""

    def __init__(self, folder: Path) -> None:
        self.far, self.near = os.openpty()
        os.set_blocking(self.far, False)
        self.presses = Presses(folder)
        self.keyboard = keyboard_for(PressSender(folder, "keyboard"), self.near)

    def signs_of_life(self, *, connected: bool) -> int:
        """Return how many of them are seen within 20 times their interval."""
        self.presses.take()
        until, seen = time.monotonic() + 0.4, 0
        while time.monotonic() < until:
            assert self.keyboard.poll() == []
            if connected:
                with contextlib.suppress(BlockingIOError):
                    os.write(self.far, b"\x1b[0n" * os.read(self.far, 4096).count(b"\x1b[5n"))
            time.sleep(0.005)
            seen += sum(press.button is Button.ALIVE for press in self.presses.take())
        return seen


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setattr("roborl.hil.keyboard._ALIVE_S", 0.02)
    terminal = Terminal(tmp_path)
    with terminal.keyboard:
        yield terminal
    os.close(terminal.far)
    os.close(terminal.near)


def test_a_terminal_that_is_connected_no_more_gives_no_sign_of_life(terminal: Terminal) -> None:
    assert terminal.signs_of_life(connected=True) > 2
    terminal.signs_of_life(connected=False)
    assert terminal.signs_of_life(connected=False) == 0
    assert terminal.signs_of_life(connected=True) > 2


def test_a_terminal_that_never_answers_is_taken_to_live_and_that_is_said(
    terminal: Terminal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roborl.hil.keyboard._UNANSWERED", 3)
    assert terminal.signs_of_life(connected=False) > 2
    (said,) = [record.getMessage() for record in caplog.records]
    assert "a connection to it that is cut stops nothing" in said


def test_a_terminal_that_takes_nothing_any_more_keeps_nobody_waiting(terminal: Terminal) -> None:
    os.set_blocking(terminal.near, False)
    while select.select([], [terminal.near], [], 0.1)[1]:
        with contextlib.suppress(BlockingIOError):
            os.write(terminal.near, b"x" * 256)
    os.set_blocking(terminal.near, True)
    polling = threading.Thread(target=lambda: terminal.signs_of_life(connected=False), daemon=True)
    polling.start()
    polling.join(10.0)
    assert not polling.is_alive()


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Callable[[bytes], list[Button]]]:
    """What a keyboard makes of bytes that come at once."""
    reading, writing = os.pipe()
    presses = Presses(tmp_path)
    with keyboard_for(PressSender(tmp_path, "keyboard"), reading) as keyboard:

        def poll(arrived: bytes) -> list[Button]:
            os.write(writing, arrived)
            return keyboard.poll()

        yield poll
    presses.close()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    "sequence",
    [
        *(
            b"\x1b[D",
            b"\x1bOD",
            b"\x1b[1;5D",
            b"\x1b[F",
            b"\x1bOF",
            b"\x1bOR",
            b"\x1bOS",
            b"\x1bO5S",
            b"\x1b[13~",
        ),
        *(b"\x1b[[D", b"\x1b[[E", b"\x1b[115;5u", b"\x1b[<0;33;12M", b"\x1b\x1b[D", b"\x1b", b"\x1bf"),
        *(b"\x1b[200~left \x1b[D\nend\x1b[201~", b"\x1b[200~e\x1b[201~\x1b[200~ \x1b[201~"),
    ],
)
def test_arrows_function_keys_and_pastes_press_nothing(
    typed: Callable[[bytes], list[Button]], sequence: bytes
) -> None:
    assert typed(sequence) == []
    assert typed(sequence + b"e" if sequence != b"\x1b" else b"e") == [Button.ESTOP]


@pytest.mark.parametrize(
    "sequence", [b"\x1b[1;5D", b"\x1bOS", b"\x1b[[D", b"\x1b[200~safe and sound\x1b[201~"]
)
def test_what_comes_in_pieces_is_put_together(sequence: bytes) -> None:
    for cut in range(len(sequence) + 1):
        keystrokes = Keystrokes()
        halves = [keystrokes.take(half, 10.0) for half in (sequence[:cut], sequence[cut:] + b"s")]
        assert halves == ["", "s"]


def test_what_is_never_finished_is_forgotten_soon() -> None:
    keystrokes = Keystrokes()
    for begun in (b"\x1b", b"\x1b[", b"\x1bO", b"\x1b[200~a paste"):
        assert keystrokes.take(begun, 10.0) == ""
        assert keystrokes.take(b"", 10.2) == ""
        assert keystrokes.take(b"e", 10.4) == "e"
    assert keystrokes.take(b"\x1b", 20.0) == ""
    assert keystrokes.take(b"e", 20.1) == "\x1be", "Escape, and then the emergency stop"


def test_of_several_keys_at_once_only_a_stop_is_obeyed_and_the_rest_is_told(
    typed: Callable[[bytes], list[Button]], caplog: pytest.LogCaptureFixture
) -> None:
    assert typed(b"pizza") == []
    assert not caplog.messages, "none of them is a key"
    assert typed(b"start") == []
    assert "press again" in caplog.text
    assert typed(b"left over") == [Button.STOP, Button.ESTOP]
    assert typed(b"fff") == [Button.FAILURE] * 3, "a key that is held"


def test_a_press_that_is_not_taken_is_told_and_an_emergency_stop_ends_the_command(
    typed: Callable[[bytes], list[Button]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert typed(b"s") == [Button.SUCCESS]
    assert not caplog.messages
    others = PressSender(tmp_path, "page")
    while others.press(Button.STOP):
        pass
    assert typed(b"s") == [Button.SUCCESS]
    assert "success is lost" in caplog.text
    with pytest.raises(SafetyStop, match="emergency stop does not reach the arm's process"):
        typed(b"e")


def test_what_is_typed_once_stops_every_arm_and_judges_none_of_several(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [tmp_path / name for name in ("arm0", "arm1")]
    for folder in folders:
        folder.mkdir()
    arms = [Presses(folder) for folder in folders]
    keys = [replace(KEY, actor=folder.name) for folder in folders]
    listeners = [
        Listener(sender=PressSender(folder, "keyboard"), on_screen=lambda key=key: (key, 9))
        for folder, key in zip(folders, keys, strict=True)
    ]
    reading, writing = os.pipe()
    with TerminalKeyboard(listeners, reading) as keyboard:
        assert "success" not in keyboard.help
        for typed in b"sfdtgr e":
            os.write(writing, bytes([typed]))
            keyboard.poll()
    for arm, key in zip(arms, keys, strict=True):
        taken = arm.take()
        heard = [press for press in taken if press.button is not Button.ALIVE]
        assert [press.button for press in heard] == [Button.READY, Button.STOP, Button.ESTOP]
        assert {(press.episode, press.index) for press in heard} == {(key, 9)}
        assert len(taken) > len(heard), "each has its signs of life"
    assert caplog.text.count("Of several arms none is meant: s, f, d, t and g do nothing") == 1


def test_an_input_that_was_closed_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = os.openpty()[1]
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert at_terminal()
    monkeypatch.setattr("sys.stdin", None)
    assert not at_terminal()


def test_a_press_that_an_actor_which_is_done_does_not_hear_is_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [tmp_path / name for name in ("done", "moving")]
    for folder in folders:
        folder.mkdir()
    ended: set[str] = set()
    listeners = []
    for folder in folders:
        sender = PressSender(folder, "keyboard")
        listeners.append(Listener(sender=sender, done=lambda name=folder.name: name in ended))
    arms = [Presses(folder) for folder in folders]
    while listeners[0].hear(Button.READY):
        pass
    ended.add("done")
    reading, writing = os.pipe()
    with TerminalKeyboard(listeners, reading) as keyboard:
        for typed in b"re":
            os.write(writing, bytes([typed]))
            keyboard.poll()
    assert [press.button for press in arms[1].take() if press.button is not Button.ALIVE] == [
        Button.READY,
        Button.ESTOP,
    ]
    assert not caplog.messages
