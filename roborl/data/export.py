"""A store's recording as a LeRobotDataset and back, and progress beside a dataset in the form that RA-BC reads."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roborl.codec import join
from roborl.data.columns import load_labels
from roborl.data.dataset_episode import DatasetEpisode, Provenance, from_episode, to_episode
from roborl.data.episodes import EpisodeInfo
from roborl.data.lerobot_files import fingerprint, load_files, replace_table
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_repair import begun, drop_torn
from roborl.data.lerobot_writer import DatasetWriter
from roborl.data.reader import StoreReader
from roborl.data.sealed import to_arrivals
from roborl.data.spec import stored_scales
from roborl.data.store import Store
from roborl.errors import DatasetError
from roborl.locks import FolderLock
from roborl.records import Begin, End, Record, pack_record
from roborl.types import EpisodeKey, RewardSource

log = logging.getLogger(__name__)

FINGERPRINT, VERSION = b"roborl_dataset_fingerprint", b"roborl_progress_version"
"""Keys of the metadata of a file that goes with a dataset: the dataset's fingerprint, and the reward model's version."""

_MODES = {"demo": "demo", "failure": "failure", "evaluation": "evaluate", "online": "train"}

type Progress = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Progress and spread of an episode, float32 (T + 1,) each, NaN where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export came to.

    Attributes:
        episodes: Episodes written now.
        present: Episodes that the dataset held before.
        open: Episodes left out because they have not ended.
        empty: Episodes left out because they have no step.
        labelled: Episodes whose progress went along.
    """

    episodes: int
    present: int
    open: int
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
) -> Exported:
    """Write every finished episode of a store into a dataset, losing nothing that was recorded.

    May run while the store is written, and again later: episodes that the dataset holds are not written twice.

    Args:
        store: The store's folder.
        out: The dataset.
        fps: The policy's rate.
        state_names: One per state dimension.
        action_names: One per action dimension.
        robot_type: The robot's name, for LeRobot.
        version: Also write the progress of this version beside the dataset, see :func:`write_progress`.

    Raises:
        DatasetError: If there is no store, or ``out`` is a dataset of another form.
    """
    reader = StoreReader(store)
    if begun(out):
        with closing(FolderLock(out)):
            drop_torn(out)
    counts = {"episodes": 0, "present": 0, "open": 0, "empty": 0}
    there = {e.key: e.index for e in _without_pictures(out)}
    writer: DatasetWriter | None = None
    try:
        for info in reader.episodes():
            left_out = "open" if info.end is None else "empty" if info.steps == 0 else None
            if left_out or str(info.key) in there:
                counts[left_out or "present"] += 1
                continue
            episode = _exported(reader, info)
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
            there[str(info.key)] = writer.append(episode)
            counts["episodes"] += 1
    finally:
        if writer is not None:
            writer.close()
    labels = {}
    if version is not None:
        for key, index in there.items():
            found = load_labels(store, EpisodeKey.parse(key), version)
            if found is not None:
                labels[index] = found
        write_progress(out, version, labels)
    return Exported(**counts, labelled=len(labels))


def _without_pictures(path: Path) -> Iterator[DatasetEpisode]:
    if (path / "meta" / "info.json").is_file():
        yield from read_episodes(path, with_images=False)


def _exported(reader: StoreReader, info: EpisodeInfo) -> DatasetEpisode:
    whole = from_episode(reader.episode(info.key), discarded=info.discarded)
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
    """Put exported episodes into a store; those it knows stay as they are. Safe to repeat after a kill.

    Returns:
        How many episodes it took.

    Raises:
        DatasetError: If the dataset cannot be read, or holds episodes that never were in a store.
    """
    mark, taken = fingerprint(dataset), 0
    known = {str(info.key) for info in store.infos()}
    for episode in read_episodes(dataset):
        # A ring of its own for each episode, so that an import that was killed goes on in the middle.
        ring = f"import-{mark}-{episode.index}"
        if episode.key in known and store.last_sequence(ring) == 0:
            continue
        for sequence, record in enumerate(records_of(episode), start=1):
            store.ingest(ring, sequence, join(pack_record(record)))
        taken += 1
    return taken


def progress_path(dataset: Path, version: str, *, folder: Path | None = None) -> Path:
    """Return where the progress of a version stands: beside its dataset, or in another folder."""
    return (folder or dataset) / f"roborl_progress_{re.sub(r'[^A-Za-z0-9._-]', '_', version)}.parquet"


def write_progress(
    dataset: Path, version: str, progress: Mapping[int, Progress], *, folder: Path | None = None
) -> Path:
    """Write progress beside a dataset with the columns that LeRobot's ``RABCWeights`` reads, and ours.

    LeRobot joins such files by the global ``index``, which merging, cutting or deleting changes without a trace; so the
    file carries the dataset's fingerprint, and :func:`read_progress` refuses it beside other data.

    Args:
        dataset: The dataset's folder.
        version: The reward model's version.
        progress: By episode index; episodes left out are NaN throughout, which RA-BC passes over.
        folder: Where the file goes; None for beside the dataset.

    Returns:
        The file: ``index, episode_index, frame_index, progress_sparse, spread``.

    Raises:
        DatasetError: If a column has another length than its episode.
    """
    files = load_files(dataset)
    columns: dict[str, list[NDArray[np.int64] | NDArray[np.float32]]] = {
        name: [] for name in ("index", "episode_index", "frame_index", "progress_sparse", "spread")
    }
    for row in files.episodes:
        episode, length, start = (int(row[n]) for n in ("episode_index", "length", "dataset_from_index"))
        nothing = np.full(length, np.nan, np.float32)
        values, spread = progress.get(episode, (nothing, nothing))
        if len(values) != length or len(spread) != length:
            raise DatasetError(
                f"The progress of episode {episode} has another length",
                seen=f"{len(values)} and {len(spread)}",
                allowed=length,
                remedy="Label the dataset again",
            )
        columns["index"].append(np.arange(start, start + length))
        columns["episode_index"].append(np.full(length, episode))
        columns["frame_index"].append(np.arange(length))
        columns["progress_sparse"].append(values.astype(np.float32))
        columns["spread"].append(spread.astype(np.float32))
    table = pa.table(
        {name: np.concatenate(parts) for name, parts in columns.items()}
    ).replace_schema_metadata(
        {
            b"reward_model_path": version.encode(),
            VERSION: version.encode(),
            FINGERPRINT: fingerprint(dataset).encode(),
        }
    )
    path = progress_path(dataset, version, folder=folder)
    replace_table(path, table)
    return path


def read_progress(dataset: Path, version: str | Path) -> dict[int, Progress]:
    """Read what :func:`write_progress` wrote, by episode index; episodes without any progress are left out.

    Args:
        dataset: The dataset's folder.
        version: The reward model's version, for the file beside the dataset; or the file itself. LeRobot's own files are
            read as well: they have no spread, and only the number of their rows says whether they belong to the data.

    Raises:
        DatasetError: If there is no such file, it holds no progress, or the dataset is not the one it was written for.
    """
    path = version if isinstance(version, Path) else progress_path(dataset, version)
    if not path.is_file():
        there = sorted(p.name for p in dataset.glob("*progress*.parquet"))
        raise DatasetError(
            "There is no progress of this version",
            seen=version,
            allowed=there,
            remedy="Label the dataset: roborl label",
        )
    table = _progress_table(path)
    check_fingerprint(table, dataset, "progress", "Label the dataset again")
    index = table.column("episode_index").to_numpy()
    values = table.column("progress_sparse").to_numpy().astype(np.float32)
    spread = (
        table.column("spread").to_numpy().astype(np.float32)
        if "spread" in table.column_names
        else np.zeros_like(values)
    )
    lengths = {int(row["episode_index"]): int(row["length"]) for row in load_files(dataset).episodes}
    found = {}
    for episode in np.unique(index):
        rows = index == episode
        if lengths.get(int(episode)) != rows.sum():
            raise DatasetError(
                "The progress was written for other data",
                seen=f"{rows.sum()} rows of episode {episode} in {path}",
                allowed=f"{lengths.get(int(episode), 0)}, as in {dataset}",
                remedy="Label the dataset again",
            )
        if not np.isnan(values[rows]).all():
            found[int(episode)] = (values[rows], spread[rows])
    return found


def check_fingerprint(table: pa.Table, dataset: Path, what: str, remedy: str) -> None:
    """See whether a file that goes with a dataset was written for it as it is now; one that does not say is let pass.

    Args:
        table: What the file holds.
        dataset: The dataset's folder.
        what: What that is, in a word.
        remedy: What to do where it was not.

    Raises:
        DatasetError: If it was written for other data.
    """
    written, now = (table.schema.metadata or {}).get(FINGERPRINT, b"").decode(), fingerprint(dataset)
    if written and written != now:
        raise DatasetError(
            f"The {what} was written for other data: the dataset was merged, cut or edited since",
            seen=f"fingerprint {written}",
            allowed=now,
            remedy=remedy,
        )


def progress_version(path: Path) -> str:
    """Return the version that stands in a file of progress; its name where there is none.

    Raises:
        DatasetError: If it cannot be read.
    """
    return (_progress_table(path).schema.metadata or {}).get(VERSION, b"").decode() or path.stem


def _progress_table(path: Path) -> pa.Table:
    """Read a file of progress, its rows in the order of the frames."""
    try:
        table = pq.read_table(path)
        if "progress_sparse" not in table.column_names and "progress_dense" in table.column_names:
            table = table.append_column("progress_sparse", table.column("progress_dense"))
        absent = {"index", "episode_index", "progress_sparse"} - set(table.column_names)
        if absent:
            raise ValueError(f"it lacks {sorted(absent)}")
        return table.sort_by("index")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(
            "A file of progress cannot be read",
            seen=f"{path}: {error}",
            allowed="a parquet with index, episode_index and progress_sparse, as roborl label writes it",
            remedy="Label the dataset: roborl label",
        ) from error
