"""Lessons for a pair critic: two pictures of an episode, both ways round, and the share of the remaining way between them.

Beside pairs that move there are pairs that do not, pairs shown with another task's instruction, which count as no change,
and single pictures of which it is known whether the task is done.

Source: VLAC, arXiv 2509.15937, section on training data. The reply to a pair the other way round is the same number with
the other sign, which the recurrence ``inverse`` undoes exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from roborl.errors import ConfigError
from roborl.rewards.adaptation.lessons import (
    FilmedEpisode,
    Sample,
    Spot,
    TimeGuess,
    choose_task,
    other_task,
)
from roborl.rewards.fusion import hop_between
from roborl.rewards.judges.queries import VlmQuery, VlmReply
from roborl.rewards.recurrences import sample_reference
from roborl.rewards.vlac.config import DoneQuestion
from roborl.rewards.vlac.model import Anchors, VlacModel, ask_change, ask_done
from roborl.rewards.vlac.replies import NO, YES, read_change, read_done, write_percent
from roborl.types import Image

_LARGEST = 0.99  # a fall of everything cannot be undone by the recurrence
_NOT_YET, _DONE = (
    0.8,
    0.95,
)  # progress below the one is not done, from the other on it is; between, nobody asks


@dataclass(frozen=True, kw_only=True)
class ChangeConfig:
    """How pairs are drawn from one episode."""

    # Groups of four pairs per success and camera: a short step and a long one, each both ways round.
    groups: int = 60
    # Observations of a short step.
    step_frames: int = 2
    # Share of the pairs that are shown with the instruction of another task, where there is one, in [0, 1].
    wrong_task: float = 0.05
    # Two pictures that differ in less than this share of their values show no change, in [0, 1].
    still: float = 0.01
    # Pictures per success that show the task done, and as many that show it not done; one of each failure's end.
    done: int = 4

    def __post_init__(self) -> None:
        if (
            min(self.groups, self.step_frames) < 1
            or self.done < 0
            or not all(0 <= share <= 1 for share in (self.wrong_task, self.still))
        ):
            raise ConfigError(
                "Pairs cannot be drawn in this way",
                seen=f"groups {self.groups}, step_frames {self.step_frames}, done {self.done},"
                f" wrong_task {self.wrong_task}, still {self.still}",
                allowed="groups and step_frames ≥ 1, done ≥ 0, shares in [0, 1]",
            )


class ChangeLessons:
    """Draws pairs of pictures and pictures of the end.

    Args:
        model: The critic, with its words and cameras.
        pairs: How they are drawn.
    """

    name = "vlac"

    def __init__(self, model: VlacModel, pairs: ChangeConfig) -> None:
        self.model = model
        self.judge = model.judge
        self.config = model.config
        self.cameras = model.info.cameras
        self.prompt_sha256 = model.wording.sha256
        self._pairs = pairs

    def samples(self, episodes: Sequence[FilmedEpisode], guess: TimeGuess, seed: int) -> list[Sample]:
        """Draw pairs of every success, and pictures of every episode's end where the critic is asked about it."""
        rng = np.random.default_rng([seed, 2])
        found: list[Sample] = []
        for place, episode in enumerate(episodes):
            same = [i for i, e in enumerate(episodes) if e.success and set(e.tasks) & set(episode.tasks)]
            if not same:
                continue  # a failure of a task that nobody has shown
            others = [i for i in same if i != place] or same
            if episode.success:
                for camera in self.cameras:
                    for _ in range(self._pairs.groups):
                        reference = others[int(rng.integers(len(others)))]
                        for i, j in self._group(episode, rng):
                            found.append(self._change(episodes, place, reference, camera, i, j, guess, rng))
            if self.config.done is not DoneQuestion.OFF:
                reference = others[int(rng.integers(len(others)))]
                found += [
                    self._done(episodes, place, reference, index, guess, rng)
                    for index in self._ends(episode, rng)
                ]
        return found

    def relabelled(self, sample: Sample, pictures: Sequence[Image]) -> Sample:
        """Return the sample with the answer "no change" where its two pictures look the same."""
        if sample.compared is None:
            return sample
        one, other = (pictures[place] for place in sample.compared)
        if one.shape != other.shape or float(np.mean(one != other)) >= self._pairs.still:
            return sample
        return replace(sample, answer=write_percent(0.0), value=0.0)

    def read(self, reply: VlmReply) -> float | None:
        """Return what a reply states: the probability of done, or a change in [-1, 1]."""
        if reply.probabilities is not None:
            return read_done(reply, least_mass=self.config.done_mass)
        change = read_change(reply, probabilities=self.config.use_probabilities)
        return None if change is None else change.mean

    def wording(self) -> tuple[str, str]:
        """Return the words as the JSON file that the critic's settings may name."""
        return "wording.json", self.model.wording.as_json()

    def _group(self, episode: FilmedEpisode, rng: np.random.Generator) -> list[tuple[int, int]]:
        first, last = episode.keyframes[0], episode.keyframes[-1]
        i = int(rng.integers(first, last))
        near = min(i + self._pairs.step_frames, last)
        far = int(rng.integers(i + 1, last + 1))
        return [(i, near), (near, i), (i, far), (far, i)]

    def _ends(self, episode: FilmedEpisode, rng: np.random.Generator) -> list[int]:
        """Return observations to ask about: of a success early and late ones, of a failure the last."""
        if not episode.success:
            return [episode.count - 1]
        early, late = rng.uniform(0.0, _NOT_YET, self._pairs.done), rng.uniform(_DONE, 1.0, self._pairs.done)
        indices = [episode.index_at(float(p)) for p in (*early, *late)]
        kept = [float(episode.progress(i)) for i in indices]
        return [i for i, p in zip(indices, kept, strict=True) if p < _NOT_YET or p >= _DONE]

    def _change(
        self,
        episodes: Sequence[FilmedEpisode],
        place: int,
        reference: int,
        camera: str,
        i: int,
        j: int,
        guess: TimeGuess,
        rng: np.random.Generator,
    ) -> Sample:
        episode = episodes[place]
        wrong = other_task(episode, episodes, rng) if rng.random() < self._pairs.wrong_task else None
        value = 0.0 if wrong is not None else antisymmetric(*map(float, episode.progress([i, j])))
        told = self._trajectory(episodes[reference], reference, camera)
        own = [(place, camera, 0)] if told else []
        return Sample(
            spots=(*told, *own, (place, camera, i), (place, camera, j)),
            ask=partial(_ask_change, self.model, wrong or choose_task(episode.tasks, rng), len(told)),
            answer=write_percent(value),
            value=value,
            guess=antisymmetric(*map(float, guess.progress([i, j]))),
            compared=(len(told) + len(own), len(told) + len(own) + 1),
        )

    def _done(
        self,
        episodes: Sequence[FilmedEpisode],
        place: int,
        reference: int,
        index: int,
        guess: TimeGuess,
        rng: np.random.Generator,
    ) -> Sample:
        episode, camera = episodes[place], self.cameras[0]
        done = episode.success and float(episode.progress(index)) >= _DONE
        goal = [(reference, camera, episodes[reference].keyframes[-1])]
        shown = goal if self.config.done is DoneQuestion.GOAL else []
        return Sample(
            spots=(*shown, (place, camera, index)),
            ask=partial(_ask_done, self.model, choose_task(episode.tasks, rng)),
            answer=YES if done else NO,
            value=float(done),
            guess=float(guess.progress(index) >= _DONE),
        )

    def _trajectory(self, episode: FilmedEpisode, place: int, camera: str) -> list[Spot]:
        if not self.config.reference_frames:
            return []
        first, last = episode.keyframes[0], episode.keyframes[-1]
        places = sample_reference(last - first + 1, self.config.reference_frames)
        return [(place, camera, first + index) for index in places]


def antisymmetric(before: float, after: float) -> float:
    """Return the change that a critic says between two states, and minus the same for them the other way round.

    Example:
        >>> antisymmetric(0.5, 0.75), antisymmetric(0.75, 0.5), antisymmetric(0.0, 1.0)
        (0.5, -0.5, 0.99)
    """
    low, high = min(before, after), max(before, after)
    size = min(float(hop_between(low, high)), _LARGEST)
    return size if after >= before else -size


def _ask_change(model: VlacModel, task: str, told: int, pictures: Sequence[Image]) -> VlmQuery:
    squeezed = [model.squeeze(picture) for picture in pictures]
    trajectory, rest = tuple(squeezed[:told]), squeezed[told:]
    context = Anchors(trajectory=trajectory).context(rest[0])
    return ask_change(model, task, context, rest[-2], rest[-1])


def _ask_done(model: VlacModel, task: str, pictures: Sequence[Image]) -> VlmQuery:
    squeezed = [model.squeeze(picture) for picture in pictures]
    return ask_done(model, task, squeezed[0] if len(squeezed) > 1 else None, squeezed[-1])
