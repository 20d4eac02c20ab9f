"""Drawing pictures out of replay memory, with the random shift as nothing but another offset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roborl.data.arena import PAD
from roborl.errors import ConfigError


class ImageGather:
    """Copies pictures of one camera out of its padded rows.

    One plain copy per picture, each line of pixels as one element, is the fastest of what was tried: fancy indexing of a
    strided view needs 1.5 times as long, because it allocates its result, and one copy per pixel more than twice.

    Args:
        frames: Padded pictures, uint8 (rows, h + 2 PAD, w + 2 PAD, 3), C-contiguous.
        shift_px: Largest shift in each direction, at most ``PAD``; 0 for none.

    Raises:
        ConfigError: If the shift is larger than the padding.
    """

    def __init__(self, frames: NDArray[np.uint8], shift_px: int) -> None:
        if not 0 <= shift_px <= PAD:
            raise ConfigError("The random shift is too large", seen=shift_px, allowed=f"0 to {PAD} px")
        rows, high, wide, _ = frames.shape
        self.height, self.width, self._shift = high - 2 * PAD, wide - 2 * PAD, shift_px
        self._row, self._line = high * wide * 3, wide * 3
        span = (self.height - 1) * self._line + self.width * 3
        # windows[i] is the picture whose first pixel is at byte i: lines of width * 3 bytes, one padded line apart.
        self._windows: NDArray[np.void] = np.ndarray(
            (rows * self._row - span + 1, self.height),
            dtype=f"V{self.width * 3}",
            buffer=frames,
            strides=(1, self._line),
        )

    def empty(self, count: int) -> NDArray[np.uint8]:
        """Return room for ``count`` pictures, uint8 (count, h, w, 3)."""
        return np.empty((count, self.height, self.width, 3), np.uint8)

    def into(
        self, out: NDArray[np.uint8], rows: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Copy the pictures of ``rows`` (n,) into ``out`` (n, h, w, 3), each under its own random shift."""
        starts = rows * self._row
        if self._shift:
            shifts = rng.integers(PAD - self._shift, PAD + self._shift, (2, rows.size), endpoint=True)
            starts += shifts[0] * self._line + shifts[1] * 3
        else:
            starts += PAD * (self._line + 3)
        lines = _lines(out)
        windows = self._windows
        for index, start in enumerate(starts.tolist()):
            lines[index] = windows[start]
        return out


def _lines(out: NDArray[np.uint8]) -> NDArray[np.void]:
    count, height, width, channels = out.shape
    return out.reshape(count, height, width * channels).view(f"V{width * channels}")[..., 0]
