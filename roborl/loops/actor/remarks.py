"""What the control loop has to say of an episode, kept back until the arm is at rest."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Remarks:
    """Lines for the log, one on each subject. Keeping one costs no wait; a terminal that is held keeps who writes to it."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    def keep(self, subject: str, line: str) -> None:
        """Keep a line; of several on one subject the first."""
        self._kept.setdefault(subject, line)

    def tell(self) -> None:
        """Log what was kept, as warnings, and forget it. May block as long as standard error does."""
        kept, self._kept = self._kept, {}
        for line in kept.values():
            log.warning("%s", line)
