"""The supervisor of processes, on children that misbehave."""

from __future__ import annotations

import ctypes
import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from roborl.errors import ConfigError, RoborlError
from roborl.loops.actor.act import PRELOAD
from roborl.loops.supervise import Child, ChildSpec, Event, ProcessGroup, restart_pause_s
from roborl.signals import ended_as_by_ctrl_c
from roborl.testing import children

pytestmark = pytest.mark.usefixtures("default_signals")


def wait_for(condition: Callable[[], object], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (
            children.fail,
            "The a process could not start: The motor bus is missing. Found: /dev/ttyACM1."
            " Allowed: ['/dev/ttyACM0']. Plug it in.",
        ),
        (
            children.crash,
            "The a process could not start. Found: exit code 1. Allowed: exit code 0."
            " See its traceback above.",
        ),
    ],
)
def test_a_child_that_cannot_start_ends_the_group_with_its_own_words(
    target: Callable[[Child], None], told: str
) -> None:
    group = ProcessGroup([ChildSpec(name="a", target=target)], preload=PRELOAD)
    group.start()
    with pytest.raises(RoborlError) as caught:
        wait_for(lambda: group.poll(0.2), 20)
    assert str(caught.value) == told


def test_a_child_that_returns_is_finished_and_one_that_hangs_is_replaced(tmp_path: Path) -> None:
    seen: list[str] = []
    group = ProcessGroup(
        [
            ChildSpec(name="short", target=children.finish),
            ChildSpec(name="stuck", target=children.hang_once, args=(tmp_path / "flag",), hang_s=2.0),
        ],
        preload=PRELOAD,
        on_event=lambda event: seen.append(f"{event['child']} {event['event']}"),
    )
    group.start()
    wait_for(lambda: [group.poll(0.05), group.finished("short") and group.finished("stuck")][1], 20)
    assert [event for event in seen if event.startswith("stuck")] == [
        "stuck started",
        "stuck ready",
        "stuck silent",
        "stuck died",
        "stuck started",
        "stuck ready",
        "stuck finished",
    ]
    assert group.restarts == {"short": 0, "stuck": 1}


def test_what_a_child_says_is_heard_and_timed_whatever_was_loaded_before_it(tmp_path: Path) -> None:
    spec = ChildSpec(name="a", target=children.speak, args=(tmp_path / "heard",))
    group = ProcessGroup([spec], preload=PRELOAD)
    group.start()
    wait_for(lambda: [group.poll(0.05), group.finished("a")][1], 20)
    assert re.fullmatch(r"\d\d:\d\d:\d\d roborl\.\S+ INFO All is well", (tmp_path / "heard").read_text())


def test_every_child_is_ended_though_ending_one_raises(tmp_path: Path) -> None:
    def disk_full(event: Event) -> None:
        if event["event"] == "finished":
            raise OSError("No space left on device")

    specs = [ChildSpec(name=name, target=children.wait, args=(tmp_path / name,)) for name in ("a", "b", "c")]
    group = ProcessGroup(specs, preload=PRELOAD, on_event=disk_full)
    group.start()
    wait_for(lambda: [group.poll(0.05), all(group.ready(name) for name in "abc")][1], 20)
    with pytest.raises(OSError, match="No space"):
        group.stop()
    assert [group.pid(name) for name in "abc"] == [None] * 3


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    group = ProcessGroup(
        [ChildSpec(name="outer", target=children.supervise_one, args=(pid_file,))], preload=PRELOAD
    )
    group.start()
    wait_for(lambda: [group.poll(0.05), pid_file.exists() and pid_file.read_text()][1], 20)
    inner = int(pid_file.read_text())
    os.kill(group.pid("outer"), signal.SIGKILL)
    group.end("outer")
    wait_for(lambda: not Path(f"/proc/{inner}").exists(), 5)


def test_a_death_is_noticed_at_once_and_the_process_is_back(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    died_ns: list[int] = []
    noticed_s: list[float] = []

    def note(event: dict) -> None:
        if event["event"] == "died":
            died_ns.append(event["at_ns"])

    group = ProcessGroup(
        [ChildSpec(name="a", target=children.wait, args=(pid_file,))], preload=PRELOAD, on_event=note
    )
    group.start()
    wait_for(lambda: [group.poll(0.5), group.ready("a")][1], 20)
    for count in range(1, 5):
        killed_ns, before = time.monotonic_ns(), group.pid("a")
        os.kill(before, signal.SIGKILL)
        wait_for(lambda n=count: [group.poll(0.5), len(group.recoveries_s["a"]) == n][1], 10)
        noticed_s.append((died_ns[-1] - killed_ns) / 1e9)
        assert group.pid("a") != before
    group.stop()
    assert min(noticed_s) < 0.2
    assert max(noticed_s) < 1.0
    assert group.restarts == {"a": 4}
    assert max(group.recoveries_s["a"][:2]) < 3.0


def test_the_pause_before_another_start_grows_to_a_bound_however_often_a_child_dies() -> None:
    pauses_s = [restart_pause_s(failures) for failures in range(1, 3000)]
    assert pauses_s[:3] == [0.0, 0.0, 0.8]
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[-1] == 5.0


def test_a_lasting_child_that_somebody_else_ends_is_started_again(tmp_path: Path) -> None:
    events: list[tuple[object, object]] = []
    spec = ChildSpec(name="a", target=children.wait, args=(tmp_path / "pid",), lasting=True)
    group = ProcessGroup(
        [spec],
        preload=PRELOAD,
        on_event=lambda event: events.append((event["event"], event.get("exit_code"))),
    )
    group.start()
    wait_for(lambda: [group.poll(0.05), group.ready("a")][1], 20)
    first = group.pid("a")
    os.kill(first, signal.SIGTERM)
    wait_for(lambda: [group.poll(0.05), group.ready("a") and group.pid("a") != first][1], 20)
    assert not group.finished("a")
    assert group.restarts == {"a": 1}
    group.stop()
    assert [*dict.fromkeys(events)] == [("started", None), ("ready", None), ("died", 0), ("finished", None)]
    assert group.finished("a")


def test_ctrl_c_ends_a_group_in_its_order_and_quietly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C sends SIGINT to every process in the foreground, the children among them."""
    events: list[str] = []
    specs = [
        ChildSpec(name=name, target=children.wait, args=(tmp_path / name,), lasting=True)
        for name in ("a", "b")
    ]
    group = ProcessGroup(
        specs, preload=PRELOAD, on_event=lambda event: events.append(f"{event['child']} {event['event']}")
    )
    group.start()
    wait_for(lambda: [group.poll(0.05), all(group.ready(name) for name in "ab")][1], 20)
    for name in "ab":
        os.kill(group.pid(name), signal.SIGINT)
    group.poll(0.3)
    group.stop()
    assert events[-2:] == ["a finished", "b finished"]
    assert not any("died" in event for event in events)
    assert not caplog.records


def test_ctrl_c_while_the_fork_server_loads_its_modules_ends_a_group_in_its_order_too(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text(
        "import time\nfrom pathlib import Path\nPath(__file__).with_suffix('.flag').touch()\ntime.sleep(1)\n"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from pathlib import Path; from roborl.testing import children;"
            f"children.keep_two(Path({str(tmp_path)!r}), ['heavy'])",
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for((tmp_path / "heavy.flag").exists, 30)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=20) == ("It has ended\n", "")
    assert process.returncode == 0
    assert (tmp_path / "parent").read_text() == "stopped"


@pytest.mark.parametrize("how", ["closed", "SIGTERM"])
def test_a_terminal_that_is_closed_ends_a_group_in_its_order_too(tmp_path: Path, how: str) -> None:
    """It sends SIGHUP to every process in the foreground, the fork server among them, and takes nothing more to write."""
    ours, theirs = os.openpty()
    words = "import logging; logging.basicConfig(level='INFO'); from pathlib import Path; from roborl.testing import children;"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{words} children.keep_two(Path({str(tmp_path)!r}))"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        wait_for(lambda: all((tmp_path / name).exists() for name in "ab"), 30)
        if how == "closed":
            os.close(ours)
            os.killpg(process.pid, signal.SIGHUP)  # as a shell does to what runs in it
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
            ("a", "b", "parent"), "stopped"
        )
    finally:
        process.kill()
        process.wait()
        if how != "closed":
            os.close(ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_while_a_child_starts_leaves_none_that_nobody_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    group = ProcessGroup([ChildSpec(name="a", target=children.wait, args=(tmp_path / "pid",), lasting=True)])
    child = type(group._context.Process())
    start = child.start

    def start_and_interrupt(process: Any) -> None:
        start(process)
        wait_for((tmp_path / "pid").exists, 20)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(child, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt), ended_as_by_ctrl_c():
        group.start()
    group.stop()
    forgotten = multiprocessing.active_children()
    for process in forgotten:
        process.kill()
    assert forgotten == []
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_who_asks_a_process_to_end_once_more_is_in_a_hurry_and_a_terminal_that_says_it_twice_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [100.0]
    monkeypatch.setattr("roborl.loops.supervise.time.monotonic", lambda: now_s[0])
    child = Child("a", None, ctypes.c_int64(0))
    child.stop()
    child.stop()
    assert (child.stopping, child.hurried) == (True, False)
    now_s[0] += 1.5
    child.stop()
    assert child.hurried


class LastWords:
    """A child that says why it cannot go on, and dies, right after it was listened to."""

    pid, sentinel = 1, os.open(os.devnull, os.O_RDONLY)

    def __init__(self, link: Connection) -> None:
        self._link = link

    @property
    def exitcode(self) -> int:
        if not self._link.closed:
            self._link.send_bytes(json.dumps({"error": "No such gain", "misuse": True}).encode())
            self._link.close()
        return 3

    def join(self) -> None:
        return

    def close(self) -> None:
        return


@pytest.mark.parametrize("was_ready", [False, True])
def test_last_words_of_a_child_that_dies_between_two_looks_are_heard(was_ready: bool) -> None:
    group = ProcessGroup([ChildSpec(name="io", target=children.finish)])
    life = group._lives["io"]
    life.link, theirs = multiprocessing.Pipe(duplex=False)
    life.process, life.was_ready = LastWords(theirs), was_ready  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="cannot go on: No such gain"):
        group.poll(0.0)


class Idle:
    """A process that only counts how often it is killed."""

    kills = 0

    def kill(self) -> None:
        self.kills += 1

    def join(self) -> None:
        return


def test_a_child_that_starts_slowly_is_left_alone_as_long_as_it_gives_signs_of_life() -> None:
    group = ProcessGroup([ChildSpec(name="slow", target=children.finish, start_s=5.0)])
    life, process = group._lives["slow"], Idle()
    life.started = time.monotonic() - 100
    life.beat.value = time.monotonic_ns()
    group._check_signs_of_life(life, process)  # type: ignore[arg-type]
    assert process.kills == 0
    life.beat.value -= int(6e9)
    group._check_signs_of_life(life, process)  # type: ignore[arg-type]
    assert process.kills == 1
