"""A store's recording as a LeRobotDataset and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roborl.codec import join
from roborl.data.columns import load_labels, saved_missing, saved_stride
from roborl.data.dataset_episode import DatasetEpisode, Provenance, from_episode, to_episode
from roborl.data.episodes import EpisodeInfo, import_ring
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_repair import begun, drop_torn
from roborl.data.lerobot_writer import DatasetWriter
from roborl.data.progress import Progress, every_so_many, write_progress
from roborl.data.reader import StoreReader
from roborl.data.sealed import episode_of, to_arrivals
from roborl.data.spec import stored_scales
from roborl.data.store import Store
from roborl.errors import DatasetError
from roborl.locks import FolderLock
from roborl.records import Begin, End, Record, pack_record
from roborl.types import EpisodeKey, RewardSource

log = logging.getLogger(__name__)

_MODES = {"demo": "demo", "failure": "failure", "evaluation": "evaluate", "online": "train"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export came to.

    Attributes:
        episodes: Episodes written now.
        present: Episodes that the dataset held before.
        outdated: Keys of those of them that were judged, or judged otherwise, after they went out.
        open: Episodes left out because they have not ended.
        unjudged: Episodes left out because their judge has not spoken yet.
        empty: Episodes left out because they have no step.
        labelled: Episodes whose progress went along.
    """

    episodes: int
    present: int
    outdated: tuple[str, ...]
    open: int
    unjudged: int
    empty: int
    labelled: int


def export_store(
    store: Path,
    out: Path,
    *,
    fps: int,
    state_names: Sequence[str],
    action_names: Sequence[str],
    robot_type: str = "",
    version: str | None = None,
    about: Mapping[str, Any] | None = None,
    unjudged: bool = False,
) -> Exported:
    """Write every finished episode of a store into a dataset, losing nothing that was recorded.

    Rewards of steps go out in single precision, which is what LeRobot keeps them in, and learners draw them in; those of
    verdicts as they are.

    May run while the store is written, and again later: episodes that the dataset holds are not written twice. What a dataset
    holds keeps the verdict that it came with, so episodes whose outcome is left to a judge wait until it has spoken.

    Args:
        store: The store's folder.
        out: The dataset.
        fps: The policy's rate.
        state_names: One per state dimension.
        action_names: One per action dimension.
        robot_type: The robot's name, for LeRobot.
        version: Also write the progress of this version beside the dataset, see :func:`roborl.data.progress.write_progress`.
        about: What that version is the hash of, where the caller knows: a store does not, and a run's ``events.jsonl`` says it.
        unjudged: Take episodes whose judge has not spoken as well: where it never will.

    Raises:
        DatasetError: If there is no store, or ``out`` is a dataset of another form.
    """
    reader = StoreReader(store)
    if begun(out):
        with closing(FolderLock(out)):
            drop_torn(out)
    counts = {"episodes": 0, "present": 0, "open": 0, "empty": 0, "unjudged": 0}
    before = {e.key: e for e in _without_pictures(out)}
    there = {key: (episode.index, episode.steps + 1) for key, episode in before.items()}
    outdated = []
    writer: DatasetWriter | None = None
    try:
        for info in reader.episodes():
            key = str(info.key)
            if key in before:
                counts["present"] += 1
                outdated += [key] if _judged_otherwise(info, before[key]) else []
                continue
            if left_out := _left_out(info, unjudged=unjudged):
                counts[left_out] += 1
                continue
            # As it is now: since the look at all of them it may have been judged.
            episode = exported(reader, reader.info(info.key))
            if writer is None:
                writer = DatasetWriter(
                    out,
                    fps=fps,
                    cameras={n: (p.shape[1], p.shape[2]) for n, p in episode.images.items()},
                    state_names=state_names,
                    action_names=action_names,
                    robot_type=robot_type,
                    scales=stored_scales(store),
                )
            there[key] = (writer.append(episode), episode.steps + 1)
            counts["episodes"] += 1
    finally:
        if writer is not None:
            writer.close()
    if outdated:
        log.warning(
            "%d episodes were judged otherwise after they went out, and %s keeps the old verdict: export into another folder"
            " to have the new one: %s",
            len(outdated),
            out,
            ", ".join(outdated[:5]),
        )
    labels = {}
    if version is not None and there:
        for key, (index, rows) in there.items():
            found = _progress(store, EpisodeKey.parse(key), version, rows)
            if found is not None:
                labels[index] = found
        write_progress(out, version, labels, about=about)
    return Exported(**counts, outdated=tuple(outdated), labelled=len(labels))


def _left_out(info: EpisodeInfo, *, unjudged: bool) -> str | None:
    """Return under which count an episode does not go out, None where it does."""
    if info.end is None:
        return "open"
    if info.steps == 0:
        return "empty"
    return "unjudged" if info.awaits_verdict and not unjudged else None


def _judged_otherwise(info: EpisodeInfo, episode: DatasetEpisode) -> bool:
    known, verdict = episode.provenance, info.verdict
    if known is None or verdict is None:
        return False
    return (known.verdict_index, known.verdict_source, known.verdict_reward, episode.success) != (
        verdict.index,
        verdict.source,
        verdict.reward,
        verdict.success,
    )


def _without_pictures(path: Path) -> Iterator[DatasetEpisode]:
    if (path / "meta" / "info.json").is_file():
        yield from read_episodes(path, with_images=False)


def _progress(store: Path, key: EpisodeKey, version: str, rows: int) -> Progress | None:
    """Return an episode's progress; None where it has none.

    It is missing in the rows behind its labels, and from a score that could not be read up to the next: what a potential holds
    there is no score.
    """
    found = load_labels(store, key, version)
    if found is None:
        return None
    labelled = len(found[0])
    behind = (0, max(0, rows - labelled))
    scored = every_so_many(saved_stride(store, key, version), labelled)
    latest = np.maximum.accumulate(np.where(scored, np.arange(labelled), 0))
    missing = saved_missing(store, key, version, labelled)[latest]
    values, spread = (
        np.pad(np.where(missing, np.float32(np.nan), column), behind, constant_values=np.nan)
        for column in found
    )
    return Progress(values, spread, np.pad(scored, behind))


def exported(reader: StoreReader, info: EpisodeInfo) -> DatasetEpisode:
    """Return a finished episode of a store as a dataset holds it.

    Raises:
        DatasetError: If it cannot be read.
    """
    whole = from_episode(episode_of(info, reader.arrivals(info.key)), discarded=info.discarded)
    assert whole.provenance is not None, "an episode of a store has one"
    verdict = info.verdict
    return replace(
        whole,
        provenance=replace(
            whole.provenance,
            verdict_index=-1 if verdict is None else verdict.index,
            verdict_source=RewardSource.NONE if verdict is None else verdict.source,
            verdict_reward=None if verdict is None else verdict.reward,
            kind=info.kind,
            meta=info.meta,
        ),
    )


def records_of(episode: DatasetEpisode) -> Iterator[Record]:
    """Yield the records that an actor would have committed for an exported episode.

    Raises:
        DatasetError: If it was never in a store: then it has no key.
    """
    known = episode.provenance
    if not episode.key or known is None:
        raise DatasetError(
            "This episode did not come from a store",
            seen=f"episode {episode.index}",
            allowed="episodes that were exported or recorded by roborl",
            remedy="Read it as a demonstration: roborl.data.demos.load_demos",
        )
    yield from _records(episode, EpisodeKey.parse(episode.key), known)


def _records(episode: DatasetEpisode, key: EpisodeKey, known: Provenance) -> Iterator[Record]:
    mode = _MODES.get(known.kind, "train")
    # An episode that came into its store whole was told its kind there and not by its meta.
    meta = known.meta if known.kind in ("", "online") else {**known.meta, "mode": mode}
    yield Begin(key=key, task=episode.task, meta=meta)
    yield from to_arrivals(to_episode(episode, key))
    if episode.verdict is not None:
        yield episode.verdict
    yield End(key=key, index=episode.steps, cause=episode.end, discarded=episode.discarded)


def import_dataset(dataset: Path, store: Store) -> int:
    """Put exported episodes into a store; those it knows stay as they are.

    Safe to repeat after a kill, of a dataset that has grown since as well.

    Returns:
        How many episodes it took.

    Raises:
        DatasetError: If the dataset cannot be read, or holds episodes that never were in a store.
    """
    taken = 0
    known = {str(info.key): info for info in store.infos()}
    for episode in read_episodes(dataset):
        # A ring of its own for each episode, so that an import that was killed goes on in the middle.
        ring = import_ring(episode.key, episode.content)
        info = known.get(episode.key)
        if info is not None and (info.end is not None or store.last_sequence(ring) == 0):
            continue
        for sequence, record in enumerate(records_of(episode), start=1):
            store.ingest(ring, sequence, join(pack_record(record)))
        taken += 1
    return taken
