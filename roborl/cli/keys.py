"""``roborl keys``: make CURVE keys, one folder per computer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roborl.serving.security import make_keys


@dataclass(frozen=True, kw_only=True)
class Config:
    """Makes one key folder per computer; each holds all that its computer needs and nothing that another must hide."""

    folder: str = "keys"  # where the folders go
    computers: list[str] = field(default_factory=lambda: ["learner", "robot"])  # names of the computers


def main(config: Config) -> dict[str, Any]:
    """Make the keys and say which folder goes where."""
    folders = make_keys(Path(config.folder), config.computers)
    return {
        "folders": {name: str(folder) for name, folder in folders.items()},
        "next": "Move each folder to its computer and set security.keys to it there; delete it here",
    }
