"""Keeps a group of processes alive: starts them from one warm image, notices a death at once, starts the dead one again.

The children are forked by ``multiprocessing``'s fork server, which has loaded the heavy modules once. So a child that
died is back within the time of its own set-up, and what they have in common lies in memory once.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from roborl.errors import ConfigError, RoborlError
from roborl.logs import log_to_stderr
from roborl.signals import interrupt_later, on_hangup

log = logging.getLogger(__name__)

type Event = dict[str, str | int | float | None]

LOAD_S = 600.0
"""Longest that a process may take to read a network: one of billions of weights takes minutes."""

_LONGEST_PAUSE_S = 5.0
_STEADY_S = 2.0
_ORPHAN_GRACE_S = 10.0
_ENDED_PAUSE_S = 1.0
_SAME_WISH_S = 1.0
_ERROR_EXIT = 3


class Child:
    """What a supervised process has of its supervision.

    A process that runs alone makes one with :meth:`alone`; then nobody listens and only signals stop it.

    Attributes:
        is_ready: Whether its work has begun.
        stopping: Whether it must end.
        hurried: Whether it was asked once more to end, a second or more after the first time: a closed terminal asks twice.
    """

    def __init__(self, name: str, link: Connection | None, beat: ctypes.c_int64) -> None:
        self.name = name
        self.is_ready = False
        self.stopping = self.hurried = False
        self._asked_s = math.inf
        self._link = link
        self._beat = beat
        self._started = time.monotonic()

    @classmethod
    def alone(cls, name: str) -> Child:
        """Make one for a process without a supervisor, and let SIGTERM, Ctrl-C and the end of its terminal stop it."""
        child = cls(name, None, ctypes.c_int64(0))
        child._take_signals(handles_interrupt=True)
        on_hangup(child.stop)
        return child

    def beat(self) -> None:
        """Show a sign of life. Costs about a microsecond."""
        self._beat.value = time.monotonic_ns()

    def ready(self, import_s: float = 0.0) -> None:
        """Tell the supervisor that work begins.

        Args:
            import_s: How much of the start was spent loading modules.
        """
        self.is_ready = True
        self.beat()
        self._tell({"ready": True, "import_s": import_s, "setup_s": time.monotonic() - self._started})

    def stop(self) -> None:
        """Ask the process to end: its loop looks at ``stopping``."""
        now_s = time.monotonic()
        self.hurried = self.hurried or now_s - self._asked_s >= _SAME_WISH_S
        self.stopping, self._asked_s = True, min(self._asked_s, now_s)

    def _take_signals(self, *, handles_interrupt: bool) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, (lambda *_: self.stop()) if handles_interrupt else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # It was held back until here.

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._link is not None:
            try:
                self._link.send_bytes(json.dumps(message).encode())
            except OSError:
                self.stop()

    def _end_with_parent(self) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            self.stop()
            time.sleep(_ORPHAN_GRACE_S)
            os._exit(_ERROR_EXIT)


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """A process to keep alive.

    Attributes:
        name: For logs, events and process lists.
        target: Module-level function that gets a :class:`Child`, then ``args``. It ends by returning, or with a
            RoborlError.
        args: Its further arguments; they reach our own child by pickle.
        hang_s: How long it may go without :meth:`Child.beat` once ready, before it is killed and started again; None
            watches for its end only.
        start_s: How long it may go without :meth:`Child.beat` until it is ready.
        handles_interrupt: Whether Ctrl-C reaches the child itself; the others wait for their parent's word.
        lasting: Whether its work is never done: where it returns without having been asked to, as after a SIGTERM from
            outside, that is a death.
    """

    name: str
    target: Callable[..., None]
    args: tuple[Any, ...] = ()
    hang_s: float | None = None
    start_s: float = 120.0
    handles_interrupt: bool = False
    lasting: bool = False


class _Life:
    """One child's present state."""

    def __init__(self, spec: ChildSpec, beat: ctypes.c_int64) -> None:
        self.spec = spec
        self.beat = beat
        self.process: BaseProcess | None = None
        self.link: Connection | None = None
        self.started = 0.0
        self.is_ready = False
        self.was_ready = False
        self.error = ""
        self.died: float | None = None
        self.due = 0.0
        self.failures = 0
        self.finished = False


def restart_pause_s(failures: int) -> float:
    """Return the seconds before a child that died so many times in a row, within seconds each, is started again."""
    return 0.0 if failures <= 2 else min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(failures, 10))


class ProcessGroup:
    """Starts processes, starts again those that die, ends them in order.

    A child that returns is finished, unless it is a lasting one. One that dies is started again at once, and after growing pauses where it keeps
    dying within seconds. A child that reports an error before it was ever ready ends the group: another start would not
    help it.

    It also ends with a child that reports a ConfigError at any time.

    Args:
        specs: The children, in the order in which they are started, and ended.
        preload: Modules that the fork server loads once for all children. They must not start threads.
        on_event: Called with every start, death and recovery: ``at_ns``, ``child``, ``event`` (started, ready, died,
            silent, finished) and its figures.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        preload: Sequence[str] = (),
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *preload])
        self._lives = {spec.name: _Life(spec, self._context.RawValue(ctypes.c_int64, 0)) for spec in specs}
        self._on_event = on_event
        self.restarts = dict.fromkeys(self._lives, 0)
        self.recoveries_s: dict[str, list[float]] = {name: [] for name in self._lives}

    def start(self) -> None:
        """Start every child."""
        for life in self._lives.values():
            self._start(life)

    def pid(self, name: str) -> int | None:
        """Return a child's process id, None while it is down."""
        process = self._lives[name].process
        return None if process is None else process.pid

    def ready(self, name: str) -> bool:
        """Return whether a child runs and has said that it is ready."""
        return self._lives[name].is_ready

    def finished(self, name: str) -> bool:
        """Return whether a child came to its own end, or was ended."""
        return self._lives[name].finished

    def poll(self, timeout_s: float = 0.1) -> None:
        """Wait up to ``timeout_s`` for something to happen, and see to it. A death wakes it at once.

        Raises:
            ConfigError: If a child could not be used as it was configured.
            RoborlError: If a child failed before it was ever ready.
        """
        down = [life for life in self._lives.values() if life.process is None and not life.finished]
        now = time.monotonic()
        handles: list[Any] = []
        for life in self._lives.values():
            handles += [] if life.process is None else [life.process.sentinel]
            handles += [] if life.link is None else [life.link]
        wait(handles, max(0.0, min([timeout_s, *(life.due - now for life in down)])))
        for life in self._lives.values():
            self._listen(life)
            if life.process is None:
                if not life.finished and time.monotonic() >= life.due:
                    self._start(life)
            elif life.process.exitcode is None:
                self._check_signs_of_life(life, life.process)
            else:
                self._see_to_death(life, life.process.exitcode)

    def end(self, name: str, grace_s: float = 5.0) -> None:
        """End one child for good: SIGTERM, and SIGKILL after ``grace_s``."""
        life = self._lives[name]
        life.finished = True
        if life.process is None:
            return
        life.process.terminate()
        life.process.join(grace_s)
        if life.process.exitcode is None:
            log.warning("%s did not end within %g s and is killed", name, grace_s)
            life.process.kill()
            life.process.join()
        self._bury(life)
        self._note(life, "finished")

    def stop(self, grace_s: float = 5.0) -> None:
        """End all children, one after the other; what one of them raises is raised once all have ended."""
        with ExitStack() as ends:
            for name in reversed(self._lives):
                ends.callback(self.end, name, grace_s)

    def _start(self, life: _Life) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        spec = life.spec
        process = self._context.Process(
            target=_run,
            args=(spec.name, theirs, life.beat, spec.handles_interrupt, spec.target, spec.args),
            name=f"roborl-{spec.name}",
        )
        # An interrupt is raised where the child is known already: one that nobody ends is waited for when we end.
        with interrupt_later():
            with _without_interrupts():
                process.start()
            theirs.close()
            if life.died is not None:
                self.restarts[spec.name] += 1
            life.process, life.link, life.started, life.error = process, ours, time.monotonic(), ""
        self._note(life, "started", pid=process.pid)

    def _listen(self, life: _Life) -> None:
        while life.link is not None:
            try:
                if not life.link.poll():
                    return
                message = json.loads(life.link.recv_bytes(1 << 16))
            except (EOFError, OSError):
                life.link.close()
                life.link = None
                return
            if "error" in message:
                life.error = message["error"]
                if message["misuse"]:
                    raise ConfigError(f"The {life.spec.name} process cannot go on: {life.error}")
            else:
                self._welcome(life, message["import_s"], message["setup_s"])

    def _welcome(self, life: _Life, import_s: float, setup_s: float) -> None:
        life.is_ready = life.was_ready = True
        back_s = None
        if life.died is not None:
            back_s = time.monotonic() - life.died
            self.recoveries_s[life.spec.name].append(back_s)
            life.died = None
        self._note(life, "ready", import_s=import_s, setup_s=setup_s, back_s=back_s)

    def _check_signs_of_life(self, life: _Life, process: BaseProcess) -> None:
        spec = life.spec
        limit_s = spec.hang_s if life.is_ready else spec.start_s
        silent_s = time.monotonic() - max(life.beat.value / 1e9, life.started)
        if limit_s is not None and silent_s > limit_s:
            self._note(life, "silent", silent_s=silent_s)
            log.warning("%s has been silent for %.1f s and is killed", spec.name, silent_s)
            process.kill()
            process.join()

    def _see_to_death(self, life: _Life, exit_code: int) -> None:
        name, now = life.spec.name, time.monotonic()
        self._listen(life)  # What it said last may have come since it was listened to.
        self._bury(life)
        if exit_code == 0 and not life.spec.lasting:
            life.finished = True
            self._note(life, "finished")
            return
        self._note(life, "died", exit_code=exit_code, error=life.error)
        if exit_code > 0 and not life.was_ready:
            if life.error:  # all parts of it
                raise RoborlError(f"The {name} process could not start: {life.error}")
            raise RoborlError(
                f"The {name} process could not start",
                seen=f"exit code {exit_code}",
                allowed="exit code 0",
                remedy="See its traceback above",
            )
        life.died = now if life.died is None else life.died
        life.failures = 1 if now - life.started > _STEADY_S else life.failures + 1
        pause_s = restart_pause_s(life.failures)
        if exit_code == 0:
            # Whoever sent it SIGTERM may have sent it to the whole group, which is then about to end.
            pause_s = max(pause_s, _ENDED_PAUSE_S)
        life.due = now + pause_s
        log.warning("%s died (exit code %d); it is started again in %.1f s", name, exit_code, pause_s)
        if pause_s == 0.0:
            self._start(life)

    def _bury(self, life: _Life) -> None:
        if life.process is not None:
            life.process.join()
            life.process.close()
        if life.link is not None:
            life.link.close()
        life.process, life.link, life.is_ready = None, None, False

    def _note(self, life: _Life, event: str, **figures: str | float | None) -> None:
        log.debug("%s %s %s", life.spec.name, event, figures)
        if self._on_event is not None:
            self._on_event({"at_ns": time.monotonic_ns(), "child": life.spec.name, "event": event, **figures})


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C and SIGHUP back in what starts meanwhile: without the fork server nobody knows when a child has ended."""
    resource_tracker.ensure_running()  # Not later: its start lets Ctrl-C through again.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(
    name: str,
    link: Connection,
    beat: ctypes.c_int64,
    handles_interrupt: bool,
    target: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    title = Path("/proc/self/comm")
    if title.is_file():
        title.write_text(f"roborl-{name}"[:15])
    # What the fork server loaded has a handler of its own there, which keeps INFO to itself.
    log_to_stderr(again=True)
    child = Child(name, link, beat)
    child._take_signals(handles_interrupt=handles_interrupt)
    # As Ctrl-C it comes to all of them, and their parent ends them in order.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=child._end_with_parent, name="parent-watch", daemon=True).start()
    try:
        target(child, *args)
    except RoborlError as error:
        log.error("%s: %s", name, error)
        child._tell({"error": str(error), "misuse": isinstance(error, ConfigError)})
        sys.exit(_ERROR_EXIT)
