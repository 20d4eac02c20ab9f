from __future__ import annotations

import numpy as np
import pytest

from roborl.clock import NS, Deadline, Every, FakeClock, MonotonicClock, Rate
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


def test_ticks_that_begin_late_in_a_period_are_whole_periods_apart_and_end_where_they_were_due() -> None:
    clock = FakeClock()
    rate = Rate(50.0, clock)
    for _ in range(3):
        clock.advance(0.016)
        rate.begin_now(5)
        began_ns = clock.now_ns()
        instants = [rate.wait() or clock.now_ns() - began_ns for _ in range(5)]
        assert instants == [20_000_000, 40_000_000, 60_000_000, 80_000_000, 84_000_000]
    assert clock.now_ns() == 300_000_000


def test_what_begins_late_and_stalls_is_back_on_its_grid_and_what_is_overdue_does_not_begin_late() -> None:
    clock = FakeClock()
    rate = Rate(50.0, clock)
    clock.advance(0.010)
    rate.begin_now(3)
    clock.advance(0.060)  # to 70 ms; the first was due at 30
    assert rate.wait() == 40_000_000
    rate.wait()
    assert clock.now_ns() == 90_000_000
    rate.wait()
    assert clock.now_ns() == 100_000_000
    clock.advance(0.025)
    overdue_ns = rate.next_ns
    rate.begin_now(5)
    assert rate.next_ns == overdue_ns


@pytest.mark.parametrize("stall_s", [0.0, 0.006, 0.015, 0.05])
def test_work_that_begins_sooner_in_its_period_than_the_one_before_waits_for_a_whole_one(
    stall_s: float,
) -> None:
    clock = FakeClock()
    rate, begun_ns = Rate(50.0, clock), []
    for into_s in (0.016, 0.003, 0.009, 0.0):
        clock.advance(into_s)
        rate.wait_apart()
        rate.begin_now(5)
        begun_ns.append(clock.now_ns())
        for tick in range(5):
            if len(begun_ns) == 4:
                clock.advance(stall_s)  # before the last of the first work
            rate.wait()
            if tick < 4:
                begun_ns.append(clock.now_ns())
    # After a stall the next is back on its grid, as everywhere.
    assert np.delete(np.diff(begun_ns), 3).min() == 20_000_000
    assert stall_s or np.diff(begun_ns).max() == 20_000_000
    assert stall_s or clock.now_ns() == 400_000_000


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_done_now_and_then_is_done_a_period_apart_however_late_somebody_looks(at_once: bool) -> None:
    clock = FakeClock(7)
    report = Every(1.0, clock, at_once=at_once)
    assert [report.due(), report.due()] == [at_once, False]
    clock.advance(0.9)
    assert not report.due()
    clock.advance(2.5)
    assert [report.due(), report.due()] == [True, False]
    clock.advance(0.9)
    assert not report.due()
    clock.advance(0.1)
    assert report.due()


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
