"""Shows videos to a reward model and takes down what it says and how long it takes, as a benchmark wants it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.errors import RoborlError
from roborl.rewards.batching import BatchAsker
from roborl.rewards.metrics import negative_rate, value_order_correlation
from roborl.rewards.model import Judge, JudgeDown, JudgeSilent, References, RewardModel, missing
from roborl.rewards.shaping import held
from roborl.types import Observation, Score

log = logging.getLogger(__name__)

# A judge that is away is asked again after each of these.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
_REASON = 160  # characters of a reason: a reply may be quoted in it


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """A model's progress along one video.

    Attributes:
        frames: Length of the video, T + 1.
        scored: Places that were asked about, increasing, int (n,).
        progress: Progress there, NaN where the answer could not be read, float64 (n,).
        done: Whether the model called the task done at any of them; None where it does not say.
        written: The number that the answer about the last of them states for a level; None where there is none.
    """

    frames: int
    scored: NDArray[np.int64]
    progress: NDArray[np.float64]
    done: bool | None
    written: float | None = None

    @property
    def read(self) -> NDArray[np.float64]:
        """Progress at the places whose answer could be read."""
        return np.asarray(self.progress[~np.isnan(self.progress)])

    @property
    def last(self) -> float | None:
        """Progress at the last place; None where the answer could not be read."""
        return None if np.isnan(self.progress[-1]) else float(self.progress[-1])

    @property
    def order(self) -> float:
        """Value-order correlation; 0 where an answer could not be read, or there are less than two.

        Source: Robo-Dopamine (arXiv 2512.23703), whose evaluation gives a video with a parse error 0.
        """
        whole = self.read.size == self.scored.size > 1
        return value_order_correlation(self.progress) if whole else 0.0

    @property
    def falling(self) -> float:
        """Share of steps that fall, in [0, 1]; an answer that could not be read counts as a fall."""
        if self.read.size < 2:
            return 1.0
        share = self.read.size / self.scored.size
        return share * negative_rate(self.read) + 1.0 - share

    def held(self) -> NDArray[np.float64]:
        """Return the progress at every frame as a learner sees it: 0 before the first score, the last one after."""
        known = ~np.isnan(self.progress)
        return held(self.progress[known], self.scored[known], self.frames)

    def part(self, first: int, last: int) -> Curve:
        """Return the piece between two frames, both included."""
        inside = (self.scored >= first) & (self.scored <= last)
        return Curve(
            frames=last - first + 1,
            scored=self.scored[inside] - first,
            progress=self.progress[inside],
            done=self.done,
        )


class _Timed(Judge[Any, Any]):
    """A judge with a stop watch."""

    def __init__(self, judge: Judge[Any, Any]) -> None:
        self._judge = judge
        self.calls: list[tuple[float, int]] = []

    @property
    def at_once(self) -> int | None:
        return self._judge.at_once

    def answer(self, queries: Sequence[Any]) -> list[Any]:
        began = time.perf_counter()
        replies = list(self._judge.answer(queries))
        self.calls.append(((time.perf_counter() - began) * 1e3, len(queries)))
        return replies


class Viewer:
    """Shows videos to one model. What its judge or its fold cannot do makes a score missing and is counted.

    Args:
        model: Who looks.
        max_batch: Most queries per call of the judge.

    Attributes:
        model: Who looks.
        observations: Scores asked for so far, those of refused videos not among them.
        videos: Videos shown so far.
        refusals: One error for each video that the model refused.
        reasons: Why scores could not be read, and how many for each.
    """

    def __init__(self, model: RewardModel[Any, Any], *, max_batch: int) -> None:
        self.model = model
        self.observations = 0
        self.videos = 0
        self.refusals: list[RoborlError] = []
        self.reasons: Counter[str] = Counter()
        self._judge = _Timed(model.judge)
        self._asker = BatchAsker[Any, Any](self._judge, max_batch)

    def show(
        self, task: str, video: Sequence[Observation], scored: Collection[int], references: References
    ) -> Curve:
        """Show a video from its first frame to its last; the ids of its frames are their places.

        A model that refuses a video, for lack of a view or a reference, has no readable score on it.

        Args:
            task: The instruction in words.
            video: The observations.
            scored: Places to ask about; the model sees the others as well.
            references: What the model is told besides.

        Raises:
            JudgeDown: If its judge is away for good: that says nothing of the model.
        """
        self.videos += 1
        places, written = sorted(scored), None
        try:
            scores, written = self._watch(task, video, places, references)
        except JudgeDown:
            raise
        except RoborlError as error:
            self.refusals.append(error)
            scores = [
                missing(place, f"refused: {error}", version=self.model.info.version) for place in places
            ]
        self.reasons.update(score.reply[:_REASON] for score in scores if not score.valid)
        said = [score.done for score in scores if score.done is not None]
        return Curve(
            frames=len(video),
            scored=np.array(places, np.int64),
            progress=np.array([score.progress if score.valid else np.nan for score in scores]),
            done=any(said) if said else None,
            written=written,
        )

    def latency(self) -> dict[str, float]:
        """Return median and 95th percentile of a call of the judge, ms, the mean batch, and ms per score."""
        if not self._judge.calls:
            return dict.fromkeys(("query_ms", "query_p95_ms", "batch", "score_ms"), float("nan"))
        ms, sizes = np.array(self._judge.calls).T
        median, p95 = np.quantile(ms, [0.5, 0.95])
        return {
            "query_ms": float(median),
            "query_p95_ms": float(p95),
            "batch": float(sizes.mean()),
            "score_ms": float(ms.sum()) / self.observations,
        }

    @property
    def faults(self) -> dict[str, int]:
        """Failed calls of the judge by name of the fault."""
        return dict(self._asker.faults)

    def _watch(
        self, task: str, video: Sequence[Observation], places: Sequence[int], references: References
    ) -> tuple[list[Score], float | None]:
        fold, wanted = self.model.start(task, references), set(places)
        asked: list[list[Any]] = []
        for place, observation in enumerate(video):
            if place in wanted:
                asked.append(list(fold.queries(observation)))
            else:
                fold.skip(observation)
        replies = iter(self._ask([query for queries in asked for query in queries]))
        self.observations += len(places)
        scores = [
            self._score(fold, place, [next(replies) for _ in queries])
            for place, queries in zip(places, asked, strict=True)
        ]
        return scores, fold.written

    def _ask(self, queries: Sequence[Any]) -> list[Any]:
        """Return a reply per query; of a judge that goes away for a moment it is asked again, as the label lane does."""
        replies = self._asker.ask(queries)
        for pause_s in _PAUSES_S:
            away = [place for place, reply in enumerate(replies) if isinstance(reply, JudgeDown)]
            if not away:
                return replies
            log.warning("The judge is away, it is asked again in %g s: %s", pause_s, replies[away[0]])
            time.sleep(pause_s)
            for place, reply in zip(away, self._asker.ask([queries[place] for place in away]), strict=True):
                replies[place] = reply
        # One that is there and silent may be so because of the question, which then has no answer.
        replies = [None if isinstance(reply, JudgeSilent) else reply for reply in replies]
        lost = next((reply for reply in replies if isinstance(reply, JudgeDown)), None)
        if lost is not None:
            raise lost
        return replies

    def _score(self, fold: Any, place: int, replies: list[Any]) -> Score:
        try:
            score: Score = fold.fold(place, replies)
        except Exception as error:  # a fold is a plug-in: a reply that it chokes on is a missing score
            log.warning("the replies on frame %d cannot be read: %s", place, error)
            score = missing(place, f"cannot be read: {type(error).__name__}", version=self.model.info.version)
        return score
