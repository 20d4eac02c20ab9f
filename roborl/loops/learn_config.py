"""What the learner's processes are told, and where a run keeps what it makes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roborl.errors import ConfigError
from roborl.loops.labelling import LabelConfig
from roborl.loops.train import TrainerConfig


@dataclass(frozen=True)
class RunFolder:
    """The layout of a run's folder."""

    root: Path

    @property
    def store(self) -> Path:
        """Root of the store."""
        return self.root / "store"

    @property
    def policy(self) -> Path:
        """The policy that training started from; actors load it and swap in published weights."""
        return self.root / "policy"

    @property
    def versions(self) -> Path:
        """Published actor weights."""
        return self.root / "versions"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the algorithm."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Figures over time, JSONL."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Starts, deaths, recoveries and degraded modes, JSONL."""
        return self.root / "events.jsonl"

    @property
    def rollback(self) -> Path:
        """Holds the version to go back to; the trainer takes it away."""
        return self.root / "rollback"

    @property
    def learner(self) -> Path:
        """The resolved configuration of the learner."""
        return self.root / "learn.yaml"

    def status(self, process: str) -> Path:
        """The newest counters of a process, JSON."""
        return self.root / "status" / f"{process}.json"


@dataclass(frozen=True, kw_only=True)
class DemosConfig:
    """Demonstrations for the replay memory."""

    # folder or hub id of a LeRobotDataset v3; empty for none
    path: str = ""
    # our camera name to the dataset's, where order and names do not say it
    camera_map: dict[str, str] = field(default_factory=dict)
    # most episodes to take; 0 for all
    limit: int = 0

    @property
    def actor(self) -> str:
        """First part of the keys of these episodes; another dataset gives another."""
        return f"demo.{zlib.crc32(self.path.encode()):08x}"


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """The store process."""

    # bytes of the replay memory
    capacity_bytes: int = 1 << 30
    # flush each record to the disk itself, so that it survives the loss of power and not only the death of a process
    sync: bool = False


@dataclass(frozen=True, kw_only=True)
class ShapingConfig:
    """How progress becomes reward."""

    # potential per unit of progress; 0 trains on the task's reward alone
    scale: float = 0.3
    # how strongly the spread of a score pulls its potential towards 0
    doubt: float = 0.1

    def __post_init__(self) -> None:
        if self.scale < 0 or self.doubt < 0:
            raise ConfigError(
                "Shaping cannot use these settings",
                seen=f"scale={self.scale:g} doubt={self.doubt:g}",
                allowed="0 or more",
            )


class JsonLines:
    """Appends maps to a JSONL file, each in one write, so that several processes may share it."""

    def __init__(self, path: Path, **common: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._common = path, common

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps(self._common | dict(line), default=float).encode() + b"\n")


__all__ = [
    "DemosConfig",
    "JsonLines",
    "LabelConfig",
    "RunFolder",
    "ShapingConfig",
    "StoreConfig",
    "TrainerConfig",
]
