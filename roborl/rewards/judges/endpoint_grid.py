"""Whether an endpoint sees pictures in the size they are sent in, told by the lengths of two questions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from roborl.rewards.judges.picture_sizes import PictureSizes
from roborl.rewards.judges.queries import VlmQuery

_PROBES = ((2, 2), (6, 18))  # rows and columns of cells, before the limits


def misseen_tokens(sizes: PictureSizes, length_of: Callable[[VlmQuery], int]) -> int:
    """Return how many visual tokens too many or too few lie between a large picture and a small one; 0 where none.

    The marks around a picture, which differ from network to network, count the same in both.

    Args:
        sizes: In what size pictures are sent, in whole cells.
        length_of: Asks a question, and returns its length in tokens.
    """
    side = sizes.cell_px
    expected: list[int] = []
    lengths: list[int] = []
    for rows, columns in _PROBES:
        picture = np.zeros((rows * side, columns * side, 3), np.uint8)
        query = VlmQuery(parts=("?", picture), max_tokens=1)
        ((_, height, width),) = sizes.sent(query)
        expected.append(height // side * (width // side))
        lengths.append(length_of(query))
    return (lengths[1] - lengths[0]) - (expected[1] - expected[0])
