"""Run every command that the README and the pages it leads to show in a ``sh`` block, quickened where the full one takes minutes.

A command followed by ``# long`` is run with less of everything where :data:`QUICKENED` says how; what waits for stop is
stopped as by Ctrl-C after the last of its block. Any other, and one followed by ``# hardware``, is only checked for its
spelling: its verb must know ``--help``. ``make test`` has its own step. All of it happens in a folder that is emptied first, for
some commands refuse a folder that is made already, and in ``outputs`` it would be somebody's.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PAGES = ("README.md", "roborl/rewards/README.md", "hardware_configs/README.md")
"""In the order in which they are run: the later ones use what the first leaves, and do not run again what it ran."""
FOLDER = Path("outputs/ci")
"""In which the commands are run."""
QUICK = {"make demo": "roborl demo --quick true"}
ELSEWHERE = {"make test", "make lint", "make install"}
QUICKENED = {
    "roborl train-reward --dataset outputs/reach ": "--training.steps 30",
    "roborl train --bench so101_sim ": "--episodes 3 --clone.encoder_updates 30 --clone.actor_updates 30",
    "roborl evaluate --policy outputs/reach-run ": "--episodes 3",
    "roborl serve outputs/reach-reward": "",
    "roborl watch outputs/reach ": "",
    "roborl bench-reward --model outputs/reach-reward ": "",
    "roborl filter --dataset outputs/reach ": "",
}
"""What to add to a long command, by how it begins. What it requires of its result, or drops of it, is left out: with so little, it is poor."""
_WAITS = "roborl serve "
_STOPS_S = 30.0
_PROGRAMS = Path(__file__).absolute().parents[1] / ".venv" / "bin"


def blocks(page: str) -> list[list[str]]:
    """Return the commands of each ``sh`` block of a page, continued lines joined."""
    found = re.findall(r"```sh\n(.*?)```", page, flags=re.S)
    lines = [block.replace("\\\n", " ").splitlines() for block in found]
    return [[line.strip() for line in block if line.strip() and not line.startswith("#")] for block in lines]


def commands(page: str) -> list[str]:
    """Return the commands of all ``sh`` blocks."""
    return [command for block in blocks(page) for command in block]


def runnable(command: str) -> str | None:
    """Return what to run for a command of a page, None where another step of CI runs it."""
    body, _, remark = (part.strip() for part in command.partition(" #"))
    if body in ELSEWHERE or body.startswith("git clone"):
        return None
    if body in QUICK:
        return QUICK[body]
    words = shlex.split(body)
    if remark.startswith(("hardware", "long")):
        less = [more for start, more in QUICKENED.items() if f"{body} ".startswith(start)]
        words = [*_without_bars(words), *shlex.split(less[0])] if less else [*words[:2], "--help"]
    return shlex.join(words)


def _without_bars(words: list[str]) -> list[str]:
    bars = {"--require", "--drop"}
    return [word for before, word in zip(["", *words], words, strict=False) if not bars & {before, word}]


def run_block(block: list[str], folder: Path) -> Iterator[str]:
    """Run the commands of one block in their order in a folder, say how long each took, and yield those that failed."""
    env = os.environ | {"PATH": f"{_PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    waiting: list[tuple[str, subprocess.Popen[bytes]]] = []
    for command in block:
        line = runnable(command)
        if line is None:
            continue
        print(f"\n$ {line}", flush=True)
        if command.startswith(_WAITS) and "--help" not in line:
            waiting.append((command, subprocess.Popen(shlex.split(line), cwd=folder, env=env)))
            continue
        began = time.monotonic()
        status = subprocess.run(line, shell=True, check=False, cwd=folder, env=env).returncode
        print(f"{line}: took {time.monotonic() - began:.0f} s", flush=True)
        if status:
            yield command
    for command, process in waiting:
        process.send_signal(signal.SIGINT)
        try:
            failed = process.wait(_STOPS_S) != 0
        except subprocess.TimeoutExpired:
            process.kill()
            failed = True
        if failed:
            yield command


def main() -> int:
    """Run them all; return 1 if one failed."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell in the background has it ignored, and so would children
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    FOLDER.mkdir(parents=True)
    failed, ran = [], set[str]()
    for page in PAGES:
        for block in blocks(Path(page).read_text()):
            failed += run_block([command for command in block if command not in ran], FOLDER)
            ran.update(block)
    for command in failed:
        print(f"FAILED: {command}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
