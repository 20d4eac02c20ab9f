"""Signs of life of a process that is busy, and their end where it hangs."""

from __future__ import annotations

import time

from roborl.loops.beating import beating


def test_work_shows_signs_of_life_while_it_lasts_and_no_longer_than_it_may() -> None:
    beats: list[float] = []
    with beating(lambda: beats.append(time.monotonic()), 0.01, at_most_s=0.2):
        time.sleep(0.5)
        began = beats[0]
    assert len(beats) >= 5
    assert beats[-1] - began < 0.4
    said = len(beats)
    time.sleep(0.05)
    assert len(beats) == said
