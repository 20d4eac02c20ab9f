"""More of the processor for those who must not be late, as far as the system allows it."""

from __future__ import annotations

import contextlib
import logging
import os

log = logging.getLogger(__name__)

PRIORITIES = ("normal", "nice", "fifo")
_NICE = -10
_FIFO_PRIORITY = 10


def raise_priority(wanted: str) -> str:
    """Raise the calling process to ``wanted``, or the next best that is allowed, and return what was reached.

    Args:
        wanted: One of ``PRIORITIES``; "fifo" runs before all ordinary processes, whatever their number.
    """
    if wanted == "fifo":
        # Not on every system, and only with CAP_SYS_NICE or an rtprio limit.
        with contextlib.suppress(PermissionError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
            return "fifo"
    if wanted != "normal":
        with contextlib.suppress(PermissionError):
            os.nice(_NICE)
            return "nice"
        log.warning("This user may not raise a priority: ticks are late whenever the machine is busy")
    return "normal"
