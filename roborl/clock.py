"""Monotonic time: the real clock, a fake one for tests, fixed-rate ticks, what is due now and then, and deadlines."""

from __future__ import annotations

import time
from typing import Protocol

from roborl.errors import DeadlineExceeded

NS = 1_000_000_000


class Clock(Protocol):
    """A monotonic clock that can wait."""

    def now_ns(self) -> int:
        """Return the present instant in nanoseconds; comparable on this machine only."""
        ...

    def sleep_until(self, instant_ns: int) -> None:
        """Block until ``instant_ns``; return at once where it has passed."""
        ...


class MonotonicClock:
    """The machine's monotonic clock.

    Args:
        scale: How many clock seconds pass per wall second. Above 1 a simulated bench runs faster than life;
            a physical arm is always at 1.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._origin_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        """Return nanoseconds since an arbitrary origin."""
        wall_ns = time.monotonic_ns()
        if self.scale == 1.0:
            return wall_ns
        return self._origin_ns + int((wall_ns - self._origin_ns) * self.scale)

    def sleep_until(self, instant_ns: int) -> None:
        """Sleep until ``instant_ns`` on this clock."""
        remaining_ns = instant_ns - self.now_ns()
        if remaining_ns > 0:
            time.sleep(remaining_ns / self.scale / NS)


class FakeClock:
    """A clock that moves only when told to, or when somebody sleeps on it.

    Example:
        >>> clock = FakeClock()
        >>> clock.sleep_until(5)
        >>> clock.now_ns()
        5
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """Return the instant last set."""
        return self._now_ns

    def sleep_until(self, instant_ns: int) -> None:
        """Move straight to ``instant_ns`` if it lies ahead."""
        self._now_ns = max(self._now_ns, instant_ns)

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds``."""
        self._now_ns += int(seconds * NS)


class Rate:
    """Ticks at a fixed rate without drift.

    A tick that comes more than one period late moves the schedule on instead of being caught up in a burst. Work that
    begins late in a period and takes several of them keeps whole periods between its ticks by :meth:`begin_now`.

    Example:
        >>> clock = FakeClock()
        >>> rate = Rate(50.0, clock)
        >>> [rate.wait() for _ in range(3)], clock.now_ns()
        ([0, 0, 0], 60000000)
    """

    def __init__(self, rate_hz: float, clock: Clock) -> None:
        self.period_ns = int(NS / rate_hz)
        self._clock = clock
        self._next_ns = clock.now_ns() + self.period_ns
        self._late_ns, self._late_ticks = 0, 0
        self._begun_ns, self._ticks_to_begin = self._next_ns - 2 * self.period_ns, 0

    def wait(self) -> int:
        """Sleep until the next tick and return how late it began, in ns."""
        self._clock.sleep_until(self._next_ns)
        late_ns = self._clock.now_ns() - self._next_ns
        self._next_ns += self.period_ns * max(1, late_ns // self.period_ns + 1)
        if self._late_ticks:
            self._late_ticks -= 1
            if not self._late_ticks:
                self._next_ns -= self._late_ns
        if self._ticks_to_begin:
            self._ticks_to_begin -= 1
            self._begun_ns = self._clock.now_ns()
        return late_ns

    def wait_apart(self) -> None:
        """Sleep until a whole period after the last tick of the work before, which :meth:`begin_now` may have begun late."""
        self._clock.sleep_until(self._begun_ns + self.period_ns)
        if self.remaining_ns() <= 0:
            self._next_ns = self._clock.now_ns() + self.period_ns

    def begin_now(self, ticks: int) -> None:
        """Let the coming ticks be whole periods from now, but for the last of so many: that is due as before."""
        self._begun_ns, self._ticks_to_begin = self._clock.now_ns(), ticks - 1
        into_ns = self.period_ns - self.remaining_ns()
        if ticks > 1 and 0 < into_ns < self.period_ns:
            self._late_ns, self._late_ticks = into_ns, ticks - 1
            self._next_ns += into_ns

    @property
    def next_ns(self) -> int:
        """The instant of the next tick."""
        return self._next_ns

    def remaining_ns(self) -> int:
        """Return the time until the next tick, negative where it is due."""
        return self._next_ns - self._clock.now_ns()


class Every:
    """Says when it is time again for something that is done now and then.

    Nothing is caught up with: whoever looks late waits a whole period from there.

    Args:
        seconds: The period.
        clock: Whose seconds they are; the machine's where there is none.
        at_once: Whether it is time already at the first look, or after a period.

    Example:
        >>> clock = FakeClock()
        >>> report = Every(5.0, clock)
        >>> report.due(), report.due()
        (True, False)
        >>> clock.advance(5.0); report.due()
        True
    """

    def __init__(self, seconds: float, clock: Clock | None = None, *, at_once: bool = True) -> None:
        self._clock: Clock = clock or MonotonicClock()
        self._period_ns = int(seconds * NS)
        self._next_ns = self._clock.now_ns() + (0 if at_once else self._period_ns)

    def due(self) -> bool:
        """Return whether it is time; then it is time again after another period."""
        now_ns = self._clock.now_ns()
        if now_ns < self._next_ns:
            return False
        self._next_ns = now_ns + self._period_ns
        return True


class Deadline:
    """An instant by which something must have happened.

    Example:
        >>> clock = FakeClock()
        >>> deadline = Deadline(1.0, clock)
        >>> clock.advance(0.4); round(deadline.remaining_s(), 3)
        0.6
    """

    def __init__(self, seconds: float, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or MonotonicClock()
        self.seconds = seconds
        self._at_ns = self._clock.now_ns() + int(seconds * NS)

    def remaining_s(self) -> float:
        """Return the seconds left, never below 0."""
        return max(0.0, (self._at_ns - self._clock.now_ns()) / NS)

    @property
    def passed(self) -> bool:
        """True once no time is left."""
        return self._clock.now_ns() >= self._at_ns

    def check(self, waited_for: str, remedy: str = "") -> None:
        """Raise if the time is up.

        Raises:
            DeadlineExceeded: Naming what was waited for.
        """
        if self.passed:
            raise DeadlineExceeded(
                f"{waited_for} did not happen in time",
                allowed=f"{self.seconds:g} s",
                remedy=remedy,
            )
