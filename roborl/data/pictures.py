"""Stored pictures and videos to arrays of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from roborl.errors import DatasetError
from roborl.images import resized

_DECODE_AT_ONCE = 64


def decode_stored(cells: Sequence[Mapping[str, Any]], size: tuple[int, int], root: Path) -> NDArray[np.uint8]:
    """Decode an image column's cells (``bytes``, or a ``path`` below ``root``) to uint8 (n, h, w, 3).

    Raises:
        DatasetError: If one cannot be decoded.
    """
    frames = []
    for cell in cells:
        raw = cell["bytes"] if cell["bytes"] is not None else (root / cell["path"]).read_bytes()
        decoded = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            raise DatasetError(
                "A picture of the dataset cannot be decoded",
                seen=cell["path"],
                allowed="PNG or JPEG",
                remedy="Fetch the dataset again",
            )
        frames.append(resized(np.ascontiguousarray(decoded[..., ::-1], dtype=np.uint8), size))
    return np.stack(frames)


def decode_video(
    path: Path, times_s: NDArray[np.float64], size: tuple[int, int], *, tolerance_s: float
) -> NDArray[np.uint8]:
    """Decode the frames nearest to ``times_s`` to uint8 (n, h, w, 3).

    Raises:
        DatasetError: If the video is unreadable or a frame is farther than ``tolerance_s`` from its time.
    """
    from lerobot.datasets.video_utils import FrameTimestampError, decode_video_frames

    frames: list[NDArray[np.uint8]] = []
    try:
        # In pieces: a minute of several cameras at full size would not fit in memory.
        for start in range(0, len(times_s), _DECODE_AT_ONCE):
            wanted = times_s[start : start + _DECODE_AT_ONCE].tolist()
            piece = decode_video_frames(path, wanted, tolerance_s, "pyav", return_uint8=True)
            frames += [resized(np.ascontiguousarray(f), size) for f in piece.permute(0, 2, 3, 1).numpy()]
    except (OSError, RuntimeError, ValueError, AssertionError, FrameTimestampError) as error:
        raise DatasetError(
            "A video of the dataset cannot be decoded",
            seen=f"{path}: {error}",
            remedy="Fetch the dataset again; PyAV must know its codec",
        ) from error
    return np.stack(frames)
