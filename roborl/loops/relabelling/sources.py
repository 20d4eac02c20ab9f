"""Episodes that can be relabelled: what is known of each, and its pictures on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from roborl.data.lerobot_info import describe
from roborl.errors import ConfigError, DatasetError
from roborl.loops.footage import is_footage, read_footage
from roborl.rewards.adaptation.lessons import FilmedEpisode
from roborl.rewards.relabelling.cheap import drawn_at
from roborl.types import Image


class RelabelSource(Protocol):
    """One episode, seen by one camera."""

    @property
    def dataset(self) -> str:
        """Where it is from."""
        ...

    @property
    def split(self) -> str:
        """Its split there; empty where there are none."""
        ...

    @property
    def episode(self) -> str:
        """Its id there."""
        ...

    @property
    def task(self) -> str:
        """Its instruction; empty where it has none."""
        ...

    @property
    def camera(self) -> str:
        """The view."""
        ...

    @property
    def rate_hz(self) -> float:
        """Observations per second."""
        ...

    @property
    def count(self) -> int:
        """Observations."""
        ...

    @property
    def success(self) -> bool | None:
        """Whether it succeeded; None where nobody says."""
        ...

    def read(self, indices: Sequence[int]) -> dict[int, Image]:
        """Return the pictures of some observations, uint8 RGB (h, w, 3) each; blocks while they are decoded."""
        ...


@dataclass(frozen=True, kw_only=True)
class FilmedSource:
    """An episode of a LeRobotDataset v3, or of a folder of videos with keyframes.

    Attributes:
        dataset: Short name of the dataset.
        episode: Its number there.
        camera: The view.
        rate_hz: Observations per second.
        filmed: The episode.
        split: Always ``train``: such datasets have no splits.
    """

    dataset: str
    episode: str
    camera: str
    rate_hz: float
    filmed: FilmedEpisode
    split: str = "train"

    @property
    def task(self) -> str:
        """Its instruction."""
        return " ".join(self.filmed.tasks[0].split())

    @property
    def count(self) -> int:
        """Observations."""
        return self.filmed.count

    @property
    def success(self) -> bool | None:
        """Whether it succeeded; without a verdict it counts as a success."""
        return self.filmed.success

    def read(self, indices: Sequence[int]) -> dict[int, Image]:
        """Decode some observations."""
        return dict(self.filmed.footage.read({self.camera: indices})[self.camera])

    @property
    def onset(self) -> float | None:
        """Share of the episode after which its last marked sub-task is done; None where none is marked."""
        edges, last = self.filmed.keyframes, self.count - 1
        return edges[-1] / last if edges and edges != (0, last) and 0 < edges[-1] <= last else None


def open_sources(places: Sequence[str], *, camera: str = "") -> list[RelabelSource]:
    """Return the episodes of some datasets, without decoding a picture.

    Args:
        places: LeRobotDatasets v3 (folders or hub ids), or folders of videos with keyframes.
        camera: The view; empty for the first that is not on the wrist.

    Raises:
        DatasetError: If a dataset cannot be read, or lacks the camera.
        ConfigError: If one is named twice.
    """
    found: list[RelabelSource] = []
    for name, place in _names(places).items():
        cameras = (
            sorted({path.stem for path in Path(place).glob("*/*.mp4")})
            if is_footage(place)
            else list(describe(place).cameras)
        )
        view = _view(cameras, camera, place)
        episodes, rate = read_footage(place)
        found += [
            FilmedSource(dataset=name, episode=str(number), camera=view, rate_hz=rate, filmed=episode)
            for number, episode in enumerate(episodes)
        ]
    return found


def marked_onset(source: RelabelSource) -> float | None:
    """Return the share of an episode after which its task is done, where its source marks it."""
    return source.onset if isinstance(source, FilmedSource) else None


def identity(source: RelabelSource) -> str:
    """Return what an episode is known by in logs and rows: 16 hex digits over all that is known of it."""
    stated = [
        source.dataset,
        source.split,
        source.episode,
        source.task,
        source.camera,
        source.rate_hz,
        source.count,
    ]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:16]


def chosen(sources: Sequence[RelabelSource], most: int, seed: int) -> list[RelabelSource]:
    """Return at most so many episodes of each dataset, drawn evenly, in their order; all where ``most`` is 0.

    Which ones is decided episode by episode: with a larger number those of a smaller one are among them.
    """
    if not most:
        return list(sources)
    kept: set[str] = set()
    for dataset in sorted({source.dataset for source in sources}):
        names = [identity(source) for source in sources if source.dataset == dataset]
        kept |= set(sorted(names, key=lambda name: drawn_at(f"{seed} episode {name}"))[:most])
    return [source for source in sources if identity(source) in kept]


def split_of(source: RelabelSource, shares: Mapping[str, float], seed: int) -> str:
    """Return the split of an episode and so of everything made from it; the same whatever other episodes there are.

    Args:
        source: The episode.
        shares: Of the episodes that go to ``val`` and ``test``; the others are for ``train``.
        seed: Of the draw.
    """
    # The camera plays no part: two views of an episode belong together.
    at = drawn_at(f"{seed} split {source.dataset} {source.split} {source.episode}")
    if at < shares["test"]:
        return "test"
    return "val" if at < shares["test"] + shares["val"] else "train"


def _names(places: Sequence[str]) -> dict[str, str]:
    """Return each place by a short name of its own.

    Raises:
        ConfigError: If one is named twice.
    """
    if len(set(places)) != len(places):
        raise ConfigError("A source is named twice", seen=list(places), allowed="each once")
    ends = [place.rstrip("/").rpartition("/")[2] for place in places]
    return {
        end if end and ends.count(end) == 1 else place: place for end, place in zip(ends, places, strict=True)
    }


def _view(cameras: Sequence[str], wanted: str, place: str) -> str:
    if not cameras or (wanted and wanted not in cameras):
        raise DatasetError(
            "The dataset lacks a camera",
            seen=wanted or "no camera at all",
            allowed=list(cameras) or "at least one camera",
            remedy=f"Name one of {place} as --camera",
        )
    outside = [name for name in cameras if "wrist" not in name and "hand" not in name]
    return wanted or (outside or list(cameras))[0]
