"""An RLDS dataset into a LeRobotDataset v3, which all else reads."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.lerobot_info import describe
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_repair import begun, drop_torn
from roborl.data.lerobot_writer import DatasetWriter
from roborl.data.rlds.conversion import convert
from roborl.data.rlds.dataset import RldsDataset
from roborl.data.rlds.mapping import RldsMapping, map_features
from roborl.data.stage_log import StageLog
from roborl.errors import DatasetError
from roborl.images import resized
from roborl.locks import FolderLock
from roborl.types import EpisodeKey

log = logging.getLogger(__name__)

_RECORDS = Path("meta") / "rlds_records.jsonl"
"""Digests of the records that episodes were made from, by their keys, which another dataset of that name may have as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import came to.

    Attributes:
        episodes: Written now.
        present: Written before.
        damaged: Left out because their record cannot be read.
        short: Left out because they have no step.
        several_tasks: Left out because their instruction changes from step to step.
        unjudged: Of those written now, how many nobody says of whether they succeeded.
    """

    episodes: int
    present: int
    damaged: int
    short: int
    several_tasks: int = 0
    unjudged: int = 0


def import_rlds(
    place: str | Path,
    out: Path,
    *,
    split: str = "",
    images: Sequence[str] = (),
    instruction: str = "",
    rate_hz: float | None = None,
    limit: int | None = None,
    video: bool = False,
    strict: bool = False,
    on_episode: Callable[[int, int], None] = lambda done, of: None,
) -> Imported:
    """Write episodes of an RLDS dataset into a LeRobotDataset v3.

    After a kill the same call goes on behind the last whole episode. Pictures of another size than the first episode's are
    resized to it. Actions and states keep the dataset's own units.

    Args:
        place: The RLDS dataset.
        out: The LeRobotDataset, new or begun by this function.
        split: Which split; empty for the only one, or "train".
        images: Which pictures; by default those that ``datasets/oxe.yaml`` names, or all in colour.
        instruction: What holds the task, where that is not known.
        rate_hz: Observations per second, where that is not known.
        limit: How many episodes at most, from the first; None for all.
        video: Whether to store MP4 rather than exact pictures.
        strict: Whether anything damaged ends the import. Otherwise it is left out and counted.
        on_episode: Told how many episodes are gone through, and of how many.

    Raises:
        ConfigError: If nobody says how many observations a second has.
        DatasetError: If something cannot be read or written, or ``out`` is a dataset of another form or was imported from
            other records of the same name, or with other settings.
    """
    dataset = RldsDataset(place, split=split, strict=strict)
    mapping = map_features(dataset.info, instruction=instruction, images=images, rate_hz=rate_hz)
    if mapping.unused_action:
        log.warning(
            "of the actions of %s these are left out: %s", dataset.info.name, ", ".join(mapping.unused_action)
        )
    there, size = _written(out)
    writer: DatasetWriter | None = None
    counts = {"episodes": 0, "present": 0, "damaged": 0, "short": 0, "several_tasks": 0, "unjudged": 0}
    total = len(dataset) if limit is None else min(limit, len(dataset))
    if there:
        _check_settings(out, dataset, _settings(mapping, video))
        _check_same(out, dataset, there, total)
    records: StageLog | None = None
    with contextlib.ExitStack() as stack:
        for index in range(total):
            key = _key(dataset, index)
            if key in there:
                counts["present"] += 1
                continue
            try:
                episode = convert(dataset.episode(index), mapping, cameras=list(mapping.cameras), key=key)
            except DatasetError as error:
                if strict:
                    raise
                log.warning("an episode is left out: %s", error)
                counts["damaged"] += 1
                continue
            if episode is None:
                counts["short"] += 1
                continue
            if episode.more_tasks:
                counts["several_tasks"] += 1
                continue
            size = size or {name: (p.shape[1], p.shape[2]) for name, p in episode.images.items()}
            writer = writer or stack.enter_context(_writer(out, dataset, mapping, size, video))
            writer.append(_of_size(episode, size))
            if records is None:  # behind the first episode, since the folder is the writer's to make
                records = StageLog(out / _RECORDS)
                stack.callback(records.close)
                if records.get(_begun(dataset)) is None:
                    records.append(_begun(dataset), _settings(mapping, video))
            records.append(key, {"record": dataset.digest(index)})
            counts["episodes"] += 1
            counts["unjudged"] += episode.success is None
            on_episode(index + 1, total)
    if not counts["episodes"] + counts["present"]:
        raise DatasetError(
            "There was no episode to import",
            seen=f"{counts['damaged']} damaged, {counts['short']} without a step and {counts['several_tasks']} with several"
            f" instructions in {dataset.info.root}",
            allowed="at least one of two observations and one instruction",
        )
    if counts["several_tasks"]:
        log.warning("%d episodes with several instructions are left out", counts["several_tasks"])
    if counts["unjudged"]:
        log.warning(
            "nobody says of %d of these episodes whether they succeeded: where others are judged, nothing learns from them",
            counts["unjudged"],
        )
    return Imported(**counts)


def _written(out: Path) -> tuple[set[str], dict[str, tuple[int, int]]]:
    """Return the episodes that an import has, having dropped what a kill tore, and the size of their pictures."""
    if not begun(out):
        return set(), {}
    lock = FolderLock(out)
    try:
        drop_torn(out)
    finally:
        lock.close()
    keys = {episode.key for episode in read_episodes(out, with_images=False)}
    return keys, dict(describe(out).cameras) if keys else {}


def _settings(mapping: RldsMapping, video: bool) -> dict[str, Any]:
    """Return what bears on the episodes that an import makes, by the options that set it, as JSON has it."""
    return {
        "rate_hz": float(mapping.rate_hz),
        "instruction": list(mapping.instruction),
        "images": dict(mapping.cameras),
        "video": video,
    }


def _begun(dataset: RldsDataset) -> str:
    """Return the key of the settings that the import of a dataset and split was begun with."""
    return f"settings of {dataset.info.name} {dataset.split}"


def _check_settings(out: Path, dataset: RldsDataset, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with what was imported with other settings, which would be taken for what is asked for now."""
    begun = StageLog(out / _RECORDS, dry=True).get(_begun(dataset))
    if begun is None:
        # Of an earlier release: what it wrote says its rate and its cameras.
        info = describe(out)
        asked = {"rate_hz": float(_fps(settings["rate_hz"])), "images": sorted(settings["images"])}
        begun = {"rate_hz": float(info.fps), "images": sorted(info.cameras)}
    else:
        asked = dict(settings)
    for name, was in begun.items():
        if name in asked and asked[name] != was:
            raise DatasetError(
                f"The folder was imported with another {name}",
                seen=f"{name} {asked[name]} for {out}",
                allowed=f"{name} {was}, with which it was begun",
                remedy="Import into another folder",
            )


def _check_same(out: Path, dataset: RldsDataset, there: Collection[str], total: int) -> None:
    """Refuse to go on with what was imported from other records, whose episodes would be taken for those of this dataset."""
    records = StageLog(out / _RECORDS, dry=True)
    for index in range(total):
        key = _key(dataset, index)
        known = records.get(key) if key in there else None
        if known is not None and known["record"] != dataset.digest(index):
            raise DatasetError(
                "The folder holds episodes of another dataset of this name, or they were recorded anew",
                seen=f"{key} in {out} differs from record {dataset.name(index)} of {dataset.info.root}",
                allowed="the records that the import was begun with",
                remedy="Import into another folder",
            )


def _key(dataset: RldsDataset, index: int) -> str:
    """Return the identity of an episode, by which an import knows which it has."""
    shard, record = (int(n) for n in dataset.name(index).split("-"))
    actor = f"rlds-{dataset.info.name}-{dataset.split}"
    return str(EpisodeKey(actor=actor, incarnation=shard + 1, episode=record))


def _fps(rate_hz: float) -> int:
    return max(1, round(rate_hz))


def _writer(
    out: Path,
    dataset: RldsDataset,
    mapping: RldsMapping,
    size: Mapping[str, tuple[int, int]],
    video: bool,
) -> DatasetWriter:
    fps = _fps(mapping.rate_hz)
    if fps != mapping.rate_hz:
        log.warning(
            "a LeRobotDataset has a whole number of frames a second: %g Hz become %d", mapping.rate_hz, fps
        )
    return DatasetWriter(
        out,
        fps=fps,
        cameras=size,
        state_names=mapping.state_names,
        action_names=mapping.action_names,
        deltas=mapping.deltas,
        video=video,
    )


def _of_size(episode: DatasetEpisode, size: Mapping[str, tuple[int, int]]) -> DatasetEpisode:
    if all(pixels.shape[1:3] == size.get(name) for name, pixels in episode.images.items()):
        return episode
    images = {
        name: np.stack([resized(p, size.get(name, p.shape[:2])) for p in pixels])
        for name, pixels in episode.images.items()
    }
    return replace(episode, images=images)
