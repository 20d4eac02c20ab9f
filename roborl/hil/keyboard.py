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
from collections.abc import Callable
from types import TracebackType

from roborl.hil.keystrokes import BRACKET_PASTES, LEAVE_PASTES, Keystrokes
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
HELP = "s success · f failure · d discard · r scene ready · space stop · e emergency stop · t take over · g give back"
_ALIVE_S = 0.25
_STOPS = (Button.STOP, Button.ESTOP)
_ENTER = frozenset("\r\n")


class TerminalKeyboard:
    """Sends a press for each key, with the observation that was newest at that moment, and signs of life between.

    Args:
        sender: Where presses go.
        on_screen: Returns the episode and the index of the observation that the person sees.
        descriptor: A terminal's file descriptor; standard input by default.

    Used as a context manager: inside it the terminal gives keys at once, without Enter, and marks what is pasted.

    Keys are pressed one at a time. Of different characters that come at once, from a terminal that does not mark its pastes,
    with Alt or from a hand that falls on the keyboard, only a stop is obeyed: one too many costs an episode, one too
    few the arm.
    """

    def __init__(
        self,
        sender: PressSender,
        on_screen: Callable[[], tuple[EpisodeKey, int] | None],
        descriptor: int | None = None,
    ) -> None:
        self._sender = sender
        self._on_screen = on_screen
        self._fd = sys.stdin.fileno() if descriptor is None else descriptor
        self._before: list[object] | None = None
        self._alive_at = 0.0
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
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]
            self._before = None

    def poll(self) -> list[Button]:
        """Send what was typed since the last call, and a sign of life now and then. Never waits."""
        typed = self._keystrokes.take(self._read(), time.monotonic()).lower()
        buttons = [KEYS[key] for key in typed if key in KEYS]
        if len(set(typed) - _ENTER) > 1:
            stops = [button for button in _STOPS if button in buttons]
            if set(buttons) - set(stops):
                log.warning("Several keys at once: only a stop is obeyed, press again what you meant")
            buttons = stops
        for button in buttons:
            self._send(button)
        if time.monotonic() - self._alive_at > _ALIVE_S:
            self._alive_at = time.monotonic()
            self._sender.press(Button.ALIVE)
        return buttons

    def _read(self) -> bytes:
        read = b""
        while select.select([self._fd], [], [], 0)[0]:
            arrived = os.read(self._fd, 1024)
            if not arrived:
                break
            read += arrived
        return read

    def _tell_terminal(self, words: bytes) -> None:
        with contextlib.suppress(OSError):  # One that is open for reading alone marks nothing.
            os.write(self._fd, words)

    def _send(self, button: Button) -> None:
        screen = self._on_screen()
        episode, index = screen if screen is not None else (None, None)
        self._sender.press(button, episode=episode, index=index)
