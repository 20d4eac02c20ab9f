"""The terminal's keyboard as a set of buttons."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from roborl.clock import Every
from roborl.errors import SafetyStop
from roborl.hil.keystrokes import ASK_STATUS, BRACKET_PASTES, LEAVE_PASTES, STATUS, Keystrokes
from roborl.hil.presses import Button, PressSender
from roborl.types import EpisodeKey

log = logging.getLogger(__name__)

KEYS = {
    "s": Button.SUCCESS,
    "f": Button.FAILURE,
    "d": Button.DISCARD,
    "r": Button.READY,
    " ": Button.STOP,
    "e": Button.ESTOP,
    "t": Button.TAKE_OVER,
    "g": Button.GIVE_BACK,
}
HELP = "s success · f failure · d discard · r scene ready · space stop · e emergency stop"
HELP_WITH_DEVICE = f"{HELP} · t take over · g give back"
HELP_FOR_SEVERAL = "of all arms at once: r scene ready · space stop · e emergency stop"
_ALIVE_S = 0.25
_UNANSWERED = 20
_LAST_ANSWER_S = 0.1
_STOPS = (Button.STOP, Button.ESTOP)
_OF_DEVICE = (Button.TAKE_OVER, Button.GIVE_BACK)
_OF_ONE_ARM = (Button.SUCCESS, Button.FAILURE, Button.DISCARD, *_OF_DEVICE)
_ENTER = frozenset("\r\n")


def at_terminal() -> bool:
    """Return whether standard input is a terminal, where keys can be heard; one that was closed is none."""
    return sys.stdin is not None and sys.stdin.isatty()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Whoever hears the keys: the process of one arm.

    Attributes:
        sender: Where presses go.
        on_screen: Returns the episode and the index of the observation of this arm that the person sees.
        device: Whether there is a take-over device; without one, what its two keys cannot do is said once.
        done: True once its process has come to its own end: the arm is at rest, and what it does not hear is not lost.
    """

    sender: PressSender
    on_screen: Callable[[], tuple[EpisodeKey, int] | None] = lambda: None
    device: bool = True
    done: Callable[[], bool] = lambda: False

    def hear(self, button: Button) -> bool:
        """Send a press without waiting; False where it is not taken."""
        screen = self.on_screen()
        episode, index = screen if screen is not None else (None, None)
        return self.sender.press(button, episode=episode, index=index)


class TerminalKeyboard:
    """Sends a press for each key, with the observation that was newest at that moment, and signs of life between.

    Args:
        listeners: Who hears them. Stops, ready and signs of life are for all; what is meant for one arm goes nowhere where
            there are several, which is said once.
        descriptor: A terminal's file descriptor; standard input by default.

    Attributes:
        help: What its keys do, as one line.

    Used as a context manager: inside it the terminal gives keys at once, without Enter, and marks what is pasted.

    This process goes on living when the connection to a terminal far away is cut. So the terminal itself is asked how it is,
    and its answers are the signs of life. One that has never answered is taken to live as long as this process does; so is
    one inside tmux, screen or mosh, which answer in its place.

    Keys are pressed one at a time. Of different characters that come at once, from a terminal that does not mark its pastes,
    with Alt or from a hand that falls on the keyboard, only a stop is obeyed: one too many costs an episode, one too
    few the arm.
    """

    def __init__(self, listeners: Sequence[Listener], descriptor: int | None = None) -> None:
        self._listeners = listeners
        self._fd = sys.stdin.fileno() if descriptor is None else descriptor
        self.help, self._idle, self._why_idle = _meaning(listeners)
        self._told = False
        self._before: list[object] | None = None
        self._asking, self._asked, self._answers = Every(_ALIVE_S), 0, False
        self._keystrokes = Keystrokes()

    def __enter__(self) -> TerminalKeyboard:
        if os.isatty(self._fd):
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
            self._tell_terminal(BRACKET_PASTES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            self._tell_terminal(LEAVE_PASTES)
            if self._answers:  # What comes later is typed into the shell.
                select.select([self._fd], [], [], _LAST_ANSWER_S)
            with contextlib.suppress(termios.error):  # it was closed
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._before)  # type: ignore[arg-type]
            self._before = None

    def poll(self) -> list[Button]:
        """Send what was typed since the last call, and a sign of life now and then. Never waits.

        Raises:
            SafetyStop: If an emergency stop cannot be sent: whoever owns the arm's process must end it.
        """
        arrived = self._read()
        typed = self._keystrokes.take(arrived, time.monotonic()).lower()
        buttons = [KEYS[key] for key in typed if key in KEYS]
        if len(set(typed) - _ENTER) > 1:
            stops = [button for button in _STOPS if button in buttons]
            if set(buttons) - set(stops):
                log.warning("Several keys at once: only a stop is obeyed, press again what you meant")
            buttons = stops
        if set(buttons) & set(self._idle):
            if not self._told:
                log.warning("%s", self._why_idle)
            self._told = True
            buttons = [button for button in buttons if button not in self._idle]
        for button in buttons:
            self._send(button)
        self._show_life(answered=STATUS in arrived)
        return buttons

    def _show_life(self, *, answered: bool) -> None:
        """Pass on the terminal's answer as a sign of life, and ask it again now and then."""
        due = self._asking.due()
        if answered or (due and not self._answers):
            for listener in self._listeners:
                listener.sender.press(Button.ALIVE)
        self._answers = self._answers or answered
        if not due:
            return
        self._asked += 1
        if self._before is None:
            return
        if self._asked == _UNANSWERED and not self._answers:
            log.warning(
                "This terminal does not say that it is there: a connection to it that is cut stops nothing"
            )
        self._tell_terminal(ASK_STATUS)

    def _read(self) -> bytes:
        read = b""
        while select.select([self._fd], [], [], 0)[0]:
            try:
                arrived = os.read(self._fd, 1024)
            except OSError:  # it was closed: no keys, and no signs of life
                break
            if not arrived:
                break
            read += arrived
        return read

    def _tell_terminal(self, words: bytes) -> None:
        # One that takes nothing any more would keep this process waiting; one that is open for reading alone is told nothing.
        if select.select([], [self._fd], [], 0)[1]:
            with contextlib.suppress(OSError):
                os.write(self._fd, words)

    def _send(self, button: Button) -> None:
        taken = [listener.hear(button) for listener in self._listeners if not listener.done()]
        if all(taken):
            return
        if button is Button.ESTOP:
            raise SafetyStop(
                "The emergency stop does not reach the arm's process, which reads no keys",
                remedy="This command ends. Switch the arm's power off if it moves",
            )
        log.warning("%s is lost: the arm's process reads no keys. Press again once it does", button.value)


def _meaning(listeners: Sequence[Listener]) -> tuple[str, tuple[Button, ...], str]:
    """Return what keys do, which of them do nothing, and why those do not."""
    if len(listeners) > 1:
        return HELP_FOR_SEVERAL, _OF_ONE_ARM, "Of several arms none is meant: s, f, d, t and g do nothing"
    if any(listener.device for listener in listeners):
        return HELP_WITH_DEVICE, (), ""
    return (
        HELP,
        _OF_DEVICE,
        "There is no device to take over with: t and g do nothing. train takes one with --act.teleop, act with --teleop",
    )
