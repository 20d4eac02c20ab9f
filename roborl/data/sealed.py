"""Finished episodes as zarr groups: one group per episode, at recording resolution, sealed whole or not at all.

A group holds ``frames/<camera>`` uint8 (T + 1, h, w, 3) and, per observation, ``state``, ``stamp_ns``, ``frame_stamp_ns``,
``frame_id``; per step ``action`` (the one executed), ``proposed``, ``source``, ``policy_version``, ``reward``,
``reward_source``. Its attributes are those of :class:`~roborl.data.episodes.EpisodeInfo`. Any zarr library reads it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import batched, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from roborl.data.episodes import EpisodeInfo
from roborl.errors import DatasetError
from roborl.records import Arrival
from roborl.types import Command, Episode, Frame, Observation, RewardSource, Source, Step
from roborl.whole_files import draft_folder, write_whole

CHUNK = 16  # Observations per chunk: a labeller reads forward, a person looks at one.
SOURCES = tuple(Source)
REWARD_SOURCES = tuple(RewardSource)
_CODEC = ZstdCodec(level=1)
# What is nothing but zeros has a file, too; so one that lacks is gone. Recordings without the mark lack such files.
_WHOLE: dict[str, Any] = {"config": {"write_empty_chunks": True}, "attributes": {"whole": True}}
_PER_OBSERVATION = ("state", "stamp_ns", "frame_stamp_ns", "frame_id")
_PER_STEP = ("action", "proposed", "source", "policy_version", "reward", "reward_source")


def create_root(path: Path) -> None:
    """Make the zarr root group where there is none, and its description again where that is gone or torn."""
    described = path / "zarr.json"
    path.mkdir(parents=True, exist_ok=True)
    try:
        json.loads(described.read_bytes())
    except (FileNotFoundError, ValueError):
        # By hand: zarr would empty the folder, which may hold episodes.
        write_whole(described, json.dumps({"attributes": {}, "zarr_format": 3, "node_type": "group"}))


def seal(
    root: Path, staging: Path, info: EpisodeInfo, arrivals: Iterable[Arrival], *, sync: bool = False
) -> Path:
    """Write an episode into the zarr root atomically and return its folder; one that is there already is left alone.

    One that is there and torn is replaced.

    Args:
        root: The zarr root group.
        staging: A folder on the same file system; what a killed process leaves there is worthless.
        info: Its attributes.
        arrivals: All its arrivals in order; read once, a chunk at a time.
        sync: Flush it to the disk itself first, so that the loss of power cannot find it half there.

    Raises:
        DatasetError: If the arrivals are not as many as ``info`` says.
        OSError: If the disk does not take it; nothing of it stays there.
    """
    final = root / str(info.key)
    if final.exists():
        try:
            read_info(final)
        except DatasetError:
            shutil.rmtree(final)  # Torn by a loss of power: the log that is being sealed is what there is.
        else:
            return final
    with draft_folder(staging / str(info.key)) as folder:
        _write(folder, info, arrivals)
        if sync:
            flush_files(folder)
        folder.rename(final)
    if sync:
        flush_names(root)
    return final


def _write(folder: Path, info: EpisodeInfo, arrivals: Iterable[Arrival]) -> None:
    group = zarr.open_group(folder, mode="w", attributes=info.to_attributes())
    frames: dict[str, Any] = {}
    rows: list[Arrival] = []
    count = 0
    for batch in batched(arrivals, CHUNK):
        for camera in batch[0].observation.frames:
            pixels = np.stack([arrival.observation.frames[camera].rgb for arrival in batch])
            if camera not in frames:
                frames[camera] = group.create_array(
                    f"frames/{camera}",
                    shape=(info.observations, *pixels.shape[1:]),
                    dtype="uint8",
                    chunks=(CHUNK, *pixels.shape[1:]),
                    compressors=_CODEC,
                    **_WHOLE,
                )
            frames[camera][count : count + len(batch)] = pixels
        count += len(batch)
        rows += [_without_pixels(arrival) for arrival in batch]
    if count != info.observations:
        raise DatasetError("An episode cannot be sealed", seen=f"{count} arrivals", allowed=info.observations)
    for name, column in _columns(rows, sorted(frames)).items():
        group.create_array(name, data=column, chunks=column.shape if column.size else "auto", **_WHOLE)


def _without_pixels(arrival: Arrival) -> Arrival:
    """Return an arrival without its pictures; its arrays are copies, for views would keep the whole record in memory."""
    observation, command = arrival.observation, arrival.command
    empty = np.zeros((0, 0, 3), np.uint8)
    return Arrival(
        key=arrival.key,
        index=arrival.index,
        observation=Observation(
            frames={
                name: Frame(rgb=empty, camera=name, stamp_ns=frame.stamp_ns, id=frame.id)
                for name, frame in observation.frames.items()
            },
            state=observation.state.copy(),
            stamp_ns=observation.stamp_ns,
        ),
        command=command and replace(command, action=command.action.copy(), proposed=command.proposed.copy()),
        reward=arrival.reward,
        reward_source=arrival.reward_source,
    )


def _columns(rows: list[Arrival], cameras: list[str]) -> dict[str, NDArray[Any]]:
    seen = [row.observation for row in rows]
    taken = [(row, row.command) for row in rows[1:] if row.command is not None]
    columns: dict[str, NDArray[Any]] = {}
    if seen:
        columns |= {
            "state": np.stack([o.state for o in seen]),
            "stamp_ns": np.array([o.stamp_ns for o in seen], np.int64),
            "frame_stamp_ns": np.array([[o.frames[c].stamp_ns for c in cameras] for o in seen], np.int64),
            "frame_id": np.array([[o.frames[c].id for c in cameras] for o in seen], np.int64),
        }
    if taken:
        columns |= {
            "action": np.stack([c.action for _, c in taken]),
            "proposed": np.stack([c.proposed for _, c in taken]),
            "source": np.array([SOURCES.index(c.source) for _, c in taken], np.uint8),
            "policy_version": np.array([c.policy_version for _, c in taken], np.int64),
            "reward": np.array([row.reward for row, _ in taken], np.float64),
            "reward_source": np.array(
                [REWARD_SOURCES.index(row.reward_source) for row, _ in taken], np.uint8
            ),
        }
    return columns


def read_info(folder: Path) -> EpisodeInfo:
    """Read an episode's attributes without opening its arrays.

    Raises:
        DatasetError: If the folder is not a sealed episode.
    """
    try:
        return EpisodeInfo.from_attributes(json.loads((folder / "zarr.json").read_bytes())["attributes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            "A sealed episode cannot be read",
            seen=f"{folder}: {type(error).__name__}: {error}",
            allowed="a zarr.json as it was sealed",
            remedy="Take the folder from a backup, or move it out of the store",
        ) from error


def rewrite_info(folder: Path, info: EpisodeInfo, *, sync: bool) -> None:
    """Replace an episode's attributes atomically, as a late verdict does.

    Args:
        folder: The sealed episode.
        info: Its attributes from now on.
        sync: Flush them to the disk itself first, so that the loss of power cannot find the episode without any.
    """
    document = json.loads((folder / "zarr.json").read_bytes())
    document["attributes"] = info.to_attributes()
    write_whole(folder / "zarr.json", json.dumps(document, indent=2).encode(), sync=sync)


def read_arrivals(folder: Path, start: int = 0) -> Iterator[Arrival]:
    """Yield an episode's arrivals from index ``start`` on, a chunk of pictures in memory at a time.

    Raises:
        DatasetError: If the folder is not a sealed episode, or a file of it is torn or gone.
    """
    info = read_info(folder)
    try:
        yield from _read(folder, info, start)
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        # What zarr and its codecs raise on torn files.
        raise DatasetError(
            "A sealed episode cannot be read",
            seen=f"{folder}: {type(error).__name__}: {error}",
            allowed="the files as they were sealed",
            remedy="Take the folder from a backup, or move it out of the store",
        ) from error


def _read(folder: Path, info: EpisodeInfo, start: int) -> Iterator[Arrival]:
    group: Any = zarr.open_group(folder, mode="r")
    columns: dict[str, NDArray[Any]] = {
        name: _rows(folder, group[name])
        for name in (_PER_OBSERVATION if info.observations else ()) + (_PER_STEP if info.steps else ())
    }
    cameras = sorted(name for name, _ in group["frames"].arrays()) if "frames" in group else []
    for first in range(start // CHUNK * CHUNK, info.observations, CHUNK):
        pixels = {camera: _rows(folder, group[f"frames/{camera}"], first) for camera in cameras}
        for index in range(max(first, start), min(first + CHUNK, info.observations)):
            frames = {
                camera: Frame(
                    rgb=pixels[camera][index - first],
                    camera=camera,
                    stamp_ns=int(columns["frame_stamp_ns"][index, n]),
                    id=int(columns["frame_id"][index, n]),
                )
                for n, camera in enumerate(cameras)
            }
            yield _arrival(info, columns, index, frames)


def _rows(folder: Path, array: Any, first: int = 0) -> NDArray[Any]:
    """Return a chunk of pictures from row ``first`` on, or a whole column; zarr itself reads a file that is gone as zeros."""
    if array.size and array.attrs.get("whole"):
        key = array.metadata.encode_chunk_key((first // CHUNK, *[0] * (array.ndim - 1)))
        if not (folder / array.path / key).is_file():
            raise FileNotFoundError(f"{array.path}/{key} is gone")
    return np.asarray(array[first : first + CHUNK] if array.path.startswith("frames/") else array[:])


def _arrival(
    info: EpisodeInfo, columns: dict[str, NDArray[Any]], index: int, frames: dict[str, Frame]
) -> Arrival:
    observation = Observation(
        frames=frames, state=columns["state"][index], stamp_ns=int(columns["stamp_ns"][index])
    )
    if index == 0:
        return Arrival(key=info.key, index=0, observation=observation)
    step = index - 1
    return Arrival(
        key=info.key,
        index=index,
        observation=observation,
        command=Command(
            action=columns["action"][step],
            proposed=columns["proposed"][step],
            source=SOURCES[columns["source"][step]],
            policy_version=int(columns["policy_version"][step]),
        ),
        reward=float(columns["reward"][step]),
        reward_source=REWARD_SOURCES[columns["reward_source"][step]],
    )


def episode_of(info: EpisodeInfo, arrivals: Iterable[Arrival]) -> Episode:
    """Build the whole episode from its arrivals.

    Raises:
        DatasetError: If it is still open or has no observation.
    """
    rows = list(arrivals)
    if info.end is None or not rows:
        raise DatasetError(
            "This episode has not ended",
            seen=str(info.key),
            remedy="Wait for its end, or read its observations",
        )
    steps = tuple(
        Step(
            observation=before.observation,
            command=after.command,
            reward=after.reward,
            reward_source=after.reward_source,
        )
        for before, after in pairwise(rows)
        if after.command is not None
    )
    return Episode(
        key=info.key,
        task=info.task,
        steps=steps,
        last_observation=rows[-1].observation,
        end=info.end,
        success=info.success,
    )


def to_arrivals(episode: Episode) -> Iterator[Arrival]:
    """Yield the arrivals that would have made this episode."""
    observations = episode.observations
    yield Arrival(key=episode.key, index=0, observation=observations[0])
    for index, step in enumerate(episode.steps, start=1):
        yield Arrival(
            key=episode.key,
            index=index,
            observation=observations[index],
            command=step.command,
            reward=step.reward,
            reward_source=step.reward_source,
        )


def flush_files(folder: Path) -> None:
    """Have every file in a folder and below it on the disk itself."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def flush_names(folder: Path) -> None:
    """Have the names in a folder on the disk itself, such as one that was put there by a rename."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
