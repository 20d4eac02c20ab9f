"""One filmed episode as relabelling takes it, wherever it lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from roborl.errors import DatasetError
from roborl.types import Image

_BLACK = 8  # Compression leaves a little in a picture of nothing.


class DamagedEpisode(DatasetError):
    """An episode of which pictures cannot be read; others of its dataset may be whole."""


class Film(Protocol):
    """Where the pictures of one camera of an episode come from."""

    def read(self, indices: Sequence[int]) -> dict[int, Image]:
        """Decode observations by index, uint8 RGB (h, w, 3) each; blocks.

        Raises:
            DatasetError: If one cannot be decoded.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RelabelSource:
    """An episode seen by one camera, without its pictures: they are decoded when they are asked for.

    Attributes:
        dataset: The dataset that it is from.
        split: The dataset's own split that it is in.
        episode: Its name, the only one of its kind in dataset and split, the same whenever the dataset is read.
        task: The instruction in words, never empty.
        camera: Whose pictures.
        rate_hz: Observations per second.
        count: Observations.
        success: Whether the task was done at its end, None where nobody says.
        film: Its pictures.
        content: Digest of what was recorded, by which it is told from another one recorded under the same name.
        onset: Share of the episode after which the task is done, where that is known of the dataset.
        on_arm: Whether the camera moves with the arm, as far as that is known.
        origin: Name of the episode that it was copied or cut from; its own where it was not.
        recorded: Digest by which the training of reward models knows the recording; empty where it has none.
    """

    dataset: str
    split: str
    episode: str
    task: str
    camera: str
    rate_hz: float
    count: int
    success: bool | None
    film: Film
    content: str
    onset: float | None = None
    on_arm: bool = False
    origin: str = ""
    recorded: str = ""

    def read(self, indices: Iterable[int]) -> dict[int, Image]:
        """Decode the observations that are asked for; blocks.

        Args:
            indices: Each from 0 to ``count - 1``.

        Returns:
            uint8 RGB (h, w, 3) by index, of the caller's own.

        Raises:
            DamagedEpisode: If one cannot be decoded, or is not there.
            DatasetError: If the episode has no such observation.
        """
        wanted = sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.count:
            raise DatasetError(
                f"Episode {self.episode} of {self.dataset} has no such observation",
                seen=[i for i in wanted if not 0 <= i < self.count][:5],
                allowed=f"0 to {self.count - 1}",
            )
        try:
            found = self.film.read(wanted) if wanted else {}
        except DatasetError as error:
            raise DamagedEpisode(
                error.problem,
                seen=f"{self.dataset} {self.episode}, {self.camera}: {error.seen}",
                allowed=error.allowed,
                remedy=error.remedy,
            ) from error
        if absent := sorted(set(wanted) - set(found)):
            raise DamagedEpisode(
                "An episode lacks pictures",
                seen=f"{self.dataset} {self.episode}, {self.camera}: {absent[:5]}",
                allowed=f"all of 0 to {self.count - 1}",
                remedy="Fetch the dataset again",
            )
        return found


def require_one_size(source: RelabelSource, pictures: Mapping[int, Image]) -> None:
    """See whether pictures of an episode make one video.

    Raises:
        DamagedEpisode: If they differ in size.
    """
    if len(sizes := {picture.shape for picture in pictures.values()}) > 1:
        raise DamagedEpisode(
            "The pictures of an episode differ in size",
            seen=f"{sorted(sizes)} of {source.dataset} {source.episode}, {source.camera}",
            allowed="one size within an episode",
            remedy="Name another view: --camera",
        )


class LeftOut(StrEnum):
    """Why an episode is of no use for relabelling."""

    NO_TASK = "without an instruction"
    SEVERAL_TASKS = "with several instructions"
    BLACK = "with a black first picture in every camera"
    UNSUCCESSFUL = "that failed"
    UNJUDGED = "of which nobody says whether they succeeded"
    DISCARDED = "that are to be kept out of training"
    SHORT = "of fewer than two observations"
    DAMAGED = "that cannot be read"


class Subset(Protocol):
    """Episodes of one dataset and split, each of which is opened on its own."""

    @property
    def name(self) -> str:
        """The dataset's name."""
        ...

    @property
    def split(self) -> str:
        """Which split it is, empty for all of them."""
        ...

    def __len__(self) -> int:
        """How many episodes it has, those that are of no use among them."""
        ...

    def open(self, place: int) -> RelabelSource | LeftOut:
        """Read what one episode is about, without its pictures; blocks.

        Raises:
            DatasetError: If it cannot be read.
        """
        ...


def first_lit(pictures: Iterable[tuple[str, Image]]) -> str | None:
    """Return the first camera whose picture is not black, None where all of them are.

    Several datasets of Open X-Embodiment hold streams of nothing.

    Args:
        pictures: Cameras with their first picture; no more of them are taken than needed.
    """
    return next((name for name, picture in pictures if picture.max() > _BLACK), None)
