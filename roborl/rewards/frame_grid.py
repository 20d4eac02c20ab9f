"""Which frames of a growing episode are shown: few, evenly spaced, and never one that depends on what comes later."""

from __future__ import annotations

from roborl.errors import ShapeError
from roborl.types import Image


class FrameGrid:
    """Keeps the frames of a growing episode at even spacing, never more than so many.

    The episode is cut into slots of equal length, and of each the first frame that was shown is kept: where some never
    come, as on the way of a live view, the spacing is as even as those that came allow. The slots double in length
    whenever there would be too many, so that a frame once dropped is never wanted again, and what is shown at any instant
    depends on nothing later.

    Args:
        most: Most frames to show, the newest among them.
        stride: First length of a slot, in observations.
    """

    def __init__(self, *, most: int, stride: int) -> None:
        self._most = most
        self._stride = max(1, stride)
        self._frames: dict[int, Image] = {}
        self._newest: tuple[int, Image] | None = None
        self._first = 0

    def add(self, index: int, frame: Image) -> None:
        """Show it the next frame, by increasing index.

        Raises:
            ShapeError: If it has another size than the first one; the grid is then as it was.
        """
        if self._newest is None:
            self._first = index
        elif frame.shape != self._newest[1].shape:
            raise ShapeError(
                "The frames of an episode differ in size", seen=frame.shape, allowed=self._newest[1].shape
            )
        self._newest = (index, frame)
        if not self._frames or self._slot(index) > self._slot(next(reversed(self._frames))):
            self._frames[index] = frame
        while len(self._frames) + (index not in self._frames) > self._most:
            self._stride *= 2
            firsts: dict[int, int] = {}
            for kept in self._frames:
                firsts.setdefault(self._slot(kept), kept)
            self._frames = {kept: self._frames[kept] for kept in firsts.values()}

    def video(self) -> tuple[tuple[int, ...], tuple[Image, ...]]:
        """Return indices and frames, the newest last; a single frame comes twice."""
        assert self._newest is not None, "a question is asked about an observation that was added"
        shown = self._frames | dict([self._newest])
        if len(shown) == 1:
            index, frame = self._newest
            return (index, index), (frame, frame)
        return tuple(shown), tuple(shown.values())

    def _slot(self, index: int) -> int:
        return (index - self._first) // self._stride
