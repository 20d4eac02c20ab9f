"""The account of late ticks, on a clock that moves only when told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from roborl.loops.actor import ticks
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.ticks import TickTrace, account

MS = 1_000_000
PERIOD_MS = 20.0


class Loop:
    """A control loop whose phases take as long as they are told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 0.0
        monkeypatch.setattr(ticks.time, "monotonic_ns", lambda: int(self.now_ms * MS))
        self.status = StatusSlot(folder, "control")
        self.trace = TickTrace(self.status)

    def period(self, overslept_ms: float = 0.0, **took_ms: float) -> None:
        due_ms = self.now_ms + PERIOD_MS
        for phase, took in took_ms.items():
            self.trace.enter(phase)
            self.now_ms += took
        self.trace.enter("wait")
        left_ms = due_ms - self.now_ms
        self.now_ms = max(self.now_ms, due_ms) + overslept_ms
        late_ns = int((self.now_ms - due_ms) * MS)
        self.trace.tick(late_ns, int(left_ms * MS))
        self.status.record_lateness(late_ns)


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(tmp_path, monkeypatch)


def test_a_late_tick_is_blamed_on_the_phase_that_took_longest(loop: Loop) -> None:
    loop.period(observe=3, decide=2)
    loop.period(observe=3, commit=25, decide=2)
    loop.period(observe=3, decide=2)
    told = account(loop.status)
    assert told["late_ticks"] == {"commit": 1}
    assert told["latest_tick_ms"]["late"] == 10
    assert told["latest_tick_ms"]["commit"] == 25
    assert told["latest_tick_ms"]["observe"] == 3
    assert told["latest_tick_ms"]["wait"] == 0


def test_a_tick_that_the_system_woke_late_is_blamed_on_the_wait(loop: Loop) -> None:
    loop.period(observe=8, overslept_ms=6)
    told = account(loop.status)
    assert told["late_ticks"] == {"wait": 1}
    assert told["latest_tick_ms"]["wait"] == told["latest_tick_ms"]["late"] == 6


def test_ticks_in_time_are_blamed_on_nobody_and_the_latest_of_them_is_kept(loop: Loop) -> None:
    for late_ms in (0.1, 0.5, 0.2):
        loop.period(send=1, overslept_ms=late_ms)
    told = account(loop.status)
    assert told["late_ticks"] == {}
    assert told["latest_tick_ms"]["late"] == told["latest_tick_ms"]["wait"] == 0.5


def test_a_process_that_starts_again_keeps_the_latest_tick_of_its_predecessors(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.period(commit=29)
    again = Loop(tmp_path, monkeypatch)
    again.period(observe=24)
    told = account(again.status)
    assert told["late_ticks"] == {"observe": 1, "commit": 1}
    assert told["latest_tick_ms"]["commit"] == 29
