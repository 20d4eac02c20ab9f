"""Failures that a person names, beside what a dataset says of its episodes itself, and what it does not say."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from roborl.data.dataset_episode import DatasetEpisode
from roborl.errors import DatasetError

log = logging.getLogger(__name__)


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
        )
    if not failed:
        return others
    told = {} if others is None else dict.fromkeys(range(count), others)
    return told | dict.fromkeys(failed, False)


def with_task(episodes: Sequence[DatasetEpisode], dataset: str) -> list[DatasetEpisode]:
    """Return the episodes that have an instruction; say how many have none, and of how many nobody says whether they succeeded.

    What learns from them takes the latter for successes, as datasets that say nothing hold successes alone.
    """
    found = [episode for episode in episodes if episode.task.strip()]
    if len(found) < len(episodes):
        log.warning(
            "%s: %d episodes without an instruction are left out", dataset, len(episodes) - len(found)
        )
    if unjudged := sum(episode.success is None for episode in found):
        log.warning(
            "%s: nobody says of %d episodes whether they succeeded, and they are taken for successes: name those that"
            " failed with --failed, or the others with --episodes",
            dataset,
            unjudged,
        )
    return found
