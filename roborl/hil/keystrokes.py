"""What a terminal sends, without what no key of ours has sent: arrows and function keys, pastes, reports."""

from __future__ import annotations

import re

BRACKET_PASTES, LEAVE_PASTES = b"\x1b[?2004h", b"\x1b[?2004l"
"""Ask a terminal to mark pasted text as such, and not to any more."""
ASK_STATUS, STATUS = b"\x1b[5n", b"\x1b[0n"
"""Ask a terminal how it is, and what one says that is well."""

_PASTE = re.compile(rb"\x1b\[200~.*?\x1b\[201~", re.DOTALL)
# Control sequences, among them the function keys of Linux's console with a second bracket, and single shifts.
_SEQUENCE = re.compile(rb"\x1b(?:\[\[[A-E]|\[[0-?]*[ -/]*[@-Z\\-~]|O[0-9;]*[@-~])")
_UNFINISHED = re.compile(rb"\x1b(?:\[200~.*|\[\[?|\[[0-?]*[ -/]*|O[0-9;]*)?\Z", re.DOTALL)
# What belongs together arrives together, or nearly so; what begins with a lone Escape for longer is Escape.
_UNFINISHED_S = 0.3


class Keystrokes:
    """Takes the bytes of a terminal and gives the characters that were typed one by one."""

    def __init__(self) -> None:
        self._unfinished, self._since_s = b"", 0.0

    def take(self, arrived: bytes, now_s: float) -> str:
        """Return the characters among what arrived; the beginning of a sequence or paste is kept for a short while.

        An Escape before a character, which may be Alt with it, is returned as a character too.

        Args:
            arrived: Since the last call, nothing included.
            now_s: Of any steady clock.
        """
        if now_s - self._since_s > _UNFINISHED_S:
            self._unfinished = b""
        rest = self._unfinished + arrived
        typed = _PASTE.sub(b"", rest)
        end = _UNFINISHED.search(typed, max(0, typed.find(b"\x1b[200~")))
        unfinished = end.group() if end else b""
        if not self._unfinished or len(unfinished) < len(rest):
            self._since_s = now_s
        self._unfinished = unfinished
        return _SEQUENCE.sub(b"", typed.removesuffix(unfinished)).decode(errors="ignore")
