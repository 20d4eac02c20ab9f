"""Sub-task annotations in both of LeRobot's formats, and from files of keyframes.

The first format stands in ``meta/episodes`` (columns ``sparse_subtask_*`` with
``meta/temporal_proportions_sparse.json``); stage-aware reward models read it. The second is the per-frame column
``language_persistent``. The first one is exact; the second holds only where each sub-task begins.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_columns import EVENTS, LANGUAGE, SUCCESS
from roborl.data.lerobot_files import (
    Files,
    add_episode_columns,
    load_files,
    replace_table,
    write_json,
)
from roborl.errors import DatasetError

# The second one of sparse is its older name.
_COLUMNS = {"sparse": ("sparse_subtask_", "subtask_"), "dense": ("dense_subtask_",)}
_TYPES = {
    "names": pa.list_(pa.string()),
    "start_times": pa.list_(pa.float64()),
    "end_times": pa.list_(pa.float64()),
    "start_frames": pa.list_(pa.int64()),
    "end_frames": pa.list_(pa.int64()),
}


def from_episode_row(
    row: Mapping[str, Any], *, fps: float, last: int, prefix: str | None = None
) -> tuple[Subtask, ...]:
    """Read the sub-tasks of one row of ``meta/episodes``; empty where there are none.

    Args:
        row: The row.
        fps: Frames per second, for files that give times only.
        last: Index of the episode's last observation; later ends are cut to it.
        prefix: "sparse" or "dense"; by default sparse where present, else dense.
    """
    for start in chain(*_COLUMNS.values()) if prefix is None else _COLUMNS[prefix]:
        names = row.get(f"{start}names")
        if not names:
            continue
        starts, ends = (
            row.get(f"{start}{edge}_frames")
            or [round(float(time) * fps) for time in row.get(f"{start}{edge}_times") or ()]
            for edge in ("start", "end")
        )
        if not len(names) == len(starts) == len(ends):
            raise DatasetError(
                f"Episode {row['episode_index']} has a broken annotation",
                seen=f"{len(names)} names, {len(starts)} starts, {len(ends)} ends",
                allowed="as many of each",
                remedy="Annotate it again with roborl annotate",
            )
        spans = zip(names, starts, ends, strict=True)
        return tuple(
            Subtask(name=str(n), start=min(int(a), last), end=min(int(b), last)) for n, a, b in spans
        )
    return ()


def from_language(rows: Sequence[Mapping[str, Any]] | None, *, fps: float, last: int) -> tuple[Subtask, ...]:
    """Read sub-tasks from a frame's ``language_persistent`` list: each lasts until the next begins."""
    marks = sorted(
        (float(row["timestamp"]), str(row["content"]))
        for row in rows or ()
        if row.get("style") == "subtask" and row.get("content")
    )
    starts = [min(round(time * fps), last) for time, _ in marks]
    return tuple(
        Subtask(name=name, start=start, end=end)
        for (_, name), start, end in zip(marks, starts, [*starts[1:], last][: len(starts)], strict=True)
    )


def read_language(files: Files) -> dict[int, tuple[Subtask, ...]]:
    """Read the sub-tasks of all episodes from the data files, as :func:`from_language` does; by episode index."""
    fps = float(files.info["fps"])
    ends = {int(row["episode_index"]): int(row["length"]) - 1 for row in files.episodes}
    found: dict[int, tuple[Subtask, ...]] = {}
    for path in dict.fromkeys(files.data_file(row) for row in files.episodes):
        if LANGUAGE not in pq.read_schema(path).names:
            continue
        table = pq.read_table(path, columns=["episode_index", LANGUAGE])
        for place, index in enumerate(table.column("episode_index").to_pylist()):
            # The column says the same in every frame of an episode.
            if index in ends and index not in found:
                found[index] = from_language(table.column(LANGUAGE)[place].as_py(), fps=fps, last=ends[index])
    return found


def stage_names(annotated: Sequence[Sequence[Subtask]]) -> tuple[str, ...]:
    """Return every sub-task name, ordered by where in its episode it begins on average."""
    begins: dict[str, list[float]] = {}
    for subtasks in annotated:
        end = max((s.end for s in subtasks), default=0) or 1
        for subtask in subtasks:
            begins.setdefault(subtask.name, []).append(subtask.start / end)
    return tuple(sorted(begins, key=lambda name: sum(begins[name]) / len(begins[name])))


def stage_shares(annotated: Sequence[Sequence[Subtask]]) -> dict[str, float]:
    """Return the mean share of each stage of the annotated time, in stage order; the shares sum to 1.

    The mean is over episodes of each episode's own fraction, so that a slow episode counts no more than a quick one.

    Source:
        SARM, arXiv 2509.25358, Eq. 1.

    Example:
        >>> one = (Subtask(name="reach", start=0, end=5), Subtask(name="lift", start=5, end=10))
        >>> two = (Subtask(name="reach", start=0, end=30), Subtask(name="lift", start=30, end=40))
        >>> stage_shares([one, two])
        {'reach': 0.625, 'lift': 0.375}
    """
    names = stage_names(annotated)
    totals = dict.fromkeys(names, 0.0)
    counted = 0
    for subtasks in annotated:
        whole = sum(s.end - s.start for s in subtasks)
        if whole == 0:
            continue
        counted += 1
        for subtask in subtasks:
            totals[subtask.name] += (subtask.end - subtask.start) / whole
    return {name: total / counted for name, total in totals.items()} if counted else {}


def stages(files: Files, prefix: str | None = None) -> tuple[str, ...]:
    """Return a dataset's stage names in order; empty without annotations.

    Args:
        files: The dataset.
        prefix: "sparse" or "dense"; by default sparse where present, else dense.
    """
    for each in _COLUMNS if prefix is None else (prefix,):
        path = files.root / "meta" / f"temporal_proportions_{each}.json"
        with contextlib.suppress(
            FileNotFoundError, ValueError
        ):  # Torn, it says no more than the episodes do.
            if shares := json.loads(path.read_text()):
                return tuple(shares)
    fps = float(files.info["fps"])
    return stage_names(
        [from_episode_row(row, fps=fps, last=int(row["length"]) - 1, prefix=prefix) for row in files.episodes]
    )


def successes(files: Files) -> set[int]:
    """Return the indices of the episodes that succeeded: all of them where the dataset does not say."""
    every = {int(row["episode_index"]) for row in files.episodes}
    if SUCCESS not in files.features:
        return every
    found: set[int] = set()
    for path in dict.fromkeys(files.data_file(row) for row in files.episodes):
        table = pq.read_table(path, columns=["episode_index", SUCCESS])
        pairs = zip(table.column("episode_index").to_pylist(), table.column(SUCCESS).to_pylist(), strict=True)
        found |= {int(index) for index, success in pairs if success}
    return found & every


def write_annotations(
    root: Path,
    subtasks: Mapping[int, Sequence[Subtask]],
    *,
    prefix: str = "sparse",
    language: bool = True,
    fresh: Collection[int] | None = None,
) -> dict[str, float]:
    """Write sub-tasks into a dataset, replacing those of the same prefix.

    Args:
        root: The dataset's folder.
        subtasks: By episode index. Episodes that are absent become unannotated.
        prefix: "sparse" or "dense".
        language: Also write ``language_persistent`` of the fresh ones, which rewrites the data files.
        fresh: The episodes that are annotated anew, by default all. The sub-tasks of others are carried over as somebody
            wrote them: LeRobot's own tool gives whole seconds, so that they may overlap or last no frame.

    Returns:
        The stage shares that now stand in the dataset.

    Raises:
        DatasetError: If a fresh annotation does not fit its episode.
    """
    files = load_files(root, to_write=True)
    fps = float(files.info["fps"])
    lengths = {int(row["episode_index"]): int(row["length"]) for row in files.episodes}
    given = {index: tuple(marks) for index, marks in subtasks.items() if marks}
    for index, marks in given.items():
        if fresh is None or index in fresh:
            _check_fits(index, marks, lengths)
    names = _COLUMNS[prefix]
    values: dict[str, dict[int, Any]] = {
        "names": {i: [s.name for s in marks] for i, marks in given.items()},
        "start_times": {i: [s.start / fps for s in marks] for i, marks in given.items()},
        "end_times": {i: [s.end / fps for s in marks] for i, marks in given.items()},
        "start_frames": {i: [s.start for s in marks] for i, marks in given.items()},
        "end_frames": {i: [s.end for s in marks] for i, marks in given.items()},
    }
    columns = {f"{start}{name}": column for start in names for name, column in values.items()}
    add_episode_columns(root, columns, {f"{start}{name}": _TYPES[name] for start in names for name in values})
    whole = successes(files)
    # A failure may stop anywhere or go back, so only successes say how long a stage takes.
    shares = stage_shares(
        [[m for m in marks if m.start < m.end] for index, marks in given.items() if index in whole]
    )
    write_json(root / "meta" / f"temporal_proportions_{prefix}.json", shares)
    if language:
        write_language(root, given, episodes=fresh)
    return shares


def _check_fits(index: int, marks: Sequence[Subtask], lengths: Mapping[int, int]) -> None:
    if index not in lengths:
        raise DatasetError(
            "An annotation names an episode that is not there",
            seen=index,
            allowed=f"0 to {max(lengths, default=-1)}",
            remedy="Number episodes as the dataset's episode_index does",
        )
    previous = 0
    for mark in marks:
        if not previous <= mark.start < mark.end < lengths[index]:
            raise DatasetError(
                f"Sub-task {mark.name!r} does not fit episode {index}",
                seen=f"frames {mark.start} to {mark.end}",
                allowed=f"{previous} to {lengths[index] - 1}, start before end, in time order",
                remedy="Correct its keyframes",
            )
        previous = mark.end


def write_language(
    root: Path, subtasks: Mapping[int, Sequence[Subtask]], *, episodes: Collection[int] | None = None
) -> None:
    """Write sub-tasks into ``language_persistent``, replacing those there; whatever else stands in that column stays.

    Args:
        root: The dataset's folder.
        subtasks: By episode index; such as overlap or last no frame are written too.
        episodes: The only ones to write, besides those of data files that lack the column; by default all. Of those that are
            written, such as are absent from ``subtasks`` become unannotated.
    """
    files = load_files(root, to_write=True)
    fps = float(files.info["fps"])
    entry = {"dtype": "language", "shape": [1], "names": None}
    features = {**files.features, LANGUAGE: entry, EVENTS: entry}
    if features != files.features:
        # Before the data: so whoever writes next, after a kill, knows that all files are to have the columns.
        write_json(root / "meta" / "info.json", {**files.info, "features": features})
    held = {int(row["episode_index"]): files.data_file(row) for row in files.episodes}
    lacking = {path for path in set(held.values()) if LANGUAGE not in pq.read_schema(path).names}
    chosen = {
        index for index, path in held.items() if episodes is None or index in episodes or path in lacking
    }
    given = {index: marks for index, marks in subtasks.items() if index in chosen}
    for path in dict.fromkeys(path for index, path in held.items() if index in chosen):
        table = pq.read_table(path)
        rows = {
            index: [
                {
                    "role": "assistant",
                    "content": mark.name,
                    "style": "subtask",
                    "timestamp": mark.start / fps,
                    "camera": None,
                    "tool_calls": None,
                }
                for mark in marks
            ]
            for index, marks in given.items()
        }
        old = (
            table.column(LANGUAGE).to_pylist() if LANGUAGE in table.column_names else [None] * table.num_rows
        )
        indices = table.column("episode_index").to_pylist()
        kept = [
            [row for row in frame or () if index not in chosen or row.get("style") != "subtask"]
            for index, frame in zip(indices, old, strict=True)
        ]
        per_frame = [
            sorted([*others, *rows.get(index, [])], key=lambda row: row["timestamp"])
            for index, others in zip(indices, kept, strict=True)
        ]
        said = table.column(EVENTS).to_pylist() if EVENTS in table.column_names else [None] * table.num_rows
        columns = {LANGUAGE: pa.array(per_frame), EVENTS: pa.array([frame or [] for frame in said])}
        for name, array in columns.items():
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, array)
            else:
                table = table.append_column(name, array)
        # The Hugging Face note in the schema describes the old columns.
        replace_table(path, table.replace_schema_metadata(None), row_group_per_episode=True)


def read_keyframes(path: Path, *, episode: int = 0) -> dict[int, tuple[Subtask, ...]]:
    """Read sub-tasks from a file that a person or a tool made.

    Accepted: YAML or JSON ``{episode_index: [{name, start, end}, ...]}``; CSV with the columns ``episode, name, start,
    end``; and a JSON list of ``{annotation, start_frame_id, end_frame_id}`` as Robo-Dopamine writes it, for one episode.

    Args:
        path: The file; its ending tells the form.
        episode: The episode that a file without episode numbers is about.

    Raises:
        DatasetError: If the file cannot be read so.
    """
    try:
        if path.suffix == ".csv":
            with path.open(newline="") as handle:
                grouped: dict[int, list[Any]] = {}
                for row in csv.DictReader(handle):
                    grouped.setdefault(int(row["episode"]), []).append(row)
            raw: Any = grouped
        else:
            text = path.read_text()
            raw = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if isinstance(raw, list):
            raw = {episode: raw}
        return {int(index): tuple(_subtask(mark) for mark in marks) for index, marks in raw.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise DatasetError(
            "A file of keyframes cannot be read",
            seen=f"{path}: {type(error).__name__}: {error}",
            allowed="YAML or JSON {episode: [{name, start, end}]}, CSV with episode,name,start,end, "
            "or a list of {annotation, start_frame_id, end_frame_id}",
            remedy="See roborl annotate --help",
        ) from error


def _subtask(mark: Mapping[str, Any]) -> Subtask:
    # The second one is how Robo-Dopamine spells it.
    spellings = ("annotation", "anotation", "subtask")  # codespell:ignore anotation
    name = mark[next((key for key in spellings if key in mark), "name")]
    start = mark["start"] if "start" in mark else mark["start_frame_id"]
    end = mark["end"] if "end" in mark else mark["end_frame_id"]
    return Subtask(name=str(name), start=int(start), end=int(end))
