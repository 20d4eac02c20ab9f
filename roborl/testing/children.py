"""Processes that misbehave on purpose, for tests of what supervises them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from roborl.errors import RoborlError
from roborl.loops.supervise import Child, ChildSpec, Event, ProcessGroup

log = logging.getLogger(__name__)


def finish(child: Child) -> None:
    """End at once, as if the work were done."""
    child.ready()


def speak(child: Child, heard: Path) -> None:
    """Say something of no urgency, and leave in a file how it was written."""
    record = logging.LogRecord(__name__, logging.INFO, "", 0, "All is well", (), None)
    child.ready()
    root = logging.getLogger()
    written = [handler.format(record) for handler in root.handlers if root.isEnabledFor(logging.INFO)]
    heard.write_text("\n".join(written))


def fail(child: Child) -> None:
    """Say that the work cannot begin."""
    raise RoborlError(
        "The motor bus is missing", seen="/dev/ttyACM1", allowed=["/dev/ttyACM0"], remedy="Plug it in"
    )


def crash(child: Child) -> None:
    """Die of a mistake before the work begins."""
    raise ZeroDivisionError


def hang_once(child: Child, flag: Path) -> None:
    """Give no sign of life any more, the first time; finish the second time."""
    child.ready()
    if flag.exists():
        return
    flag.touch()
    time.sleep(60)


def wait(child: Child, pid_file: Path) -> None:
    """Leave the process id in a file and run until stopped."""
    pid_file.write_text(str(os.getpid()))
    child.ready()
    while not child.stopping:
        child.beat()
        time.sleep(0.01)


def leave_word(child: Child, place: Path) -> None:
    """Leave in a file that it runs, and then that it was stopped."""
    child.ready()
    place.write_text("runs")
    while not child.stopping:
        child.beat()
        time.sleep(0.01)
    place.write_text("stopped")


def keep_two(folder: Path, preload: Sequence[str] = ()) -> None:
    """Keep two processes alive until this one is stopped, as a command does, and say so."""
    child = Child.alone("two")
    specs = [
        ChildSpec(name=name, target=leave_word, args=(folder / name,), lasting=True) for name in ("a", "b")
    ]
    events: list[Event] = []
    group = ProcessGroup(specs, preload=preload, on_event=events.append)
    group.start()
    while not child.stopping:
        group.poll(0.05)
    log.info("It ends")
    group.stop()
    print("It has ended", flush=True)  # noqa: T201  (a command's result)
    died = sum(event["event"] == "died" for event in events)
    (folder / "parent").write_text("stopped" if not died else f"took {died} children for dead")


def supervise_one(child: Child, pid_file: Path) -> None:
    """Keep a process of its own alive, for ever."""
    group = ProcessGroup([ChildSpec(name="inner", target=wait, args=(pid_file,))])
    group.start()
    child.ready()
    while True:
        group.poll(0.1)
