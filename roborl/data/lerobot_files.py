"""The files of a LeRobotDataset on disk: finding, reading and rewriting its metadata. Version 2 is read, not written."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roborl.data.lerobot_v2 import read_v2
from roborl.data.rlds.shards import find_rlds
from roborl.errors import DatasetError
from roborl.whole_files import whole_file, write_whole

REPAIR = (
    "Where roborl was killed while it wrote it, run again what was writing it (roborl record, roborl import or an export), which"
    " keeps what a checkpoint made whole. Otherwise finish its download (git lfs pull), or take it from a backup"
)
"""What to do about a dataset of which something is torn or missing."""

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Files:
    """A dataset's metadata.

    Attributes:
        root: Its folder.
        info: ``meta/info.json``.
        episodes: One row per episode, in order, without the statistics.
        tasks: Instruction by ``task_index``.
    """

    root: Path
    info: Mapping[str, Any]
    episodes: tuple[Mapping[str, Any], ...]
    tasks: Mapping[int, str]

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """The columns: dtype, shape and names of each."""
        return dict(self.info["features"])

    def data_file(self, row: Mapping[str, Any]) -> Path:
        """Return the parquet file that holds an episode's frames."""
        return self.root / str(self.info["data_path"]).format(
            **_numbers(row, "data"), episode_index=row["episode_index"]
        )

    def video_file(self, row: Mapping[str, Any], key: str) -> Path:
        """Return the video that holds an episode's pictures of one camera."""
        return self.root / str(self.info["video_path"]).format(
            video_key=key, **_numbers(row, f"videos/{key}"), episode_index=row["episode_index"]
        )


def _numbers(row: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what file names of either version are made of; the first two are those of v3."""
    chunk = row[f"{kind}/chunk_index"]
    return {"chunk_index": chunk, "file_index": row[f"{kind}/file_index"], "episode_chunk": chunk}


def locate(source: str | Path) -> Path:
    """Return the local folder of a dataset given its path, or its id on the hub (downloaded when online).

    Raises:
        DatasetError: If there is none, or it cannot be reached.
    """
    path = Path(source).expanduser()
    if (path / "meta" / "info.json").is_file():
        return path
    if path.exists() or not _HUB_ID.match(str(source)):
        raise DatasetError(
            "There is no LeRobotDataset here",
            seen=source,
            allowed="a folder with meta/info.json, or a hub id like owner/name",
            remedy=_way_on(path),
        )
    try:
        return _fetch(str(source))
    except Exception as error:  # hub clients raise from several libraries; all of them mean "not reachable"
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        raise DatasetError(
            "There is no such folder here, and no such dataset can be fetched from the hub",
            seen=f"{source} ({type(error).__name__}: {said})",
            allowed="a folder with meta/info.json, or a dataset on the hub that you may read and a connection (HF_HUB_OFFLINE unset)",
            remedy="Check path or id, or download it once and give its folder",
        ) from error


def _way_on(path: Path) -> str:
    """Return what to do where there is no LeRobotDataset, by what is there instead."""
    if rlds := find_rlds(path):
        return f"Make one of this RLDS dataset: {shlex.join(['roborl', 'import', f'--dataset={rlds}', '--out=FOLDER'])}"
    if any(path.glob("*.mp4")) or any(path.glob("*/*.mp4")):
        return (
            "Give videos to what takes them: with keyframes, roborl train-reward; graded, roborl bench-reward --graded; of one"
            " episode, roborl watch or --references.path"
        )
    return "Check the path; record one with: roborl record"


def _fetch(name: str) -> Path:
    """Return the folder of a dataset on the hub; LeRobot itself fetches none of version 2."""
    from huggingface_hub import snapshot_download
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.datasets.utils import BackwardCompatibilityError

    try:
        return Path(LeRobotDataset(name, video_backend="pyav").root)
    except (BackwardCompatibilityError, NotImplementedError):  # of 2.1, and of 2.0
        return Path(snapshot_download(name, repo_type="dataset"))


def load_files(source: str | Path, *, to_write: bool = False) -> Files:
    """Read the metadata of a dataset.

    Args:
        source: A folder, or an id on the hub.
        to_write: Whether it will be written, which one of version 2 is not.

    Raises:
        DatasetError: If it is missing, unreadable or of another version.
    """
    root = locate(source)
    info = load_info(root, to_write=to_write)
    if str(info["codebase_version"]).startswith("v2."):
        episodes, tasks = read_v2(root, info)
    else:
        episodes = [row for path in episode_files(root) for row in _episode_rows(path)]
        tasks = _tasks(root / "meta" / "tasks.parquet")
    return Files(
        root=root,
        info=info,
        episodes=tuple(sorted(episodes, key=lambda row: row["episode_index"])),
        tasks=tasks,
    )


def load_info(root: Path, *, to_write: bool = False) -> Mapping[str, Any]:
    """Read ``meta/info.json`` alone; arguments and errors as for :func:`load_files`."""
    try:
        info: Mapping[str, Any] = json.loads((root / "meta" / "info.json").read_text())
        version = str(info["codebase_version"])
        if absent := sorted({"features", "fps", "data_path"} - info.keys()):
            raise ValueError(f"it has no {', '.join(absent)}")
        if not all("dtype" in feature for feature in info["features"].values()):
            raise ValueError("a feature has no dtype")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            "The dataset's meta/info.json cannot be read",
            seen=f"{root}: {error}",
            allowed="JSON as LeRobot writes it",
            remedy=REPAIR,
        ) from error
    if not version.startswith(("v3.",) if to_write else ("v3.", "v2.")):
        raise DatasetError(
            "The dataset has another format version",
            seen=version,
            allowed="v3.x" if to_write else "v3.x or v2.x",
            remedy=f"Convert it: {conversion(root)}",
        )
    return info


def conversion(root: Path) -> str:
    """Return the command by which LeRobot converts a folder of version 2.1 in its place."""
    program = "python -m lerobot.scripts.convert_dataset_v21_to_v30"
    return shlex.join(
        [*program.split(), f"--repo-id=local/{root.name}", f"--root={root}", "--push-to-hub=false"]
    )


def deletion(root: Path, episodes: Sequence[int]) -> str:
    """Return the command by which LeRobot writes a folder's dataset once more, without these episodes and beside it."""
    root = root.resolve()
    without = root.with_name(f"{root.name}_without")
    return shlex.join(
        [
            "lerobot-edit-dataset",
            f"--repo_id=local/{root.name}",
            f"--root={root}",
            f"--new_repo_id=local/{without.name}",
            f"--new_root={without}",
            "--operation.type=delete_episodes",
            f"--operation.episode_indices={list(episodes)}",
        ]
    )


def episode_files(root: Path) -> list[Path]:
    """Return the parquet files of ``meta/episodes`` in order."""
    return sorted((root / "meta" / "episodes").glob("*/*.parquet"))


def _episode_rows(path: Path) -> list[dict[str, Any]]:
    return _rows(path, "An episode table of the dataset is torn", without="stats/")


def _tasks(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    table = _rows(path, "The dataset's table of tasks is torn")
    # LeRobot keeps the instruction in the pandas index; its name differs between versions.
    return {
        int(row["task_index"]): str(next(v for k, v in row.items() if k != "task_index")) for row in table
    }


def _rows(path: Path, torn: str, *, without: str = "") -> list[dict[str, Any]]:
    """Return the rows of a parquet file, without the columns whose names begin with ``without``."""
    try:
        names = [name for name in pq.read_schema(path).names if not (without and name.startswith(without))]
        return pq.read_table(path, columns=names).to_pylist()  # type: ignore[no-any-return]
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            torn, seen=f"{path}: {error}", allowed="a whole parquet file", remedy=REPAIR
        ) from error


def add_episode_columns(
    root: Path, columns: Mapping[str, Mapping[int, Any]], types: Mapping[str, pa.DataType]
) -> None:
    """Put columns into ``meta/episodes``, replacing those of the same name; each file changes atomically.

    Args:
        root: The dataset.
        columns: For each column, the value by episode index; absent ones become null.
        types: For each column, its arrow type.
    """
    for path in episode_files(root):
        table = pq.read_table(path)
        indices = table.column("episode_index").to_pylist()
        for name, values in columns.items():
            array = pa.array([values.get(int(i)) for i in indices], type=types[name])
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, array)
            else:
                table = table.append_column(name, array)
        replace_table(path, table)


def replace_table(path: Path, table: pa.Table, *, row_group_per_episode: bool = False) -> None:
    """Write a parquet file whole or not at all."""
    with (
        whole_file(path, sync=True) as draft,
        pq.ParquetWriter(draft, table.schema, compression="snappy", use_dictionary=True) as writer,
    ):
        if row_group_per_episode:
            indices = np.asarray(table.column("episode_index"))
            edges = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
            for start, stop in pairwise(edges):
                writer.write_table(table.slice(start, stop - start))
        else:
            writer.write_table(table)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_whole(path, json.dumps(value, indent=4, ensure_ascii=False), sync=True)


def fingerprint(source: str | Path, *, tasks: bool = True) -> str:
    """Return a hash of the frames' order, states, actions and tasks: it changes when a dataset is merged or cut, or its tasks are.

    Args:
        source: A folder, or an id on the hub.
        tasks: Whether the instructions count; without them it is what earlier releases wrote down.
    """
    files = load_files(source)
    digest = hashlib.sha256()
    names = ["index", "episode_index", "frame_index", "observation.state", "action"]
    for path in dict.fromkeys(files.data_file(row) for row in files.episodes):
        table = pq.read_table(path, columns=[n for n in names if n in pq.read_schema(path).names])
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            values = column.flatten() if pa.types.is_nested(column.type) else column
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
        if tasks:
            digest.update(json.dumps(_said(path, files.tasks)).encode())
    return digest.hexdigest()[:16]


def _said(path: Path, tasks: Mapping[int, str]) -> list[tuple[int, str]]:
    """Return the instructions in the order of the rows of a data file, each with its episode where either changes."""
    if "task_index" not in pq.read_schema(path).names:
        return []
    table = pq.read_table(path, columns=["episode_index", "task_index"])
    rows = np.stack([np.asarray(table.column(name).to_numpy()) for name in table.column_names], axis=1)
    first = np.r_[True, (np.diff(rows, axis=0) != 0).any(axis=1)]
    return [(int(episode), tasks.get(int(task), "")) for episode, task in rows[first[: len(rows)]].tolist()]
