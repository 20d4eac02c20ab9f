"""A reward model without knowledge: progress is the mean brightness of the picture. For tests and dry runs of a bench."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roborl.errors import ShapeError
from roborl.rewards.model import NO_REPLY, Fold, Judge, References, missing
from roborl.rewards.model_info import ModelInfo
from roborl.types import Image, Observation, Score


@dataclass(frozen=True, kw_only=True, eq=False)
class Glance:
    """A query: the pictures of one observation and of the one scored before it.

    Attributes:
        now: Pictures, uint8 (h, w, 3) each.
        before: Pictures of the previously scored observation, those of now at first.
    """

    now: tuple[Image, ...]
    before: tuple[Image, ...]


class BrightnessJudge(Judge[Glance, tuple[float, float]]):
    """Answers with the mean brightness now and the change since before, each in units of full brightness."""

    def answer(self, queries: Sequence[Glance]) -> list[tuple[float, float]]:
        """Return (brightness in [0, 1], change in [-1, 1]) per query."""
        return [(_brightness(q.now), _brightness(q.now) - _brightness(q.before)) for q in queries]


class BrightnessFold(Fold[Glance, tuple[float, float]]):
    """Keeps the picture scored before, so that its replies depend on order, and sums the changes as raw value."""

    def __init__(self, cameras: tuple[str, ...], version: str) -> None:
        self._cameras = cameras
        self._version = version
        self._before: tuple[Image, ...] | None = None
        self._sum = 0.0

    def queries(self, observation: Observation) -> list[Glance]:
        """Ask once per observation."""
        names = self._cameras or tuple(sorted(observation.frames))
        absent = [name for name in names if name not in observation.frames]
        if absent:
            raise ShapeError("A view is missing", seen=sorted(observation.frames), allowed=list(names))
        now = tuple(observation.frames[name].rgb for name in names)
        glance = Glance(now=now, before=now if self._before is None else self._before)
        self._before = now
        return [glance]

    def fold(self, observation_id: int, replies: Sequence[tuple[float, float] | None]) -> Score:
        """Take the brightness as progress."""
        (reply,) = replies
        if reply is None or not all(map(math.isfinite, reply)):
            return missing(observation_id, NO_REPLY, version=self._version)
        progress, change = reply
        self._sum += change
        return Score(
            frame_id=observation_id,
            progress=min(max(progress, 0.0), 1.0),
            raw=self._sum,
            done=progress > 0.95,
            version=self._version,
        )


class BrightnessModel:
    """A reward model that calls a bright picture progress.

    Args:
        cameras: Views to look at; empty for all there are.
        image_px: What it says about the size of its pictures.
        judge: Stands in for the brightness judge, to inject faults.
    """

    def __init__(
        self,
        cameras: tuple[str, ...] = (),
        image_px: int | None = None,
        judge: BrightnessJudge | None = None,
    ) -> None:
        version = "brightness-" + ("-".join(cameras) or "all")
        self.info = ModelInfo(version=version, cameras=cameras, image_px=image_px)
        self.judge = judge or BrightnessJudge()

    def start(self, task: str, references: References) -> BrightnessFold:
        """Return the fold of a new episode; task and references play no part."""
        return BrightnessFold(self.info.cameras, self.info.version)


def _brightness(images: tuple[Image, ...]) -> float:
    return float(np.mean([image.mean(dtype=np.float64) for image in images])) / 255.0
