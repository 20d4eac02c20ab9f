"""What is ready before anybody is asked: which episodes, cut how, with which rows to verify, and their pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from roborl.data.relabel_source import LeftOut, RelabelSource, require_one_size
from roborl.errors import ConfigError, DatasetError
from roborl.loops.relabelling.config import RelabelConfig
from roborl.loops.relabelling.sources import chosen_sources, identity, split_of
from roborl.rewards.relabelling.cheap import cheap_proposals
from roborl.rewards.relabelling.cuts import Timeline, glimpses
from roborl.rewards.relabelling.ladder import Ladder
from roborl.rewards.relabelling.proposals import Proposal
from roborl.types import Image

_PIXEL = np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """An episode that is to be relabelled.

    Attributes:
        name: Its identity.
        source: The episode.
        split: Where everything made from it goes.
        timeline: How it is cut.
        cheap: Rows that need nobody to write them.
        config: How it is relabelled.
    """

    name: str
    source: RelabelSource
    split: str
    timeline: Timeline
    cheap: tuple[Proposal, ...]
    config: RelabelConfig

    def ladder(self) -> Ladder:
        """Return its relabelling, not begun yet."""
        return Ladder(self.source.task, self.timeline, self.cheap, self.config)

    def looked_at(self) -> list[int]:
        """Return the observations that networks are shown of it."""
        hz = self.timeline.video_hz
        shown = [glimpses(p.places, hz, self.config.frame_hz)[0] for p in self.cheap]
        return sorted({index for each in shown for index in each})


class ShownPictures:
    """Pictures that networks are shown, of the episodes under way.

    Args:
        episodes: The episodes.
    """

    def __init__(self, episodes: Sequence[Prepared]) -> None:
        self._episodes = episodes
        self._kept: dict[int, dict[int, Image]] = {}

    def __call__(self, place: int, indices: Sequence[int]) -> Mapping[int, Image]:
        """Return pictures of an episode; all that it will need are decoded at once, which blocks.

        Raises:
            DamagedEpisode: If one cannot be read, or they differ in size.
        """
        kept = self._kept.setdefault(place, {})
        if absent := set(indices) - set(kept):
            episode = self._episodes[place]
            kept |= episode.source.read(sorted(absent | set(episode.looked_at())))
            require_one_size(episode.source, kept)
        return kept

    def forget(self, place: int) -> None:
        """Let the pictures of an episode go."""
        self._kept.pop(place, None)


def no_looks(place: int, indices: Sequence[int]) -> Mapping[int, Image]:
    """Return pictures of one pixel, for questions that nobody is asked."""
    return dict.fromkeys(indices, _PIXEL)


def prepare(config: RelabelConfig) -> tuple[list[Prepared], Counter[str]]:
    """Return the episodes that are to be relabelled, and how many are left out for which reason.

    Raises:
        ConfigError: If no source is named.
        DatasetError: If a source cannot be read, or nothing of it can be relabelled.
    """
    if not config.source:
        raise ConfigError(
            "There is nothing to relabel",
            seen="no source",
            allowed="RLDS datasets, LeRobotDatasets, folders of videos",
            remedy="roborl relabel --source PATH --out FOLDER",
        )
    left_out: Counter[str] = Counter()
    sources = chosen_sources(config, left_out)
    if not sources:
        raise nothing_left(left_out)
    if strange := sorted(set(config.onsets) - {source.dataset for source in sources}):
        raise ConfigError(
            "An onset is given for a source that is not there",
            seen=strange,
            allowed=sorted({source.dataset for source in sources}),
        )
    splits = [split_of(source, config) for source in sources]
    # An instruction never crosses from one split into another.
    tasks: dict[tuple[str, str], dict[str, None]] = {}
    for source, split in zip(sources, splits, strict=True):
        tasks.setdefault((source.dataset, split), {})[source.task] = None
    return [
        _prepared(source, split, list(tasks[source.dataset, split]), config)
        for source, split in zip(sources, splits, strict=True)
    ], left_out


def nothing_left(left_out: Counter[str]) -> DatasetError:
    """Return the error to raise where every episode was left out.

    Args:
        left_out: How many, by reason.
    """
    return DatasetError(
        "No episode can be relabelled",
        seen=", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no episode",
        allowed="a successful episode with an instruction, of two observations or more that can be read",
        remedy="Where nobody says whether they succeeded, and they did: --success true"
        if left_out[LeftOut.UNJUDGED]
        else "",
    )


def _prepared(source: RelabelSource, split: str, tasks: Sequence[str], config: RelabelConfig) -> Prepared:
    name = identity(source)
    timeline = Timeline(
        count=source.count,
        rate_hz=source.rate_hz,
        onset=config.onsets.get(source.dataset) or source.onset or config.onset,
        video_hz=config.video_hz,
    )
    cheap = cheap_proposals(name, source.task, timeline, tasks, config, config.seed)
    return Prepared(
        name=name, source=source, split=split, timeline=timeline, cheap=tuple(cheap), config=config
    )
