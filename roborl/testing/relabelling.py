"""Episodes and networks to test relabelling with: a bar that fills the picture, and an endpoint that plays every role."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roborl.data.relabel_sources import RelabelSource
from roborl.rewards.benchmark import CLIPS
from roborl.rewards.relabelling.fake import made_up, stage_of
from roborl.testing.endpoint import Answer, answer, pictures_of
from roborl.types import Image

_PX = 32


def bars(episode: str, task: str, *, count: int = 31, success: bool | None = True) -> RelabelSource:
    """Return an episode in which a picture fills from dark to bright, so that how far it has come can be seen of every moment.

    Args:
        episode: Its number; a corner of its pictures tells it from others.
        task: Its instruction.
        count: Observations, ten a second.
        success: Whether it succeeded.
    """
    return RelabelSource(
        dataset="bars",
        split="train",
        episode=episode,
        task=task,
        camera="front",
        rate_hz=10.0,
        count=count,
        success=success,
        film=_Bars(count=count, corner=20 * (int(episode) % 12)),
        content=episode,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bars:
    count: int
    corner: int

    def read(self, indices: Sequence[int]) -> dict[int, Image]:
        """Return grey pictures, each as bright as its share of the episode."""
        found: dict[int, Image] = {}
        for index in indices:
            rgb = np.full((_PX, _PX, 3), round(250 * index / (self.count - 1)), np.uint8)
            rgb[:4, :4] = self.corner
            found[index] = rgb
        return found


class Cast:
    """Says what an endpoint says that plays all roles well, unless told otherwise; as a verifier it looks at the last picture.

    Args:
        tasks: Instructions of the episodes by the corner that tells them apart: those of others are failures.
        instead: Takes the stage, how many questions of it came before, and the body; returns another answer, or None for a
            good one.

    Attributes:
        words: The questions so far, by stage.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        instead: Callable[[str, int, dict[str, Any]], Answer | None] = lambda stage, before, body: None,
    ) -> None:
        self._tasks, self._instead = [task.lower() for task in tasks], instead
        self._lock = threading.Lock()
        self.words: dict[str, list[str]] = {}

    def __call__(self, body: dict[str, Any]) -> Answer:
        """Answer a request."""
        words = asked_in(body)
        stage = stage_of(words)
        with self._lock:
            before = len(self.words.setdefault(stage, []))
            self.words[stage].append(words)
        other = self._instead(stage, before, body)
        if other is not None:
            return other
        if not stage.startswith("verify"):
            return answer(made_up(words))
        last = pictures_of(body)[-1]
        shown, corner = float(last[8:].mean()) / 250, round(float(last[:4, :4].mean()) / 20)
        level = min((1, 2, 3, 4, 5), key=lambda level: abs(CLIPS.get(level, 1.0) - shown))
        asked = words.lower()
        if any(task in asked for task in self._tasks if task != self._tasks[corner % len(self._tasks)]):
            level = 1
        # Of a whole video the words decide, of a part of it what is seen.
        return answer(
            made_up(words) if level == 5 else made_up(words).replace('"score": 5', f'"score": {level}')
        )


def asked_in(body: dict[str, Any]) -> str:
    """Return the first words of a request, which are the question."""
    content = body["messages"][-1]["content"]
    return str(next(part["text"] for part in content if part["type"] == "text"))
