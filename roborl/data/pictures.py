"""Stored pictures and videos to arrays of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from roborl.errors import DatasetError

_DECODE_AT_ONCE = 64


def fit(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Crop an image about its centre to an aspect and resize it; geometry is never stretched.

    Args:
        image: uint8 (h, w, 3).
        size: Wanted height and width in px.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    scale = min(height / size[0], width / size[1])
    rows, columns = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    part = image[top : top + rows, left : left + columns]
    kernel = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (size[1], size[0]), interpolation=kernel), np.uint8)


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
        frames.append(fit(np.ascontiguousarray(decoded[..., ::-1], dtype=np.uint8), size))
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
            frames += [fit(np.ascontiguousarray(f), size) for f in piece.permute(0, 2, 3, 1).numpy()]
    except (OSError, RuntimeError, ValueError, AssertionError, FrameTimestampError) as error:
        raise DatasetError(
            "A video of the dataset cannot be decoded",
            seen=f"{path}: {error}",
            remedy="Fetch the dataset again; PyAV must know its codec",
        ) from error
    return np.stack(frames)
