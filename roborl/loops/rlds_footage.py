"""Filmed episodes for judges out of an RLDS dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.relabel_rlds import RldsFilm
from roborl.data.rlds.conversion import convert, verdict_of
from roborl.data.rlds.dataset import RldsDataset
from roborl.data.rlds.mapping import RldsMapping, map_features
from roborl.errors import ConfigError, DatasetError
from roborl.loops.failed_episodes import verdicts, with_task
from roborl.rewards.adaptation.lessons import FilmedEpisode
from roborl.rewards.training.learnt_from import Origin
from roborl.types import Image


@dataclass(frozen=True, kw_only=True)
class RldsFootage:
    """Pictures of one episode of an RLDS dataset.

    Attributes:
        dataset: The dataset.
        place: Which episode.
        mapping: What of it serves as what.
        first: The step that is observation 0.
        last: The observation that has a picture of its own last; one behind it shows the same.
        camera_map: Our camera name to the dataset's, where they differ.
    """

    dataset: RldsDataset
    place: int
    mapping: RldsMapping
    first: int
    last: int
    camera_map: Mapping[str, str]

    def read(self, wanted: Mapping[str, Sequence[int]]) -> dict[str, dict[int, Image]]:
        """Decode what is wanted."""
        theirs = {camera: self.camera_map.get(camera, camera) for camera in wanted}
        if absent := sorted(set(theirs.values()) - set(self.mapping.cameras)):
            raise DatasetError(
                "The dataset lacks a camera",
                seen=absent,
                allowed=sorted(self.mapping.cameras),
                remedy="Name the model's cameras, as in --model.front, or map them: --camera_map",
            )
        found = {}
        for camera, indices in wanted.items():
            film = RldsFilm(
                dataset=self.dataset,
                place=self.place,
                mapping=self.mapping,
                camera=theirs[camera],
                first=self.first,
            )
            pictures = film.read(sorted({min(i, self.last) for i in indices}))
            found[camera] = {i: pictures[min(i, self.last)] for i in indices}
        return found


def until_onset(episode: DatasetEpisode, onset: float) -> tuple[int, int]:
    """Return the first observation of an episode and that at which its task is done, after a share of it; all is its last."""
    if onset == 1.0:
        return 0, episode.steps
    # A last observation that is the one before once more took no time.
    return 0, max(1, round(onset * (episode.steps - episode.repeated_last)))


def read_rlds_footage(
    place: str, episodes: Sequence[int], camera_map: Mapping[str, str], failed: Sequence[int]
) -> tuple[list[FilmedEpisode], float]:
    """Return the episodes of an RLDS dataset, and its observations per second; no picture is decoded.

    Arguments as for :func:`~roborl.loops.footage.read_footage`; episodes count from 0 through all files that are there.

    Raises:
        ConfigError: If nobody says how many observations a second has: ``roborl import`` can be told.
        DatasetError: If it cannot be read.
    """
    dataset = RldsDataset(place)
    pictures = [path for path, leaf in dataset.info.features.items() if leaf.is_picture]
    try:
        mapping = map_features(dataset.info, images=pictures)
    except ConfigError as error:
        raise ConfigError(
            error.problem,
            seen=error.seen,
            allowed="a dataset that it knows, or a LeRobotDataset",
            remedy=f"roborl import --dataset {place} --rate_hz 5 --out FOLDER, for 5 a second, and take that",
        ) from error
    told = verdicts(failed, len(dataset))
    read: list[DatasetEpisode] = []
    observations: dict[int, int] = {}
    for number in [i for i in episodes or range(len(dataset)) if 0 <= i < len(dataset)]:
        record = dataset.episode(number)
        success = told.get(number) if isinstance(told, Mapping) else told
        episode = convert(record, mapping, cameras=[], success=success, index=number)
        if episode is not None:
            read.append(episode)
            observations[number] = record.count
    found = []

    def judges() -> bool:
        return any(verdict_of(dataset.episode(i), mapping) is not None for i in range(len(dataset)))

    for episode in with_task(read, place, judges):
        last = episode.steps - int(episode.repeated_last)
        succeeded = episode.success is not False
        found.append(
            FilmedEpisode(
                name=f"episode {episode.index} of {place}",
                tasks=(episode.task,),
                count=episode.steps + 1,
                kind="success" if succeeded else "failure",
                keyframes=until_onset(episode, mapping.onset or 1.0) if succeeded else (),
                footage=RldsFootage(
                    dataset=dataset,
                    place=episode.index,
                    mapping=mapping,
                    first=observations[episode.index] - 1 - last,
                    last=last,
                    camera_map=dict(camera_map),
                ),
                origin=Origin(content=episode.content, index=episode.index),
            )
        )
    return found, mapping.rate_hz
