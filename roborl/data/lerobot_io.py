"""Episodes out of LeRobotDataset v3.

A dataset of ours has one row per observation, T + 1 for T steps. The last row of an episode is flagged
``is_last_observation``, its action is zero and its reward 0, so LeRobot's own tools read it like any other. What LeRobot
has no column for (proposals, verdicts, ends, stamps) stands in columns outside the prefixes ``observation.`` and
``action``, which LeRobot would feed to a policy, and broadcast over the rows of an episode, so that they survive
merging and cutting.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roborl.data.annotations import (
    from_episode_row,
    from_language,
)
from roborl.data.dataset_episode import DatasetEpisode, Provenance
from roborl.data.lerobot_columns import (
    ACTION,
    BENCHMARK_PROGRESS,
    COPIED_LAST,
    DISCARDED,
    END,
    EVENTS,
    FAILURE,
    FOREIGN_INTERVENTION,
    IMAGES,
    INTERVENTION,
    KEY,
    KIND,
    LANGUAGE,
    LAST,
    META,
    PROPOSED,
    REWARD,
    REWARD_SOURCE,
    SOURCE,
    STAMPS,
    STATE,
    SUCCESS,
    TRUNCATED,
    VERDICT,
    VERDICT_INDEX,
    VERDICT_REWARD,
    VERDICT_SOURCE,
    VERSION,
)
from roborl.data.lerobot_files import REPAIR, Files, load_files
from roborl.data.lerobot_info import camera_keys, height_width, map_cameras
from roborl.data.pictures import decode_stored, decode_video
from roborl.errors import DatasetError
from roborl.types import EndCause, RewardSource, Source

log = logging.getLogger(__name__)


def read_episodes(
    source: str | Path,
    *,
    cameras: Mapping[str, tuple[int, int]] | None = None,
    camera_map: Mapping[str, str] | None = None,
    success: bool | Mapping[int, bool] | None = None,
    episodes: Sequence[int] | None = None,
    with_images: bool = True,
) -> Iterator[DatasetEpisode]:
    """Read the episodes of a dataset of ours, or of any LeRobotDataset v3 or v2, one at a time.

    A foreign dataset has no observation after its last action. An episode that ended in success or failure keeps that
    action, with its last observation repeated (nothing is bootstrapped from it); a truncated one loses it. Without
    reward columns, or with nothing in them, an episode counts as a success whose last step earns 1, unless ``success`` says
    otherwise. A reward that is no number counts as 0, and is counted in the log.

    Args:
        source: A folder, or an id on the hub.
        cameras: Height and width by our names; frames are resized to them whole, as a bench's live ones are. By default
            the dataset's own.
        camera_map: Our camera name to the dataset's.
        success: The verdict on all episodes, or by episode index; by default what the file says.
        episodes: Which episode indices; by default all.
        with_images: False leaves the pictures out.

    Yields:
        Episodes in order; one with a single row is skipped and logged.

    Raises:
        DatasetError: If the dataset cannot be read or does not fit.
    """
    files = load_files(source)
    keys = camera_keys(files.features)
    wanted = (
        cameras
        if cameras is not None
        else {name: height_width(files.features[k]) for name, k in keys.items()}
    )
    views = {
        ours: (keys[theirs], wanted[ours])
        for ours, theirs in (map_cameras(list(keys), list(wanted), camera_map) if with_images else {}).items()
    }
    chosen = None if episodes is None else set(episodes)
    for row in files.episodes:
        index = int(row["episode_index"])
        if chosen is not None and index not in chosen:
            continue
        told = success.get(index) if isinstance(success, Mapping) else success
        episode = read_one(files, row, views, told)
        if episode is None:
            log.warning("episode %d of %s has a single frame and is skipped", index, files.root)
        else:
            yield episode


def read_one(
    files: Files,
    row: Mapping[str, Any],
    views: Mapping[str, tuple[str, tuple[int, int]]],
    told: bool | None = None,
) -> DatasetEpisode | None:
    """Read one episode, None where it has a single frame.

    Args:
        files: The dataset's metadata.
        row: The episode's row of it.
        views: By our names of the cameras, their column, and the height and width wanted.
        told: The verdict; None for what the file says.

    Raises:
        DatasetError: If it cannot be read.
    """
    index, length, features = int(row["episode_index"]), int(row["length"]), files.features
    stored = [key for key, _ in views.values() if features[key]["dtype"] == "image"]
    plain = [name for name, feature in features.items() if feature["dtype"] not in ("image", "video")]
    path = files.data_file(row)
    try:
        present = set(pq.read_schema(path).names)
        table = pq.read_table(
            path,
            columns=[n for n in (*plain, *stored) if n in present and n != EVENTS],
            filters=[("episode_index", "=", index)],
        )
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            "A data file of the dataset cannot be read",
            seen=f"{path}: {error}",
            allowed="a whole parquet file",
            remedy=REPAIR,
        ) from error
    if table.num_rows != length:
        raise DatasetError(
            f"Episode {index} does not have all its frames",
            seen=table.num_rows,
            allowed=length,
            remedy="Fetch the dataset again",
        )
    column = {name: table.column(name) for name in table.column_names}
    ours = LAST in column and bool(column[LAST][-1].as_py())
    verdict, end = _verdict(column, told, ours=ours)
    # A foreign row holds an observation and the action taken in it: the last action has nothing after it.
    repeat = not ours and end.terminated
    steps = length if repeat else length - 1
    if steps < 1:
        return None
    state = _matrix(column.get(STATE), length)
    images = {}
    for ours_name, (key, size) in views.items():
        pixels = (
            decode_stored(column[key].to_pylist(), size, files.root)
            if key in stored
            else _decode_video(files, row, key, _vector(column["timestamp"]), size)
        )
        images[ours_name] = _with_last(pixels, repeat=repeat)
    meta = json.loads(_text(column, META)) if ours else {}
    copied = bool(meta.pop(COPIED_LAST, False))
    reward = _rewards(column, steps, verdict, where=f"episode {index} of {files.root}")
    fps = float(files.info["fps"])
    # Marks name rows of the file: not the last one once more.
    subtasks = from_episode_row(row, fps=fps, last=length - 1)
    if not subtasks and LANGUAGE in column:
        subtasks = from_language(column[LANGUAGE][0].as_py(), fps=fps, last=length - 1)
    said = [files.tasks.get(int(index), "") for index in column["task_index"].unique().to_pylist()]
    task, *more_tasks = dict.fromkeys(said)
    return DatasetEpisode(
        task=task,
        more_tasks=tuple(more_tasks),
        images=images,
        state=_with_last(state, repeat=repeat),
        action=_matrix(column.get(ACTION), length)[:steps],
        reward=reward,
        success=verdict,
        end=end,
        subtasks=subtasks,
        failure=_text(column, FAILURE),
        discarded=bool(column[DISCARDED][0].as_py()) if DISCARDED in column else False,
        repeated_last=repeat,
        copied_last=copied,
        key=_text(column, KEY),
        index=index,
        provenance=_provenance(column, steps, _stamped(features, views), meta)
        if ours
        else _foreign_provenance(column, steps, len(views), fps),
        benchmark_progress=_vector(column[BENCHMARK_PROGRESS]).astype(np.float32)
        if BENCHMARK_PROGRESS in column
        else None,
    )


def _verdict(
    column: Mapping[str, pa.ChunkedArray], told: bool | None, *, ours: bool
) -> tuple[bool | None, EndCause]:
    if ours and told is None:
        said = _text(column, VERDICT)
        return {"success": True, "failure": False}.get(said), EndCause(_text(column, END))
    if told is None:
        stated = next(
            (n for n in (_numbers(column, SUCCESS), _numbers(column, REWARD)) if n is not None), None
        )
        told = stated is None or bool((stated > 0).any())  # of NaN that is false
    if told:
        return True, EndCause.SUCCESS
    truncated = TRUNCATED in column and bool(_vector(column[TRUNCATED]).any())
    return False, EndCause.TIME_LIMIT if truncated else EndCause.FAILURE


def _rewards(
    column: Mapping[str, pa.ChunkedArray], steps: int, verdict: bool | None, *, where: str
) -> NDArray[np.float32]:
    found = _numbers(column, REWARD)
    if found is None:
        paid = np.zeros(steps, np.float32)
        paid[-1] = verdict is True
        return paid
    lost = int(np.isnan(found[:steps]).sum())
    if lost:
        log.warning("%s: %d rewards are no numbers, and count as 0", where, lost)
    return np.nan_to_num(found[:steps], nan=0.0, posinf=np.inf, neginf=-np.inf)


def _stamped(
    features: Mapping[str, Mapping[str, Any]], views: Mapping[str, tuple[str, tuple[int, int]]]
) -> list[int]:
    """Return where the stamps of the state and of each view stand; a camera that the file has none for has the state's."""
    names = list(features[STAMPS].get("names") or ())
    cameras = [key.removeprefix(IMAGES) for key, _ in views.values()]
    return [0, *(names.index(camera) if camera in names else 0 for camera in cameras)]


def _provenance(
    column: Mapping[str, pa.ChunkedArray],
    steps: int,
    stamped: Sequence[int],
    meta: Mapping[str, str | int | float],
) -> Provenance:
    return Provenance(
        proposed=_matrix(column[PROPOSED], steps + 1)[:steps],
        source=tuple(Source(v) for v in column[SOURCE].to_pylist()[:steps]),
        policy_version=_vector(column[VERSION])[:steps].astype(np.int64),
        reward_source=tuple(RewardSource(v) for v in column[REWARD_SOURCE].to_pylist()[:steps]),
        stamp_ns=np.array(column[STAMPS].to_pylist(), np.int64).reshape(steps + 1, -1)[:, stamped],
        verdict_index=int(column[VERDICT_INDEX][0].as_py()),
        verdict_source=RewardSource(_text(column, VERDICT_SOURCE)),
        # Exports of earlier releases have no such column.
        verdict_reward=float(paid) if (paid := _text(column, VERDICT_REWARD)) else None,
        kind=_text(column, KIND),
        meta=meta,
    )


def _foreign_provenance(
    column: Mapping[str, pa.ChunkedArray], steps: int, cameras: int, fps: float
) -> Provenance | None:
    name = next((n for n in (INTERVENTION, FOREIGN_INTERVENTION) if n in column), None)
    if name is None:
        return None
    person = _vector(column[name])[:steps] > 0.5
    even = (np.arange(steps + 1) * (1e9 / fps)).astype(np.int64)
    return Provenance(
        proposed=_matrix(column.get(ACTION), len(column["index"]))[:steps],
        source=tuple(Source.PERSON if p else Source.POLICY for p in person),
        policy_version=np.zeros(steps, np.int64),
        reward_source=(RewardSource.OPERATOR,) * steps,
        stamp_ns=np.repeat(even[:, None], 1 + cameras, axis=1),
    )


def _with_last(rows: NDArray[Any], *, repeat: bool) -> NDArray[Any]:
    return np.concatenate([rows, rows[-1:]]) if repeat else rows


def _matrix(column: pa.ChunkedArray | None, rows: int) -> NDArray[np.float32]:
    if column is None:
        return np.zeros((rows, 0), np.float32)
    return np.asarray(column.to_pylist(), np.float32).reshape(rows, -1)


def _vector(column: pa.ChunkedArray) -> NDArray[Any]:
    return np.asarray(column.to_pylist()).reshape(len(column))


def _numbers(column: Mapping[str, pa.ChunkedArray], name: str) -> NDArray[np.float32] | None:
    """Return one number for each row, NaN where there is none; None where the column has no number at all."""
    if name not in column:
        return None
    values = [value[0] if isinstance(value, list) else value for value in column[name].to_pylist()]
    found = np.asarray([np.nan if value is None else value for value in values], np.float32)
    return None if np.isnan(found).all() else found


def _text(column: Mapping[str, pa.ChunkedArray], name: str) -> str:
    return str(column[name][0].as_py()) if name in column else ""


def _decode_video(
    files: Files, row: Mapping[str, Any], key: str, timestamps: NDArray[Any], size: tuple[int, int]
) -> NDArray[np.uint8]:
    times = timestamps.astype(np.float64) + float(row[f"videos/{key}/from_timestamp"])
    return decode_video(files.video_file(row, key), times, size, tolerance_s=0.5 / float(files.info["fps"]))
