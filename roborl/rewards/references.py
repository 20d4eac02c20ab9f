"""Pictures and videos of how a task is done: read from files, picked by camera, and what they do to a version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError
from roborl.images import square
from roborl.rewards.judges.queries import picture_key
from roborl.rewards.model import References

type Pictures = NDArray[np.uint8]

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def read_references(files: Mapping[str, str], *, most_frames: int = 64) -> dict[str, Pictures]:
    """Read the references that files hold; blocks while videos are decoded.

    Args:
        files: Paths by name. ``goal/<camera>`` is a picture, or a video that ends with the task done;
            ``demo/<camera>`` is a video of a demonstration, or a folder of its pictures, which are taken by name.
        most_frames: Most frames of a demonstration to keep, evenly spaced, the first and the last among them.

    Returns:
        Read-only arrays by name: uint8 (h, w, 3) for a goal, uint8 (t, h, w, 3) for a demonstration.

    Raises:
        ConfigError: If a name says neither, or a file cannot be read.
    """
    found = {}
    for name, place in files.items():
        kind, _, camera = name.partition("/")
        if kind not in ("goal", "demo") or not camera:
            raise ConfigError(
                "A reference has a name that means nothing",
                seen=name,
                allowed="goal/CAMERA or demo/CAMERA",
            )
        path = Path(place)
        if kind == "demo":
            pictures = np.stack(_of_one_size(_frames(path, most_frames), path))
        else:
            pictures = _picture(path) if path.suffix.lower() in _PICTURES else _frames(path, 1)[-1]
        pictures.flags.writeable = False
        found[name] = pictures
    return found


def take_reference(references: References, name: str) -> Pictures | None:
    """Return a reference that a session brings, None where it brings no such one.

    Args:
        references: What was given.
        name: ``goal/<camera>`` for a picture, uint8 (h, w, 3); ``demo/<camera>`` for a video, uint8 (t, h, w, 3).

    Raises:
        ConfigError: If it has another form.
    """
    pictures: object = references.get(name)
    if pictures is None:
        return None
    dimensions, allowed = (3, "uint8 (h, w, 3)") if name.startswith("goal/") else (4, "uint8 (t, h, w, 3)")
    if (
        not isinstance(pictures, np.ndarray)
        or pictures.dtype != np.uint8
        or pictures.ndim != dimensions
        or pictures.shape[-1] != 3
        or not pictures.size
    ):
        raise ConfigError(
            f"The reference {name} has the wrong form",
            seen=f"{pictures.dtype} {pictures.shape}"
            if isinstance(pictures, np.ndarray)
            else type(pictures).__name__,
            allowed=allowed,
        )
    return pictures


def references_key(references: Mapping[str, Pictures]) -> dict[str, str]:
    """Return a digest of each reference, for the version of a model that holds them."""
    return {
        name: picture_key(*(pictures if pictures.ndim == 4 else [pictures])).hex()
        for name, pictures in sorted(references.items())
    }


def of_cameras(references: Mapping[str, Pictures], cameras: Collection[str]) -> dict[str, Pictures]:
    """Return the references that are of these cameras; all where none is named."""
    return {
        name: pictures
        for name, pictures in references.items()
        if not cameras or name.partition("/")[2] in cameras
    }


def digest(references: Mapping[str, Pictures]) -> str:
    """Return a short digest of what a session brings, empty where it brings nothing."""
    if not references:
        return ""
    return hashlib.sha256(json.dumps(references_key(references)).encode()).hexdigest()[:12]


def told(version: str, shown: str) -> str:
    """Return the version of scores that a model gives to sessions which bring references of this digest.

    Example:
        >>> told("v1", ""), told("v1", "3f2a")
        ('v1', 'v1-3f2a')
    """
    return f"{version}-{shown}" if shown else version


def spaced(count: int, most: int) -> list[int]:
    """Return at most so many places of ``count``, evenly spaced, the first and the last among them.

    Example:
        >>> spaced(11, 3), spaced(2, 3), spaced(11, 1)
        ([0, 5, 10], [0, 1], [10])
    """
    if most == 1:
        return [count - 1]
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def _frames(path: Path, most: int) -> list[Pictures]:
    """Frames of a video or folder, evenly spaced; the last one alone where only one is wanted."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICTURES)
        if not files:
            raise ConfigError("A folder of reference pictures is empty", seen=path, allowed=_PICTURES)
        return [_picture(files[place]) for place in spaced(len(files), most)]
    count = count_frames(path)
    if not count:
        raise ConfigError(
            "A reference video cannot be read", seen=path, allowed="a video file, or a folder of pictures"
        )
    return list(video_frames(path, spaced(count, most)).values())


def video_frames(path: Path, places: Iterable[int], *, side_px: int | None = None) -> dict[int, Pictures]:
    """Decode some frames of a video, by their places in it; blocks. Those that it does not have are left out.

    Args:
        path: The video.
        places: Which frames.
        side_px: Makes them squares of this side as they come; None leaves them as they are.
    """
    wanted = set(places)
    capture = cv2.VideoCapture(str(path))
    found: dict[int, Pictures] = {}
    for place in range(max(wanted, default=-1) + 1):
        if not capture.grab():
            break
        if place in wanted:
            whole, frame = capture.retrieve()
            if not whole:
                break
            rgb = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
            found[place] = rgb if side_px is None else square(rgb, side_px)
    capture.release()
    return found


def count_frames(path: Path) -> int:
    """Return how many frames a video has, 0 where it cannot be read; blocks while it goes through it."""
    # What a video says about its own length is often wrong.
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return count


def _picture(path: Path) -> Pictures:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if picture is None:
        raise ConfigError("A reference picture cannot be read", seen=path, allowed=_PICTURES)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _of_one_size(frames: list[Pictures], path: Path) -> list[Pictures]:
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise ConfigError("The pictures of a demonstration differ in size", seen=f"{sorted(sizes)} in {path}")
    return frames
