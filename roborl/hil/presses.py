"""Button presses on their way to the control process, through a named pipe that any local program can write to."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import termios
import time
import weakref
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from roborl.errors import WireError
from roborl.records import Verdict, pack_record
from roborl.types import EpisodeKey, RewardSource

_PIPE_NAME = "presses.pipe"
# POSIX promises that writes up to this size reach a pipe in one piece.
_LINE_BYTES = 512
# Some ten signs of life: a pipe that they had filled would take no stop.
_UNREAD_BYTES = 2 * _LINE_BYTES


class Button(StrEnum):
    """What an operator can say."""

    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    READY = "ready"
    STOP = "stop"
    ESTOP = "estop"
    TAKE_OVER = "take_over"
    GIVE_BACK = "give_back"
    ALIVE = "alive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Press:
    """One press of a button.

    Attributes:
        button: Which.
        episode: The episode that was on the screen; None for the present one.
        index: The observation that was on the screen; None for the newest.
        device: What was pressed, for the record.
        stamp_ns: When, monotonic on this machine.
    """

    button: Button
    episode: EpisodeKey | None = None
    index: int | None = None
    device: str = ""
    stamp_ns: int = 0


class PressSender:
    """The sending end: a keyboard, a web page, a foot pedal.

    Args:
        folder: The actor's shared folder.
        device: Name that goes with each press.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._pipe = _open_pipe(folder)
        self._close = weakref.finalize(self, os.close, self._pipe)
        self._device = device

    def press(self, button: Button, *, episode: EpisodeKey | None = None, index: int | None = None) -> bool:
        """Send one press without waiting; False where it is not sent, for nobody has emptied the pipe for long.

        A sign of life is not sent while others wait unread, which leaves the room to presses.
        """
        if button is Button.ALIVE and self._unread_bytes() > _UNREAD_BYTES:
            return False
        message = {
            "button": button.value,
            "episode": None if episode is None else str(episode),
            "index": index,
            "device": self._device[:64],
            "stamp_ns": time.monotonic_ns(),
        }
        try:
            os.write(self._pipe, json.dumps(message).encode() + b"\n")
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close this end; one that nobody holds any more is closed by itself."""
        self._close()

    def _unread_bytes(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


class Presses:
    """The receiving end, in the control process.

    Args:
        folder: The actor's shared folder.

    Attributes:
        malformed: How many lines could not be read.
    """

    def __init__(self, folder: Path) -> None:
        self._pipe = _open_pipe(folder)
        self._close = weakref.finalize(self, os.close, self._pipe)
        self._rest = b""
        self.malformed = 0

    def take(self) -> list[Press]:
        """Return what was pressed since the last call. Never waits."""
        with contextlib.suppress(BlockingIOError):
            self._rest += os.read(self._pipe, 1 << 16)
        *lines, self._rest = self._rest.split(b"\n")
        if len(self._rest) > _LINE_BYTES:
            self._rest = b""
            self.malformed += 1
        presses = []
        for line in lines:
            try:
                presses.append(_read_press(line))
            except WireError:
                self.malformed += 1
        return presses

    def close(self) -> None:
        """Close this end; one that nobody holds any more is closed by itself."""
        self._close()


def _open_pipe(folder: Path) -> int:
    path = folder / _PIPE_NAME
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    # Both directions, so that either side may come first or come back.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def _read_press(line: bytes) -> Press:
    if len(line) > _LINE_BYTES:
        raise WireError(
            "A press is too long", seen=f"{len(line)} bytes", allowed=f"{_LINE_BYTES} bytes and a line's end"
        )
    try:
        message = json.loads(line)
        episode, index = message["episode"], message["index"]
        press = Press(
            button=Button(message["button"]),
            episode=None if episode is None else EpisodeKey.parse(episode),
            index=None if index is None else int(index),
            device=str(message["device"]),
            stamp_ns=int(message["stamp_ns"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise WireError("A press is malformed", seen=line[:80]) from error
    if press.episode is not None:
        _check_recordable(press.episode, press.index or 0)
    return press


def _check_recordable(episode: EpisodeKey, index: int) -> None:
    """Raise WireError where no record could name them: a verdict on them would be one, committed in mid-episode."""
    pack_record(Verdict(key=episode, index=max(index, 0), success=True, source=RewardSource.OPERATOR))
