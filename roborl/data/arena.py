"""Replay memory: memory-mapped columns that the store writes and learners map read-only.

A row is one observation of one episode together with the command taken **from** it and the reward for that. An episode is
a contiguous block of rows. Pictures stand at policy resolution with ``PAD`` pixels of repeated edge around them, so that
a random shift is nothing but another offset.

A new arena is filled from the recording first, and marked then; nobody reads one without that mark.

The first word of an episode's entry is its ordinal, 0 while the entry is free. The writer clears it before it touches
entry or rows and sets it last, so a reader that finds the same ordinal before and after has read one episode.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError, DatasetError
from roborl.types import EpisodeKey
from roborl.whole_files import reserve, whole_file, write_whole

PAD = 4
ONLINE, DEMO, EVALUATION, FAILURE = range(4)  # Indices into roborl.data.episodes.KINDS.
EPISODE = np.dtype(
    [
        ("ordinal", "<i8"),
        ("start", "<i8"),  # First row.
        ("reserved", "<i8"),  # Rows held.
        ("observations", "<i8"),  # Rows filled.
        ("terminal", "<i8"),  # Index of the terminal observation, -1 for none.
        ("verdict_reward", "<f4"),  # Reward for reaching it, NaN where the stored one stands.
        ("_unused", "V4"),
        ("ended", "u1"),
        ("discarded", "u1"),
        ("kind", "u1"),
        ("success", "i1"),  # 1, 0, or -1 where nobody judged.
        ("awaits_verdict", "u1"),  # Its outcome comes from a judge that has not spoken.
        ("_spare", "V3"),
    ]
)
KEY = np.dtype("S160")
_FORMAT = 1
_MARK = "boot"  # Names the run of the machine in which it was filled.
_HUGE_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class ArenaLayout:
    """The form of an arena's files.

    Attributes:
        cameras: Camera names, in the order of the store's spec.
        image_px: Side of the stored pictures, without their border.
        state_dim: Length of the state.
        action_dim: Length of the action.
        rows: Observations it holds.
        episodes: Episodes it holds.
    """

    cameras: tuple[str, ...]
    image_px: int
    state_dim: int
    action_dim: int
    rows: int
    episodes: int
    format: int = _FORMAT

    @classmethod
    def fitting(
        cls,
        *,
        cameras: tuple[str, ...],
        image_px: int,
        state_dim: int,
        action_dim: int,
        capacity_bytes: int,
        max_steps: int,
    ) -> ArenaLayout:
        """Return the largest layout that stays within ``capacity_bytes``.

        Raises:
            ConfigError: If not even two episodes of ``max_steps`` fit.
        """
        unit = cls(
            cameras=cameras, image_px=image_px, state_dim=state_dim, action_dim=action_dim, rows=1, episodes=1
        )
        row = sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in unit.columns().values())
        # One episode entry for every eight rows.
        rows = int(capacity_bytes / (row + (EPISODE.itemsize + KEY.itemsize) / 8))
        if rows < 2 * (max_steps + 1):
            raise ConfigError(
                "The replay memory is too small",
                seen=f"{capacity_bytes} bytes",
                allowed=f"at least {2 * (max_steps + 1) * (row + 32)} bytes for two episodes of {max_steps} steps",
                remedy="Raise capacity_bytes, or lower image_px or max_steps",
            )
        return cls(
            cameras=cameras,
            image_px=image_px,
            state_dim=state_dim,
            action_dim=action_dim,
            rows=rows,
            episodes=max(16, rows // 8),
        )

    def check_room(self, recorded: int, max_steps: int) -> None:
        """Make sure that ``recorded`` observations, which are never evicted, leave room to learn online.

        Raises:
            DatasetError: If not even two online episodes of ``max_steps`` fit beside them.
        """
        most = self.rows - 2 * (max_steps + 1)
        if recorded > most:
            raise DatasetError(
                "Recorded episodes fill the replay memory",
                seen=f"{recorded} of its {self.rows} observations",
                allowed=f"at most {most}, which leaves room for two online episodes of {max_steps} steps",
                remedy="Raise store.capacity_bytes, lower image_px or name fewer demonstrations",
            )

    def columns(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and whole shape of each per-row column by file name."""
        side = self.image_px + 2 * PAD
        return {
            **{f"frames_{camera}.u8": ("|u1", (self.rows, side, side, 3)) for camera in self.cameras},
            "state.f32": ("<f4", (self.rows, self.state_dim)),
            "action.f32": ("<f4", (self.rows, self.action_dim)),
            "proposed.f32": ("<f4", (self.rows, self.action_dim)),
            "reward.f32": ("<f4", (self.rows,)),
            "reward_source.u8": ("|u1", (self.rows,)),
            "source.u8": ("|u1", (self.rows,)),
            "policy_version.i64": ("<i8", (self.rows,)),
        }


def map_array(path: Path, dtype: np.dtype[Any] | str, shape: tuple[int, ...], *, write: bool) -> NDArray[Any]:
    """Map a file of exactly this form; a writer makes it where there is none, filled with zeros.

    Raises:
        DatasetError: If the file is missing or has another size, or the disk has no room for it.
    """
    dtype = np.dtype(dtype)
    size = dtype.itemsize * int(np.prod(shape))
    if write and not path.exists():
        with whole_file(path) as draft, draft.open("wb") as file:
            reserve(
                file,
                size,
                path,
                what="the replay memory",
                remedy="Free some space or lower capacity_bytes",
                error=DatasetError,
            )
    found = path.stat().st_size if path.exists() else None
    if found != size:
        raise DatasetError(
            "A column of the replay memory has another size",
            seen=f"{path}: {found}",
            allowed=f"{size} bytes",
            remedy="Delete the arena folder: it is rebuilt from the recording",
        )
    with open(path, "r+b" if write else "rb") as file:
        mapping = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if write else 0))
    if size >= _HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        # In pages of 4 kB a batch touches 14,000 of them, and finding each costs a tenth of copying it.
        with contextlib.suppress(OSError):  # a kernel without large ones
            mapping.madvise(mmap.MADV_HUGEPAGE)
    # A plain array over the mapping: indexing through np.memmap costs microseconds each time.
    return np.ndarray(shape, dtype, mapping)


class Columns:
    """The mapped columns of an arena.

    Attributes:
        frames: Padded pictures by camera, uint8 (rows, px + 2 PAD, px + 2 PAD, 3).
        state: float32 (rows, state_dim).
        action: Executed from that row, float32 (rows, action_dim).
        proposed: Proposed from that row, float32 (rows, action_dim).
        reward: Task reward for that action, float32 (rows,).
        reward_source: Index into ``roborl.data.sealed.REWARD_SOURCES``, uint8 (rows,).
        source: Index into ``roborl.data.sealed.SOURCES``, uint8 (rows,).
        policy_version: int64 (rows,).
        table: Entries of :data:`EPISODE`, (episodes,).
        keys: Episode keys as bytes, (episodes,).
    """

    def __init__(self, folder: Path, layout: ArenaLayout, *, write: bool) -> None:
        forms = layout.columns()

        def column(name: str) -> NDArray[Any]:
            dtype, shape = forms[name]
            return map_array(folder / name, dtype, shape, write=write)

        self.frames: dict[str, NDArray[np.uint8]] = {
            camera: column(f"frames_{camera}.u8") for camera in layout.cameras
        }
        self.state: NDArray[np.float32] = column("state.f32")
        self.action: NDArray[np.float32] = column("action.f32")
        self.proposed: NDArray[np.float32] = column("proposed.f32")
        self.reward: NDArray[np.float32] = column("reward.f32")
        self.reward_source: NDArray[np.uint8] = column("reward_source.u8")
        self.source: NDArray[np.uint8] = column("source.u8")
        self.policy_version: NDArray[np.int64] = column("policy_version.i64")
        self.table = map_array(folder / "episodes.table", EPISODE, (layout.episodes,), write=write)
        self.keys = map_array(folder / "episodes.keys", KEY, (layout.episodes,), write=write)


class ArenaReader:
    """A read-only view of a store's replay memory, consistent while the store goes on writing.

    Args:
        root: The store's folder.

    Attributes:
        layout: Form of the columns.
        columns: The mapped columns.
        table: Copy of the episode entries as of the last :meth:`refresh`; free ones have ordinal 0.

    Raises:
        DatasetError: If there is no arena, it has still to be filled since the machine was started, or it is torn.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder = root / "arena"
        self._stamp: tuple[int, int] | None = None
        self._slots: dict[EpisodeKey, int] = {}
        self._slots_of = b""
        self._slots_table: NDArray[Any] | None = None
        self.table: NDArray[Any]
        if not self.refresh():
            raise _nothing_whole(self._folder)

    def refresh(self) -> bool:
        """Take a new copy of the episode table; return True where the arena was replaced by another one.

        While another one is made and filled, the one before stays in use.
        """
        stamp = filled(self._folder)
        replaced = stamp not in (None, self._stamp)
        if replaced:
            try:
                layout = read_layout(self._folder)
            except OSError as error:
                raise _nothing_whole(self._folder) from error
            self.layout, self.columns = layout, Columns(self._folder, layout, write=False)
            self._stamp = stamp
        elif self._stamp is None:
            return False
        for _ in range(10):
            if not self._copy_table():
                break
        return replaced

    def _copy_table(self) -> bool:
        """Copy the table; return True where entries changed hands meanwhile, which are then left out of the copy."""
        table = self.columns.table
        before, ended, awaits = (table[name].copy() for name in ("ordinal", "ended", "awaits_verdict"))
        copied = table.copy()
        changed = (table["ordinal"] != before) | (copied["ordinal"] != before)
        copied["ordinal"][changed] = 0
        # `ended` from before the copy: an episode that ended during it would otherwise show an old count as final.
        copied["ended"] = ended
        # As well: one whose verdict came during it would show none, and its steps behind the end.
        copied["awaits_verdict"] = awaits
        self.table = copied
        return bool(changed.any())

    def holds(self, slots: NDArray[np.int64], ordinals: NDArray[np.int64]) -> bool:
        """Return whether these entries still hold these episodes, so that what was read from their rows is theirs."""
        return bool((self.columns.table["ordinal"][slots] == ordinals).all())

    def slots(self) -> dict[EpisodeKey, int]:
        """Return the entry of each episode held as of the last refresh."""
        if self._slots_table is not self.table:
            self._slots_table, ordinals = self.table, self.table["ordinal"]
            if self._slots_of != ordinals.tobytes():
                live = np.flatnonzero(ordinals > 0)
                self._slots = {EpisodeKey.parse(self.columns.keys[slot].decode()): int(slot) for slot in live}
                self._slots_of = ordinals.tobytes()
        return self._slots

    def slot(self, key: EpisodeKey) -> int | None:
        """Return the entry that holds an episode as of the last refresh, None where none does."""
        return self.slots().get(key)


def read_layout(folder: Path) -> ArenaLayout:
    """Read the layout of an arena folder.

    Raises:
        DatasetError: If it cannot be read or has another format.
        OSError: If it is not there.
    """
    try:
        raw = json.loads((folder / "layout.json").read_bytes())
        layout = ArenaLayout(**{**raw, "cameras": tuple(raw["cameras"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError("The layout of the replay memory cannot be read", seen=error) from error
    if layout.format != _FORMAT:
        raise DatasetError("The replay memory has another format", seen=layout.format, allowed=_FORMAT)
    return layout


def write_layout(folder: Path, layout: ArenaLayout) -> None:
    """Write the layout of an arena folder, last of all its files."""
    write_whole(folder / "layout.json", json.dumps(asdict(layout)))


def filled(folder: Path) -> tuple[int, int] | None:
    """Return what tells an arena that was filled from those before and after it, None for one that cannot be trusted."""
    try:
        with (folder / _MARK).open() as file:
            status = os.fstat(file.fileno())
            return (status.st_ino, status.st_mtime_ns) if file.read() == boot_id() else None
    except (OSError, ValueError):
        return None


def mark_filled(folder: Path) -> None:
    """Note that an arena holds what it should of the recording."""
    write_whole(folder / _MARK, boot_id())


def reusable(folder: Path, layout: ArenaLayout) -> bool:
    """Return whether an arena that another process left is of this layout, whole, and filled since the machine was started."""
    try:
        same = read_layout(folder) == layout
        if same:
            Columns(folder, layout, write=False)
    except (OSError, ValueError, DatasetError):
        return False
    return same and filled(folder) is not None and boot_id() != ""


def retire(root: Path, layout: ArenaLayout) -> None:
    """Let nobody open a store's arena where the store is to make it anew, in this layout.

    Who opened it would go on with it meanwhile, and leave labels of its form in the new one.
    """
    if not reusable(root / "arena", layout):
        (root / "arena" / _MARK).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Leave an empty folder where an arena was, or nothing; its mark goes first."""
    (folder / _MARK).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _nothing_whole(folder: Path) -> DatasetError:
    return DatasetError(
        "There is no replay memory here",
        seen=folder,
        allowed="one that was filled since the machine was started",
        remedy="Start the store, which makes and fills it",
    )


def boot_id() -> str:
    """Name the present run of the machine, empty where it cannot be known.

    Mapped pages outlive every process and no loss of power, so an arena is trusted within one run of the machine only.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
