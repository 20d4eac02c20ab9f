"""The size at which a network that sees pictures in square cells takes them in, so that they can be sent in that size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pictures

from roborl.rewards.judges.queries import Cells, Clip, VlmQuery
from roborl.types import Image


@dataclass(frozen=True, kw_only=True)
class PictureSizes:
    """In what size pictures are sent.

    Attributes:
        min_pixels: Least pixels of a picture, and per frame of a clip; 0 for no such limit.
        max_pixels: Most; 0 likewise. Without any limit pictures are sent as they come.
        cell_px: Side of the square that one visual token covers, px; 0 where that is not known.
        video: Whether clips are sent as videos, of which two frames make a visual token, rather than as pictures.
    """

    min_pixels: int
    max_pixels: int
    cell_px: int
    video: bool

    def __str__(self) -> str:
        """Say it for people."""
        if not self._limited:
            return "as they come"
        most = f" to {self.max_pixels}" if self.max_pixels else " or more"
        grid = (
            f"multiples of {self.cell_px} px"
            if self.cell_px
            else "any multiple, since judge.cell_px is not set"
        )
        return f"with {self.min_pixels}{most} pixels, in {grid}"

    def fitted(self, picture: Image) -> Image:
        """Return a picture in the size in which it is sent."""
        return resized(picture, *self._size(picture))

    def sent(self, query: VlmQuery) -> tuple[tuple[int, int, int], ...]:
        """Return frames, height and width in pixels of each picture and clip as it is sent."""
        return tuple(
            (len(part.frames), *self._size(part.frames[0]))
            if isinstance(part, Clip)
            else (1, *self._size(part))
            for part in query.parts
            if not isinstance(part, str)
        )

    def cells(self, query: VlmQuery) -> tuple[Cells, ...] | None:
        """Return what a network sees that takes pictures in the size they are sent in; None where its cells are unknown."""
        if not self.whole_cells:
            return None
        return tuple(
            (-(-frames // 2) if self.video else frames, height // self.cell_px, width // self.cell_px)
            for frames, height, width in self.sent(query)
        )

    @property
    def whole_cells(self) -> bool:
        """Whether pictures are sent in whole cells within the limits, so that a network can take them as they are."""
        return bool(self.cell_px and self._limited)

    @property
    def _limited(self) -> bool:
        return bool(self.min_pixels or self.max_pixels)

    def _size(self, picture: Image) -> tuple[int, int]:
        height, width, _ = picture.shape
        if not self._limited:
            return height, width
        return fitting_size(
            height,
            width,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            cell_px=self.cell_px or 1,
        )


def fitting_size(
    height: int, width: int, *, min_pixels: int = 0, max_pixels: int = 0, cell_px: int = 1
) -> tuple[int, int]:
    """Return the height and width nearest to a picture's that are whole cells and within the limits.

    A picture of such a size is left alone by a network's own preprocessing, if that has no narrower limits. The shape
    is kept as far as whole cells allow, and a side is never less than one cell.

    Args:
        height: Of the picture, px.
        width: Likewise.
        min_pixels: Least pixels; 0 for no such limit. The most comes first where the two contradict each other.
        max_pixels: Most; 0 likewise.
        cell_px: Side of a cell, px.

    Source: the rule of Qwen2-VL's and Qwen3-VL's image processors.

    Example:
        >>> fitting_size(480, 640, max_pixels=76_800, cell_px=32), fitting_size(480, 640, max_pixels=76_800)
        ((224, 320), (240, 320))
        >>> fitting_size(64, 64, min_pixels=12_544, cell_px=28), fitting_size(192, 320, cell_px=32)
        ((112, 112), (192, 320))
    """

    def cells(high: float, wide: float, turn: Callable[[float], int]) -> tuple[int, int]:
        return max(1, turn(high / cell_px)) * cell_px, max(1, turn(wide / cell_px)) * cell_px

    rows, columns = cells(height, width, round)
    # Divided where those processors divide and multiplied where they multiply: a side of whole cells stays one.
    if max_pixels and rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return cells(height / shrink, width / shrink, math.floor)
    if rows * columns < min_pixels <= (max_pixels or min_pixels):
        grow = math.sqrt(min_pixels / (height * width))
        return cells(height * grow, width * grow, math.ceil)
    return rows, columns


def resized(picture: Image, height: int, width: int) -> Image:
    """Return a picture in another size by the filter of those processors, uint8 (height, width, 3)."""
    if picture.shape[:2] == (height, width):
        return picture
    image = Pictures.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Pictures.Resampling.BICUBIC))
