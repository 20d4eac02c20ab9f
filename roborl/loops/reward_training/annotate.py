"""Sub-task marks for a dataset: from a file of keyframes, or from a person with a page in the browser."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.resources import files as package_files
from pathlib import Path

import cv2
import numpy as np

from roborl.data.annotations import (
    from_episode_row,
    read_language,
    stage_names,
    stage_shares,
    successes,
    write_annotations,
)
from roborl.data.annotations import (
    stages as stages_of,
)
from roborl.data.dataset_episode import DatasetEpisode, Subtask
from roborl.data.lerobot_columns import LANGUAGE
from roborl.data.lerobot_files import load_files, locate
from roborl.data.lerobot_info import describe_filmed
from roborl.data.lerobot_io import read_episodes
from roborl.errors import ConfigError, DatasetError
from roborl.locks import FolderLock
from roborl.types import Image
from roborl.whole_files import write_whole

_MOST_PICTURES = 400


def read_marks(dataset: Path, *, prefix: str = "sparse") -> dict[int, tuple[Subtask, ...]]:
    """Return the sub-tasks that stand in a dataset and last for a frame or more, by episode index.

    Args:
        dataset: Its folder.
        prefix: "sparse" or "dense"; ``language_persistent`` is read of an episode without sparse ones in ``meta/episodes``.
    """
    lasting = {
        index: tuple(m for m in marks if m.start < m.end)
        for index, marks in _standing(dataset, prefix).items()
    }
    return {index: marks for index, marks in lasting.items() if marks}


def read_shares(dataset: Path, marks: Mapping[int, Sequence[Subtask]]) -> dict[str, float]:
    """Return the stage shares over those of the marked episodes that succeeded: a failure may stop anywhere."""
    whole = successes(load_files(dataset))
    return stage_shares([found for index, found in marks.items() if index in whole])


def _standing(dataset: Path, prefix: str) -> dict[int, tuple[Subtask, ...]]:
    """Return the sub-tasks of every episode as somebody wrote them, such as last no frame among them."""
    files = load_files(dataset)
    fps = float(files.info["fps"])
    rows = {
        int(row["episode_index"]): from_episode_row(row, fps=fps, last=int(row["length"]) - 1, prefix=prefix)
        for row in files.episodes
    }
    if prefix == "sparse" and not all(rows.values()) and LANGUAGE in files.features:
        spoken = read_language(files)
        rows = {index: marks or spoken.get(index, ()) for index, marks in rows.items()}
    return rows


def apply_marks(
    dataset: Path,
    marks: Mapping[int, Sequence[Subtask]],
    *,
    prefix: str = "sparse",
    replace_all: bool = False,
) -> dict[str, float]:
    """Write marks into a dataset: sparse ones in both formats, dense ones into ``meta/episodes`` alone.

    Args:
        dataset: Its folder.
        marks: By episode index; an empty list takes an episode's annotation away.
        prefix: "sparse" or "dense".
        replace_all: Episodes that ``marks`` does not name lose their annotation rather than keep it.

    Returns:
        The stage shares over annotated successes.

    Raises:
        DatasetError: If a mark does not fit its episode, or the dataset is being recorded; nothing is changed then.
    """
    root = locate(dataset)
    # A recording writes marks too, and knows by what it found at its beginning which columns its rows must have.
    with closing(FolderLock(root, remedy="Wait until it is done")):
        kept = {} if replace_all else _standing(root, prefix)
        whole, fresh = {**kept, **marks}, None if replace_all else marks.keys()
        return write_annotations(root, whole, prefix=prefix, language=prefix == "sparse", fresh=fresh)


def write_page(
    dataset: Path,
    page: Path,
    *,
    prefix: str = "sparse",
    stages: Sequence[str] = (),
    camera: str = "",
    episodes: Sequence[int] = (),
    proposed: Mapping[int, Sequence[Subtask]] | None = None,
    height_px: int = 240,
) -> int:
    """Write one self-contained HTML page on which a person marks the sub-tasks of a dataset.

    Long episodes are shown by at most 400 pictures; marks always carry the dataset's own frame numbers.

    Args:
        dataset: Its folder.
        page: The HTML file.
        prefix: "sparse" or "dense": which of the two annotations stands on it, and is written with what it saves.
        stages: Names to choose from, in order; by default those that the dataset has.
        camera: Which camera is shown; by default the first.
        episodes: Which episodes; by default all.
        proposed: Marks to begin with, by episode index, where the dataset has none.
        height_px: Greatest height of the pictures.

    Returns:
        How many episodes are on it.

    Raises:
        ConfigError: If there are no stage names to choose from.
        DatasetError: If there is no such camera or episode.
    """
    info, marks = describe_filmed(dataset), {**(proposed or {}), **read_marks(dataset, prefix=prefix)}
    names = tuple(stages) or stages_of(load_files(dataset), prefix) or stage_names(list(marks.values()))
    if not names:
        raise ConfigError(
            "The page needs the names of the sub-tasks",
            seen="none, and the dataset has no annotation yet",
            allowed="one or more names in order",
            remedy="For example: --stages '[reach, grasp, carry, place]'",
        )
    shown = camera or next(iter(info.cameras))
    if shown not in info.cameras:
        raise DatasetError(
            "The dataset has no such camera",
            seen=shown,
            allowed=list(info.cameras),
            remedy="Choose one with --camera",
        )
    size = info.cameras[shown]
    scale = min(1.0, height_px / size[0])
    view = {shown: (round(size[0] * scale), round(size[1] * scale))}
    found = [
        _entry(episode, shown, marks.get(episode.index, ()))
        for episode in read_episodes(dataset, cameras=view, episodes=list(episodes) or None)
    ]
    if not found:
        raise DatasetError(
            "The dataset has no such episodes", seen=list(episodes), allowed=f"0 to {info.episodes - 1}"
        )
    command = ["roborl", "annotate", "--dataset", str(dataset)]
    command += ["--prefix", prefix] if prefix != "sparse" else []
    data = {
        "stages": list(names),
        "episodes": found,
        "command": shlex.join([*command, "--marks", "marks.json"]),
    }
    template = package_files("roborl.loops.reward_training").joinpath("annotate.html").read_text()
    # A name such as "</script>" must not end the block it stands in.
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, template.replace("__DATA__", json.dumps(data).replace("<", "\\u003c")))
    return len(found)


def _entry(episode: DatasetEpisode, camera: str, marks: Sequence[Subtask]) -> dict[str, object]:
    last = episode.steps - episode.repeated_last  # Marks name frames that the file has.
    shown = np.unique(np.linspace(0, last, min(_MOST_PICTURES, last + 1)).round().astype(int))
    note = f", {episode.failure or 'failure'}" if episode.success is False else ""
    return {
        "index": episode.index,
        "task": episode.task,
        "note": note,
        "last": last,
        "marks": [{"name": s.name, "start": s.start, "end": s.end} for s in marks],
        "frames": [{"index": int(t), "picture": _jpeg(episode.images[camera][t])} for t in shown],
    }


def _jpeg(picture: Image) -> str:
    whole, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert whole, "every uint8 picture has a JPEG"
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
