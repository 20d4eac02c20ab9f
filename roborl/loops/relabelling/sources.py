"""Which episodes are relabelled: of every form that the data layer opens, and of folders of videos with keyframes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from roborl.data.oxe import is_on_arm
from roborl.data.relabel_sources import LeftOut, RelabelSource, open_sources, part_of
from roborl.errors import ConfigError, DatasetError
from roborl.loops.footage import VideoFootage, is_footage, read_footage
from roborl.loops.relabelling.config import RelabelConfig
from roborl.rewards.adaptation.lessons import Footage
from roborl.rewards.relabelling.cheap import drawn_at
from roborl.types import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraFilm:
    """One camera of footage.

    Attributes:
        footage: Pictures of all cameras.
        camera: Which.
    """

    footage: Footage
    camera: str

    def read(self, indices: Sequence[int]) -> dict[int, Image]:
        """Decode observations by index, uint8 RGB (h, w, 3) each; blocks."""
        return dict(self.footage.read({self.camera: indices})[self.camera])


def chosen_sources(config: RelabelConfig, left_out: Counter[str]) -> list[RelabelSource]:
    """Return the episodes to relabel, without their pictures; with a larger ``episodes`` those of a smaller one are among them.

    Args:
        config: Which.
        left_out: Gets how many of them cannot be relabelled, by reason.

    Raises:
        DatasetError: If a dataset cannot be read, or lacks the camera.
        ConfigError: If two sources or episodes have one name.
    """
    found: list[RelabelSource] = []
    places: dict[str, str] = {}
    named: set[tuple[str, str, str]] = set()
    for place in config.source:
        opened = (_filmed if is_footage(place) else _opened)(place, config, left_out)
        for source in opened:
            if places.setdefault(source.dataset, place) != place or config.source.count(place) > 1:
                raise ConfigError(
                    "Two sources have one name, by which rows tell them apart",
                    seen=f"{source.dataset}: {places[source.dataset]} and {place}",
                    allowed="a folder with a name of its own for each",
                )
            name = (source.dataset, source.split, source.episode)
            if name in named:
                raise ConfigError(
                    "Two episodes of a source have one name, by which rows tell them apart",
                    seen=f"{' '.join(name)}, twice in {place}",
                    allowed="datasets whose names differ in one folder",
                    remedy="Relabel each of them on its own, into a folder of its own",
                )
            named.add(name)
            found.append(source)
    return found


def identity(source: RelabelSource) -> str:
    """Return what an episode is known by in logs and rows: 16 hex digits over all that is known of it and what was recorded."""
    stated = [
        source.dataset,
        source.split,
        source.episode,
        source.task,
        source.camera,
        source.rate_hz,
        source.count,
        source.content,
    ]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:16]


def split_of(source: RelabelSource, config: RelabelConfig) -> str:
    """Return the split of an episode and so of everything made from it; the same whatever other episodes there are."""
    shares = {"train": 1.0 - config.val - config.test, "val": config.val, "test": config.test}
    return part_of(source, shares, seed=config.seed)


def _opened(place: str, config: RelabelConfig, left_out: Counter[str]) -> Iterator[RelabelSource]:
    return open_sources(
        place,
        camera=config.camera,
        instruction=config.instruction,
        rate_hz=config.rate_hz,
        success=config.success,
        failures=False,
        cap=config.episodes or None,
        seed=config.seed,
        left_out=left_out,
    )


def _filmed(place: str, config: RelabelConfig, left_out: Counter[str]) -> list[RelabelSource]:
    """Open a folder of videos with keyframes: demonstrations, unless it is said that they failed."""
    view = _view(sorted({path.stem for path in Path(place).glob("*/*.mp4")}), config.camera, place)
    episodes, rate = read_footage(place)
    if config.success is False:
        left_out[LeftOut.UNSUCCESSFUL] += len(episodes)
        return []
    found = []
    for number, episode in enumerate(episodes):
        edges, last = episode.keyframes, episode.count - 1
        assert isinstance(episode.footage, VideoFootage), "it was found in a folder of videos"
        video = episode.footage.folder / f"{view}.mp4"
        marked = bool(edges) and edges != (0, last) and 0 < edges[-1] <= last
        found.append(
            RelabelSource(
                dataset=Path(place).resolve().name,
                split="train",
                episode=str(number),
                task=" ".join(episode.tasks[0].split()),
                camera=view,
                rate_hz=config.rate_hz or rate,
                count=episode.count,
                success=episode.success,
                film=CameraFilm(footage=episode.footage, camera=view),
                content=hashlib.sha256(video.read_bytes()).hexdigest() if video.is_file() else "",
                onset=edges[-1] / last if marked else None,
                recorded=episode.origin.content if episode.origin else "",
            )
        )
    order = sorted(range(len(found)), key=lambda number: drawn_at(f"{config.seed} {place} {number}"))
    return [found[number] for number in sorted(order[: config.episodes or None])]


def _view(cameras: Sequence[str], wanted: str, place: str) -> str:
    if not cameras or (wanted and wanted not in cameras):
        raise DatasetError(
            "The dataset lacks a camera",
            seen=wanted or "no camera at all",
            allowed=list(cameras) or "at least one camera",
            remedy=f"Name one of {place} as --camera",
        )
    outside = [name for name in cameras if not is_on_arm(name)]
    return wanted or (outside or list(cameras))[0]
