"""The one way in which a picture gets another size, live and recorded alike, and in which it becomes a file."""

from __future__ import annotations

import cv2
import numpy as np

from roborl.types import Image


def resized(rgb: Image, size_px: tuple[int, int]) -> Image:
    """Resize to (height, width) by area averaging; a picture that has the size already is returned as it is.

    The aspect ratio is not kept: the whole view stays visible, and a picture that was resized before on its way, as one
    from the store is, shows the same as one that was not.

    Args:
        rgb: uint8 (h, w, 3).
        size_px: Wanted height and width.
    """
    if rgb.shape[:2] == size_px:
        return rgb
    height, width = size_px
    smaller: Image = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return smaller


def square(rgb: Image, side_px: int) -> Image:
    """Resize to the square picture that policies and reward models see, (side_px, side_px, 3), as :func:`resized` does."""
    return resized(rgb, (side_px, side_px))


def encode_png(picture: Image) -> bytes:
    """Return the picture, uint8 (h, w, 3), as a PNG file."""
    done, encoded = cv2.imencode(
        ".png", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )
    assert done, "PNG takes every picture of this form"
    return encoded.tobytes()
