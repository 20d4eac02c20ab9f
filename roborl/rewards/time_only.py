"""A reward model that only knows the time: what a progress curve is worth that did not look.

Whoever beats it by little has learned how long an episode takes. It is a baseline, and no potential for training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roborl.errors import DatasetError
from roborl.rewards.instructions import much_alike, one_spelling
from roborl.rewards.model import NO_REPLY, Fold, Judge, References, missing, observation_id
from roborl.rewards.model_info import ModelInfo
from roborl.types import Observation, Score


def mean_progress(curves: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Return the mean progress of demonstrations at each instant; one that is over stays at 1.

    Args:
        curves: Progress of each, (T + 1,) of any length, NaN where unknown.

    Returns:
        As long as the longest, float64; where nobody knows, what was known last.

    Raises:
        DatasetError: If nothing is known of any.

    Example:
        >>> mean_progress([[0.0, 1.0], [0.0, 0.5, 1.0]])
        array([0.  , 0.75, 1.  ])
    """
    rows = [np.asarray(curve, np.float64) for curve in curves]
    longest = max((row.size for row in rows), default=0)
    table = np.array([np.r_[row, np.ones(longest - row.size)] for row in rows]).reshape(len(rows), longest)
    known = ~np.isnan(table)
    if not known.any():
        raise DatasetError(
            "A model of time alone has nothing to learn from",
            seen=f"{len(rows)} successful episodes",
            allowed="at least one whose progress is known",
        )
    count = known.sum(axis=0)
    instants = np.arange(longest)
    mean = np.where(known, table, 0.0).sum(axis=0) / count.clip(1)
    return np.asarray(np.interp(instants, instants[count > 0], mean[count > 0]))


class Clock:
    """The mean progress of the demonstrations of each task at each instant; of a task that none shows, that of all.

    Args:
        demonstrations: The task of each, and its progress as :func:`mean_progress` takes it.

    Attributes:
        everyone: Of all tasks together, float64.
        of_task: Of each task of whose demonstrations any progress is known, by one of its spellings, float64.

    Raises:
        DatasetError: If nothing is known of any.

    Example:
        >>> clock = Clock([("lift", [0.0, 1.0]), ("pour", [0.0, 0.5, 1.0])])
        >>> clock.at("pour", [1, 5]).tolist(), clock.at("sweep", [1]).tolist()
        ([0.5, 1.0], [0.75])
    """

    def __init__(self, demonstrations: Sequence[tuple[str, ArrayLike]]) -> None:
        self.everyone = mean_progress([curve for _, curve in demonstrations])
        known = [(task, curve) for task, curve in demonstrations if not np.isnan(curve).all()]
        spelled = one_spelling(sorted({task for task, _ in known}))
        curves: dict[str, list[ArrayLike]] = {}
        for task, curve in sorted(known, key=lambda one: one[0]):
            curves.setdefault(spelled[task], []).append(curve)
        self.of_task: Mapping[str, NDArray[np.float64]] = {
            task: mean_progress(some) for task, some in curves.items()
        }
        self._said: dict[str, str | None] = {**spelled}

    def task_of(self, words: str) -> str | None:
        """Return the task of :attr:`of_task` that some words say; None where they say none."""
        if words not in self._said:
            self._said[words] = next((task for task in self.of_task if much_alike(task, words)), None)
        return self._said[words]

    def at(self, task: str, instants: ArrayLike) -> NDArray[np.float64]:
        """Return the progress of a task at some instants: behind the last that is known, what it was there."""
        known = self.task_of(task)
        curve = self.everyone if known is None else self.of_task[known]
        return np.asarray(curve[np.minimum(instants, len(curve) - 1)])


class _ClockJudge(Judge[tuple[str, int], float]):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def answer(self, queries: Sequence[tuple[str, int]]) -> list[float]:
        return [float(self._clock.at(task, instant)) for task, instant in queries]


class _TimeFold(Fold[tuple[str, int], float]):
    def __init__(self, task: str, version: str) -> None:
        self._task, self._version = task, version

    def queries(self, observation: Observation) -> list[tuple[str, int]]:
        return [(self._task, observation_id(observation))]

    def fold(self, observation_id: int, replies: Sequence[float | None]) -> Score:
        (progress,) = replies
        if progress is None:
            return missing(observation_id, NO_REPLY, version=self._version)
        return Score(frame_id=observation_id, progress=progress, raw=progress, version=self._version)


class TimeOnlyModel:
    """Replies with what demonstrations of the task had reached at that time, whatever is shown.

    Args:
        clock: What they had reached.
    """

    def __init__(self, clock: Clock) -> None:
        found = hashlib.sha256(clock.everyone.tobytes())
        for task, curve in clock.of_task.items():
            found.update(task.encode() + curve.tobytes())
        self.info = ModelInfo(version=f"time-only-{found.hexdigest()[:16]}", says_done=False, looks_back=True)
        self.judge = _ClockJudge(clock)

    def start(self, task: str, references: References) -> _TimeFold:
        """Return the fold of a new episode; references play no part."""
        return _TimeFold(task, self.info.version)
