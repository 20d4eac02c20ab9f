"""Whether all numbers of an array are finite, at the speed of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16
"""How many values are looked at together: so many stay in a processor's cache."""


def all_finite(array: NDArray[Any]) -> bool:
    """Return whether an array of any shape and dtype holds neither NaN nor infinity.

    Example:
        >>> all_finite(np.float32([1.0, 1e30])), all_finite(np.float32([1.0, np.inf]))
        (True, False)
    """
    if array.dtype.kind != "f":
        return True
    flat = array.reshape(-1)
    return all(_finite(flat[start : start + BLOCK]) for start in range(0, flat.size, BLOCK))


def _finite(block: NDArray[np.floating]) -> bool:
    # A product with itself is finite only where all are, and makes no array; very large ones are looked at again.
    if block.dtype == np.float32 and np.isfinite(np.dot(block, block)):
        return True
    return bool(np.isfinite(block).all())
