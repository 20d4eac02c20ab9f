"""A command at a terminal of its own: what it says is read, and keys are typed to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from roborl.errors import RoborlError

_ROBORL = (sys.executable, "-c", "from roborl.cli.main import main; raise SystemExit(main())")
_GRACE_S = 30.0
_LAST_WORDS = 600


class Terminal:
    """Runs ``roborl`` with a pseudo-terminal for its keyboard.

    Args:
        args: The verb and its arguments.
        log: File that gets what it says; its result goes beside it, as ``.out``.
    """

    def __init__(self, args: Sequence[str], log: Path) -> None:
        self._verb, self._log, self._out = args[0], log, log.with_suffix(".out")
        self._keys, theirs = os.openpty()
        with log.open("wb") as words, self._out.open("wb") as result:
            # In a session of its own, a Ctrl-C here reaches it once, when this is left.
            self._process = subprocess.Popen(
                [*_ROBORL, *args], stdin=theirs, stdout=result, stderr=words, start_new_session=True
            )
        os.close(theirs)
        self._heard = log.open(encoding="utf-8", errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it as Ctrl-C does, where it still runs."""
        if self.running:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
        if self.running:
            self._process.kill()
            self._process.wait()
        self._heard.close()
        os.close(self._keys)

    @property
    def running(self) -> bool:
        """Whether the command still runs."""
        return self._process.poll() is None

    def read(self) -> str:
        """Return what it has said since the last call. Never waits."""
        return self._heard.read()

    def type(self, key: str) -> None:
        """Press a key."""
        os.write(self._keys, key.encode())

    def result(self) -> dict[str, Any]:
        """Return the result of a command that has ended.

        Raises:
            RoborlError: If it failed, with its last words.
        """
        code = self._process.wait()
        if code:
            last = self._log.read_text(errors="replace")[-_LAST_WORDS:]
            raise RoborlError(
                f"roborl {self._verb} failed with exit code {code}", seen=last, remedy=f"Read {self._log}"
            )
        lines = self._out.read_text().splitlines()
        result: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return result
