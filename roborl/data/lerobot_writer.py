"""Episodes into LeRobotDataset v3."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from roborl.data.annotations import from_episode_row, write_annotations, write_language
from roborl.data.dataset_episode import DatasetEpisode, Subtask
from roborl.data.encoding import scheduled_as_before
from roborl.data.lerobot_columns import ACTION, BENCHMARK_PROGRESS, EVENTS, FILLED_IN, LANGUAGE
from roborl.data.lerobot_files import load_info
from roborl.data.lerobot_repair import (
    begun,
    clear,
    clear_drafts,
    drop_torn,
    forget_before,
    keep_before,
    keep_marks,
    kept_marks,
    made_ready,
    put_back,
)
from roborl.data.lerobot_rows import features_of, rows_of
from roborl.data.scales import Scales
from roborl.errors import ConfigError, DatasetError
from roborl.locks import FolderLock
from roborl.signals import interrupt_later
from roborl.whole_files import require_writable

log = logging.getLogger(__name__)

_SMALLEST_FILMED_PX = 32


class DatasetWriter:
    """Writes episodes into a new dataset, or behind those of an existing one of the same form.

    The dataset is whole, for our reader and for LeRobot's tools, after :meth:`close` and at every checkpoint. What a
    kill leaves torn is dropped at the next opening: all episodes up to the last checkpoint stay.

    Args:
        path: The folder.
        fps: Observations per second.
        cameras: Height and width by camera name.
        state_names: One per state dimension; none for a dataset without a state.
        action_names: One per action dimension.
        robot_type: The robot's name, for LeRobot.
        scales: What the numbers of states and actions stand for, where that is known.
        deltas: How many numbers of an action, from the first, are changes, so that 0 is no motion; None for all. The row
            behind the last action repeats the others.
        video: Store MP4 (small, lossy, slow to write) rather than exact pictures.
        benchmark_progress: Also store privileged progress, for benchmarks and tests.
        checkpoint_every: Make the files whole after so many episodes; 0 only at the end.

    Raises:
        ConfigError: If the pictures are too small for a video.
        DatasetError: If there is a dataset of another form.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: int,
        cameras: Mapping[str, tuple[int, int]],
        state_names: Sequence[str],
        action_names: Sequence[str],
        robot_type: str = "",
        scales: Scales | None = None,
        deltas: int | None = None,
        video: bool = False,
        benchmark_progress: bool = False,
        checkpoint_every: int = 50,
    ) -> None:
        if video:
            _check_encodable(cameras)
        self._path, self._fps, self._robot_type = path, fps, robot_type
        self._checkpoint_every, self._video = checkpoint_every, video
        self._cameras, self._state_names = dict(cameras), tuple(state_names)
        self._benchmark, self._deltas = benchmark_progress, deltas
        self._features = features_of(
            cameras, state_names, action_names, video=video, progress=benchmark_progress
        )
        if scales is not None:
            self._features = scales.written(self._features)
        self._subtasks: dict[int, Sequence[Subtask]] = {}
        self._fresh: dict[int, Sequence[Subtask]] = {}  # Of episodes since the last checkpoint.
        self._language: tuple[
            str, ...
        ] = ()  # Columns of an annotated dataset that are filled in at a checkpoint.
        self._dataset: Any = None
        self._failed = False
        self.episodes = 0
        # Two writers would each take the other's open files for those of a killed one.
        self._lock = FolderLock(path) if path.is_dir() else None
        if begun(path):
            put_back(path)
            info = load_info(path, to_write=True)
            # Before anything is dropped: it may be another's.
            _check_same(self._features, info["features"], fps, float(info["fps"]))
            _check_scales(scales, Scales.of(info["features"]))
            lost = drop_torn(path)
            if lost:
                log.warning("%s: %d episodes of a killed recording were torn and are dropped", path, lost)
            files = made_ready(path)
            self.episodes = len(files.episodes)
            self._language = tuple(name for name in (LANGUAGE, EVENTS) if name in files.features)
            for row in files.episodes:
                marks = from_episode_row(row, fps=fps, last=int(row["length"]) - 1, prefix="sparse")
                self._subtasks[int(row["episode_index"])] = marks
        if self.episodes:
            self._tidy()
        else:
            self._language = ()
            clear(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            if self._lock is not None:
                self._lock.close()

    def prepare(self) -> None:
        """Load what writing needs, which takes seconds, and see whether the folder can be written: before a person's work.

        Raises:
            OSError: If it cannot.
        """
        require_writable(self._path / "episode" if self._path.is_dir() else self._path)
        importlib.import_module("lerobot.datasets.lerobot_dataset")

    def append(self, episode: DatasetEpisode) -> int:
        """Write one episode; return its index.

        Raises:
            DatasetError: If it does not have the dataset's form, or the disk does not take it. Those before it stay, but where
                the disk takes no footer either when the files are closed: then those up to the last checkpoint do.
        """
        self._check(episode)
        if self._failed:
            self.close()  # LeRobot would lay the next episode behind what it kept of the one that failed.
        if self._dataset is None:
            self._dataset = self._open()
        from lerobot.utils.utils import SuppressProgressBars

        # Half of an episode's rows without its metadata would mislead LeRobot's readers.
        with interrupt_later(), SuppressProgressBars(), scheduled_as_before(), self._taken_by_the_disk():
            keep_before(self._path)
            keep_marks(self._path, self._fresh | {self.episodes: episode.subtasks})
            for row in rows_of(episode, list(self._cameras), progress=self._benchmark, deltas=self._deltas):
                # LeRobot wants a row to have its language columns, and nothing in them yet.
                self._dataset.add_frame(row | dict.fromkeys(self._language))
            # Encoding in this process: a pool would start again for every episode.
            self._dataset.save_episode(parallel_encoding=False)
            index = self.episodes
            self._subtasks[index] = self._fresh[index] = episode.subtasks
            self.episodes += 1
        if self._checkpoint_every and self.episodes % self._checkpoint_every == 0:
            self.close()
        return index

    def close(self) -> None:
        """Make the files whole. Further episodes may follow."""
        if self._dataset is None:
            return
        with interrupt_later(), self._taken_by_the_disk():
            self._dataset.finalize()
            self._dataset = None
            clear_drafts(self._path)
            if (
                self._failed
            ):  # LeRobot may have torn small files, and kept rows of an episode that is not in its tables.
                drop_torn(self._path)
                self.episodes = len(made_ready(self._path).episodes)
                self._failed = False
            self._annotate(self._fresh)
            forget_before(self._path)
            self._fresh.clear()

    def _open(self) -> Any:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        name = f"local/{self._path.name}"
        if self.episodes:
            return LeRobotDataset.resume(name, root=self._path, video_backend="pyav")
        if self._path.is_dir():
            self._lock = self._lock or FolderLock(self._path)
            clear(self._path)
        made: Any = LeRobotDataset.create(
            name,
            fps=self._fps,
            features=self._features,
            root=self._path,
            robot_type=self._robot_type or None,
            video_backend="pyav",
            use_videos=self._video,
        )
        self._lock = FolderLock(self._path)
        return made

    @contextlib.contextmanager
    def _taken_by_the_disk(self) -> Iterator[None]:
        """Forget the half of an episode where its writing fails, and say so."""
        try:
            yield
        except BaseException as error:
            self._failed = True
            if self._dataset is not None:
                self._dataset.clear_episode_buffer()
            if not isinstance(error, OSError | pa.ArrowException):
                raise
            # LeRobot notices a picture that the disk did not take when it reads it back.
            raise DatasetError(
                "The dataset cannot be written",
                seen=f"{self._path}: {type(error).__name__}: {error}",
                allowed="a disk with room that can be written",
                remedy="Make room, then run the same again: it goes on behind the last whole episode, at worst that"
                " of the last checkpoint",
            ) from error

    def _tidy(self) -> None:
        """Finish what a killed writer did not come to: annotations of whole episodes, and removing its drafts."""
        kept = {index: marks for index, marks in kept_marks(self._path).items() if index < self.episodes}
        missing = {index: marks for index, marks in kept.items() if not self._subtasks[index]}
        if kept:
            self._subtasks |= missing
            # Where marks came to stand in meta/episodes, the data files may still lack them.
            self._annotate(missing, spoken=kept)
        forget_before(self._path)
        clear_drafts(self._path)

    def _annotate(self, fresh: Collection[int], *, spoken: Collection[int] | None = None) -> None:
        """Write the sub-tasks, into the data files only those of fresh episodes, or of these: the others have them."""
        if any(self._subtasks.values()):
            write_annotations(self._path, self._subtasks, language=False, fresh=fresh)
        if self._language:
            write_language(self._path, self._subtasks, episodes=fresh if spoken is None else spoken)

    def _check(self, episode: DatasetEpisode) -> None:
        seen = {name: pixels.shape[1:3] for name, pixels in episode.images.items()}
        state, action = len(self._state_names), self._features[ACTION]["shape"][0]
        if seen != self._cameras or episode.state.shape[1] != state or episode.action.shape[1] != action:
            raise DatasetError(
                "The episode does not have the form of the dataset",
                seen=f"cameras {seen}, state {episode.state.shape[1]}, action {episode.action.shape[1]}",
                allowed=f"cameras {self._cameras}, state {state}, action {action}",
                remedy="Write it to a dataset of its own",
            )
        if episode.steps == 0 or (self._benchmark and episode.benchmark_progress is None):
            raise DatasetError(
                "The episode lacks what the dataset holds",
                seen=f"{episode.steps} steps, benchmark progress {episode.benchmark_progress is not None}",
                allowed="at least one step, and benchmark progress where the dataset has that column",
            )


def write_dataset(
    path: Path,
    episodes: Iterable[DatasetEpisode],
    *,
    fps: int,
    state_names: Sequence[str] = (),
    action_names: Sequence[str] = (),
    robot_type: str = "",
    video: bool = False,
    benchmark_progress: bool = False,
) -> int:
    """Write episodes of one form into a dataset; return how many.

    Names of dimensions that are not given are numbered. Other arguments and errors as for :class:`DatasetWriter`.
    """
    writer: DatasetWriter | None = None
    count = 0
    with contextlib.ExitStack() as stack:
        for episode in episodes:
            if writer is None:
                writer = stack.enter_context(
                    DatasetWriter(
                        path,
                        fps=fps,
                        cameras={name: _size(pixels) for name, pixels in episode.images.items()},
                        state_names=state_names or [f"state_{i}" for i in range(episode.state.shape[1])],
                        action_names=action_names or [f"action_{i}" for i in range(episode.action.shape[1])],
                        robot_type=robot_type,
                        video=video,
                        benchmark_progress=benchmark_progress,
                        checkpoint_every=0,
                    )
                )
            writer.append(episode)
            count += 1
    return count


def _check_encodable(cameras: Mapping[str, tuple[int, int]]) -> None:
    """Refuse pictures on which SVT-AV1 would end the process: of 24 x 24 pixels by a division, of 640 x 16 by a wild read."""
    small = {name: size for name, size in cameras.items() if min(size) < _SMALLEST_FILMED_PX}
    if small:
        raise ConfigError(
            "The pictures are too small for a video",
            seen=", ".join(f"{name} {width} x {height}" for name, (height, width) in small.items()),
            allowed=f"{_SMALLEST_FILMED_PX} pixels and more on either side",
            remedy="Leave video out, which stores exact pictures, or make them larger",
        )


def _size(pixels: np.ndarray[Any, Any]) -> tuple[int, int]:
    return int(pixels.shape[1]), int(pixels.shape[2])


def _check_same(
    ours: Mapping[str, Mapping[str, Any]],
    theirs: Mapping[str, Mapping[str, Any]],
    fps: float,
    their_fps: float,
) -> None:
    different = {
        name: theirs[name]["shape"] if name in theirs else "absent"
        for name, feature in ours.items()
        if name not in theirs
        or list(theirs[name]["shape"]) != list(feature["shape"])
        or theirs[name]["dtype"] != feature["dtype"]
    }
    # Annotation adds language columns, and LeRobot adds its bookkeeping ones: neither matters here.
    unknown = sorted(theirs.keys() - ours.keys() - FILLED_IN - {LANGUAGE, EVENTS})
    if unknown:
        raise DatasetError(
            "The dataset to continue has columns that these episodes lack",
            seen=", ".join(unknown),
            allowed=", ".join(ours),
            remedy="Record into a new path"
            + (", or store benchmark progress here too" if unknown == [BENCHMARK_PROGRESS] else ""),
        )
    if different or fps != their_fps:
        raise DatasetError(
            "The dataset to continue has another form",
            seen=f"{their_fps:g} fps, {different}" if different else f"{their_fps:g} fps",
            allowed=f"{fps:g} fps, "
            + ", ".join(f"{name} {ours[name]['dtype']} {ours[name]['shape']}" for name in different),
            remedy="Record into a new path",
        )


def _check_scales(ours: Scales | None, theirs: Scales | None) -> None:
    if ours is not None and theirs is not None and ours != theirs:
        raise DatasetError(
            "The dataset to continue was recorded with other scales of state and action",
            seen=theirs.differing(ours),
            allowed=ours.differing(theirs),
            remedy="Record into a new path, or set the bench's workspace and action steps back. Demonstrations are taken "
            "from both: they are rescaled",
        )
