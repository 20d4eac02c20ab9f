"""Episodes to relabel, out of datasets of several forms: which ones, in which order, and in which part of what is made."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from roborl.data.relabel_lerobot import LeRobotSubset
from roborl.data.relabel_rlds import RldsSubset
from roborl.data.relabel_source import DamagedEpisode, LeftOut, RelabelSource, Subset
from roborl.data.relabel_videos import CAMERA, open_videos, splits_of
from roborl.data.rlds.shards import describe_rlds, find_rlds
from roborl.errors import ConfigError, DatasetError
from roborl.rewards.graded_videos import METADATA

__all__ = ["DamagedEpisode", "LeftOut", "RelabelSource", "open_sources", "part_of"]

log = logging.getLogger(__name__)


def open_sources(
    place: str,
    *,
    split: str = "",
    camera: str = "",
    instruction: str = "",
    rate_hz: float | None = None,
    success: bool | None = None,
    failures: bool = True,
    cap: int | None = None,
    seed: int = 0,
    strict: bool = False,
    left_out: Counter[str] | None = None,
) -> Iterator[RelabelSource]:
    """Open the episodes of a dataset one at a time, without their pictures.

    Episodes of no use are passed over and counted in the log: see :class:`LeftOut`.

    Args:
        place: An RLDS dataset; a LeRobotDataset v3 or v2, also an id on the hub; videos with ``metadata.jsonl`` as
            RoboReward has them, or a folder of their splits; or a folder that holds such datasets.
        split: Which split; empty for all.
        camera: Which camera; empty for the first that is not black, those from outside first.
        instruction: What of an RLDS dataset holds the task, where ``datasets/oxe.yaml`` does not know.
        rate_hz: Observations per second, where nobody says or it is wrong.
        success: The verdict on all episodes, whatever the datasets say.
        failures: Whether episodes are wanted too that failed, or of which nobody says whether they succeeded.
        cap: Most episodes of each dataset and split, drawn uniformly without repetition; None for all, in their order. A
            larger cap draws those of a smaller one first.
        seed: Of the draw.
        strict: Whether anything that is damaged is an error; otherwise it is left out, counted and told.
        left_out: Gets how many episodes are passed over, by reason.

    Returns:
        Episodes, dataset by dataset, in the same order each time.

    Raises:
        ConfigError: If ``cap`` or ``rate_hz`` is not positive, or nobody says how many observations a second has.
        DatasetError: If a dataset cannot be read, or lacks what is named.
    """
    if (cap is not None and cap < 1) or (rate_hz is not None and not 0 < rate_hz < np.inf):
        raise ConfigError(
            "These sources cannot be drawn",
            seen=f"cap {cap}, rate_hz {rate_hz}",
            allowed="more than 0, or none",
        )
    asked = _Asked(split=split, camera=camera, instruction=instruction, rate_hz=rate_hz, strict=strict)
    subsets = _subsets(place, asked)
    tally: Counter[str] = Counter() if left_out is None else left_out
    return (
        source
        for subset in subsets
        for source in _drawn(subset, success, tally, failures=failures, cap=cap, seed=seed, strict=strict)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    split: str
    camera: str
    instruction: str
    rate_hz: float | None
    strict: bool


def _subsets(place: str, asked: _Asked) -> list[Subset]:
    """Open a dataset, or all that a folder holds."""
    path = Path(place).expanduser()
    if not path.is_dir() or _is_one(path):
        return _of_one(place, path, asked)
    inside = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_one(child)]
    found = [subset for child in inside for subset in _of_one(str(child), child, asked)]
    if not found:
        raise DatasetError(
            "There is nothing to relabel here",
            seen=place,
            allowed="an RLDS dataset, a LeRobotDataset, videos with metadata.jsonl, or a folder of such",
            remedy="Check the path",
        )
    return found


def _is_one(path: Path) -> bool:
    return bool(
        find_rlds(path)
        or (path / "meta" / "info.json").is_file()
        or (path / METADATA).is_file()
        or splits_of(path)
    )


def _of_one(place: str, path: Path, asked: _Asked) -> list[Subset]:
    images = [asked.camera] if asked.camera else []
    if find_rlds(path):
        there = [name for name, shards in describe_rlds(path).splits.items() if shards]
        return [
            RldsSubset(
                path,
                split=split,
                images=images,
                instruction=asked.instruction,
                rate_hz=asked.rate_hz,
                strict=asked.strict,
            )
            for split in ([asked.split] if asked.split else there)
        ]
    if asked.instruction:
        raise ConfigError(
            "Only an RLDS dataset has several features that may hold the task",
            seen=f"instruction {asked.instruction!r} for {place}",
            allowed="no instruction",
        )
    if path.is_dir() and not (path / "meta" / "info.json").is_file():
        return _of_videos(path, asked)
    return [LeRobotSubset(place, split=asked.split, cameras=images, rate_hz=asked.rate_hz)]


def _of_videos(path: Path, asked: _Asked) -> list[Subset]:
    if asked.camera not in ("", CAMERA):
        raise DatasetError("A video has one camera", seen=asked.camera, allowed=[CAMERA])
    found = open_videos(path, rate_hz=asked.rate_hz)
    wanted = [subset for subset in found if asked.split in ("", subset.split)]
    if not wanted:
        raise DatasetError(
            "There is no such split", seen=asked.split, allowed=sorted({subset.split for subset in found})
        )
    return list(wanted)


def _drawn(
    subset: Subset,
    success: bool | None,
    tally: Counter[str],
    *,
    failures: bool,
    cap: int | None,
    seed: int,
    strict: bool,
) -> Iterator[RelabelSource]:
    order: Sequence[int] = range(len(subset))
    if cap is not None:
        # Each has a generator of its own, so that a further one beside it changes nothing.
        own = _number(f"{subset.name}/{subset.split}")
        order = np.random.default_rng([seed, own]).permutation(len(subset)).tolist()
    given, left_out = 0, Counter[LeftOut]()
    for place in order:
        if given == cap:
            break
        try:
            source = subset.open(place)
        except DatasetError as error:
            if strict:
                raise
            log.warning("an episode is left out: %s", error)
            source = LeftOut.DAMAGED
        if isinstance(source, RelabelSource) and success is not None:
            source = replace(source, success=success)
        if isinstance(source, RelabelSource) and not source.success and not failures:
            source = LeftOut.UNJUDGED if source.success is None else LeftOut.UNSUCCESSFUL
        if isinstance(source, LeftOut):
            left_out[source] += 1
            continue
        given += 1
        yield source
    tally.update(left_out)
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        log.warning("%s: %d episodes taken, left out: %s", subset.name, given, reasons)


def part_of(source: RelabelSource, shares: Mapping[str, float], *, seed: int = 0) -> str:
    """Return the part of the relabelled data that everything made of an episode belongs to.

    It depends on the episode's origin alone: copies and cuts of one episode come into one part, and further episodes
    move none from one part to another.

    Args:
        source: The episode.
        shares: Share of the episodes by the part's name, 1 in all.
        seed: Another one makes other parts.

    Raises:
        ConfigError: If the shares are not such.
    """
    values = np.array(list(shares.values()), np.float64)
    if not len(values) or not np.isfinite(values).all() or (values < 0).any() or abs(values.sum() - 1) > 1e-6:
        raise ConfigError("Shares of the parts do not make a whole", seen=dict(shares), allowed="1 in all")
    name = f"{seed}/{source.dataset}/{source.origin or source.episode}"
    place = _number(name) / 2**64
    return list(shares)[min(int(np.searchsorted(np.cumsum(values), place, side="right")), len(values) - 1)]


def _number(text: str) -> int:
    """Return 64 bits that stand for a text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
