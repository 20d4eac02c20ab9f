import os

import pytest

from roborl.cli.bench import BENCHMARKS
from roborl.loops.benchmarks.control import ahead_ns, follow, run

MS = 1_000_000


@pytest.mark.parametrize(
    ("tick_ms", "now_ms", "due_ms"),
    [
        (100, 99, 99.5),
        (100, 99.5, 119.5),
        (100, 99.6, 119.5),
        (100, 80, 99.5),
        (100, 70, 79.5),
        (100, 131, 139.5),
    ],
)
def test_the_bare_loop_is_due_half_a_millisecond_ahead_of_a_control_tick(
    tick_ms: float, now_ms: float, due_ms: float
) -> None:
    assert ahead_ns(int(tick_ms * MS), int(now_ms * MS)) == int(due_ms * MS)


def test_the_bare_loop_moves_to_the_processor_of_the_control_loop() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        follow(os.getpid())
        assert len(os.sched_getaffinity(0)) == 1
        follow(2**22 + 1)  # no such process: stay
        assert len(os.sched_getaffinity(0)) == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_ticks_are_as_punctual_as_a_bare_sleep_loop_within_reason() -> None:
    """A few seconds on a machine that runs other tests too: the bound is generous, the figures are not empty."""
    figures = run(ticks=150, load=False)
    assert figures["ticks"] >= 150
    assert figures["steps"] > 5
    assert figures["watchdogs"] == 0
    assert figures["restarts"] == {"control": 0, "inference": 0, "io": 0, "live": 0}
    assert figures["live"]["scored"] > 5
    assert figures["latest_tick_ms"]["late"] == figures["control_ms"]["max"]
    assert sum(figures["late_ticks"].values()) <= figures["ticks"]
    assert all(stolen_s >= 0 for stolen_s in figures["stolen_s"].values())
    assert 0 < figures["control_ms"]["p50"] <= figures["control_ms"]["p99"]
    assert figures["control_ms"]["p99"] <= figures["bare_ms"]["max"] + 20.0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_30000_ticks_under_load_are_within_2_ms_of_a_bare_sleep_loop() -> None:
    figures = run(ticks=30_000)
    assert all(bar.check(figures)["met"] for bar in BENCHMARKS["control"].bars), figures
