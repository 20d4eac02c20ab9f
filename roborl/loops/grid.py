"""Runs grids of long experiments: every cell is a file, so that a grid can be stopped and resumed at any instant.

Started several times on one folder, a grid is shared: each process runs cells that no other one has begun.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roborl.locks import kept
from roborl.paths import source_root
from roborl.whole_files import write_whole

logger = logging.getLogger(__name__)

type Result = dict[str, Any]

LOOK_AGAIN_S = 2.0
"""How often a process looks whether what another one does is done."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One experiment of a grid.

    Attributes:
        arm: Name of the condition, for tables.
        seed: The seed.
        config: Everything else that decides the result, as plain values.
    """

    arm: str
    seed: int
    config: Mapping[str, Any]

    def key(self, commit: str) -> str:
        """Return the cell's file name without ending: arm, seed and a hash of commit and configuration."""
        text = json.dumps({"commit": commit, "config": dict(self.config)}, sort_keys=True)
        return f"{self.arm}-seed{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def run_grid(
    cells: Iterable[Cell],
    run: Callable[[Cell], Result],
    folder: Path,
    *,
    commit: str | None = None,
    stop_after_s: float = float("inf"),
) -> list[Result]:
    """Run the cells that have no file yet, in order, and return the results of all that have one.

    Cells that other processes run are waited for, and run here should those processes end before they are done.

    Args:
        cells: The grid.
        run: Runs one cell; its result must be plain values.
        folder: Where cells are written, each at once and whole when it is done.
        commit: Name of the code; the checkout's commit where None.
        stop_after_s: Begin no further cell after so many seconds, and wait for no other process.

    Returns:
        A result for each finished cell, with ``arm``, ``seed``, ``commit`` and ``wall_s`` added.
    """
    commit = commit or code_version()
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{cell.key(commit)}.json": cell for cell in cells}
    begun = time.monotonic()
    while True:
        elsewhere = False
        for path, cell in files.items():
            if _whole(path) or time.monotonic() - begun > stop_after_s:
                continue
            with kept(at_work(path)) as mine:
                elsewhere |= not mine
                if mine and not _whole(path):
                    logger.info("cell %s", path.stem)
                    started = time.monotonic()
                    result = {"arm": cell.arm, "seed": cell.seed, "commit": commit}
                    result |= {"config": dict(cell.config)} | run(cell)
                    result |= {"wall_s": round(time.monotonic() - started, 1)}
                    write_whole(path, json.dumps(result, indent=1))
        if not elsewhere or time.monotonic() - begun > stop_after_s:
            return [json.loads(path.read_text()) for path in files if _whole(path)]
        time.sleep(LOOK_AGAIN_S)


def at_work(path: Path) -> Path:
    """Return the file that a process locks while it makes ``path``."""
    return path.parent / "at_work" / path.name


def _whole(path: Path) -> bool:
    """Return whether a cell's file is there and was not torn by a loss of power, after which the cell runs again."""
    try:
        return bool(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return False


def code_version() -> str:
    """Return the checkout's short commit, with ``+`` where ``roborl/`` has changes, else the package version."""
    root = source_root()
    if root is None:
        from importlib.metadata import version

        return version("roborl")

    def git(*args: str) -> str:
        return subprocess.run(
            ("git", "-C", str(root), *args), capture_output=True, text=True, check=True
        ).stdout

    return git("rev-parse", "--short=10", "HEAD").strip() + (
        "+" if git("status", "--porcelain", "roborl") else ""
    )
