"""Lessons for a judge of whole videos: successes cut short, and the score of how far they had come.

Source: Lee et al., "RoboReward", arXiv 2601.00675: a success scores 5, its first 10, 30, 50 and 70 % score 1 to 4. Where
sub-tasks are marked, those shares are of the progress and not of the time; else they are of the time until the task is
done, which :func:`until_done` has to be told.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from roborl.errors import ConfigError
from roborl.rewards.adaptation.lessons import FilmedEpisode, Sample, TimeGuess, choose_task, other_task
from roborl.rewards.judges.queries import VlmQuery, VlmReply, expected_value
from roborl.rewards.parsing import parse_score
from roborl.rewards.roboreward import (
    RoboRewardModel,
    ask_score,
    frame_grid,
    write_score,
)
from roborl.rewards.roboreward_config import LEVELS
from roborl.types import Image

log = logging.getLogger(__name__)

_SHARES = (0.1, 0.3, 0.5, 0.7, 1.0)
_DUMMY = np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How videos are drawn from one episode."""

    # Videos per score and success.
    videos: int = 4
    # How far the progress at the end of a video may lie from its score's, in [0, 0.1).
    jitter: float = 0.05
    # Videos per success that are shown with the instruction of another task, where there is one; they score 1.
    wrong_task: int = 2
    # Share of an episode after which its task is done, where no sub-tasks are marked, in (0, 1].
    onset: float = 1.0

    def __post_init__(self) -> None:
        counts_hold = self.videos >= 1 and self.wrong_task >= 0
        if not (counts_hold and 0.0 <= self.jitter < 0.1 and 0.0 < self.onset <= 1.0):
            raise ConfigError(
                "Videos cannot be drawn in this way",
                seen=f"videos {self.videos}, jitter {self.jitter}, wrong_task {self.wrong_task}, onset {self.onset}",
                allowed="videos ≥ 1, jitter in [0, 0.1), wrong_task ≥ 0, onset in (0, 1]",
            )


def until_done(episodes: Sequence[FilmedEpisode], onset: float) -> list[FilmedEpisode]:
    """Return the episodes, the successes without marked sub-tasks done at a share of their time.

    Warns of those where that share is 1: what is taught as the beginning of a task may show it done.

    Args:
        episodes: As they were read.
        onset: Share of such an episode after which its task is done, in (0, 1].
    """
    unmarked = [e.success and e.level is None and e.keyframes == (0, e.count - 1) for e in episodes]
    if any(unmarked) and onset == 1.0:
        log.warning(
            "%d of %d episodes have no marked sub-tasks, and are taught to be done with their last frame. Where one is done"
            " earlier, a video of the finished task is taught as a lower score: mark the sub-tasks with roborl annotate, or"
            " set --samples.onset to the share of an episode after which its task is done",
            sum(unmarked),
            len(episodes),
        )
    return [
        replace(e, keyframes=(0, max(1, round(onset * (e.count - 1))))) if bare else e
        for e, bare in zip(episodes, unmarked, strict=True)
    ]


class ScoreLessons:
    """Draws videos that end where their score is known.

    A failure teaches the score of the progress it reached, never 5; one of unknown progress teaches nothing. A graded video
    teaches its grade, and nothing else is made of it.

    Args:
        model: The judge of videos, with its words.
        camera: The view it is shown.
        videos: How they are drawn.
    """

    name = "roboreward"

    def __init__(self, model: RoboRewardModel, camera: str, videos: ScoreConfig) -> None:
        self.model = model
        self.judge = model.judge
        self.config = model.config
        self.cameras = (camera,)
        self.prompt_sha256 = model.prompt.sha256
        self._videos = videos

    def samples(self, episodes: Sequence[FilmedEpisode], guess: TimeGuess, seed: int) -> list[Sample]:
        """Draw videos of every episode whose score is known."""
        rng = np.random.default_rng([seed, 1])
        found: list[Sample] = []
        for place, episode in enumerate(episodes):
            whole = episode.count - 1
            if episode.level is not None:
                found.append(self._sample(place, whole, episode.tasks[0], episode.level, guess))
            elif episode.success:
                for score, share in zip(LEVELS, _SHARES, strict=True):
                    for _ in range(self._videos.videos):
                        away = rng.uniform(-self._videos.jitter, self._videos.jitter)
                        end = whole if share == 1.0 else max(1, episode.index_at(share + float(away)))
                        found.append(self._sample(place, end, choose_task(episode.tasks, rng), score, guess))
                for _ in range(self._videos.wrong_task):
                    task = other_task(episode, episodes, rng)
                    if task is not None:
                        found.append(self._sample(place, whole, task, LEVELS[0], guess))
            elif episode.reached is not None:
                score = min(score_of(episode.reached), LEVELS[-2])
                found.append(self._sample(place, whole, choose_task(episode.tasks, rng), score, guess))
        return found

    def relabelled(self, sample: Sample, pictures: Sequence[Image]) -> Sample:
        """Return the sample as it is."""
        return sample

    def read(self, reply: VlmReply) -> float | None:
        """Return the score of a reply: the expected one of its probabilities, else the one written."""
        if reply.probabilities is None:
            return parse_score(reply.text)
        return expected_value(LEVELS, reply.probabilities)[0] if reply.mass >= self.config.min_mass else None

    def wording(self) -> tuple[str, str]:
        """Return the words as a text file."""
        return "wording.txt", self.model.prompt.template

    def _sample(self, place: int, end: int, task: str, score: int, guess: TimeGuess) -> Sample:
        grid = frame_grid(self.config)
        for index in range(end + 1):
            grid.add(index, _DUMMY)
        indices, _ = grid.video()
        (words,) = self.model.prompt.fill(task)
        return Sample(
            spots=tuple((place, self.cameras[0], index) for index in indices),
            ask=partial(_ask, self.model, words, indices),
            answer=write_score(score),
            value=float(score),
            guess=float(score_of(float(guess.progress(end)))),
        )


def score_of(progress: float) -> int:
    """Return the score whose videos end nearest to some progress.

    Example:
        >>> [score_of(p) for p in (0.0, 0.19, 0.21, 0.5, 0.8, 0.9)]
        [1, 1, 2, 3, 4, 5]
    """
    return LEVELS[int(np.argmin([abs(progress - share) for share in _SHARES]))]


def _ask(model: RoboRewardModel, words: str, indices: Sequence[int], pictures: Sequence[Image]) -> VlmQuery:
    return ask_score(words, indices, pictures, model.config)
