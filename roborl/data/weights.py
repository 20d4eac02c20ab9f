"""Weights of a dataset's frames beside it, in a file that cloning reads here, and that LeRobot's trainer reads as progress."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roborl.data.lerobot_files import fingerprint, load_files, replace_table
from roborl.data.progress import FINGERPRINT, VERSION, check_fingerprint
from roborl.errors import DatasetError
from roborl.whole_files import as_json

LEROBOT_KAPPA = 0.999
"""What LeRobot's trainer is to be told as ``--sample_weighting.kappa`` beside such a file."""

SETTINGS = b"roborl_weights_settings"
"""Key of the file's metadata: how the weights came about, as JSON; null stands for infinite."""

_CHUNK = b"roborl_chunk"
# What LeRobot's ramp is brought to: it then rises from 0 at a gain of 0 to 1 at a gain of 1.
_MEAN, _DEVIATION = 0.5, 0.25
_DROPPED = -1e-3


def weights_path(dataset: Path, version: str, settings: Mapping[str, Any]) -> Path:
    """Return where the weights by the progress of a version stand beside a dataset; by other settings they stand elsewhere."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", version)
    mark = hashlib.sha256(as_json(settings).encode()).hexdigest()[:8]
    return dataset / f"roborl_weights_{name}_chunk{settings['chunk']}-{mark}.parquet"


def write_weights(
    dataset: Path,
    path: Path,
    weights: Mapping[int, NDArray[np.float32]],
    *,
    version: str,
    settings: Mapping[str, Any],
) -> None:
    """Write weights so that LeRobot's ``RABCWeights`` computes just these from what it takes for progress.

    LeRobot weighs a frame by the rise of ``progress_sparse`` over a chunk. That column here is no progress: its rise is the
    weight. LeRobot also sees to the mean and the deviation of all rises; rows of one more episode, which the dataset does not
    have, bring them to where its formula returns the rise itself, with κ of :data:`LEROBOT_KAPPA`. Only the last row of an
    episode always gets 0: it has no rise.

    Args:
        dataset: The dataset's folder.
        path: The file.
        weights: By episode index, float32 (rows,), in [0, 1], for every episode.
        version: The reward model's.
        settings: How they came about, as plain values; ``chunk`` is what the policy's ``chunk_size`` is to be.

    Raises:
        DatasetError: If an episode has no weights, or another number of rows.
    """
    files, chunk = load_files(dataset), int(settings["chunk"])
    index, episodes, frames, columns, told = [], [], [], [], []
    rises: list[NDArray[np.float64]] = [np.zeros(1)]  # the last row of the episode that comes last
    for row in files.episodes:
        episode, length, start = (int(row[n]) for n in ("episode_index", "length", "dataset_from_index"))
        given = weights.get(episode)
        if given is None or len(given) != length:
            raise DatasetError(
                f"The weights of episode {episode} have another length",
                seen="none" if given is None else len(given),
                allowed=length,
                remedy="Weigh the dataset again: roborl filter",
            )
        rise = np.where(given > 0, given.astype(np.float64), _DROPPED)
        rise[-1] = 0.0
        rises.append(rise)
        told.append(_summed(rise, chunk))
        columns.append(given)
        index.append(np.arange(start, start + length))
        episodes.append(np.full(length, episode))
        frames.append(np.arange(length))
    padding = _balance(np.concatenate(rises))
    rows = len(padding) + 1
    told.append(_summed(np.append(padding, 0.0), chunk))
    columns.append(np.full(rows, np.nan, np.float32))
    index.append(np.arange(rows) + max(int(part[-1]) for part in index) + 1)
    episodes.append(np.full(rows, max(int(part[-1]) for part in episodes) + 1))
    frames.append(np.arange(rows))
    table = pa.table(
        {
            "index": np.concatenate(index),
            "episode_index": np.concatenate(episodes),
            "frame_index": np.concatenate(frames),
            "progress_sparse": np.concatenate(told),
            "weight": np.concatenate(columns),
        }
    ).replace_schema_metadata(
        {
            b"reward_model_path": version.encode(),
            VERSION: version.encode(),
            FINGERPRINT: fingerprint(dataset).encode(),
            _CHUNK: str(chunk).encode(),
            SETTINGS: as_json(settings).encode(),
        }
    )
    replace_table(path, table)


def read_weights(dataset: Path, path: Path) -> dict[int, NDArray[np.float32]]:
    """Read what :func:`write_weights` wrote, by episode index, one weight per row of the dataset.

    Raises:
        DatasetError: If it cannot be read, or the dataset is no longer the one it was written for.
    """
    try:
        table = pq.read_table(path, columns=["episode_index", "weight"])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(
            "A file of weights cannot be read",
            seen=f"{path}: {error}",
            allowed="a parquet that roborl filter wrote",
            remedy="Weigh the dataset: roborl filter",
        ) from error
    check_fingerprint(table, dataset, "weights", "Weigh the dataset again: roborl filter")
    episode, weight = table.column("episode_index").to_numpy(), table.column("weight").to_numpy()
    real = ~np.isnan(weight)
    episode, weight = episode[real], weight[real].astype(np.float32)
    return {int(index): weight[episode == index] for index in np.unique(episode)}


def _summed(rise: NDArray[np.float64], chunk: int) -> NDArray[np.float64]:
    """Return what rises by ``rise`` over a chunk, or to the last row, which is 0."""
    last = len(rise) - 1
    total = np.zeros(len(rise))
    for stop in range(last, 0, -chunk):
        start = max(0, stop - chunk)
        end = np.minimum(np.arange(start, stop) + chunk, last)
        total[start:stop] = total[end] - rise[start:stop]
    return total


def _balance(rises: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fewest further rises, an even number, with which all have the mean and deviation that are wanted."""
    off = rises - _MEAN
    total, squares, count = float(off.sum()), float((off**2).sum()), len(rises)
    # m further ones have to sum to -total, their squares to v (count + m) - squares, which is at least total² / m.
    v = _DEVIATION**2
    b = v * count - squares
    least = (-b + math.sqrt(b * b + 4 * v * total * total)) / (2 * v)
    half = max(1, math.ceil(least / 2))
    mean = -total / (2 * half)
    apart = math.sqrt(max(0.0, (v * (count + 2 * half) - squares) / (2 * half) - mean * mean))
    return _MEAN + mean + np.repeat([apart, -apart], half)
