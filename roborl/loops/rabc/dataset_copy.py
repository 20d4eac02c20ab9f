"""Some episodes of a dataset as a dataset of their own: frames, videos and columns as they are, with their annotations."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from roborl.data.annotations import from_episode_row, write_annotations
from roborl.data.encoding import scheduled_as_before
from roborl.data.lerobot_files import Files, deletion, load_files
from roborl.data.lerobot_repair import check_closed
from roborl.errors import ConfigError, DatasetError
from roborl.pretrained import standing_in


def copy_episodes(
    dataset: Path,
    out: Path,
    episodes: Sequence[int],
    *,
    complete: Callable[[Path, Mapping[int, int]], None] = lambda draft, places: None,
) -> dict[int, int]:
    """Copy episodes with everything that stands in their rows, the last observations of ours included; blocks.

    Args:
        dataset: The dataset's folder.
        out: A new folder, which appears whole or not at all.
        episodes: Their indices; one at least.
        complete: Writes what else is to be there once it appears; told the folder until then, and what is returned.

    Returns:
        The new index of each, by the old one.

    Raises:
        ConfigError: If ``out`` is there already.
        DatasetError: If the dataset cannot be read, is being written or was left so by a kill, or is of LeRobot's second
            version, which its tools do not cut.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(
            "There is something where the filtered dataset is to go",
            seen=out,
            allowed="a new folder",
            remedy="Give another --out, or delete it",
        )
    chosen = sorted(episodes)
    places = {old: new for new, old in enumerate(chosen)}
    files = load_files(dataset, to_write=True)
    check_closed(files)
    left_out = [
        int(row["episode_index"]) for row in files.episodes if int(row["episode_index"]) not in places
    ]
    if left_out:
        _check_filmed(files, chosen)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        if left_out:
            _cut(dataset, draft, left_out, name=out.name)
            _annotate(dataset, draft, places)
        else:
            shutil.copytree(dataset, draft, ignore=shutil.ignore_patterns("roborl_*.parquet", ".*"))
        complete(draft, places)
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return places


def _check_filmed(files: Files, chosen: Sequence[int]) -> None:
    """Refuse episodes with more or fewer pictures than rows in a video that has to be cut: LeRobot's tool ends at the first."""
    fps = float(files.info["fps"])
    videos = [key for key, feature in files.features.items() if feature["dtype"] == "video"]
    cut = {
        files.video_file(row, key)
        for row in files.episodes
        if int(row["episode_index"]) not in chosen
        for key in videos
    }
    odd = {
        int(row["episode_index"]): f"{filmed} for {row['length']} in {key}"
        for row in files.episodes
        if int(row["episode_index"]) in chosen
        for key in videos
        if files.video_file(row, key) in cut
        and (
            filmed := round(row[f"videos/{key}/to_timestamp"] * fps)
            - round(row[f"videos/{key}/from_timestamp"] * fps)
        )
        != row["length"]
    }
    if odd:
        raise DatasetError(
            "Episodes of the dataset have more or fewer pictures in their videos than rows",
            seen=f"{files.root}: " + ", ".join(f"episode {index}: {said}" for index, said in odd.items()),
            allowed="a picture for each row, where a video holds episodes that are left out too",
            remedy=f"Make a dataset without them first, and label that: {deletion(files.root, list(odd))}",
        )


def _cut(dataset: Path, copy: Path, left_out: list[int], *, name: str) -> None:
    """Copy all episodes but these with LeRobot's tool."""
    from lerobot.datasets.dataset_tools import delete_episodes
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.utils.utils import SuppressProgressBars

    # Its tool opens the copy without saying how, and then looks for FFmpeg's libraries, which need not be there.
    decoder = "lerobot.datasets.lerobot_dataset.get_safe_default_video_backend"
    with SuppressProgressBars(), scheduled_as_before(), standing_in(decoder, lambda: "pyav"):
        delete_episodes(
            LeRobotDataset(f"local/{dataset.name}", root=dataset, video_backend="pyav"),
            left_out,
            output_dir=copy,
            repo_id=f"local/{name}",
        )


def _annotate(dataset: Path, copy: Path, places: dict[int, int]) -> None:
    """Carry the marks of sub-tasks over, which LeRobot's tool leaves behind."""
    files = load_files(dataset)
    fps = float(files.info["fps"])
    for prefix in ("sparse", "dense"):
        marks = {
            places[int(row["episode_index"])]: from_episode_row(
                row, fps=fps, last=int(row["length"]) - 1, prefix=prefix
            )
            for row in files.episodes
            if int(row["episode_index"]) in places
        }
        if any(marks.values()):
            write_annotations(copy, marks, prefix=prefix, language=False, fresh=())
