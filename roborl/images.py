"""The one way a recorded picture becomes the square picture that policies and reward models see."""

from __future__ import annotations

import cv2

from roborl.types import Image


def square(rgb: Image, side_px: int) -> Image:
    """Resize to (side_px, side_px, 3) by area averaging; a picture that has the size already is returned as it is.

    The aspect ratio is not kept: the whole view stays visible.
    """
    if rgb.shape[:2] == (side_px, side_px):
        return rgb
    resized: Image = cv2.resize(rgb, (side_px, side_px), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return resized
