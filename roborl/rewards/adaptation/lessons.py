"""What a judge learns from: filmed episodes, the questions about them, and the answers.

A question is planned from numbers alone, names the pictures it needs, and is written when they are there, by the same
code that asks it in watching.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from roborl.errors import DatasetError
from roborl.rewards.instructions import draw_unlike
from roborl.rewards.judges.queries import VlmQuery, VlmReply
from roborl.rewards.training.labels import Span
from roborl.rewards.training.learnt_from import Origin
from roborl.types import Image

type Spot = tuple[int, str, int]
"""One picture: place of its episode, camera, index of the observation."""


class Footage(Protocol):
    """Where an episode's pictures come from."""

    def read(self, wanted: Mapping[str, Sequence[int]]) -> Mapping[str, Mapping[int, Image]]:
        """Return the wanted observations' pictures by camera and index; blocks while they are decoded.

        Raises:
            DatasetError: If one cannot be read.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class FilmedEpisode:
    """An episode, what is known about it, and where its pictures are.

    Attributes:
        name: What it is called in messages.
        tasks: The instruction, and other ways of saying it.
        count: Observations.
        kind: ``success``, or what sort of failure.
        keyframes: Where the sub-tasks begin and where the last one ends, increasing; the first and the last observation
            of a success where nothing is marked, empty for a failure.
        reached: Progress at the end of a failure, where it is known.
        subtasks: The marked sub-tasks with their names, where a reader keeps them.
        level: The grade from 1 to 5 that somebody gave to the whole of it for its first instruction; None for most.
        ladder: What it shares with others that were made from the same recording; empty where it stands alone.
        footage: Its pictures.
        origin: By what it is known again where the judge is measured.
    """

    name: str
    tasks: tuple[str, ...]
    count: int
    kind: str
    footage: Footage
    keyframes: tuple[int, ...] = ()
    reached: float | None = None
    subtasks: tuple[Span, ...] = ()
    level: int | None = None
    ladder: str = ""
    origin: Origin | None = None

    @property
    def success(self) -> bool:
        """Whether it was one."""
        return self.kind == "success"

    def progress(self, index: ArrayLike) -> NDArray[np.float64]:
        """Return the progress of observations of a success, every sub-task the same share of it."""
        shares = np.linspace(0.0, 1.0, len(self.keyframes))
        return np.asarray(np.interp(np.asarray(index, np.float64), self.keyframes, shares), np.float64)

    def index_at(self, progress: float) -> int:
        """Return the observation of a success that comes nearest to some progress."""
        shares = np.linspace(0.0, 1.0, len(self.keyframes))
        return round(float(np.interp(progress, shares, self.keyframes)))


@dataclass(frozen=True, kw_only=True)
class TimeGuess:
    """A guess at progress that knows the time and nothing else: what a judge must be better than.

    Attributes:
        start: Observation at which the work begins, on average over the episodes learnt from.
        length: Observations that it takes.
    """

    start: float
    length: float

    @classmethod
    def of(cls, episodes: Sequence[FilmedEpisode]) -> TimeGuess:
        """Learn it from the successes among some episodes."""
        spans = [(e.keyframes[0], e.keyframes[-1]) for e in episodes if e.keyframes]
        if not spans:
            raise DatasetError(
                "A judge needs at least one successful episode to learn from",
                seen=f"{len(episodes)} episodes, none successful",
                remedy="Record demonstrations, or say which episodes succeeded",
            )
        starts, ends = np.mean(spans, axis=0)
        return cls(start=float(starts), length=float(ends - starts))

    def progress(self, index: ArrayLike) -> NDArray[np.float64]:
        """Return the progress guessed for observations, in [0, 1]."""
        return np.clip((np.asarray(index, np.float64) - self.start) / self.length, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One question with its answer.

    Attributes:
        spots: The pictures it needs, in the order in which ``ask`` takes them.
        ask: Writes the question around the pictures.
        answer: The true reply in full.
        value: The number in it.
        guess: The number that a time-only guess says.
        compared: Places in ``spots`` of two pictures that make the answer "no change" where they look the same.
    """

    spots: tuple[Spot, ...]
    ask: Callable[[Sequence[Image]], VlmQuery]
    answer: str
    value: float
    guess: float
    compared: tuple[int, int] | None = None


class Lessons(Protocol):
    """What differs between kinds of judges in training: one file per kind."""

    @property
    def name(self) -> str:
        """The name by which the registry opens what comes of it."""
        ...

    @property
    def judge(self) -> Any:
        """The judge that learns, a TransformersJudge."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Views that the questions show."""
        ...

    @property
    def config(self) -> Any:
        """The reward model's settings."""
        ...

    @property
    def prompt_sha256(self) -> str:
        """Hash of the words."""
        ...

    def samples(self, episodes: Sequence[FilmedEpisode], guess: TimeGuess, seed: int) -> list[Sample]:
        """Draw questions about episodes; the same for the same seed.

        Args:
            episodes: Which; a spot's episode is its place among them.
            guess: What time alone tells.
            seed: Of all draws.
        """
        ...

    def relabelled(self, sample: Sample, pictures: Sequence[Image]) -> Sample:
        """Return a sample whose answer takes its pictures into account."""
        ...

    def read(self, reply: VlmReply) -> float | None:
        """Return the number that a reply states, as watching reads it; None where it cannot be read."""
        ...

    def wording(self) -> tuple[str, str]:
        """Return the name of a file that holds the words so that the model's settings can name it, and what is in it."""
        ...


class Album:
    """The pictures that questions need, kept losslessly packed.

    Args:
        episodes: Where they come from.
        samples: What needs them.
    """

    def __init__(self, episodes: Sequence[FilmedEpisode], samples: Iterable[Sample]) -> None:
        wanted: dict[int, dict[str, set[int]]] = {}
        for sample in samples:
            for episode, camera, index in sample.spots:
                wanted.setdefault(episode, {}).setdefault(camera, set()).add(index)
        self._packed: dict[Spot, NDArray[np.uint8]] = {}
        for episode, cameras in sorted(wanted.items()):
            order = {camera: sorted(indices) for camera, indices in cameras.items()}
            for camera, pictures in episodes[episode].footage.read(order).items():
                for index, rgb in pictures.items():
                    self._packed[episode, camera, index] = _pack(rgb)

    def pictures(self, sample: Sample) -> list[Image]:
        """Return the pictures of a question, in their order; those that are the same are one array."""
        unpacked = {spot: _unpack(self._packed[spot]) for spot in dict.fromkeys(sample.spots)}
        return [unpacked[spot] for spot in sample.spots]

    @property
    def digest(self) -> str:
        """Hash of all pictures."""
        digest = hashlib.sha256()
        for spot, packed in sorted(self._packed.items(), key=lambda item: item[0]):
            digest.update(repr(spot).encode() + packed.tobytes())
        return digest.hexdigest()


def choose_task(tasks: Sequence[str], rng: np.random.Generator) -> str:
    """Return one way of saying the instruction."""
    return tasks[int(rng.integers(len(tasks)))]


def other_task(
    episode: FilmedEpisode, episodes: Sequence[FilmedEpisode], rng: np.random.Generator
) -> str | None:
    """Return the instruction of another task; None where all episodes are of this one, in whatever words."""
    return draw_unlike(episode.tasks, {task for e in episodes for task in e.tasks}, rng)


def _pack(rgb: Image) -> NDArray[np.uint8]:
    whole, packed = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert whole, "every uint8 picture has a PNG"
    return np.asarray(packed, np.uint8)


def _unpack(packed: NDArray[np.uint8]) -> Image:
    bgr = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    assert bgr is not None, "it was packed by _pack"
    rgb = np.ascontiguousarray(bgr[..., ::-1], np.uint8)
    rgb.flags.writeable = False
    return rgb
