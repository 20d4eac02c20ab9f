"""Control ticks: waiting for them, where the time of a late one went, and when one comes too late."""

from __future__ import annotations

import resource
import time

from roborl.clock import NS, Rate
from roborl.loops.actor.control_settings import ControlSettings
from roborl.loops.actor.remarks import Remarks
from roborl.loops.actor.status import PHASES, StatusSlot

_LATE_NS = 2_000_000
# Of this thread alone where the system can tell.
_WHO = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


class TickTrace:
    """Reads the clock at each change of phase, and keeps the account of the latest tick yet in the process's status.

    A tick that is more than 2 ms late is also counted under the phase to blame: "wait" where the loop was in time and the
    system woke it late, else the phase that took longest since the tick before. A reading costs a tenth of a microsecond,
    the end of a tick two.

    Args:
        status: Of the control process; nobody else writes it.
        time_scale: How many seconds of the loop's clock pass per wall second.
    """

    def __init__(self, status: StatusSlot, time_scale: float = 1.0) -> None:
        self._status, self._time_scale = status, time_scale
        self._worst_ns = status["late_max_ns"]
        self.restart()

    def restart(self) -> None:
        """Begin a period now."""
        self._took_ns = dict.fromkeys(PHASES, 0)
        self._phase = "other"
        self._cpu_ns, self._usage = time.thread_time_ns(), resource.getrusage(_WHO)
        self._since_ns = time.monotonic_ns()

    def enter(self, phase: str) -> None:
        """End the phase before and begin ``phase``, one of ``PHASES``."""
        now_ns = time.monotonic_ns()
        self._took_ns[self._phase] += now_ns - self._since_ns
        self._phase, self._since_ns = phase, now_ns

    def wait(self, rate: Rate) -> int:
        """Wait for the next tick, count it, and return how late it began, in nanoseconds of wall time."""
        self.enter("wait")
        self._status["due_ns"] = rate.next_ns
        due_ns = int(rate.remaining_ns() / self._time_scale)
        late_ns = int(rate.wait() / self._time_scale)
        self.tick(late_ns, due_ns)
        self._status.record_lateness(late_ns)
        self._status.add("ticks")
        return late_ns

    def tick(self, late_ns: int, due_ns: int) -> None:
        """End a period whose last phase was the wait for its tick.

        Args:
            late_ns: How late the tick began, wall time.
            due_ns: How far off it was when the wait began, negative where it was due already.
        """
        self.enter("other")
        if late_ns > min(_LATE_NS, self._worst_ns):
            self._took_ns["wait"] = overslept_ns = late_ns + min(0, due_ns)
            if late_ns > _LATE_NS:
                blamed = "wait" if 2 * overslept_ns > late_ns else max(PHASES, key=self._took_ns.__getitem__)
                self._status.add(f"late_{blamed}")
            if late_ns > self._worst_ns:
                self._worst_ns = late_ns
                self._keep()
        self.restart()

    def _keep(self) -> None:
        usage, before = resource.getrusage(_WHO), self._usage
        for phase, took_ns in self._took_ns.items():
            self._status[f"worst_{phase}_ns"] = took_ns
        self._status["worst_cpu_ns"] = time.thread_time_ns() - self._cpu_ns
        self._status["worst_faults"] = usage.ru_minflt - before.ru_minflt
        self._status["worst_disk_faults"] = usage.ru_majflt - before.ru_majflt


class TickDeadline:
    """Says when a tick comes so late that the arm must stop: robot, driver or machine stood still, and nobody watched.

    Args:
        settings: How late a tick may be.
        remarks: Where it is said.
    """

    def __init__(self, settings: ControlSettings, remarks: Remarks) -> None:
        self._settings, self._remarks = settings, remarks

    def missed(self, late_ns: int) -> bool:
        """Return whether ``late_ns`` of wall time are too many."""
        deadline_s = self._settings.tick_deadline_s
        if not 0 < deadline_s * NS < late_ns:
            return False
        self._remarks.keep(
            "tick",
            f"A control tick came {late_ns / NS:.2f} s late, watchdog.tick_deadline_s allows {deadline_s:g} s:"
            " the arm stops",
        )
        return True

    def overdue(self, rate: Rate) -> bool:
        """Return whether the tick that is due is too late already."""
        return self.missed(int(-rate.remaining_ns() / self._settings.time_scale))


def account(status: StatusSlot) -> dict[str, dict[str, float]]:
    """Return what a status tells: the latest tick's milliseconds and faults, and how many late ticks each phase caused.

    Where the time of the phases is more than that of the processor, somebody else had it or the loop was waiting.
    """
    worst = {phase: status[f"worst_{phase}_ns"] / 1e6 for phase in PHASES}
    return {
        "latest_tick_ms": {
            "late": status["late_max_ns"] / 1e6,
            **worst,
            "of the processor": status["worst_cpu_ns"] / 1e6,
            "page faults": status["worst_faults"],
            "page faults from disk": status["worst_disk_faults"],
        },
        "late_ticks": {phase: status[f"late_{phase}"] for phase in PHASES if status[f"late_{phase}"]},
    }
