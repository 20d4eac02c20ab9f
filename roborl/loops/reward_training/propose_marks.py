"""Sub-tasks for a dataset that has none, found in its pictures: a first draft for a person to correct."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from roborl.data.annotations import stages
from roborl.data.dataset_episode import DatasetEpisode, Subtask
from roborl.data.lerobot_files import load_files
from roborl.data.lerobot_info import describe_filmed
from roborl.data.lerobot_io import read_episodes
from roborl.errors import ConfigError, DatasetError
from roborl.loops.failed_episodes import judged, verdicts
from roborl.loops.reward_training.annotate import read_marks
from roborl.loops.reward_training.training_episodes import check_one_task, to_training
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.steps import Features, discover_steps
from roborl.rewards.perceptual.training import encode_episode, frozen_encoder


def propose_marks(
    dataset: Path,
    *,
    steps: int = 0,
    names: Sequence[str] = (),
    episodes: Sequence[int] = (),
    failed: Sequence[int] = (),
    cameras: Sequence[str] = (),
    prefix: str = "sparse",
    config: PerceptualConfig | None = None,
) -> dict[int, tuple[Subtask, ...]]:
    """Return sub-tasks for the successful episodes that have none; blocks while pictures are encoded.

    All these episodes are taken to go through the same steps in the same order. A failure gets none: where it left that
    order is for a person to say. Neither does an episode of which nobody says whether it succeeded, where that is said of
    others.

    Args:
        dataset: Its folder; nothing is written.
        steps: How many; 0 for as many as there are names, or as pay where there are none.
        names: Of the steps, in order; by default those that the dataset has, else "step 1", "step 2" and so on.
        episodes: Which episodes; by default all.
        failed: Numbers of episodes that failed, whatever the dataset says.
        cameras: Which views are looked at; by default all.
        prefix: "sparse" or "dense": in which of the two annotations they have none.
        config: The encoder, and how steps are found; its number of steps plays no part.

    Returns:
        By episode index; the end of each is the start of the next.

    Raises:
        ConfigError: If there are not as many names as steps, or the encoder is none that has been trained.
        DatasetError: If the dataset has no camera, no successful episode is without marks, they are of several tasks, or one is
            too short for the steps.
        ModelLoadError: If the encoder cannot be loaded.
    """
    config = config or PerceptualConfig()
    known = tuple(names) or stages(load_files(dataset), prefix)
    count = steps or len(known)
    if (known and len(known) != count) or count < 0 or count == 1:
        raise ConfigError(
            "Steps and names do not match",
            seen=f"{count} steps, names {list(known)}",
            allowed="two steps or more, and a name for each",
            remedy="Give the names in order with --stages, or leave the number to them with --propose 0",
        )
    unmarked = _unmarked(dataset, episodes, failed, prefix)
    encoder = frozen_encoder(config)
    seen: dict[int, Features] = {}
    for episode in read_episodes(dataset, episodes=unmarked):
        chosen = to_training(episode, cameras)
        vectors = encode_episode(encoder, chosen, sorted(chosen.images), config.image_px)
        seen[episode.index] = vectors[: _recorded(episode)]
    if not seen:
        raise DatasetError(
            "There is no episode to propose sub-tasks for",
            seen=f"{dataset}: every success has marks, or none was chosen",
            allowed="successful episodes without marks",
            remedy="Correct those that are there with --page, or take them away first",
        )
    found = discover_steps(
        list(seen.values()),
        steps=count,
        shortest=config.shortest,
        most=config.most_steps,
        least_gain=config.least_gain,
    )
    called = known or tuple(f"step {k + 1}" for k in range(found.steps))
    return {
        index: tuple(
            Subtask(name=name, start=start, end=end)
            for name, (start, end) in zip(called, pairwise((*bounds[:-1], bounds[-1] - 1)), strict=True)
        )
        for index, bounds in zip(seen, found.bounds, strict=True)
    }


def _unmarked(dataset: Path, episodes: Sequence[int], failed: Sequence[int], prefix: str) -> list[int]:
    """Return the numbers of the successful episodes without marks."""
    told = verdicts(failed, describe_filmed(dataset).episodes)
    usable = judged(dataset, told, episodes=episodes)
    marked = read_marks(dataset, prefix=prefix)
    found = {
        episode.index: episode.task
        for episode in read_episodes(dataset, episodes=usable, success=told, with_images=False)
        if episode.success is not False and episode.index not in marked
    }
    check_one_task(found)
    return list(found)


def _recorded(episode: DatasetEpisode) -> int:
    """How many observations the file has: marks name frames of it."""
    return episode.steps + 1 - episode.repeated_last
