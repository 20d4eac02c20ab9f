"""Signals that end a command: Ctrl-C, SIGTERM, and SIGHUP, which a terminal sends that is closed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and the end of the terminal interrupt the block as Ctrl-C does, so that it comes to save.

    What ignores SIGHUP goes on, as under nohup. In other threads than the main one nothing is changed: they are never
    interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, _interrupt)
    on_hangup(lambda: _interrupt(signal.SIGHUP, None))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def on_hangup(stop: Callable[[], None]) -> None:
    """Have something done when the terminal is closed, unless that is ignored, as under nohup.

    What is written to the terminal from then on goes nowhere, and does not fail.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    terminals = [output for output in (1, 2) if os.isatty(output)]

    def hang_up(*_: object) -> None:
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for output in terminals:
                if not os.isatty(output):
                    os.dup2(nowhere, output)
            os.close(nowhere)
        finally:
            stop()

    signal.signal(signal.SIGHUP, hang_up)


@contextmanager
def interrupt_later() -> Iterator[None]:
    """Let what would end the command wait until the block is left; to other threads than the main one it never comes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    # A library's own handler, which Python does not know, could not be put back.
    before = {number: handler for number in _ENDING if (handler := signal.getsignal(number)) is not None}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in dict.fromkeys(came):
            signal.raise_signal(late)
