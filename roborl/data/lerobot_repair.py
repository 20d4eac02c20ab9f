"""A LeRobotDataset that is written: by one process at a time, and mended after that one was killed or its disk was full.

LeRobot rewrites small files of ``meta`` in place with every episode, and parquet footers only when it is finalised. Copies of
the former lie in ``meta/.before`` while it writes; what lacks the latter is dropped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_columns import IMAGES
from roborl.data.lerobot_files import REPAIR, Files, episode_files, load_files, replace_table, write_json
from roborl.errors import DatasetError
from roborl.whole_files import write_whole

log = logging.getLogger(__name__)

_IN_PLACE = ("info.json", "stats.json", "tasks.parquet")
_MARKS = "marks.json"
_ELSEWHERE = "Wait until whoever writes it is done, finish its download (git lfs pull), take it from a backup, or give another path"


def keep_before(root: Path) -> None:
    """Copy what LeRobot will rewrite in place, as far as it is whole now."""
    for name in _IN_PLACE:
        if _whole(root / "meta" / name):
            (root / "meta" / ".before").mkdir(exist_ok=True)
            write_whole(root / "meta" / ".before" / name, (root / "meta" / name).read_bytes())


def keep_marks(root: Path, subtasks: Mapping[int, Sequence[Subtask]]) -> None:
    """Write down the sub-tasks of episodes that are whole at the next checkpoint, and annotated only then."""
    marks = {str(index): [asdict(mark) for mark in given] for index, given in subtasks.items() if given}
    write_whole(root / "meta" / ".before" / _MARKS, json.dumps(marks))


def kept_marks(root: Path) -> dict[int, tuple[Subtask, ...]]:
    """Return the sub-tasks that a killed writer may not have come to write, by episode index."""
    path = root / "meta" / ".before" / _MARKS
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {int(index): tuple(Subtask(**mark) for mark in given) for index, given in found.items()}


def forget_before(root: Path) -> None:
    """Remove the copies: the dataset is whole."""
    shutil.rmtree(root / "meta" / ".before", ignore_errors=True)


def put_back(root: Path) -> None:
    """Put the copies of files that a killed writer tore back in their place; one that had no copy was new.

    Raises:
        DatasetError: If one is torn that no writer of ours was rewriting.
    """
    meta, before = root / "meta", root / "meta" / ".before"
    for path in (meta / name for name in _IN_PLACE):
        if not path.is_file() or _whole(path):
            continue
        if (before / path.name).is_file():
            (before / path.name).replace(path)
        elif before.is_dir() and path.name != "info.json":
            path.unlink()
        else:
            raise _torn(path)


def drop_torn(root: Path) -> int:
    """Drop what a killed writer left torn, keep every finished episode.

    LeRobot writes parquet footers only when it is finalised, so a kill leaves its newest files unreadable while
    ``meta/info.json`` counts their episodes. One that is put back counts too few. Does nothing to a dataset that no writer
    of ours was writing when it ended: what is torn there may be another's open file, or a download under way.

    Returns:
        The number of episodes lost.

    Raises:
        DatasetError: If a file of ``meta`` is torn that no writer of ours was rewriting.
    """
    put_back(root)
    if not (root / "meta" / ".before").is_dir():
        return 0
    for path in _tables(root):
        if not _whole(path):
            log.warning("dropping torn file %s", path)
            path.unlink()
    files = load_files(root, to_write=True)
    kept = [row for row in files.episodes if files.data_file(row).is_file()]
    known = {files.data_file(row) for row in kept}
    for path in sorted((root / "data").glob("*/*.parquet")):
        if path not in known:
            path.unlink()
    lost = int(files.info["total_episodes"]) - len(kept)
    if lost:
        write_json(
            root / "meta" / "info.json",
            {
                **files.info,
                "total_episodes": len(kept),
                "total_frames": sum(int(row["length"]) for row in kept),
                "total_tasks": len(files.tasks),
                "splits": {"train": f"0:{len(kept)}"},
            },
        )
    if kept:
        _sum_up(root)
    return max(0, lost)


def made_ready(root: Path) -> Files:
    """Return the metadata of a whole dataset, laid out so that LeRobot goes on with it.

    Raises:
        DatasetError: If a file of it is torn or missing; nothing is changed then.
    """
    for path in _tables(root):
        if not _whole(path):
            raise _torn(path)
    files = load_files(root, to_write=True)
    _check_complete(files)
    _even_out(root)
    _drop_surplus(files)
    return files


def check_closed(files: Files) -> None:
    """Refuse a dataset that its writer has not closed: its tables lack episodes that it counts already.

    Raises:
        DatasetError: If a recording into it is under way or was killed, or a file of it is missing.
    """
    if (files.root / "meta" / ".before").is_dir():
        raise DatasetError(
            "The dataset is being written, or what was writing it was killed",
            seen=files.root / "meta" / ".before",
            allowed="a dataset that was closed",
            remedy=f"Wait until it is done. {REPAIR}",
        )
    _check_complete(files)


def begun(path: Path) -> bool:
    """Return whether a dataset is in a folder, more of it than the first file with which a recording was killed."""
    info = path / "meta" / "info.json"
    return info.is_file() and (
        _whole(info) or any(file.is_file() for file in path.rglob("*") if file != info)
    )


def clear(path: Path) -> None:
    """Remove a folder in which no episode is whole, since LeRobot insists on making it; nothing but a dataset's files.

    Raises:
        DatasetError: If it holds something else.
    """
    if not path.exists():
        return
    if (path / "meta" / "info.json").is_file() or not any(file.is_file() for file in path.rglob("*")):
        for name in ("meta", "data", "videos"):
            shutil.rmtree(path / name, ignore_errors=True)
        clear_drafts(path)
    try:
        path.rmdir()
    except OSError as error:
        raise DatasetError(
            "The folder holds something else than a dataset",
            seen=path,
            allowed="a new path, or a dataset to continue",
            remedy="Give another path",
        ) from error


def clear_drafts(path: Path) -> None:
    """Remove the folders in which LeRobot kept the pictures of an episode, and encoded its videos, when it was killed.

    Into the video of a later episode of that number it would put every picture that it finds there. What else lies in such
    folders stays, such as pictures of a dataset's card.
    """
    cameras = f"images/{IMAGES}*"
    for draft in (*path.glob(f"{cameras}/episode-*/frame-*.png"), *path.glob("tmp*/*.mp4")):
        draft.unlink()
    for folders in ("tmp*", f"{cameras}/episode-*", cameras, "images"):
        for folder in path.glob(folders):
            with contextlib.suppress(OSError):  # It holds something else.
                folder.rmdir()


def _sum_up(root: Path) -> None:
    """Sum the statistics up anew over the episodes that are there: LeRobot has counted those that are lost, too."""
    from lerobot.datasets.compute_stats import aggregate_stats
    from lerobot.datasets.utils import serialize_dict

    found: list[dict[str, dict[str, np.ndarray[Any, Any]]]] = []
    for path in episode_files(root):
        names = [name for name in pq.read_schema(path).names if name.startswith("stats/")]
        for row in pq.read_table(path, columns=names).to_pylist():
            found.append({})
            for name, value in row.items():
                feature, _, figure = name.removeprefix("stats/").rpartition("/")
                if value is not None:
                    found[-1].setdefault(feature, {})[figure] = np.asarray(value)
    write_json(root / "meta" / "stats.json", serialize_dict(aggregate_stats(found)))


def _drop_surplus(files: Files) -> None:
    """Drop the rows of an episode whose writing failed before LeRobot had it in its tables."""
    episodes: dict[Path, dict[int, int]] = {}
    for row in files.episodes:
        episodes.setdefault(files.data_file(row), {})[int(row["episode_index"])] = int(row["length"])
    for path, lengths in episodes.items():
        if path.is_file() and pq.read_metadata(path).num_rows > sum(lengths.values()):
            table = pq.read_table(path)
            known = pc.is_in(table.column("episode_index"), pa.array(lengths, pa.int64()))
            replace_table(path, table.filter(known), row_group_per_episode=True)


def _check_complete(files: Files) -> None:
    there = sum(files.data_file(row).is_file() for row in files.episodes)
    if there != int(files.info["total_episodes"]):
        raise DatasetError(
            "The dataset is not complete",
            seen=f"the files of {there} episodes in {files.root}",
            allowed=f"those of all {files.info['total_episodes']} that its meta/info.json counts",
            remedy=_ELSEWHERE,
        )


def _torn(path: Path) -> DatasetError:
    return DatasetError(
        "A file of the dataset is torn, and roborl was not writing it when it ended",
        seen=path,
        allowed="a whole one",
        remedy=_ELSEWHERE,
    )


def _tables(root: Path) -> tuple[Path, ...]:
    return (*episode_files(root), *sorted((root / "data").glob("*/*.parquet")))


def _whole(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            pq.read_metadata(path)
    except (OSError, ValueError, pa.ArrowException):
        return False
    return True


def _even_out(root: Path) -> None:
    """Give every episode table the same columns: LeRobot reads them as one, and a kill may have left a new one bare."""
    schemas = {path: pq.read_schema(path) for path in episode_files(root)}
    extra = {f.name: f.type for schema in schemas.values() for f in schema if "subtask_" in f.name}
    for path, schema in schemas.items():
        missing = [name for name in extra if name not in schema.names]
        if missing:
            table = pq.read_table(path)
            for name in missing:
                table = table.append_column(name, pa.nulls(table.num_rows, extra[name]))
            replace_table(path, table)
