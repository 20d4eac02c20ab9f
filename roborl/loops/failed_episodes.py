"""Failures that a person names, beside what a dataset says of its episodes itself, and what it does not say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.lerobot_io import read_episodes
from roborl.errors import DatasetError

log = logging.getLogger(__name__)

type Say = Callable[..., None]
"""Where a line goes, with what is filled into it: a logger's method."""


def verdicts(
    failed: Sequence[int], count: int, *, others: bool | None = None
) -> bool | Mapping[int, bool] | None:
    """Return the verdicts on a dataset's episodes as :func:`~roborl.data.lerobot_io.read_episodes` takes them.

    Args:
        failed: Numbers of the episodes that failed.
        count: How many episodes the dataset has.
        others: The verdict on all others; None for what the dataset says.

    Raises:
        DatasetError: If the dataset has no episode of such a number.

    Example:
        >>> verdicts([], 3), verdicts([1], 3), verdicts([1], 3, others=True)
        (None, {1: False}, {0: True, 1: False, 2: True})
    """
    if absent := sorted(number for number in set(failed) if not 0 <= number < count):
        raise DatasetError(
            "The dataset has no such episodes that could have failed",
            seen=absent,
            allowed=f"0 to {count - 1}",
            remedy="Correct the numbers of the episodes that are named as failed",
        )
    if not failed:
        return others
    told = {} if others is None else dict.fromkeys(range(count), others)
    return told | dict.fromkeys(failed, False)


def with_task(
    episodes: Sequence[DatasetEpisode], dataset: str, judges: Callable[[], bool]
) -> list[DatasetEpisode]:
    """Return the episodes that have one instruction and a verdict; say how many have not.

    Args:
        episodes: The episodes.
        dataset: Where they are from.
        judges: As for :func:`without_verdict`.
    """
    found = [episode for episode in episodes if episode.task.strip()]
    if len(found) < len(episodes):
        log.warning(
            "%s: %d episodes without an instruction are left out", dataset, len(episodes) - len(found)
        )
    found = with_one_task(found, dataset)
    unjudged = without_verdict(found, dataset, judges)
    return [episode for episode in found if episode.index not in unjudged]


def with_one_task(
    episodes: Sequence[DatasetEpisode], dataset: str, say: Say = log.warning
) -> list[DatasetEpisode]:
    """Return the episodes whose rows do not have several instructions; say how many have."""
    found = [episode for episode in episodes if not episode.more_tasks]
    if len(found) < len(episodes):
        say("%s: %d episodes with several instructions are left out", dataset, len(episodes) - len(found))
    return found


def without_verdict(
    episodes: Iterable[DatasetEpisode],
    dataset: str,
    judges: Callable[[], bool],
    say: Say = log.warning,
    *,
    option: str = "--failed",
    succeeded: str = "",
) -> set[int]:
    """Return the numbers of the episodes to leave out because nobody says whether they succeeded; say how many.

    None is left out of a dataset that says it of no episode: such a dataset holds successes alone, which is said as well.

    Args:
        episodes: The episodes, without pictures.
        dataset: Where they are from.
        judges: Whether the dataset says it of any episode; it is asked where one of these has no verdict.
        say: What is told how many they are.
        option: What names failures on the command line.
        succeeded: What makes successes there of all that are not named.
    """
    unjudged = {episode.index for episode in episodes if episode.success is None}
    if not unjudged:
        return set()
    if judges():
        say(
            "%s: %d episodes are left out, of which nobody says whether they succeeded, as the dataset says of others:"
            " name those that failed with %s%s",
            dataset,
            len(unjudged),
            option,
            f"; with {succeeded}, all that are not named are successes" if succeeded else "",
        )
        return unjudged
    say(
        "%s: nobody says of %d episodes whether they succeeded, and they are taken for successes: name those that"
        " failed with %s",
        dataset,
        len(unjudged),
        option,
    )
    return set()


def judged(
    dataset: str | Path,
    told: bool | Mapping[int, bool] | None = None,
    *,
    episodes: Sequence[int] = (),
) -> list[int]:
    """Return the numbers of the episodes of a LeRobotDataset that have a verdict, or are taken for successes; blocks.

    Discarded ones and such with several instructions are not among them. See :func:`without_verdict`.

    Args:
        dataset: A folder, or an id on the hub.
        told: Verdicts as :func:`~roborl.data.lerobot_io.read_episodes` takes them.
        episodes: Which to look at; all where none is named.
    """
    read = read_episodes(dataset, episodes=list(episodes) or None, with_images=False, success=told)
    kept = with_one_task([episode for episode in read if not episode.discarded], str(dataset))
    left_out = without_verdict(kept, str(dataset), lambda: judges_some(dataset))
    return [episode.index for episode in kept if episode.index not in left_out]


def judges_some(dataset: str | Path) -> bool:
    """Return whether a LeRobotDataset says of any episode whether it succeeded; blocks."""
    return any(episode.success is not None for episode in read_episodes(dataset, with_images=False))
