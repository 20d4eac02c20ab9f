"""What a reward model is: a fold over an episode that asks queries, and a judge that answers them in batches.

All knowledge about one model (which views, which pairs, which window, how replies accumulate) lives in its fold; all
knowledge about devices, precision and batching lives in its judge. Q and R are the model's own: a VLM query with
images and text slots and its reply text, or a window of embeddings and a row of logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import batched
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roborl.errors import RoborlError, ShapeError
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.shaping import held
from roborl.types import Image, Observation, Score

type References = Mapping[str, NDArray[Any]]
"""What a model is told beside the task, by name: ``goal/front`` uint8 (h, w, 3), ``demo/front`` uint8 (t, h, w, 3)."""


NO_REPLY = "no reply"
"""What a missing score says, behind other words or alone, where its judge gave no answer."""


class JudgeDown(RoborlError):
    """A judge that cannot answer anything at present, such as an endpoint that is away; asking in halves is no use."""


class JudgeSilent(JudgeDown):
    """A judge that is there, and answers none of what it is asked; it may be the questions."""


class Judge[Q, R](Protocol):
    """Answers queries. May be a network on a device, an endpoint, or a fake.

    A class that names this as its base has what has a default here.
    """

    @property
    def at_once(self) -> int | None:
        """Most queries to be put to it in one call; None where it has no limit of its own."""
        return None

    def answer(self, queries: Sequence[Q]) -> list[R]:
        """Return one reply per query, in order.

        A reply depends on its own query alone, never on its company in the batch (up to rounding of the device).
        Any exception is contained by the caller, who then asks again with fewer queries at once.

        Raises:
            JudgeDown: If asking again with fewer would not help.
        """
        ...


class Fold[Q, R](Protocol):
    """The state of one episode, shown every observation exactly once and in order.

    Each observation goes to either :meth:`queries` or :meth:`skip`, by increasing index. The replies come to
    :meth:`fold` later, in the same order; several observations may be asked about before the first reply is in, so
    queries are a function of the observations alone.

    A class that names this as its base has what has a default here.
    """

    @property
    def written(self) -> float | None:
        """The number that the latest answer states for a level, 1 to 5 if it does as asked; None where there is none."""
        return None

    def queries(self, observation: Observation) -> list[Q]:
        """Return what to ask about this observation, which will be scored; may be empty.

        Raises:
            RoborlError: If the observation lacks a view; the fold is then as it was, and hears of the missing score from
                :meth:`lose`.
        """
        ...

    def skip(self, observation: Observation) -> None:
        """See an observation that will not be scored. A fold with a window of frames keeps it, others do nothing."""
        return

    def lose(self, observation_id: int) -> None:
        """Hear, in its turn among the replies, of an observation that could not be asked about: its score is missing.

        A fold that counts readings in a row takes note, others do nothing.
        """
        return

    def fold(self, observation_id: int, replies: Sequence[R | None]) -> Score:
        """Turn the replies to this observation's queries into its score.

        Args:
            observation_id: Index of the observation, the ``id`` of its frames.
            replies: One per query, in order; None where the judge gave none.

        Returns:
            The score; ``valid=False`` where the replies do not suffice or cannot be read. What a lost reply means to
            later scores (a hop of zero, say) is for the model to state.
        """
        ...


class RewardModel[Q, R](Protocol):
    """Knows how to watch an episode."""

    @property
    def info(self) -> ModelInfo:
        """What it says of itself: its version, the views it looks at, and more where it differs from the usual."""
        ...

    @property
    def judge(self) -> Judge[Q, R]:
        """Who answers its queries."""
        ...

    def start(self, task: str, references: References) -> Fold[Q, R]:
        """Return the fold of a new episode.

        Raises:
            ConfigError: If a reference that it needs is missing.
        """
        ...


def observation_id(observation: Observation) -> int:
    """Return the index of an observation in its episode, as its frames carry it."""
    return max(frame.id for frame in observation.frames.values())


def views_of(observation: Observation, cameras: Sequence[str]) -> tuple[Image, ...]:
    """Return the pictures of these cameras, in their order.

    Raises:
        ShapeError: If a view is missing.
    """
    absent = [name for name in cameras if name not in observation.frames]
    if absent:
        raise ShapeError(
            f"The reward model needs a view that is missing: {absent}",
            seen=sorted(observation.frames),
            allowed=list(cameras),
            remedy="Name the views as the model knows them: --camera_map '{MODEL: DATASET}', or in watch --cameras",
        )
    return tuple(observation.frames[name].rgb for name in cameras)


def state_of(observation: Observation, size: int) -> NDArray[np.float32]:
    """Return the state, float32 (size,).

    Raises:
        ShapeError: If it has another size.
    """
    if observation.state.size != size:
        raise ShapeError(
            "The state has another size than the reward model was trained with",
            seen=observation.state.size,
            allowed=size,
        )
    return observation.state


def missing(frame_id: int, reason: str, *, version: str) -> Score:
    """Return the score of an observation that has none; ``reason`` goes where the reply would be."""
    return Score(frame_id=frame_id, progress=0.0, raw=math.nan, valid=False, version=version, reply=reason)


def unanswered(score: Score) -> bool:
    """Return whether a score is missing for want of an answer: asked another time, the same judge may give one."""
    return not score.valid and score.reply.endswith(NO_REPLY)


def progress_of(scores: Sequence[Score]) -> NDArray[np.float32]:
    """Return progress along an episode, an unreadable score holding the last one and 0 before the first, float32 (n,)."""
    valid = [index for index, score in enumerate(scores) if score.valid]
    progress = np.array([scores[index].progress for index in valid], np.float32)
    return held(progress, np.array(valid, np.int64), len(scores))


def score_episode[Q, R](
    model: RewardModel[Q, R],
    task: str,
    observations: Sequence[Observation],
    *,
    references: References | None = None,
    stride: int = 1,
    max_batch: int = 64,
    judge: Judge[Q, R] | None = None,
) -> list[Score]:
    """Score a finished episode offline: every ``stride``-th observation and the last one, in order.

    The plain form of what the reward server's label lane does, with equal results. Errors of model and judge are not
    contained here.

    Args:
        model: The reward model.
        task: The instruction in words.
        observations: All T + 1 observations, in order.
        references: Passed to the model.
        stride: Distance between scored observations.
        max_batch: Most queries per call of the judge.
        judge: Who answers; the model's own unless given.

    Returns:
        One score per scored observation.
    """
    fold = model.start(task, references or {})
    asked: list[tuple[int, list[Q]]] = []
    for index, observation in enumerate(observations):
        if index % stride == 0 or index == len(observations) - 1:
            asked.append((observation_id(observation), fold.queries(observation)))
        else:
            fold.skip(observation)
    flat = [query for _, queries in asked for query in queries]
    replies = iter([r for part in batched(flat, max_batch) for r in (judge or model.judge).answer(part)])
    return [fold.fold(index, [next(replies) for _ in queries]) for index, queries in asked]
