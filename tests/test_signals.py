"""What ends a command waits for the end of a write, and is then obeyed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from roborl.signals import ended_as_by_ctrl_c, interrupt_later

pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_waits_for_the_end_of_a_write(number: int) -> None:
    done = []

    def write() -> None:
        with ended_as_by_ctrl_c(), interrupt_later():
            with interrupt_later():
                signal.raise_signal(number)
                done.append("inner")
            done.append("outer")
        done.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


SAVED = ["closing", "saved", "arm closed"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("patience_s", "done"), [(5.0, SAVED), (0.0, [])])
def test_a_second_signal_does_not_keep_the_block_from_saving_unless_it_comes_late(
    monkeypatch: pytest.MonkeyPatch, first: int, second: int, patience_s: float, done: list[str]
) -> None:
    """As a closed terminal sends two, of which the second comes before a writer is being closed."""
    monkeypatch.setattr("roborl.signals._SAME_WISH_S", patience_s)
    came = []

    def save() -> None:
        signal.raise_signal(second)
        with interrupt_later():
            came.append("closing")
            signal.raise_signal(second)
            came.append("saved")
        signal.raise_signal(second)
        came.append("arm closed")

    def work() -> None:
        with ended_as_by_ctrl_c():
            try:
                signal.raise_signal(first)
            finally:
                save()

    with pytest.raises(KeyboardInterrupt, match=r"Ctrl-C|SIGTERM|SIGHUP"):
        work()
    assert came == done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_under_nohup_the_end_of_the_terminal_ends_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended_as_by_ctrl_c(), interrupt_later():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_where_nobody_takes_it_sigterm_ends_the_process_behind_the_write() -> None:
    script = (
        "import signal; from roborl.signals import interrupt_later\n"
        "with interrupt_later():\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print('written', flush=True)\n"
        "print('not reached')"
    )
    child = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    assert (child.returncode, child.stdout) == (-signal.SIGTERM, "written\n")


def test_what_is_written_to_a_closed_terminal_goes_nowhere() -> None:
    ours, theirs = os.openpty()
    script = (
        "import sys, time; from roborl.signals import ended_as_by_ctrl_c\n"
        "try:\n"
        "    with ended_as_by_ctrl_c():\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "except KeyboardInterrupt as stop:\n"
        "    print(stop, flush=True)\n"
        "    print(stop, file=sys.stderr, flush=True)\n"
        "    sys.exit(7)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        assert os.read(ours, 5) == b"ready"
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == 7
    finally:
        process.kill()
        process.wait()
