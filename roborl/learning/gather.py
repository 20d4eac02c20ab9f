"""Drawing pictures out of replay memory, with the random shift as nothing but another offset."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from roborl.data.arena import PAD
from roborl.errors import ConfigError
from roborl.types import Image

_PIECE_BYTES = 32768
"""What torch copies as one; it splits larger pieces among its threads one by one, which takes ten times as long."""


class ImageGather:
    """Copies pictures of one camera out of its padded rows, each in one piece with the padding between its lines.

    That is what makes it fast: large copies of bytes need little more than ``numpy.take`` of whole rows does, one copy per
    line a fifth more, and fancy indexing of a strided view, which also allocates its result, twice as long. So the pictures
    come as views whose lines are ``2 PAD`` pixels apart from each other. Torch copies them, with as many threads as the process
    lets it have (``torch.set_num_threads``).

    Args:
        frames: Padded pictures, uint8 (rows, h + 2 PAD, w + 2 PAD, 3), C-contiguous.
        shift_px: Largest shift in each direction, at most ``PAD``; 0 for none.

    Raises:
        ConfigError: If the shift is larger than the padding.
    """

    def __init__(self, frames: NDArray[np.uint8], shift_px: int) -> None:
        if not 0 <= shift_px <= PAD:
            raise ConfigError("The random shift is too large", seen=shift_px, allowed=f"0 to {PAD} px")
        _, high, wide, _ = frames.shape
        self._height, self._width, self._wide = high - 2 * PAD, wide - 2 * PAD, wide
        self._line, self._row = wide * 3, high * wide * 3
        sides = np.arange(PAD - shift_px, PAD + shift_px + 1)
        self._places = (sides[:, None] * self._line + sides * 3).reshape(-1)
        lines = _largest_divisor(self._height, at_most=_PIECE_BYTES // self._line)
        self._piece = lines * self._line
        self._pieces = np.arange(self._height // lines) * self._piece
        self._last = frames.size - self._height * self._line
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")  # it is only read
            source = torch.from_numpy(frames.reshape(-1))
        # Every run of bytes as long as a piece, wherever it begins.
        self._runs = source.as_strided((source.numel() - self._piece + 1, self._piece), (1, 1))

    def empty(self, shape: tuple[int, ...]) -> Image:
        """Return room for pictures, uint8 (*shape, h, w, 3), a view with padded lines."""
        return np.empty((*shape, self._height, self._wide, 3), np.uint8)[..., : self._width, :]

    def into(self, out: Image, rows: NDArray[np.int64], rng: np.random.Generator) -> Image:
        """Copy the pictures of ``rows`` into ``out``, each under its own random shift.

        Args:
            out: From :meth:`empty`, for pictures in the shape of ``rows``.
            rows: Rows of the replay memory, int64.
            rng: Draws the shifts.
        """
        first = rows * self._row + self._places.take(rng.integers(self._places.size, size=rows.shape))
        # Behind the last line the copy takes the padding along, and behind the last row there is none: shifted down as far as
        # it goes, the picture there is shifted to the left as far as it goes, too.
        np.minimum(first, self._last, out=first)
        starts = torch.from_numpy((first.reshape(-1, 1) + self._pieces).reshape(-1))
        assert out.base is not None, "made by empty()"
        torch.index_select(self._runs, 0, starts, out=torch.from_numpy(out.base.reshape(-1, self._piece)))
        return out


def _largest_divisor(number: int, *, at_most: int) -> int:
    return next(divisor for divisor in range(max(1, min(number, at_most)), 0, -1) if number % divisor == 0)
