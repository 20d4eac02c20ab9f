"""Lessons for a judge of hops: pairs of moments of a demonstration, and the hop between them.

Source: Robo-Dopamine, arXiv 2512.23703, sections 3.1, 3.2 and B.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from roborl.rewards.adaptation.lessons import FilmedEpisode, Sample, Spot, TimeGuess, choose_task
from roborl.rewards.dopamine import DopamineModel, blank_goal
from roborl.rewards.dopamine_question import ask_hop
from roborl.rewards.fusion import Perspective, hop_between
from roborl.rewards.hop_pairs import PairConfig, cut_states, draw_pairs, swap_references
from roborl.rewards.hop_replies import hop_of, write_hop
from roborl.rewards.judges.queries import VlmQuery, VlmReply
from roborl.types import Image


class HopLessons:
    """Draws pairs of moments, with all hops and distances in time met equally often.

    Failures teach nothing here: their progress is not known.

    Args:
        model: The judge of hops, with its words and cameras.
        pairs: How pairs are drawn.
    """

    name = "dopamine"

    def __init__(self, model: DopamineModel, pairs: PairConfig) -> None:
        self.model = model
        self.judge = model.judge
        self.config = model.config
        self.cameras = model.info.cameras
        self.prompt_sha256 = model.prompt.sha256
        self._pairs = pairs

    def samples(self, episodes: Sequence[FilmedEpisode], guess: TimeGuess, seed: int) -> list[Sample]:
        """Draw pairs of every success, and whose first and last picture stand as reference beside each."""
        rng = np.random.default_rng([seed, 0])
        drawn = []
        for place, episode in enumerate(episodes):
            if not episode.success:
                continue
            states = cut_states(episode.keyframes, self._pairs.interval_frames)
            pairs = draw_pairs(states, self._pairs, rng)
            guessed = hop_between(guess.progress(pairs.before), guess.progress(pairs.after))
            rows = zip(pairs.before, pairs.after, pairs.hop, guessed, strict=True)
            drawn += [(place, int(b), int(a), float(hop), float(g)) for b, a, hop, g in rows]
        same_task = ["\n".join(sorted(episodes[row[0]].tasks)) for row in drawn]
        references = swap_references([row[0] for row in drawn], same_task, self._pairs, rng)
        return [
            Sample(
                spots=self._spots(episodes, place, int(reference), before, after),
                ask=self._asker(choose_task(episodes[place].tasks, rng)),
                answer=write_hop(hop),
                value=hop,
                guess=guessed,
            )
            for (place, before, after, hop, guessed), reference in zip(drawn, references, strict=True)
        ]

    def relabelled(self, sample: Sample, pictures: Sequence[Image]) -> Sample:
        """Return the sample as it is: pairs that show no movement are drawn as such."""
        return sample

    def read(self, reply: VlmReply) -> float | None:
        """Return the hop of a reply, its expected value where the reply comes with probabilities."""
        hop = hop_of(reply)
        return None if hop is None else hop.value

    def wording(self) -> tuple[str, str]:
        """Return the words as a text file."""
        return "wording.txt", self.model.prompt.template

    def _spots(
        self, episodes: Sequence[FilmedEpisode], place: int, reference: int, before: int, after: int
    ) -> tuple[Spot, ...]:
        config, own, told = self.config, episodes[place].keyframes, episodes[reference].keyframes
        views = (config.front, config.left_wrist or config.front, config.right_wrist or config.front)
        goal = (reference, config.front, told[-1])
        asks_from_goal = before == own[-1] and Perspective.BACKWARD in config.fusion.perspectives
        return (
            (reference, config.front, told[0]),
            goal,
            # As the backward perspective asks: the goal is one picture, whatever the number of cameras.
            *([goal] * 3 if asks_from_goal else [(place, view, before) for view in views]),
            *[(place, view, after) for view in views],
        )

    def _asker(self, task: str) -> Callable[[Sequence[Image]], VlmQuery]:
        return partial(_ask, self.model, tuple(self.model.prompt.fill(task)))


def _ask(model: DopamineModel, words: tuple[str, ...], pictures: Sequence[Image]) -> VlmQuery:
    start, goal, b0, b1, b2, a0, a1, a2 = pictures
    config = model.config
    return ask_hop(
        words,
        (start, goal if config.goal else blank_goal()),
        (b0, b1, b2),
        (a0, a1, a2),
        max_tokens=config.max_tokens,
        probabilities=config.use_probabilities,
    )
