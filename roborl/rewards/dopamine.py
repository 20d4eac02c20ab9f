"""The general reward model of Robo-Dopamine: a judge that compares two moments, three cameras each, and says the hop.

What stands as the moment before makes the perspective: the frame of the last hop, the first frame, the goal. The question
is written by :mod:`roborl.rewards.dopamine_question`, and :mod:`roborl.rewards.fusion` makes progress of the replies.

Source: Robo-Dopamine, arXiv 2512.23703.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError
from roborl.rewards.dopamine_question import CONTRACT, Views, ask_hop
from roborl.rewards.fusion import FusionConfig, Hop, Perspective, ProgressFusion
from roborl.rewards.hop_replies import hop_of
from roborl.rewards.judges.config import JudgeConfig, JudgeKind
from roborl.rewards.judges.opening import open_with_words
from roborl.rewards.judges.queries import VlmJudge, VlmQuery, VlmReply
from roborl.rewards.model import NO_REPLY, Fold, References, missing, observation_id, views_of
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.prompts import Prompt, PromptConfig
from roborl.rewards.references import read_references, references_key, take_reference
from roborl.rewards.settings import PLACES, described, is_adapted, read_settings, version_of
from roborl.rewards.verdicts import DoneCounter, DoneRule
from roborl.types import Image, Observation, Score

log = logging.getLogger(__name__)

_BLANK_PX, _BLANK_LEVEL = 224, 128
# Of a published threshold for "done"; an un-adapted judge of hops reads 0.57 on true successes.
_HIGH = 0.9


class StartReference(StrEnum):
    """Which picture shows the judge how the task starts."""

    EPISODE = "episode"
    """The first frame of the episode that is judged."""
    DEMO = "demo"
    """The first frame of the demonstration; the same for all episodes, so that a judge reads it only once."""


@dataclass(frozen=True, kw_only=True)
class DopamineConfig:
    """Which checkpoint watches, what it is shown and how its replies are used."""

    # Folder of the checkpoint, or its name in the hub's cache.
    checkpoint: str = ""
    # How the network runs.
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    # Least pixels of a picture as the network sees it. Those of training are from 112 x 112 to 320 x 240.
    min_pixels: int = 12_544
    # Most pixels of it.
    max_pixels: int = 76_800
    # Where the words of the question come from.
    prompt: PromptConfig = field(default_factory=PromptConfig)
    # Camera that sees the whole scene.
    front: str = "front"
    # Camera at the left wrist; empty where there is none: the front picture then stands in its place.
    left_wrist: str = ""
    # The same at the right wrist.
    right_wrist: str = ""
    # Files with a picture of the goal or a demonstration, for sessions that bring none: goal/CAMERA or demo/CAMERA.
    references: dict[str, str] = field(default_factory=dict)
    # Whether there is a picture of the goal, or a demonstration. Without one the end of the task is shown as a grey
    # picture, and the backward perspective cannot be asked for.
    goal: bool = True
    # Which picture shows how the task starts: episode or demo.
    start_reference: StartReference = StartReference.EPISODE
    # What is compared and how it becomes progress.
    fusion: FusionConfig = field(default_factory=FusionConfig)
    # Observations per second, Hz.
    observation_hz: float = 10.0
    # Least time between the two moments of an incremental hop, s; 0 for one observation. Replies are rounded, and hops of
    # less than about 0.02 drift.
    hop_s: float = 0.5
    # When the task counts as finished.
    done: DoneRule = field(default_factory=DoneRule)
    # Whether the probabilities of the judge's tokens refine the value and give its spread.
    use_probabilities: bool = True
    # Most tokens that a reply may have.
    max_tokens: int = 24

    def __post_init__(self) -> None:
        if not self.front or len(set(self.cameras)) != 1 + bool(self.left_wrist) + bool(self.right_wrist):
            raise ConfigError(
                "The cameras of the reward model cannot be used",
                seen=f"front {self.front!r}, left_wrist {self.left_wrist!r}, right_wrist {self.right_wrist!r}",
                allowed="a front camera, and for the wrists other cameras or none",
            )
        if Perspective.BACKWARD in self.fusion.perspectives and not self.goal:
            raise ConfigError(
                "The backward perspective needs a picture of the goal",
                seen="goal False",
                remedy="Give goal or demo pictures, or leave backward out of fusion.perspectives",
            )
        if self.start_reference is StartReference.DEMO and not self.goal:
            raise ConfigError("A demonstration has a goal as well", seen="start_reference demo, goal False")
        if not (0 <= self.hop_s < math.inf and 0 < self.observation_hz < math.inf) or self.max_tokens < 8:
            raise ConfigError(
                "The reward model's settings cannot be used",
                seen=f"hop_s {self.hop_s}, observation_hz {self.observation_hz}, max_tokens {self.max_tokens}",
                allowed="hop_s ≥ 0, observation_hz > 0, max_tokens ≥ 8",
            )

    @property
    def hop_frames(self) -> int:
        """Least number of observations that an incremental hop spans."""
        return max(1, round(self.hop_s * self.observation_hz))

    @property
    def cameras(self) -> tuple[str, ...]:
        """The views it looks at, the front one first."""
        return tuple(name for name in (self.front, self.left_wrist, self.right_wrist) if name)


class DopamineFold(Fold[VlmQuery, VlmReply | None]):
    """The memory of one episode: its first moment, the moment of the last hop, the references.

    The first observation has progress 0 by definition and is not asked about. A lost or unreadable reply makes the
    score missing; what that means to later scores is :class:`~roborl.rewards.fusion.ProgressFusion`'s to say.

    Args:
        model: Whose questions to ask.
        words: The nine segments of a question, with the task in them.
        start: Picture of the start; None for the first of the episode.
        goal: Picture of the goal.
    """

    def __init__(self, model: DopamineModel, words: Sequence[str], start: Image | None, goal: Image) -> None:
        self._model = model
        self._words = words
        self._start = start
        self._goal = goal
        self._first: Views | None = None
        self._last: tuple[int, Views] | None = None
        self._advances: dict[int, bool] = {}
        self._fusion = ProgressFusion(model.config.fusion)
        self._done = DoneCounter(model.config.done)

    def queries(self, observation: Observation) -> list[VlmQuery]:
        """Return one query per perspective, in their order; none for the first observation.

        Raises:
            ShapeError: If a view is missing.
        """
        config, now = self._model.config, self._model.views(observation)
        if self._first is None or self._last is None:
            self._begin(observation, now)
            return []
        index = observation_id(observation)
        last_index, last = self._last
        earlier = {
            Perspective.INCREMENTAL: last,
            Perspective.FORWARD: self._first,
            Perspective.BACKWARD: (self._goal, self._goal, self._goal),
        }
        self._advances[index] = advances = index - last_index >= config.hop_frames
        if advances:
            self._last = index, now
        start = self._first[0] if self._start is None else self._start
        return [
            ask_hop(
                self._words,
                (start, self._goal),
                earlier[perspective],
                now,
                max_tokens=config.max_tokens,
                probabilities=config.use_probabilities,
                constant=2 if perspective is Perspective.INCREMENTAL else 5,
            )
            for perspective in config.fusion.perspectives
        ]

    def skip(self, observation: Observation) -> None:
        """Remember the first observation; others play no part.

        Raises:
            ShapeError: As :meth:`queries`.
        """
        if self._first is None:
            self._begin(observation, self._model.views(observation))

    def lose(self, observation_id: int) -> None:
        """Count the readings that make "done" anew."""
        self._done.read(None)

    def fold(self, observation_id: int, replies: Sequence[VlmReply | None]) -> Score:
        """Fuse the replies to this observation."""
        model = self._model
        if not replies:
            self._done.read(0.0)
            return Score(frame_id=observation_id, progress=0.0, raw=0.0, version=model.info.version)
        perspectives = model.config.fusion.perspectives
        said = dict(zip(perspectives, replies, strict=True))
        hops = {name: None if reply is None else hop_of(reply) for name, reply in said.items()}
        fused = self._fusion.update(hops, advance=self._advances.pop(observation_id))
        done = self._done.read(None if fused is None else fused.progress)
        if fused is None:
            return missing(observation_id, _why_missing(said, hops), version=model.info.version)
        return Score(
            frame_id=observation_id,
            progress=fused.progress,
            raw=fused.progress,
            spread=fused.spread,
            done=done,
            version=model.info.version,
            reply=_for_people(said, fused.weight),
            timings_ms=next((dict(reply.timings_ms) for reply in replies if reply is not None), {}),
        )

    def _begin(self, observation: Observation, now: Views) -> None:
        self._first = now
        self._last = observation_id(observation), now


@dataclass(frozen=True, eq=False, kw_only=True)
class DopamineModel:
    """A judge of hops as a reward model.

    Attributes:
        judge: The network.
        config: What it is shown and how its replies are used.
        prompt: The words around the eight pictures.
        references: What it is told where a session brings nothing for the front camera; part of the version.
    """

    judge: VlmJudge
    config: DopamineConfig
    prompt: Prompt
    references: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    info: ModelInfo = field(init=False, repr=False)

    def __post_init__(self) -> None:
        about = described(
            f"dopamine-{self.prompt.origin}",
            self.config,
            places=(*PLACES, "references"),
            judge=self.judge.identity,
            prompt=self.prompt.sha256,
            references=references_key(self.references),
        )
        info = ModelInfo(
            version=version_of(about),
            cameras=self.config.cameras,
            done_rule=self.config.done,
            about=about,
            observation_hz=self.config.observation_hz,
            looks_back=True,
        )
        object.__setattr__(self, "info", info)

    def start(self, task: str, references: References) -> DopamineFold:
        """Return the fold of a new episode.

        Args:
            task: The instruction in words.
            references: ``goal/<front>`` uint8 (h, w, 3), a picture of the front camera with the task done; or
                ``demo/<front>`` uint8 (t, h, w, 3), a successful demonstration, whose last frame is the goal. The
                goal never comes from the episode itself. Not read where the model is to do without.

        Raises:
            ConfigError: If there is neither, or one has another form.
        """
        return DopamineFold(self, self.prompt.fill(task), *self._anchors(references))

    def views(self, observation: Observation) -> Views:
        """Take from an observation what the model looks at.

        Raises:
            ShapeError: If a view is missing. A front picture stands in for a wrist that the bench does not have, never
                for one that has dropped out: that would be another version of the model in mid-episode.
        """
        config = self.config
        shown = dict(zip(config.cameras, views_of(observation, config.cameras), strict=True))
        front, left, right = (
            shown[name or config.front] for name in (config.front, config.left_wrist, config.right_wrist)
        )
        return front, left, right

    def _anchors(self, references: References) -> tuple[Image | None, Image]:
        """The pictures of start, None for the episode's own, and goal."""
        if not self.config.goal:
            return None, blank_goal()
        front = self.config.front
        if not {f"goal/{front}", f"demo/{front}"} & references.keys():
            references = self.references
        goal = take_reference(references, f"goal/{front}")
        demo = take_reference(references, f"demo/{front}")
        from_demo = self.config.start_reference is StartReference.DEMO
        if demo is None and (goal is None or from_demo):
            raise ConfigError(
                "The reward model lacks a reference",
                seen=sorted(references) or "none",
                allowed=f"demo/{front}" if from_demo else f"goal/{front} or demo/{front}",
                remedy="Show it a demonstration: --references.path DATASET; or set goal to False",
            )
        # Copies, so that a session does not hold on to a whole demonstration.
        start = demo[0].copy() if from_demo and demo is not None else None
        end = goal if goal is not None else None if demo is None else demo[-1].copy()
        assert end is not None, "one of the two is there"
        return start, end


def blank_goal() -> Image:
    """Return the grey picture that stands for a goal nobody has a picture of, uint8 (h, w, 3)."""
    return np.full((_BLANK_PX, _BLANK_PX, 3), _BLANK_LEVEL, np.uint8)


def load_dopamine(place: str) -> DopamineModel:
    """Load a checkpoint with its settings.

    Args:
        place: Folder of a checkpoint or of what ``roborl train-reward`` made of one, its name in the hub's cache, or a
            YAML file of :class:`DopamineConfig`.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        ConfigError: If the settings, or the wording named in them, cannot be used.
    """
    return open_dopamine(read_settings(DopamineConfig, place))


def warn_of_threshold(model: DopamineModel) -> None:
    """Warn where "done" hangs on a threshold that a judge which is asked as it was published may never reach."""
    if model.config.done.progress >= _HIGH and not is_adapted(model.config):
        log.warning(
            "this judge says done from a progress of %g, and a published checkpoint that was neither adapted nor calibrated"
            " may never reach it: true successes read about 0.57. Adapt it: roborl train-reward; or measure it with"
            " roborl bench-reward, and name it as calibrated:RESULT:MODEL or set done.progress to what its successes reach",
            model.config.done.progress,
        )


def open_dopamine(config: DopamineConfig) -> DopamineModel:
    """Load or connect the model that the settings name.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        ConfigError: If the wording or a reference cannot be used, or a small judge does not look at a wrist that is named.
    """
    references = read_references(config.references)
    judge, prompt = open_with_words(
        config, CONTRACT, min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )
    if config.judge.kind is JudgeKind.PAIRS:
        from roborl.rewards.pairs.judge import check_wrists

        check_wrists(judge, left=config.left_wrist, right=config.right_wrist)
    return DopamineModel(judge=judge, config=config, prompt=prompt, references=references)


def _why_missing(said: Mapping[Perspective, VlmReply | None], hops: Mapping[Perspective, Hop | None]) -> str:
    lost = next(name for name, hop in hops.items() if hop is None)
    reply = said[lost]
    return f"{lost}: {NO_REPLY}" if reply is None else f"{lost}: no hop in {reply.text[:200]!r}"


def _for_people(said: Mapping[Perspective, VlmReply | None], weight: float) -> str:
    words = [f"{name} {reply.text.strip()}" for name, reply in said.items() if reply is not None]
    if weight < 1.0:
        words.append(f"weight {weight:.3f}")
    replies = [reply for reply in said.values() if reply is not None]
    saw = _spell_grids(cells for reply in replies for cells in reply.cells)
    sent = _spell_grids(size for reply in replies for size in reply.sent)
    return "; ".join([*words, *([f"saw {saw}"] if saw else []), *([f"sent {sent} px"] if sent else [])])


def _spell_grids(sizes: Iterable[tuple[int, int, int]]) -> str:
    return ", ".join(sorted({f"{rows} x {columns}" for _, rows, columns in sizes}))
