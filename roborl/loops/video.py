"""Pictures with progress drawn on them, and MP4 files that browsers play."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError
from roborl.types import Image
from roborl.whole_files import whole_file

_INK, _PAPER, _GOOD, _BAD, _CURVE = (
    (40, 40, 40),
    (250, 250, 250),
    (40, 150, 70),
    (200, 60, 50),
    (40, 100, 200),
)
_STRIP_PX = 64


def beside(images: Mapping[str, Image], *, height_px: int = 240) -> Image:
    """Put the cameras' pictures beside each other, scaled to one height, uint8 (height_px, w, 3)."""
    scaled = []
    for picture in images.values():
        width = round(picture.shape[1] * height_px / picture.shape[0])
        kernel = cv2.INTER_NEAREST if height_px > picture.shape[0] else cv2.INTER_AREA
        scaled.append(cv2.resize(picture, (width, height_px), interpolation=kernel))
    return np.asarray(np.concatenate(scaled, axis=1), np.uint8)


def with_cameras(view: Image, images: Mapping[str, Image]) -> Image:
    """Put the cameras' pictures in a column to the right of a larger one, uint8 (h, w, 3) with the view's height."""
    height = view.shape[0]
    edges = np.linspace(0, height, len(images) + 1).round().astype(int)
    side = height // len(images)
    column = np.empty((height, side, 3), np.uint8)
    for picture, top, bottom in zip(images.values(), edges[:-1], edges[1:], strict=True):
        kernel = cv2.INTER_NEAREST if side > picture.shape[1] else cv2.INTER_AREA
        column[top:bottom] = cv2.resize(picture, (side, int(bottom - top)), interpolation=kernel)
    return np.asarray(np.concatenate([view, column], axis=1), np.uint8)


def draw_progress(
    image: Image,
    progress: Sequence[float],
    *,
    length: int,
    caption: str = "",
    success: bool | None = None,
) -> Image:
    """Return the picture with a strip below it: the curve of progress so far, its value, a caption.

    Args:
        image: uint8 (h, w, 3).
        progress: Values so far, in [0, 1]; may be empty.
        length: How many there will be at most, which fixes the curve's scale.
        caption: A few words.
        success: Colours the frame once the outcome is known.
    """
    height, width = image.shape[:2]
    strip = np.full((_STRIP_PX, width, 3), _PAPER, np.uint8)
    left, right, top, bottom = 8, width - 56, 22, _STRIP_PX - 8
    cv2.line(strip, (left, bottom), (right, bottom), (200, 200, 200), 1)
    cv2.line(strip, (left, top), (right, top), (225, 225, 225), 1)
    if progress:
        values = np.clip(np.asarray(progress, np.float64), 0.0, 1.0)
        x = left + np.arange(len(values)) * (right - left) / max(1, length - 1)
        y = bottom - values * (bottom - top)
        points = np.stack([x, y], axis=1).round().astype(np.int32)
        cv2.polylines(strip, [points], isClosed=False, color=_CURVE, thickness=2, lineType=cv2.LINE_AA)
        cv2.circle(strip, (int(points[-1][0]), int(points[-1][1])), 4, _CURVE, -1, cv2.LINE_AA)
        _write(strip, f"{values[-1]:.2f}", (right + 8, _STRIP_PX // 2 + 10), _CURVE)
    _write(strip, caption, (left, 14), _INK)
    whole = np.concatenate([image, strip])
    if success is not None:
        cv2.rectangle(whole, (0, 0), (width - 1, height - 1), _GOOD if success else _BAD, 4)
    return np.asarray(whole, np.uint8)


def write_video(path: Path, frames: Iterable[Image], *, fps: float) -> int:
    """Write an H.264 MP4, whole or not at all, the same bytes for the same pictures; return how many frames.

    Args:
        path: The file; its folder is made.
        frames: uint8 (h, w, 3) each, all of one size; an odd last row or column is cut, as the codec wants.
        fps: Frames per second.

    Raises:
        ConfigError: If there is no frame.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with (
        whole_file(path) as draft,
        av.open(str(draft), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        # Macroblock trees make libx264 write other bytes for the same pictures now and then, and a row is known by its video's bytes.
        stream.options = {"crf": "23", "preset": "veryfast", "mbtree": "0"}
        for picture in frames:
            even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
            if count == 0:
                stream.height, stream.width = even.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgb24")))
            count += 1
        if not count:
            raise ConfigError("A video needs at least one frame", seen=0, allowed="1 or more")
        container.mux(stream.encode())
    return count


def _write(image: Image, text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(image, plain, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def curve_frames(
    pictures: Sequence[Image], progress: NDArray[np.float32] | None, *, caption: str, success: bool | None
) -> list[Image]:
    """Return an episode's pictures with its progress drawn on each.

    Args:
        pictures: T + 1 of them.
        progress: Float (T + 1,), or None for a reward model that was not there.
        caption: A few words.
        success: The outcome, which colours the last second.
    """
    values = [] if progress is None else [float(p) for p in progress]
    last = len(pictures) - 1
    return [
        draw_progress(
            picture,
            values[: t + 1],
            length=len(pictures),
            caption=caption,
            success=success if t == last else None,
        )
        for t, picture in enumerate(pictures)
    ]
