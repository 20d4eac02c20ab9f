"""Run every command that the README shows in a ``sh`` block, quickened where the full one takes minutes.

A command line followed by ``# hardware`` or ``# long`` is only checked for its spelling: its verb must know ``--help``.
``make test`` has its own step.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

QUICK = {"make demo": ".venv/bin/roborl demo --quick true --out outputs/ci-demo"}
ELSEWHERE = {"make test", "make lint", "make install"}


def commands(readme: str) -> list[str]:
    """Return the lines of all ``sh`` blocks, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", readme, flags=re.S)
    text = "\n".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def runnable(command: str) -> str | None:
    """Return what to run for a command of the README, None where another step of CI runs it."""
    body, _, remark = (part.strip() for part in command.partition(" #"))
    if body in ELSEWHERE or body.startswith("git clone"):
        return None
    if body in QUICK:
        return QUICK[body]
    words = shlex.split(body)
    if words[0] == "roborl":
        words[0] = ".venv/bin/roborl"
    if remark.startswith(("hardware", "long")):
        words = [*words[:2], "--help"]
    return shlex.join(words)


def main() -> int:
    """Run them all; return 1 if one failed."""
    failed = []
    for command in commands(Path("README.md").read_text()):
        line = runnable(command)
        if line is None:
            continue
        print(f"\n$ {line}", flush=True)
        if subprocess.run(line, shell=True, check=False).returncode:
            failed.append(command)
    for command in failed:
        print(f"FAILED: {command}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
