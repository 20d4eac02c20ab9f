"""Progress beside a dataset, in the form that RA-BC reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roborl.data.lerobot_files import fingerprint, load_files, replace_table
from roborl.errors import DatasetError
from roborl.whole_files import as_json

FINGERPRINT, VERSION = b"roborl_dataset_fingerprint", b"roborl_progress_version"
"""Keys of the metadata of a file that goes with a dataset: the dataset's fingerprint, and the reward model's version."""
ABOUT = b"roborl_progress_about"
"""Key of what that version is the hash of, as JSON: words, network and settings of the reward model, where it says them."""


class Progress(NamedTuple):
    """What a reward model said of an episode.

    Attributes:
        values: Progress, held between rows that were scored, NaN where a score is missing, float32 (rows,).
        spread: Its standard deviation, float32 (rows,).
        scored: Rows that the model was asked to score, bool (rows,); what the others carry is no score of their own.
    """

    values: NDArray[np.float32]
    spread: NDArray[np.float32]
    scored: NDArray[np.bool_]


def every_so_many(stride: int, rows: int) -> NDArray[np.bool_]:
    """Return the rows of an episode that are scored: each ``stride``-th and the last one, bool (rows,)."""
    scored: NDArray[np.bool_] = np.arange(rows) % stride == 0
    scored[-1:] = True
    return scored


def progress_path(dataset: Path, version: str, *, folder: Path | None = None) -> Path:
    """Return where the progress of a version stands: beside its dataset, or in another folder."""
    return (folder or dataset) / f"roborl_progress_{re.sub(r'[^A-Za-z0-9._-]', '_', version)}.parquet"


def write_progress(
    dataset: Path,
    version: str,
    progress: Mapping[int, Progress],
    *,
    folder: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write progress beside a dataset with the columns that LeRobot's ``RABCWeights`` reads, and ours.

    LeRobot joins such files by the global ``index``, which merging, cutting or deleting changes without a trace; so the
    file carries the dataset's fingerprint, and :func:`read_progress` refuses it beside other data.

    Args:
        dataset: The dataset's folder.
        version: The reward model's version.
        progress: By episode index; episodes left out are NaN throughout, which RA-BC passes over.
        folder: Where the file goes; None for beside the dataset.
        about: What the version is the hash of, as plain values, where that is known.

    Returns:
        The file: ``index, episode_index, frame_index, progress_sparse, spread, scored``.

    Raises:
        DatasetError: If a column has another length than its episode.
    """
    files = load_files(dataset)
    names = ("index", "episode_index", "frame_index", "progress_sparse", "spread", "scored")
    columns: dict[str, list[NDArray[np.int64] | NDArray[np.float32] | NDArray[np.bool_]]] = {
        name: [] for name in names
    }
    for row in files.episodes:
        episode, length, start = (int(row[n]) for n in ("episode_index", "length", "dataset_from_index"))
        nothing = np.full(length, np.nan, np.float32)
        unscored = Progress(nothing, nothing, np.zeros(length, np.bool_))
        values, spread, scored = progress.get(episode, unscored)
        if not len(values) == len(spread) == len(scored) == length:
            raise DatasetError(
                f"The progress of episode {episode} has another length",
                seen=f"{len(values)}, {len(spread)} and {len(scored)}",
                allowed=length,
                remedy="Label the dataset again",
            )
        columns["index"].append(np.arange(start, start + length))
        columns["episode_index"].append(np.full(length, episode))
        columns["frame_index"].append(np.arange(length))
        columns["progress_sparse"].append(values.astype(np.float32))
        columns["spread"].append(spread.astype(np.float32))
        columns["scored"].append(scored)
    table = pa.table(
        {name: np.concatenate(parts) for name, parts in columns.items()}
    ).replace_schema_metadata(
        {
            b"reward_model_path": version.encode(),
            VERSION: version.encode(),
            FINGERPRINT: fingerprint(dataset).encode(),
            ABOUT: as_json(dict(about or {})).encode(),
        }
    )
    path = progress_path(dataset, version, folder=folder)
    replace_table(path, table)
    return path


def read_progress(dataset: Path, version: str | Path) -> dict[int, Progress]:
    """Read what :func:`write_progress` wrote, by episode index; episodes without any progress are left out.

    Args:
        dataset: The dataset's folder.
        version: The reward model's version, for the file beside the dataset; or the file itself. LeRobot's own files are
            read as well: they have no spread, and only the number of their rows says whether they belong to the data.
            Where a file does not say which rows were scored, all were.

    Raises:
        DatasetError: If there is no such file, it holds no progress, or the dataset is not the one it was written for.
    """
    path = version if isinstance(version, Path) else progress_path(dataset, version)
    if not path.is_file():
        there = sorted(p.name for p in dataset.glob("*progress*.parquet"))
        raise DatasetError(
            "There is no progress of this version",
            seen=version,
            allowed=there,
            remedy="Label the dataset: roborl label",
        )
    table = _progress_table(path)
    check_fingerprint(table, dataset, "progress", "Label the dataset again")
    index = table.column("episode_index").to_numpy()
    values = table.column("progress_sparse").to_numpy().astype(np.float32)
    spread = (
        table.column("spread").to_numpy().astype(np.float32)
        if "spread" in table.column_names
        else np.zeros_like(values)
    )
    scored = (
        table.column("scored").to_numpy()
        if "scored" in table.column_names
        else np.ones(len(values), np.bool_)
    )
    lengths = {int(row["episode_index"]): int(row["length"]) for row in load_files(dataset).episodes}
    found = {}
    for episode in np.unique(index):
        rows = index == episode
        if lengths.get(int(episode)) != rows.sum():
            raise DatasetError(
                "The progress was written for other data",
                seen=f"{rows.sum()} rows of episode {episode} in {path}",
                allowed=f"{lengths.get(int(episode), 0)}, as in {dataset}",
                remedy="Label the dataset again",
            )
        if not np.isnan(values[rows]).all():
            found[int(episode)] = Progress(values[rows], spread[rows], scored[rows])
    return found


def check_fingerprint(table: pa.Table, dataset: Path, what: str, remedy: str) -> None:
    """See whether a file that goes with a dataset was written for it as it is now; one that does not say is let pass.

    Args:
        table: What the file holds.
        dataset: The dataset's folder.
        what: What that is, in a word.
        remedy: What to do where it was not.

    Raises:
        DatasetError: If it was written for other data.
    """
    written, now = (table.schema.metadata or {}).get(FINGERPRINT, b"").decode(), fingerprint(dataset)
    if written and written != now:
        earlier = written == fingerprint(dataset, tasks=False)
        raise DatasetError(
            f"The {what} was written for other data: the dataset was merged, cut or edited since, or given other tasks",
            seen=f"fingerprint {written}"
            + (", of a release that did not look at the tasks" if earlier else ""),
            allowed=now,
            remedy=remedy,
        )


def progress_version(path: Path) -> str:
    """Return the version that stands in a file of progress; its name where there is none.

    Raises:
        DatasetError: If it cannot be read.
    """
    return (_progress_table(path).schema.metadata or {}).get(VERSION, b"").decode() or path.stem


def progress_about(path: Path) -> Mapping[str, Any]:
    """Return what the version in a file of progress is the hash of; empty where it does not say.

    Raises:
        DatasetError: If it cannot be read.
    """
    said: dict[str, Any] = json.loads((_progress_table(path).schema.metadata or {}).get(ABOUT, b"{}"))
    return said


def _progress_table(path: Path) -> pa.Table:
    """Read a file of progress, its rows in the order of the frames."""
    try:
        table = pq.read_table(path)
        if "progress_sparse" not in table.column_names and "progress_dense" in table.column_names:
            table = table.append_column("progress_sparse", table.column("progress_dense"))
        absent = {"index", "episode_index", "progress_sparse"} - set(table.column_names)
        if absent:
            raise ValueError(f"it lacks {sorted(absent)}")
        return table.sort_by("index")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(
            "A file of progress cannot be read",
            seen=f"{path}: {error}",
            allowed="a parquet with index, episode_index and progress_sparse, as roborl label writes it",
            remedy="Label the dataset: roborl label",
        ) from error
