"""Episodes of an RLDS dataset for relabelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roborl.data.oxe import is_on_arm
from roborl.data.relabel_source import LeftOut, RelabelSource, first_lit
from roborl.data.rlds.conversion import convert, first_observation, read_pictures, tasks_of, verdict_of
from roborl.data.rlds.dataset import RldsDataset
from roborl.data.rlds.mapping import RldsMapping, map_features
from roborl.types import Image


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RldsFilm:
    """One camera's pictures of one episode; its record is read anew each time, and not kept.

    Attributes:
        dataset: The dataset.
        place: Which episode.
        mapping: What of it serves as what.
        camera: Which pictures.
        first: The step that is observation 0.
    """

    dataset: RldsDataset
    place: int
    mapping: RldsMapping
    camera: str
    first: int = 0

    def read(self, indices: Sequence[int]) -> dict[int, Image]:
        """Decode observations by index, uint8 RGB (h, w, 3) each; blocks.

        Raises:
            DatasetError: If one cannot be decoded.
        """
        episode = self.dataset.episode(self.place)
        found = read_pictures(episode, self.mapping, self.camera, [self.first + i for i in indices])
        return {step - self.first: picture for step, picture in found.items()}


class RldsSubset:
    """The episodes of one split of an RLDS dataset.

    Args:
        place: The dataset's folder, or one with a folder for each version.
        split: Which split.
        images: Which pictures to try, in this order; empty for all, those from outside first.
        instruction: What holds the task, where that is not known.
        rate_hz: Observations per second, where that is not known.
        strict: Whether a torn file is refused.

    Raises:
        ConfigError: If nobody says how many observations a second has.
        DatasetError: If the dataset cannot be read, or lacks what is named.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        split: str,
        images: Sequence[str] = (),
        instruction: str = "",
        rate_hz: float | None = None,
        strict: bool = False,
    ) -> None:
        self._dataset = RldsDataset(place, split=split, strict=strict)
        self._mapping = map_features(
            self._dataset.info, instruction=instruction, images=images, rate_hz=rate_hz
        )

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self._dataset.info.name

    @property
    def split(self) -> str:
        """Which split it is."""
        return self._dataset.split

    def __len__(self) -> int:
        """How many episodes it has."""
        return len(self._dataset)

    def open(self, place: int) -> RelabelSource | LeftOut:
        """Read what one episode is about; see :class:`~roborl.data.relabel_source.Subset`."""
        episode, mapping = self._dataset.episode(place), self._mapping
        first, tasks = first_observation(episode, mapping), tasks_of(episode, mapping)
        if episode.count - first < 2:
            return LeftOut.SHORT
        if not tasks:
            return LeftOut.NO_TASK
        if len(tasks) > 1:
            return LeftOut.SEVERAL_TASKS
        camera = first_lit(
            (name, read_pictures(episode, mapping, name, [first])[first]) for name in mapping.cameras
        )
        if camera is None:
            return LeftOut.BLACK
        converted = convert(episode, mapping, cameras=[], success=None, index=place)
        return RelabelSource(
            dataset=self.name,
            split=self._dataset.split,
            episode=self._dataset.name(place),
            task=tasks[0],
            camera=camera,
            rate_hz=mapping.rate_hz,
            count=episode.count - first,
            success=verdict_of(episode, mapping),
            film=RldsFilm(dataset=self._dataset, place=place, mapping=mapping, camera=camera, first=first),
            content=self._dataset.digest(place),
            onset=mapping.onset,
            on_arm=mapping.wrist_only or is_on_arm(camera),
            recorded=converted.content if converted else "",
        )
