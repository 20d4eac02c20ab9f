"""Whole runs as a user starts them, each command a process of its own, with witnesses beside them: for benchmarks of faults."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from roborl.clock import Deadline
from roborl.errors import RoborlError
from roborl.loops.actor.act_config import shared_folder
from roborl.loops.actor.status import StatusSlot
from roborl.loops.witness import RingWitness

_LOOK_S = 0.03
_COMMAND = "from roborl.cli.main import main; raise SystemExit(main())"
# A learner that works, and takes little of the machine.
SMALL_LEARNER = (
    *("--trainer.budget.start_at", "20", "--trainer.budget.ratio", "0.2", "--trainer.publish_every", "20"),
    *("--rlpd.batch_size", "16", "--rlpd.members", "2", "--rlpd.width", "16"),
    *("--store.capacity_bytes", str(512 << 20)),
)


def on_reach(time_scale: float) -> tuple[str, ...]:
    """Return the arguments that choose the simulated bench with the task Reach."""
    return (
        "--bench",
        "so101_sim",
        "--bench_overrides",
        f"[--robot.scene=Reach, --time_scale={time_scale:g}]",
    )


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class RunningCommand:
    """A ``roborl`` command with everything that it starts, as one process group.

    Args:
        verb: Such as ``train``.
        args: Its further arguments.
        log: File that gets what it says.
    """

    def __init__(self, verb: str, *args: str, log: Path) -> None:
        self.verb = verb
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, verb, *args],
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise if it has ended.

        Raises:
            RoborlError: With its last words.
        """
        if self._process.poll() is not None:
            raise RoborlError(f"roborl {self.verb} ended early: {self._last_words()}")

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill it and all that it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def result(self, timeout_s: float) -> dict[str, Any]:
        """Wait for its end and return its result.

        Raises:
            RoborlError: If it takes too long, or did not succeed.
        """
        try:
            output, _ = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise RoborlError(
                f"roborl {self.verb} did not end", allowed=f"{timeout_s:g} s", remedy=self._last_words()
            ) from None
        if self._process.returncode:
            raise RoborlError(f"roborl {self.verb} failed: {self._last_words()}")
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


class RunUnderTest:
    """Commands under way, witnesses at the rings of their actors, and a clock that makes both be looked after.

    Args:
        run: The run folder whose actors are witnessed.
        actors: Names of the actors.
    """

    def __init__(self, run: Path, actors: Sequence[str]) -> None:
        self._folders = [shared_folder(run, actor) for actor in actors]
        self.witnesses = [RingWitness(folder / "ring.bin") for folder in self._folders]
        self.commands: list[RunningCommand] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for command in self.commands:
            command.kill()
        for witness in self.witnesses:
            witness.close()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    @cached_property
    def control(self) -> list[StatusSlot]:
        """Counters of the control processes; to be asked for once they are up, since a launcher clears the way first."""
        return [StatusSlot(folder, "control") for folder in self._folders]

    @cached_property
    def io(self) -> list[StatusSlot]:
        """Counters of the I/O processes; likewise."""
        return [StatusSlot(folder, "io") for folder in self._folders]

    def start(self, verb: str, *args: str, log: Path) -> RunningCommand:
        """Start a command; it is killed at the latest when the scene is left."""
        self.commands.append(RunningCommand(verb, *args, log=log))
        return self.commands[-1]

    def kill(self, command: RunningCommand) -> None:
        """Kill a command for good."""
        self.commands.remove(command)
        command.kill()

    def end(self, command: RunningCommand, timeout_s: float) -> dict[str, Any]:
        """Ask a command to end, wait for it while the witnesses look on, and return its result.

        Raises:
            RoborlError: If it takes too long, or did not succeed.
        """
        self.commands.remove(command)
        self._look()
        command.interrupt()
        try:
            result = command.result(timeout_s)
        finally:
            command.kill()
            self._look()
        return result

    def wait(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Let time pass.

        Raises:
            RoborlError: If a command ends meanwhile.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._look()
            meanwhile()
            for command in self.commands:
                command.check()
            time.sleep(min(left, _LOOK_S))

    def until(self, what: str, happened: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait for something to happen.

        Raises:
            DeadlineExceeded: If it does not within ``seconds``.
            RoborlError: If a command ends meanwhile.
        """
        deadline = Deadline(seconds)
        while not happened():
            deadline.check(what)
            self.wait(_LOOK_S)

    def steps(self) -> int:
        """Return the steps that all actors have taken."""
        return sum(status["steps"] for status in self.control)

    def _look(self) -> None:
        for witness in self.witnesses:
            witness.look()


class Events:
    """Follows what a launcher says of its processes in ``events.jsonl``.

    Args:
        path: The file; it may come later.

    Attributes:
        pids: Process id of each child that runs, ready or not.
        ready: Children that are at work.
        lives: For each child, what was said of it, in order.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.pids: dict[str, int] = {}
        self.ready: set[str] = set()
        self.lives: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def update(self) -> None:
        """Read what was said since."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            event = json.loads(line)
            if event.get("event") in ("started", "ready", "died", "finished"):
                self._take(event["child"], event)

    def _take(self, child: str, event: dict[str, Any]) -> None:
        if event["event"] == "started":
            self.pids[child] = event["pid"]
        elif event["event"] == "ready":
            self.ready.add(child)
        else:
            event["pid"] = self.pids.pop(child, 0)
            self.ready.discard(child)
        self.lives[child].append(event)
