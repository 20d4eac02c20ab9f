"""What a LeRobotDataset holds, and which of its cameras serves as which of ours."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from roborl.data.annotations import stages
from roborl.data.lerobot_columns import ACTION, IMAGES, LAST, STATE
from roborl.data.lerobot_files import load_files
from roborl.data.scales import Scales
from roborl.errors import DatasetError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """What a dataset holds.

    Attributes:
        root: Its folder.
        fps: Observations per second.
        cameras: Height and width by camera name.
        state_names: One name per state dimension; empty where the file has none.
        action_names: The same for actions.
        state_dim: Length of the state, 0 where there is none.
        action_dim: Length of an action, 0 where there is none.
        episodes: How many.
        frames: How many they have together.
        tasks: The instructions of its episodes.
        ours: True where last observations, verdicts and proposals are stored.
        stages: Sub-task names in order, empty without annotations.
        robot_type: What LeRobot calls the robot, empty where it does not say.
        scales: What the numbers of states and actions stand for; None where it does not say.
    """

    root: Path
    fps: float
    cameras: Mapping[str, tuple[int, int]]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    state_dim: int
    action_dim: int
    episodes: int
    frames: int
    tasks: tuple[str, ...]
    ours: bool
    stages: tuple[str, ...]
    robot_type: str
    scales: Scales | None


def describe(source: str | Path) -> DatasetInfo:
    """Read what a dataset holds, without its frames.

    Raises:
        DatasetError: If it cannot be read.
    """
    files = load_files(source)
    fps = float(files.info["fps"])
    features = files.features
    return DatasetInfo(
        root=files.root,
        fps=fps,
        cameras={name: height_width(features[key]) for name, key in camera_keys(features).items()},
        state_names=_names(features.get(STATE)),
        action_names=_names(features.get(ACTION)),
        state_dim=_width(features.get(STATE)),
        action_dim=_width(features.get(ACTION)),
        episodes=len(files.episodes),
        frames=sum(int(row["length"]) for row in files.episodes),
        # Not those of the table: it also names tasks whose episodes were deleted.
        tasks=tuple(dict.fromkeys(task for row in files.episodes for task in row.get("tasks") or ())),
        ours=LAST in features,
        stages=stages(files),
        robot_type=str(files.info.get("robot_type") or ""),
        scales=Scales.of(features),
    )


def describe_filmed(source: str | Path) -> DatasetInfo:
    """Read what a dataset holds whose pictures are needed, without its frames.

    Raises:
        DatasetError: If it cannot be read, or has no camera.
    """
    info = describe(source)
    check_filmed(source, info.cameras)
    return info


def check_filmed(source: str | Path, cameras: Collection[str]) -> None:
    """See that a dataset has pictures at all.

    Raises:
        DatasetError: If it has none.
    """
    if not cameras:
        raise DatasetError(
            "The dataset has no cameras",
            seen=f"no column of colour pictures or video in {source}",
            allowed="a camera or more: pictures are what this works on",
            remedy="Record it again with the bench's cameras, or name a dataset that was",
        )


def camera_keys(features: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the colour cameras of a dataset: short name to column."""
    found = {}
    for key, feature in features.items():
        said = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
        depth = bool(said.get("is_depth_map") or said.get("video.is_depth_map"))
        if feature["dtype"] in ("image", "video") and not depth:
            found[key.removeprefix(IMAGES).removeprefix("observation.")] = key
    return found


def map_cameras(
    have: Sequence[str], want: Sequence[str], explicit: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Say which of the dataset's cameras serves as which of ours.

    Args:
        have: The dataset's names in its order.
        want: Our names in our order.
        explicit: Ours to theirs, where the caller says so.

    Returns:
        Ours to theirs: as told, then by equal name, then the rest in order.

    Raises:
        DatasetError: If a camera is missing.

    Example:
        >>> map_cameras(["laptop", "wrist"], ["front", "wrist"])
        {'front': 'laptop', 'wrist': 'wrist'}
    """
    mapped = dict(explicit or {})
    wrong = [f"{ours}: {theirs}" for ours, theirs in mapped.items() if theirs not in have or ours not in want]
    mapped |= {
        name: name for name in want if name in have and name not in mapped and name not in mapped.values()
    }
    spare = [name for name in have if name not in mapped.values()]
    missing = [name for name in want if name not in mapped]
    if wrong or len(spare) < len(missing):
        raise DatasetError(
            "The dataset's cameras do not fit",
            seen=f"it has {list(have)}" + (f", map {wrong}" if wrong else ""),
            allowed=f"a camera for each of {list(want)}",
            remedy="Name them, ours to theirs, with --demos.camera_map",
        )
    mapped |= dict(zip(missing, spare, strict=False))
    if guessed := {name: mapped[name] for name in missing}:
        log.warning("cameras mapped by order, ours to the dataset's: %s", guessed)
    return {name: mapped[name] for name in want}


def _names(feature: Mapping[str, Any] | None) -> tuple[str, ...]:
    names = (feature or {}).get("names")
    if isinstance(names, Mapping):
        # Groups of names, or, of a gamepad or keyboard, the place of each.
        placed = all(isinstance(value, int) for value in names.values())
        names = sorted(names, key=names.__getitem__) if placed else chain.from_iterable(names.values())
    return tuple(str(name) for name in names or ())


def _width(feature: Mapping[str, Any] | None) -> int:
    return int(np.prod(feature["shape"])) if feature else 0


def height_width(feature: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size of a picture column, whichever of its dimensions comes first."""
    shape = [int(n) for n in feature["shape"]]
    return (shape[1], shape[2]) if shape[0] in (1, 3) and shape[2] > 4 else (shape[0], shape[1])
