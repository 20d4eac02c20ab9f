"""What LeRobot's video encoder does to the process that encodes, undone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def scheduled_as_before() -> Iterator[None]:
    """Give the calling thread its scheduling back when the block ends.

    SVT-AV1, which LeRobot's writer encodes with, lets the thread that opens it run in real time, above everything else on
    the machine, and leaves it so. It does where the system lets it: for root, as in most containers.
    """
    if not hasattr(os, "sched_getscheduler"):  # not on Linux
        yield
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != before:
            os.sched_setscheduler(0, before, parameters)
