from __future__ import annotations

import pytest

from roborl.clock import NS, Deadline, FakeClock, MonotonicClock, Rate
from roborl.errors import DeadlineExceeded


def test_a_rate_does_not_drift_and_says_how_late_a_tick_began() -> None:
    clock = FakeClock()
    rate = Rate(100.0, clock)
    rate.wait()
    clock.advance(0.013)
    assert rate.wait() == pytest.approx(0.003 * NS, abs=2)
    rate.wait()
    assert clock.now_ns() == 30_000_000


def test_a_long_stall_is_not_caught_up_in_a_burst() -> None:
    clock = FakeClock()
    rate = Rate(100.0, clock)
    clock.advance(0.095)
    assert rate.wait() == 85_000_000
    before = clock.now_ns()
    rate.wait()
    assert clock.now_ns() - before == 5_000_000
    rate.wait()
    assert clock.now_ns() == 110_000_000


def test_a_scaled_clock_runs_faster_than_life() -> None:
    life, fast = MonotonicClock(), MonotonicClock(scale=50.0)
    start_life, start_fast = life.now_ns(), fast.now_ns()
    fast.sleep_until(start_fast + NS)
    assert fast.now_ns() - start_fast >= NS
    assert life.now_ns() - start_life < NS


def test_a_deadline_names_what_was_waited_for() -> None:
    clock = FakeClock()
    deadline = Deadline(0.5, clock)
    deadline.check("the store's answer")
    clock.advance(0.5)
    with pytest.raises(DeadlineExceeded, match=r"The store's answer|the store's answer"):
        deadline.check("the store's answer", remedy="Is it running?")
