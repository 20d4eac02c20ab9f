"""Signals that end a command: Ctrl-C, SIGTERM, and SIGHUP, which a terminal sends that is closed."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_WISH_S = 5.0  # An interrupt and what comes so soon behind it.


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and the end of the terminal interrupt the block as Ctrl-C does, and none of them while it saves.

    A terminal that is closed says so twice, and who is in a hurry presses twice: what comes within 5 s of an interrupt is
    taken for the same wish. Any that comes later interrupts again, so that a command that hangs can be ended.

    What ignores SIGHUP or Ctrl-C goes on, as under nohup. In other threads than the main one nothing is changed: they are
    never interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last_s = -math.inf

    def interrupt(number: int, _: FrameType | None = None) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _SAME_WISH_S:
            last_s = now_s
            raise KeyboardInterrupt("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    before = _handlers()
    if before.get(signal.SIGINT, signal.SIG_IGN) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    on_hangup(lambda: interrupt(signal.SIGHUP))
    try:
        yield
    finally:
        _put_back(before)


def _handlers() -> dict[int, Any]:
    """Return what is done at each signal now; a library's own handler, which Python does not know, could not be put back."""
    return {number: handler for number in _ENDING if (handler := signal.getsignal(number)) is not None}


def _put_back(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
    before = _handlers()
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        _put_back(before)
        for late in dict.fromkeys(came):
            signal.raise_signal(late)
