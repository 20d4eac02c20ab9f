"""Progress columns: what a reward model said about each observation, one column per version beside the replay memory.

Written by the labeller alone, read by learners. A column grows in frame order behind a count per episode; a learner uses one
version at a time and changes to another as a whole. What is final also goes into the episode's zarr group.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from roborl.data.arena import ArenaReader, map_array
from roborl.data.sealed import flush_files, flush_names
from roborl.errors import DatasetError, ShapeError
from roborl.rewards.model_info import VERSION_FORM, names_folder
from roborl.types import EpisodeKey, Vector
from roborl.whole_files import draft_folder, write_whole

log = logging.getLogger(__name__)

LABELS = np.dtype(
    [
        ("ordinal", "<i8"),  # The episode these labels are of, with its first row: entries are used again.
        ("start", "<i8"),
        ("labelled", "<i8"),  # Observations labelled, in frame order.
        ("deadline", "<i8"),  # What its steps are sampled without, rather than wait any longer: see below.
    ]
)
NO_LABELS, NO_VERDICT = 1, 2  # The labels that it lacks; these and, once it is over, the verdict.


class ProgressColumns:
    """The labels of one version, as mapped arrays.

    Args:
        reader: The replay memory they stand beside; the caller refreshes it.
        version: Hash of model, prompt, view set, calibration and judge settings.
        write: Map them for writing, making them where there are none, or such of a replay memory of another form. Only one
            process, the labeller, does.
        sync: Flush what is saved with an episode to the disk itself, as the store does with the episode.

    Attributes:
        progress: float32 (rows,), in [0, 1].
        spread: float32 (rows,), standard deviation.
        table: Entries of :data:`LABELS`, (episodes,).
        missing: Observations whose score could not be read, and which hold the last one, bool (rows,). A writer alone has it.

    Raises:
        DatasetError: If the version has no columns here, or its name cannot be a folder's.
    """

    def __init__(self, reader: ArenaReader, version: str, *, write: bool = False, sync: bool = False) -> None:
        if not names_folder(version):
            raise DatasetError("A version cannot name a folder", seen=version, allowed=VERSION_FORM)
        self.version, self.reader, self._sync = version, reader, sync
        folder = _folder(reader.root) / version
        rows, episodes = reader.layout.rows, reader.layout.episodes
        forms = {
            "progress.f32": (np.dtype("<f4"), rows),
            "spread.f32": (np.dtype("<f4"), rows),
            "episodes.table": (LABELS, episodes),
        }
        if write:
            sizes = {folder / name: dtype.itemsize * count for name, (dtype, count) in forms.items()}
            if any(path.exists() and path.stat().st_size != size for path, size in sizes.items()):
                shutil.rmtree(folder)  # What is final of it is restored from the episodes.
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.is_dir():
            raise DatasetError(
                "There are no labels of this version", seen=version, allowed=versions(reader.root)
            )
        self.progress: NDArray[np.float32]
        self.spread: NDArray[np.float32]
        self.progress, self.spread, self.table = (
            map_array(folder / name, dtype, (count,), write=write) for name, (dtype, count) in forms.items()
        )
        if write:
            self.missing: NDArray[np.bool_] = map_array(folder / "missing.bool", "?", (rows,), write=True)

    def labelled(self, key: EpisodeKey) -> int:
        """Return how many observations of an episode are labelled; 0 where the replay memory does not hold it."""
        slot = self.reader.slot(key)
        if slot is None:
            return 0
        entry, labels = self.reader.table[slot], self.table[slot]
        same = labels["ordinal"] == entry["ordinal"] and labels["start"] == entry["start"]
        return int(labels["labelled"]) if same else 0

    def write(
        self,
        key: EpisodeKey,
        start: int,
        progress: Vector,
        spread: Vector,
        missing: NDArray[np.bool_] | None = None,
    ) -> bool:
        """Label the observations from ``start`` on, in frame order; return False where the episode is not in memory.

        An observation that has a label keeps it: both transitions beside it must read one number.

        Args:
            key: The episode.
            start: Index of the first; not beyond what is labelled.
            progress: float32 (n,), in [0, 1]; unscored observations carry the last score.
            spread: float32 (n,), ≥ 0.
            missing: Those of them whose score could not be read, bool (n,); None for none.

        Raises:
            ShapeError: If the values are out of range or not finite.
            DatasetError: If observations would be left out, or are not there yet.
        """
        if progress.shape != spread.shape or progress.ndim != 1:
            raise ShapeError("Labels do not match", seen=f"{progress.shape} and {spread.shape}")
        if not (
            ((progress >= 0) & (progress <= 1)).all() and (spread >= 0).all() and np.isfinite(spread).all()
        ):
            raise ShapeError("Labels are out of range", allowed="progress in [0, 1], spread ≥ 0, both finite")
        slot = self._claim(key)
        if slot is None:
            return False
        entry, labels = self.reader.table[slot], self.table[slot]
        done, stop = int(labels["labelled"]), start + progress.size
        if start > done or stop > entry["observations"]:
            raise DatasetError(
                "Labels do not continue the column",
                seen=f"observations {start} to {stop} of {key}",
                allowed=f"from {done} on, up to {entry['observations']}",
            )
        if stop > done:
            row = int(entry["start"])
            self.progress[row + done : row + stop] = progress[done - start :]
            self.spread[row + done : row + stop] = spread[done - start :]
            self.missing[row + done : row + stop] = False if missing is None else missing[done - start :]
            self.table["labelled"][slot] = stop
        return True

    def mark_deadline(self, key: EpisodeKey, *, verdict: bool = False) -> bool:
        """Let the steps of an episode be sampled as they are labelled now; return False where it is not in memory.

        Args:
            key: The episode.
            verdict: Do not wait for the verdict on it either, once it is over.
        """
        slot = self._claim(key)
        if slot is not None:
            self.table["deadline"][slot] = NO_VERDICT if verdict else NO_LABELS
        return slot is not None

    def restore(self, keys: Iterable[EpisodeKey]) -> int:
        """Fill in the labels that were saved with these episodes, where they were sealed, and are not here; return how many."""
        restored = 0
        for key in keys:
            slot = self.reader.slot(key)
            if slot is None or self.labelled(key) >= self.reader.table["observations"][slot]:
                continue  # Opening a saved column costs a thousand times as much as this look.
            saved = load_labels(self.reader.root, key, self.version)
            if saved is not None:
                progress, spread = (column[: self.reader.table["observations"][slot]] for column in saved)
                missing = saved_missing(self.reader.root, key, self.version, len(progress))
                restored += self.write(key, 0, progress, spread, missing)
        return restored

    def save(self, key: EpisodeKey, details: dict[str, Any] | None = None) -> bool:
        """Write an episode's complete column into its zarr group; return False where it is not sealed or complete yet."""
        slot = self.reader.slot(key)
        folder = self.reader.root / "store.zarr" / str(key)
        if slot is None or not folder.exists():
            return False
        entry = self.reader.table[slot]
        if not entry["ended"] or self.labelled(key) < entry["observations"]:
            return False
        rows = slice(int(entry["start"]), int(entry["start"] + entry["observations"]))
        columns = self.progress[rows], self.spread[rows]
        if self.missing[rows].any():
            details = {**(details or {}), "missing": np.flatnonzero(self.missing[rows]).tolist()}
        save_labels(self.reader.root, key, self.version, *columns, details, sync=self._sync)
        return True

    def _claim(self, key: EpisodeKey) -> int | None:
        slot = self.reader.slot(key)
        if slot is None:
            return None
        entry, labels = self.reader.table[slot], self.table
        if labels["ordinal"][slot] != entry["ordinal"] or labels["start"][slot] != entry["start"]:
            labels["ordinal"][slot] = 0
            labels["labelled"][slot] = labels["deadline"][slot] = 0
            labels["start"][slot] = entry["start"]
            labels["ordinal"][slot] = entry["ordinal"]
        return slot


def save_labels(
    store_root: Path,
    key: EpisodeKey,
    version: str,
    progress: Vector,
    spread: Vector,
    details: dict[str, Any] | None = None,
    *,
    sync: bool = False,
) -> None:
    """Write one version's labels into a sealed episode's group, whole or not at all; what is there is left alone.

    What is there and torn, or of fewer observations, is replaced.

    Args:
        store_root: The store's folder.
        key: A sealed episode.
        version: Their version.
        progress: float32 (T + 1,), or fewer where the replay memory had no room for all observations.
        spread: float32, as many.
        details: Plain values worth keeping: ``stride``, the distance between scored observations, and ``missing``, the indices
            of those whose score could not be read.
        sync: Flush them to the disk itself first, so that the loss of power cannot find them half there.

    Raises:
        DatasetError: If the episode is not sealed.
        OSError: If the disk does not take them; nothing of them stays there.
    """
    episode = store_root / "store.zarr" / str(key)
    if not episode.exists():
        raise DatasetError("Labels wait for their episode to be sealed", seen=str(key))
    final, staging = episode / f"progress_{version}", store_root / "labels.tmp"
    if final.exists():
        saved = load_labels(store_root, key, version)
        if saved is not None and len(saved[0]) >= len(progress):
            return
    staging.mkdir(exist_ok=True)
    with draft_folder(staging / str(key)) as staged:
        zarr.create_array(
            staged,
            data=np.stack([progress, spread], axis=1),
            fill_value=np.nan,  # What a file that is gone reads as: no label is.
            attributes={"version": version, "columns": ["progress", "spread"], **(details or {})},
        )
        if sync:
            flush_files(staged)
        if final.exists():
            shutil.rmtree(final)
        staged.rename(final)
    if sync:
        flush_names(episode)


def load_labels(store_root: Path, key: EpisodeKey, version: str) -> tuple[Vector, Vector] | None:
    """Read what :func:`save_labels` wrote, None where there is none: progress and spread, float32 (T + 1,) or fewer each.

    Labels that a loss of power has torn are told and count as none: they are made again.
    """
    path = store_root / "store.zarr" / str(key) / f"progress_{version}"
    if not path.is_dir():
        return None
    try:
        array: Any = zarr.open_array(path, mode="r")
        values = np.asarray(array[:], np.float32)
        progress, spread = values.T.copy()
        if not np.isfinite(values).all():
            raise ValueError("it lacks a part")
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        log.warning("the labels of %s by %s are torn and left out: %s", key, version, error)
        return None
    return progress, spread


def saved_stride(store_root: Path, key: EpisodeKey, version: str) -> int:
    """Return the distance between scored observations that was saved with the labels of a sealed episode; 1 where none was."""
    return int(_saved_details(store_root, key, version).get("stride", 1))


def saved_missing(store_root: Path, key: EpisodeKey, version: str, rows: int) -> NDArray[np.bool_]:
    """Return which of so many observations had a score that could not be read, as was saved with the labels of a sealed episode.

    Args:
        store_root: The store's folder.
        key: An episode with saved labels.
        version: Their version.
        rows: Observations, from the first on.

    Returns:
        bool (rows,), none where none was saved.
    """
    return np.isin(np.arange(rows), _saved_details(store_root, key, version).get("missing", ()))


def versions(store_root: Path) -> list[str]:
    """Return the versions that have columns here."""
    folder = _folder(store_root)
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def switch(store_root: Path, version: str) -> None:
    """Make learners use this version from their next refresh on, for every episode at once.

    Raises:
        DatasetError: If it has no columns here.
    """
    if version not in versions(store_root):
        raise DatasetError("There are no labels of this version", seen=version, allowed=versions(store_root))
    write_whole(_folder(store_root) / "active.json", json.dumps({"version": version}))


def active_version(store_root: Path) -> str | None:
    """Return the version that learners use, None before the first, or where a loss of power has torn its name."""
    try:
        return str(json.loads((_folder(store_root) / "active.json").read_bytes())["version"])
    except (FileNotFoundError, ValueError):
        return None


def _saved_details(store_root: Path, key: EpisodeKey, version: str) -> dict[str, Any]:
    path = store_root / "store.zarr" / str(key) / f"progress_{version}"
    return zarr.open_array(path, mode="r").attrs.asdict()


def _folder(store_root: Path) -> Path:
    return store_root / "arena" / "progress"
