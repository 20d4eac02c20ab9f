"""A long run in named stages, each of them done once, in a folder that belongs to one set of settings."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roborl.errors import ConfigError
from roborl.whole_files import read_json, write_whole

log = logging.getLogger(__name__)

REDO = "Delete it and run the same again: each stage is done again, on what it has left"


class Stages:
    """Names and times the stages of a run, so that each is done once and a stopped run goes on where it was.

    Args:
        folder: Holds ``stages.json``.

    Raises:
        ConfigError: If that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "stages.json"
        self.done: dict[str, dict[str, Any]] = (
            read_json(self._path, remedy=REDO) if self._path.is_file() else {}
        )

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of ``work``, from an earlier run where there is one."""
        if name not in self.done:
            log.info("%s ...", name)
            began = time.monotonic()
            result = work()
            self.done[name] = result | {"wall_s": round(time.monotonic() - began, 1)}
            write_whole(self._path, json.dumps(self.done, indent=1, default=float))
            log.info("%s: done in %.0f s", name, self.done[name]["wall_s"])
        return self.done[name]


def claim(path: Path, settings: str) -> None:
    """Write the settings of a run that begins; one that goes on must have the same.

    Args:
        path: Where they are written, in the run's folder.
        settings: As text, a line for each.

    Raises:
        ConfigError: If the folder holds a run with other settings.
    """
    check_claim(path, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, settings)


def check_claim(path: Path, settings: str) -> None:
    """See that a folder holds no run with other settings, which takes more than those; arguments and errors as of :func:`claim`."""
    if not path.is_file() or set(path.parent.iterdir()) == {path}:
        return
    before = path.read_text()
    if before != settings:
        old, new = before.splitlines(), settings.splitlines()
        raise ConfigError(
            "This folder holds a demonstration with other settings, and its stages would pass for this one's",
            seen=f"{path}: {', '.join(line.strip() for line in old if line not in new) or 'fewer settings'}",
            allowed=", ".join(line.strip() for line in new if line not in old) or "those and no more",
            remedy=f"Give another --out, or delete {path.parent}",
        )
