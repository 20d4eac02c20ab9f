"""Signs of life of a process that is busy with something long."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beating(beat: Callable[[], None], every_s: float = 1.0, *, at_most_s: float = math.inf) -> Iterator[None]:
    """Call ``beat`` from a thread while the block runs, for work that cannot itself say that it goes on.

    Args:
        beat: Shows a sign of life; takes no time.
        every_s: Between two calls, s.
        at_most_s: How long; work that takes longer counts as hanging, s.
    """
    done = threading.Event()
    until = time.monotonic() + at_most_s

    def run() -> None:
        while not done.wait(every_s) and time.monotonic() < until:
            beat()

    thread = threading.Thread(target=run, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
