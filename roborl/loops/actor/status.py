"""Each process's heartbeat and counters, in memory that the others can read at any time."""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roborl.errors import ConfigError
from roborl.loops.actor.mapped_file import map_file
from roborl.types import EpisodeKey

_MAGIC = 0x3153544154535252

LIFE = ("pid", "heartbeat_ns", "started_ns", "import_ns", "ready_ns", "starts")
# What a control period is made of; "wait" is what the loop overslept.
PHASES = ("observe", "commit", "publish", "look", "decide", "send", "listen", "wait", "other")
STATUS_FIELDS = {
    "control": (
        *LIFE,
        *("incarnation", "begun", "episode", "index", "committed", "episodes", "steps", "successes"),
        *("ticks", "due_ns", "holds", "late_max_ns", "waiting_for", "last_end", "watchdogs", "bad_chunks"),
        *("person_steps", "takeovers", "operator_lost", "robot_faults", "clipped", "judge_stops"),
        *("priority", "lost_episodes", "lost_in", "discarded", "cut_short", "helped"),
        *(f"late_{phase}" for phase in PHASES),
        *(f"worst_{phase}_ns" for phase in PHASES),
        *("worst_cpu_ns", "worst_faults", "worst_disk_faults"),
    ),
    "bare": ("ticks", "late_max_ns"),
    "inference": (
        *LIFE,
        *("policy_version", "weights_seen", "chunks", "bad_chunks", "swaps", "refused"),
        *("latency_sum_ns", "latency_max_ns", "apply_ns"),
    ),
    "io": (
        *LIFE,
        *("connected", "paused", "sent", "acknowledged", "pending", "weights_version", "weights_received"),
        *("link_faults", "met"),
    ),
    "live": (*LIFE, "connected", "offered", "scored", "missing", "refused", "lost", "silent", "stuck"),
}
LATE_BUCKETS = 281
_LATE_PER_DECADE = 40
_LATE_FIRST_NS = 1_000.0


class StatusSlot:
    """One process's heartbeat and counters, each a 64-bit number that its owner alone writes.

    Args:
        folder: Where ``<process>.status`` lies.
        process: One of ``STATUS_FIELDS``.

    Raises:
        ConfigError: If there is no such process.
    """

    def __init__(self, folder: Path, process: str) -> None:
        fields = STATUS_FIELDS.get(process)
        if fields is None:
            raise ConfigError(
                "No status is kept for this process", seen=process, allowed=sorted(STATUS_FIELDS)
            )
        self._at = {name: n for n, name in enumerate(fields)}
        layout = hash_of((*fields, str(LATE_BUCKETS)))
        size = 8 * (2 + len(fields) + LATE_BUCKETS)
        mapping = map_file(folder / f"{process}.status", size, struct.pack("<QQ", _MAGIC, layout))
        self._values = np.frombuffer(mapping, np.int64, len(fields), 16)
        self._late = np.frombuffer(mapping, np.int64, LATE_BUCKETS, 16 + 8 * len(fields))

    def __getitem__(self, field: str) -> int:
        return int(self._values[self._at[field]])

    def __setitem__(self, field: str, value: int) -> None:
        self._values[self._at[field]] = value

    def add(self, field: str, amount: int = 1) -> None:
        """Count ``amount`` more."""
        self._values[self._at[field]] += amount

    def begin(self) -> None:
        """Say that this process starts; counters go on from where a predecessor left them."""
        self["ready_ns"] = 0
        self["pid"] = os.getpid()
        self["started_ns"] = self["heartbeat_ns"] = time.monotonic_ns()
        self.add("starts")

    def ready(self, import_s: float) -> None:
        """Say that this process works from now on."""
        self["import_ns"] = int(import_s * 1e9)
        self["ready_ns"] = self["heartbeat_ns"] = time.monotonic_ns()

    def fresh(self, within_s: float) -> bool:
        """Return whether the process is ready and has shown a sign of life lately."""
        return self["ready_ns"] > 0 and time.monotonic_ns() - self["heartbeat_ns"] < within_s * 1e9

    def record_lateness(self, late_ns: int) -> None:
        """Count one tick in the histogram of lateness."""
        self._late[late_bucket(late_ns)] += 1
        if late_ns > self["late_max_ns"]:
            self["late_max_ns"] = late_ns

    def lateness_ms(self, quantile: float) -> float:
        """Return the upper edge of the bucket that holds ``quantile`` of all ticks; 0 before the first."""
        counts = self._late.cumsum()
        if counts[-1] == 0:
            return 0.0
        bucket = int(np.searchsorted(counts, quantile * counts[-1]))
        return _LATE_FIRST_NS * float(10 ** (bucket / _LATE_PER_DECADE)) / 1e6

    def ticks_later_than(self, late_ms: float) -> int:
        """Return how many ticks were later than that, to within the 6 % of a bucket."""
        return int(self._late[late_bucket(int(late_ms * 1e6)) + 1 :].sum())

    def values(self) -> dict[str, int]:
        """Return all fields by name."""
        return {name: int(self._values[n]) for name, n in self._at.items()}


def late_bucket(late_ns: int) -> int:
    """Return the histogram bucket of a lateness: forty per factor of ten from 1 µs on."""
    if late_ns <= _LATE_FIRST_NS:
        return 0
    return min(LATE_BUCKETS - 1, math.ceil(_LATE_PER_DECADE * math.log10(late_ns / _LATE_FIRST_NS)))


def on_screen(control: StatusSlot, actor: str) -> tuple[EpisodeKey, int] | None:
    """Return which observation the person at an arm sees: its episode, and its index, -1 before the first of one.

    Args:
        control: Of the actor's control process.
        actor: The actor's name.

    Returns:
        None before the first episode of all.
    """
    if not control["begun"]:
        return None
    key = EpisodeKey(actor=actor, incarnation=control["incarnation"], episode=control["episode"])
    return key, control["index"]


def hash_of(names: Sequence[str]) -> int:
    """Return a stable 64-bit hash of some names.

    Example:
        >>> hash_of(["a", "bc"]) == hash_of(["ab", "c"])
        False
    """
    value = 0xCBF29CE484222325
    for byte in "\0".join(names).encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value
