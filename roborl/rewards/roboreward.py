"""RoboReward: a video of the episode so far in, a score from 1 to 5 out.

The score of the last observation is the verdict on the whole episode; those of earlier ones, each a question about the
part that ends there, make a dense causal curve. The model is a scorer and no detector: it is best read when an episode
is over, and by itself never says that a task is done.

Source: Lee et al., "RoboReward: General-purpose vision-language reward models for robotics", arXiv 2601.00675.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError, ShapeError
from roborl.rewards.frame_grid import FrameGrid
from roborl.rewards.grades import stated_number
from roborl.rewards.judges.opening import open_with_words
from roborl.rewards.judges.queries import Cells, Clip, Part, VlmJudge, VlmQuery, VlmReply, expected_value
from roborl.rewards.model import NO_REPLY, Fold, References, missing, observation_id
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.parsing import parse_score
from roborl.rewards.prompts import Prompt, PromptContract
from roborl.rewards.roboreward_config import LEVELS, RoboRewardConfig, ScoreReadout, as_progress
from roborl.rewards.settings import described, read_settings, version_of
from roborl.rewards.verdicts import DoneCounter
from roborl.types import Image, Observation, Score

log = logging.getLogger(__name__)

_CHOICES = tuple(str(level) for level in LEVELS)
_START = "ANSWER: "

CONTRACT = PromptContract(
    name="roboreward",
    words=("answer:",),
    own="""\
You watch a robot arm that was told: {task}
Judge only what the scene looks like at the end of the video, however long it took, and choose one score:
1: nothing that was asked for has been done.
2: a little has been done, far too little.
3: much has been done, but something important is still wrong, or more than one thing.
4: almost everything is as asked, and one small thing is missing.
5: everything is as asked.
Write one line: ANSWER: followed by the score.""",
)


def ask_score(
    words: str, indices: Sequence[int], frames: Sequence[Image], config: RoboRewardConfig
) -> VlmQuery:
    """Return the question about a video, the same in watching as in training.

    Args:
        words: The question, with the task in it.
        indices: Place of each frame in its episode, in observations.
        frames: The frames.
        config: How it is asked.
    """
    clip = Clip(frames=tuple(frames), stamps_s=tuple(i / config.observation_hz for i in indices))
    parts: tuple[Part, ...] = (words, clip) if config.words_first else (clip, words)
    by_text = config.reading is ScoreReadout.TEXT
    return VlmQuery(
        parts=parts,
        prefix=1 if config.words_first else 0,
        reply_start="" if by_text else _START,
        choices=() if by_text else _CHOICES,
        max_tokens=config.max_tokens if by_text else 1,
        temperature=config.temperature,
    )


def write_score(score: int) -> str:
    """Return the reply that states a score, as training teaches it.

    Example:
        >>> write_score(4)
        'ANSWER: 4'
    """
    return f"{_START}{score}"


class RoboRewardFold(Fold[VlmQuery, VlmReply | None]):
    """The memory of one episode: its frames, evenly spaced from the first, and the newest one.

    Args:
        model: Whose questions to ask.
        task: The instruction in words.
    """

    def __init__(self, model: RoboRewardModel, task: str) -> None:
        self._model = model
        self._words = model.prompt.fill(task)[0]
        self._camera = model.config.camera
        self._kept = frame_grid(model.config)
        rule = model.config.done_rule
        self._done = None if rule is None else DoneCounter(rule)
        self._told = False
        self._written: float | None = None

    @property
    def written(self) -> float | None:
        """What the latest answer states, the likeliest level where it is read off probabilities; None if that is nothing."""
        return self._written

    def queries(self, observation: Observation) -> list[VlmQuery]:
        """Ask about the video that ends here.

        Raises:
            ShapeError: If the view is missing or of another size than before, or it is not known which is meant.
        """
        self.skip(observation)
        config = self._model.config
        query = ask_score(self._words, *self._kept.video(), config)
        return [replace(query, seed=vote) for vote in range(config.votes)]

    def skip(self, observation: Observation) -> None:
        """Remember an observation.

        Raises:
            ShapeError: As :meth:`queries`.
        """
        if not self._camera:
            self._camera = _the_only_view(observation)
        if self._camera not in observation.frames:
            raise ShapeError(
                f"RoboReward needs a view that is missing: {self._camera!r}",
                seen=sorted(observation.frames),
                allowed=self._camera,
            )
        self._kept.add(observation_id(observation), observation.frames[self._camera].rgb)

    def fold(self, observation_id: int, replies: Sequence[VlmReply | None]) -> Score:
        """Average the answers that can be read; a later score does not depend on a lost one.

        An answer without probabilities counts with the level it states, which is then certain, and its score says so.
        """
        version = self._model.info.version
        read = [self._read(reply) for reply in replies]
        answers = [answer for answer in read if not isinstance(answer, str)]
        self._written = next((n for n in map(self._stated, replies) if n is not None), None)
        if not answers:
            return missing(observation_id, next((r for r in read if isinstance(r, str)), ""), version=version)
        probabilities = np.mean(answers, axis=0)
        expected, variance = expected_value(LEVELS, probabilities.tolist())
        config = self._model.config
        first = next(reply for reply in replies if reply is not None)
        bare = config.reading is ScoreReadout.PROBABILITIES and first.probabilities is None
        if bare and not self._told:
            self._told = True
            log.warning("the judge gives no probabilities: the scores of this episode are those it writes")
        progress = as_progress(expected)
        return Score(
            frame_id=observation_id,
            progress=progress,
            raw=expected,
            spread=math.sqrt(max(variance, 0.0)) / 4,
            done=None if self._done is None else self._done.read(progress),
            version=version,
            reply=_for_people(first, probabilities, len(answers), bare=bare),
            timings_ms=dict(first.timings_ms),
        )

    def _probabilities(self, reply: VlmReply) -> tuple[float, ...] | None:
        """Return the probabilities that a reply is read off; None where it is read as written."""
        return None if self._model.config.reading is ScoreReadout.TEXT else reply.probabilities

    def _fault(self, reply: VlmReply) -> str:
        """Return why a reply counts for nothing, whatever it says; empty where it counts."""
        config = self._model.config
        if any(rows * columns < config.min_cells for _, rows, columns in reply.cells):
            return f"the network saw too little of the frames: {_spell_cells(reply.cells)}; min_pixels enlarges them"
        if self._probabilities(reply) is not None and reply.mass < config.min_mass:
            return "the network was about to write something else than a score"
        return ""

    def _stated(self, reply: VlmReply | None) -> float | None:
        """Return the level that a reply states, in words by the rule of RoboRewardBench; None where it states none."""
        if reply is None or self._fault(reply):
            return None
        probabilities = self._probabilities(reply)
        return stated_number(reply.text) if probabilities is None else LEVELS[int(np.argmax(probabilities))]

    def _read(self, reply: VlmReply | None) -> NDArray[np.float64] | str:
        """Return the probabilities of the levels, or why there are none."""
        config = self._model.config
        if reply is None:
            return NO_REPLY
        if fault := self._fault(reply):
            return fault
        probabilities = self._probabilities(reply)
        if probabilities is not None:
            return np.asarray(probabilities, float)
        if config.reading is ScoreReadout.TEXT and not reply.ended:
            return f"cut short: {reply.text}"
        level = parse_score(reply.text)
        if level is None:
            return f"cannot be read: {reply.text}"
        certain: NDArray[np.float64] = (np.array(LEVELS) == level).astype(float)
        return certain


def frame_grid(config: RoboRewardConfig) -> FrameGrid:
    """Return an empty grid for one episode."""
    return FrameGrid(most=config.frames, stride=round(config.observation_hz / config.frame_hz))


class RoboRewardModel:
    """A RoboReward checkpoint, or any network asked in the same way.

    Args:
        judge: Who answers.
        prompt: The words of the question.
        config: How it is asked.

    Raises:
        ConfigError: If the network would see too little of each frame.
    """

    def __init__(self, judge: VlmJudge, prompt: Prompt, config: RoboRewardConfig) -> None:
        self.judge = judge
        self.prompt = prompt
        self.config = config
        about = described(f"roboreward-{prompt.origin}", config, judge=judge.identity, prompt=prompt.sha256)
        self.info = ModelInfo(
            version=version_of(about),
            cameras=(config.camera,) if config.camera else (),
            most_views=None if config.camera else 1,
            says_done=config.done_rule is not None,
            done_rule=config.done_rule,
            done_holds=True,
            about=about,
            observation_hz=config.observation_hz,
            looks_back=True,
        )
        self.check_cells(240, 320)

    def start(self, task: str, references: References) -> RoboRewardFold:
        """Return the fold of a new episode; references play no part."""
        return RoboRewardFold(self, task)

    def check_cells(self, height: int, width: int) -> Cells | None:
        """Return what the network sees of the longest video of such pictures; None where the judge cannot tell.

        Raises:
            ConfigError: If it is less than is asked for.
        """
        frame = np.zeros((height, width, 3), np.uint8)
        clip = Clip(
            frames=(frame,) * self.config.frames, stamps_s=tuple(map(float, range(self.config.frames)))
        )
        cells = self.judge.cells(VlmQuery(parts=(clip,)))
        if cells is None:
            return None
        if any(rows * columns < self.config.min_cells for _, rows, columns in cells):
            raise ConfigError(
                "The network would see too little of each frame, and its scores would be flat",
                seen=f"{_spell_cells(cells)} for {self.config.frames} frames of {width} x {height}",
                allowed=f"at least {self.config.min_cells} visual tokens for each two frames",
                remedy="Set max_pixels to 76800, for small pictures min_pixels as well, or ask with fewer frames",
            )
        return cells[0]


def load_roboreward(place: str) -> RoboRewardModel:
    """Load a RoboReward checkpoint with its settings.

    Args:
        place: Folder of a checkpoint or of what ``roborl train-reward`` made of one, its name in the hub's cache, or a
            YAML file of :class:`RoboRewardConfig`.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        ConfigError: If the settings, or the wording named in them, cannot be used.
    """
    return open_roboreward(read_settings(RoboRewardConfig, place))


def open_roboreward(config: RoboRewardConfig) -> RoboRewardModel:
    """Load or connect the model that the settings name.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        ConfigError: If the wording cannot be used, or the network would see too little.
    """
    judge, prompt = open_with_words(
        config, CONTRACT, min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )
    model = RoboRewardModel(judge, prompt, config)
    log.info(
        "roboreward sees %s of the longest video of 320 x 240 pictures, and is asked in %s words",
        model.check_cells(240, 320) or "an unknown part",
        prompt.origin,
    )
    return model


def _the_only_view(observation: Observation) -> str:
    if len(observation.frames) != 1:
        raise ShapeError(
            "RoboReward looks at one view, and there are several",
            seen=sorted(observation.frames),
            remedy="Name the one it shall look at, as camera in the model's file of settings",
        )
    return next(iter(observation.frames))


def _for_people(reply: VlmReply, probabilities: NDArray[np.float64], votes: int, *, bare: bool) -> str:
    said = "no probabilities" if bare else "p " + " ".join(f"{p:.3f}" for p in probabilities)
    parts = [reply.text.strip(), said]
    if reply.cells:
        parts.append(f"saw {_spell_cells(reply.cells)}")
    if reply.sent:
        parts.append(f"sent {_spell_cells(reply.sent)} px")
    if votes > 1:
        parts.append(f"{votes} votes")
    return "; ".join(parts)


def _spell_cells(sizes: Sequence[tuple[int, int, int]]) -> str:
    return ", ".join(f"{instants} x {rows} x {columns}" for instants, rows, columns in sizes)
