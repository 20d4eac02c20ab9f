"""A terminal at which you stand for the scripted person's eyes and fingers: Enter asks for a scene, keys are told to you."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable

from roborl.hil.operator import ASKS


class OwnHands:
    """Asks for a scene when somebody presses Enter here, and says which key is to be pressed at the other terminal.

    Args:
        say: Shows a line of text.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        say("Press Enter here whenever the command asks for a scene. Ctrl-C unplugs the desk.")

    def read(self) -> str:
        """Return the request for a scene where Enter was pressed. Never waits."""
        if not select.select([sys.stdin], [], [], 0)[0]:
            return ""
        return ASKS if sys.stdin.readline() else ""

    def type(self, key: str) -> None:
        """Say which key to press."""
        self._say(f"Press {key} at the command's terminal.")
