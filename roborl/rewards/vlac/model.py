"""The critic as a reward model: pairs of pictures asked about both ways round, and a value that their changes make.

Each scored observation is compared with the last *anchor*, at first the beginning of the episode; once far enough from
it, it becomes the anchor itself. The value of an observation is that of its anchor, advanced by the change between the
two. The first observation has progress 0 by definition and is not asked about.

Where the replies to a pair are lost, cannot be read or contradict each other, the score is missing. If that observation
was to become the anchor, it does so with the value of the anchor before: a lost hop counts as none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures

from roborl.errors import ConfigError
from roborl.rewards.judges.queries import Part, VlmJudge, VlmQuery, VlmReply
from roborl.rewards.model import NO_REPLY, Fold, References, missing, observation_id, views_of
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.recurrences import (
    Abstention,
    Change,
    Value,
    advance_with_doubt,
    agree,
    quieten,
    sample_reference,
    two_sided,
)
from roborl.rewards.references import take_reference
from roborl.rewards.settings import described, version_of
from roborl.rewards.verdicts import DoneSignal
from roborl.rewards.vlac.config import DoneQuestion, VlacConfig
from roborl.rewards.vlac.replies import NO, YES, read_change, read_done
from roborl.rewards.vlac.wording import OUR_WORDING, VlacWording, weave
from roborl.types import Image, Observation, Score

_ALTERNATIVES = 10  # as many as the critic's authors look at


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Anchors:
    """What the critic is told about one view beside the pair.

    Attributes:
        trajectory: Pictures of a demonstration, as many as are shown; empty where none is.
        goal: A picture of the goal, None where it is not shown.
    """

    trajectory: tuple[Image, ...] = ()
    goal: Image | None = None

    def context(self, first: Image) -> tuple[Image, ...]:
        """Return what stands before a pair: the demonstration and the first picture of the episode, or nothing."""
        return (*self.trajectory, first) if self.trajectory else ()


def ask_change(
    model: VlacModel, task: str, context: tuple[Image, ...], earlier: Image, later: Image
) -> VlmQuery:
    """Return the question for a change, the same in watching as in training.

    Args:
        model: Whose words and settings.
        task: The instruction.
        context: Pictures before the pair, see :meth:`Anchors.context`.
        earlier: The first picture of the pair.
        later: The second.
    """
    config, words = model.config, model.wording
    text = (words.context(len(context) - 1) if context else "") + words.pair
    parts = weave(text, (*context, earlier, later), task)
    return VlmQuery(
        parts=parts,
        system=words.system,
        prefix=_before_picture(parts, len(context)),
        max_tokens=config.max_tokens,
        alternatives=_ALTERNATIVES if config.use_probabilities else 0,
    )


def ask_done(model: VlacModel, task: str, goal: Image | None, now: Image) -> VlmQuery:
    """Return the question whether the task is done, the same in watching as in training.

    Args:
        model: Whose words.
        task: The instruction.
        goal: A picture of the goal, None where it is not shown.
        now: The picture asked about.
    """
    words = model.wording
    if goal is None:
        parts = weave(words.done, (now,), task)
    else:
        parts = weave(words.done_goal, (goal, now), task)
    return VlmQuery(
        parts=parts,
        system=words.system,
        prefix=_before_picture(parts, 0 if goal is None else 1),
        max_tokens=2,
        choices=(YES, NO),
    )


class VlacFold(Fold[VlmQuery, VlmReply | None]):
    """The memory of one episode: its first pictures, the anchor and its value.

    Args:
        model: Whose questions to ask.
        task: The instruction.
        anchors: What is told about each view, in the order of the model's cameras.
    """

    def __init__(self, model: VlacModel, task: str, anchors: Sequence[Anchors]) -> None:
        self._model = model
        self._task = task
        self._anchors = anchors
        self._contexts: tuple[tuple[Image, ...], ...] = ()
        self._anchor: tuple[int, tuple[Image, ...]] | None = None
        self._moves: dict[int, bool] = {}
        self._value = Value()
        self._abstention = Abstention(model.config.abstain_pairs)
        self._done = DoneSignal(model.config.done_votes)

    def queries(self, observation: Observation) -> list[VlmQuery]:
        """Return the queries of each view, earlier picture first and then the other way round, and last that of "done".

        Raises:
            ShapeError: If a view is missing.
        """
        now = self._model.views(observation)
        index = observation_id(observation)
        if self._anchor is None:
            self._begin(index, now)
            return []
        config = self._model.config
        anchor, before = self._anchor
        asked: list[VlmQuery] = []
        for context, earlier, later in zip(self._contexts, before, now, strict=True):
            asked.append(ask_change(self._model, self._task, context, earlier, later))
            if config.two_sided:
                asked.append(ask_change(self._model, self._task, context, later, earlier))
        if config.done is not DoneQuestion.OFF:
            asked.append(ask_done(self._model, self._task, self._anchors[0].goal, now[0]))
        self._moves[index] = moves = index - anchor >= config.hop_frames
        if moves:
            self._anchor = index, now
        return asked

    def skip(self, observation: Observation) -> None:
        """Remember the first observation; others play no part.

        Raises:
            ShapeError: As :meth:`queries`.
        """
        if self._anchor is None:
            self._begin(observation_id(observation), self._model.views(observation))

    def fold(self, observation_id: int, replies: Sequence[VlmReply | None]) -> Score:
        """Advance the value by what the views say together."""
        model, config = self._model, self._model.config
        asks_done = config.done is not DoneQuestion.OFF
        if observation_id not in self._moves:  # the first one
            return self._score(observation_id, Value(), done=None, said="")
        moves = self._moves.pop(observation_id)
        *pairs, answer = [*replies] if asks_done else [*replies, None]
        done = self._read_done(answer) if asks_done else None
        said = _for_people(pairs, answer)
        change, why = self._read_pairs(pairs)
        abstains = self._abstention.see(_written(pairs))
        if change is None:
            unanswered = f"; {NO_REPLY}" if any(reply is None for reply in pairs) else ""
            return missing(observation_id, f"{why}: {said}{unanswered}", version=model.info.version)
        quiet = quieten(change.mean, rise=config.quiet_rise, fall=config.quiet_fall)
        value = advance_with_doubt(
            self._value, Change(mean=quiet, error=change.error), config.recurrence, floor=config.floor
        )
        if moves:
            self._value = value
        if abstains:
            return missing(
                observation_id, f"abstains, nothing but 0 so far: {said}", version=model.info.version
            )
        timings = next((dict(reply.timings_ms) for reply in replies if reply is not None), {})
        return self._score(observation_id, value, done=done, said=said, timings=timings)

    def _begin(self, index: int, now: tuple[Image, ...]) -> None:
        self._anchor = index, now
        self._contexts = tuple(told.context(first) for told, first in zip(self._anchors, now, strict=True))

    def _read_done(self, answer: VlmReply | None) -> bool | None:
        least = self._model.config.done_mass
        return self._done.see(None if answer is None else read_done(answer, least_mass=least))

    def _read_pairs(self, pairs: Sequence[VlmReply | None]) -> tuple[Change | None, str]:
        """Return the change that all looks make together, and why there is none."""
        config = self._model.config
        read: list[Change] = []
        for reply in pairs:
            change = None if reply is None else read_change(reply, probabilities=config.use_probabilities)
            if change is None:
                return None, "a reply is missing or says no number"
            read.append(change)
        looks = [change.mean for change in read]
        together = two_sided(looks[::2], looks[1::2]) if config.two_sided else agree(looks)
        if together.error > config.contradiction:
            return None, "the looks contradict each other"
        error = float(np.hypot(together.error, np.sqrt(np.mean([change.error**2 for change in read]))))
        return Change(mean=together.mean, error=min(error, 1.0)), ""

    def _score(
        self,
        index: int,
        value: Value,
        *,
        done: bool | None,
        said: str,
        timings: dict[str, float] | None = None,
    ) -> Score:
        return Score(
            frame_id=index,
            progress=min(max(value.mean, 0.0), 1.0),
            raw=value.mean,
            spread=value.spread,
            done=done,
            version=self._model.info.version,
            reply=said,
            timings_ms=timings or {},
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class VlacModel:
    """A pair critic as a reward model.

    Attributes:
        judge: The network.
        config: What it is shown and how its replies are used.
        wording: The texts of its questions.
        info: It takes pictures of any size, and resizes with the filter of the network's training.
    """

    judge: VlmJudge
    config: VlacConfig = field(default_factory=VlacConfig)
    wording: VlacWording = OUR_WORDING
    info: ModelInfo = field(init=False, repr=False)

    def __post_init__(self) -> None:
        about = described(
            f"vlac-{self.wording.origin}",
            self.config,
            judge=self.judge.identity,
            prompt=self.wording.sha256,
        )
        info = ModelInfo(
            version=version_of(about),
            cameras=self.config.cameras,
            says_done=self.config.done is not DoneQuestion.OFF,
            about=about,
            observation_hz=self.config.observation_hz,
            looks_back=True,
        )
        object.__setattr__(self, "info", info)

    def start(self, task: str, references: References) -> VlacFold:
        """Return the fold of a new episode.

        Args:
            task: The instruction in words.
            references: For each camera ``demo/<camera>`` uint8 (t, h, w, 3), a successful demonstration by robot or
                person, where pictures of one are shown. ``goal/<first camera>`` uint8 (h, w, 3) where "done" is asked
                beside a goal; without it the demonstration's last picture serves.

        Raises:
            ConfigError: If one that is needed is missing or has another form.
        """
        return VlacFold(self, task, self.anchors(references))

    def anchors(self, references: References) -> list[Anchors]:
        """Return what is told about each view, in the order of the cameras; see :meth:`start`."""
        anchors = []
        for place, camera in enumerate(self.config.cameras):
            trajectory: tuple[Image, ...] = ()
            goal = None
            if self.config.reference_frames:
                demo = _reference(references, f"demo/{camera}")
                trajectory = tuple(
                    self.squeeze(demo[i]) for i in sample_reference(len(demo), self.config.reference_frames)
                )
            if self.config.done is DoneQuestion.GOAL and place == 0:
                name = f"goal/{camera}"
                given = name in references or not trajectory
                goal = self.squeeze(_reference(references, name)) if given else trajectory[-1]
            anchors.append(Anchors(trajectory=trajectory, goal=goal))
        return anchors

    def views(self, observation: Observation) -> tuple[Image, ...]:
        """Take from an observation what the critic looks at, squeezed to its size.

        Raises:
            ShapeError: If a view is missing.
        """
        return tuple(self.squeeze(rgb) for rgb in views_of(observation, self.config.cameras))

    def squeeze(self, rgb: Image) -> Image:
        """Resize to the square that the network sees, by the Lanczos filter; the aspect ratio is not kept."""
        side = self.config.image_px
        if rgb.shape[:2] == (side, side):
            return rgb
        resized = Pictures.fromarray(np.ascontiguousarray(rgb)).resize(
            (side, side), Pictures.Resampling.LANCZOS
        )
        return np.asarray(resized)


def _reference(references: References, name: str) -> NDArray[np.uint8]:
    pictures = take_reference(references, name)
    if pictures is None:
        raise ConfigError(
            "The reward model lacks a reference",
            seen=sorted(references) or "none",
            allowed=name,
            remedy="Show it a demonstration: --references.path DATASET; or set reference_frames to 0 and done to task",
        )
    return pictures


def _before_picture(parts: Sequence[Part], number: int) -> int:
    """Return how many parts stand before the picture of this number, counted from 0."""
    places = [place for place, part in enumerate(parts) if not isinstance(part, str)]
    return places[number]


def _written(pairs: Sequence[VlmReply | None]) -> list[float]:
    """Return the numbers that the replies state, without those that state none."""
    read = [None if reply is None else read_change(reply, probabilities=False) for reply in pairs]
    return [change.mean for change in read if change is not None]


def _for_people(pairs: Sequence[VlmReply | None], answer: VlmReply | None) -> str:
    words = ["–" if reply is None else reply.text.strip()[:80] for reply in pairs]
    if answer is not None:
        sure = "" if answer.probabilities is None else f" {answer.probabilities[0]:.3f}"
        words.append(f"done {answer.text.strip()[:20]}{sure}")
    return " | ".join(words)
