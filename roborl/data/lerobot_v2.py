"""LeRobotDataset v2, as many ports of Open X-Embodiment are: a parquet file and a video per camera for each episode.

Its lists of episodes and tasks are JSON lines where those of v3 are parquet. Here they become rows as v3 has them, so that
all that reads v3 reads it too. Nothing is written in this form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from roborl.errors import DatasetError


def read_v2(root: Path, info: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return a row for each episode as v3 has it, and the instruction by ``task_index``.

    Raises:
        DatasetError: If a list is missing or torn.
    """
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    chunk_size = int(info.get("chunks_size") or 1000)
    rows, start = [], 0
    for said in _lines(root / "meta" / "episodes.jsonl", ("episode_index", "length")):
        index, length = int(said["episode_index"]), int(said["length"])
        place = {"chunk_index": index // chunk_size, "file_index": index}
        rows.append(
            {
                "episode_index": index,
                "length": length,
                "tasks": [str(task) for task in said.get("tasks") or ()],
                "dataset_from_index": start,
                "dataset_to_index": start + length,
                **{f"data/{name}": value for name, value in place.items()},
                **{f"videos/{key}/{name}": value for key in videos for name, value in place.items()},
                # A video begins with its episode.
                **{f"videos/{key}/from_timestamp": 0.0 for key in videos},
            }
        )
        start += length
    tasks = _lines(root / "meta" / "tasks.jsonl", ("task_index", "task"))
    return rows, {int(said["task_index"]): str(said["task"]) for said in tasks}


def _lines(path: Path, keys: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    number = 0
    try:
        with path.open() as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    said = json.loads(line)
                    if missing := [key for key in keys if key not in said]:
                        raise ValueError(f"no {missing[0]} in line {number}")
                    yield said
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(
            "A list of the dataset cannot be read",
            seen=f"{path}, line {number}: {error}",
            allowed=f"JSON with {' and '.join(keys)} in each line, as LeRobot v2 writes it",
            remedy="Fetch the dataset again",
        ) from error
