"""SOLE-R1: one picture of the first, the previous and the current frame in, a reasoned percentage out.

The frames stand side by side, and where there are two views the wrist's row is below the external camera's. Each view is
padded to a square, with thin black gaps between them, as in the released code. That does not ask about the first frame;
here it is asked about too.

The published question also states the answer to the previous frame. A fold's questions depend on observations alone, so
that they can be asked in any batch: this one does not state it, so none of the published wordings fits, and scores will
differ from those published. An answer below 0 is allowed by its authors, where things are worse than at the start; it is
progress 0 here, and stands in the raw score.

Source: Schroeder et al., "SOLE-R1: Video-language reasoning as the sole reward for on-robot RL", arXiv 2603.28730, and
the card and code released with it for the layout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image as Pictures

from roborl.errors import ConfigError, ShapeError
from roborl.images import resized
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.opening import open_with_words
from roborl.rewards.judges.queries import VlmJudge, VlmQuery, VlmReply
from roborl.rewards.model import NO_REPLY, Fold, References, missing, observation_id
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.parsing import parse_signed_percent
from roborl.rewards.prompts import Prompt, PromptConfig, PromptContract
from roborl.rewards.settings import described, read_settings, version_of
from roborl.types import Image, Observation, Score

_SIDE_PX, _GAP_PX = 384, 5  # of each view's square, and between two of them
_CELL_PX = 392  # a view's share of the whole picture, whose sides are then made multiples of 28 px

CONTRACT = PromptContract(
    name="sole-r1",
    words=("<answer>",),
    published_states="the answer to the previous frame",
    own="""\
The picture has three columns: how the scene looked at the start (left), a moment ago (middle) and now (right).
A second row, if there is one, is what the camera at the gripper saw at the same instants.
The robot arm was told: {task}
At the start 0% was done. Compare the columns, reason about what has changed, and estimate how much is done now; a number
below 0 says that the scene is further from the goal than it was at the start.
Close with a whole number from -100 to 100, in this form: <answer>NUMBER%</answer>""",
)


@dataclass(frozen=True, kw_only=True)
class SoleConfig:
    """Which checkpoint watches, and how it is asked."""

    # Folder of the checkpoint, or its name in the hub's cache.
    checkpoint: str = ""
    # How the network runs.
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    # Where the words of the question come from.
    prompt: PromptConfig = field(default_factory=PromptConfig)
    # Views from top to bottom: the external camera, then the wrist's; empty where there is only one.
    cameras: tuple[str, ...] = ()
    # Observations from the previous frame to the current one; more where those between did not come.
    stride: int = 1
    # Most tokens of reasoning and answer.
    max_tokens: int = 512
    # Most pixels of the picture as the network sees it: those of 1176 x 784, as in training.
    max_pixels: int = 921_984

    def __post_init__(self) -> None:
        if len(self.cameras) > 2 or self.stride < 1 or self.max_tokens < 1:
            raise ConfigError(
                "The settings of SOLE-R1 cannot be used",
                seen=f"cameras {self.cameras}, stride {self.stride}, max_tokens {self.max_tokens}",
                allowed="at most two cameras, a stride and tokens of at least 1",
            )


def parse_answer(text: str) -> float | None:
    """Read the one answer that ends a reply as a share in [-1, 1]; None where it is not exactly of that form.

    Example:
        >>> parse_answer("It moved. <answer>40%</answer>"), parse_answer("<answer>40</answer>")
        (0.4, None)
    """
    return parse_signed_percent(text, tag="answer", after_words=True) if text.count("<answer>") == 1 else None


def composed_px(views: int) -> tuple[int, int]:
    """Return height and width of the picture that is asked about, whatever the size of the cameras' pictures.

    Example:
        >>> composed_px(2)
        (784, 1176)
    """
    return views * _CELL_PX, 3 * _CELL_PX


def compose(frames: Sequence[Sequence[Image]]) -> Image:
    """Return the picture that is asked about, uint8 (392 · views, 1176, 3): its sides are multiples of 28 px.

    Args:
        frames: Views of the first, the previous and the current instant, each of any size.

    Raises:
        ShapeError: If there are not three instants, or not one or two views in each.
    """
    counts = [len(views) for views in frames]
    if counts not in ([1] * 3, [2] * 3):
        raise ShapeError(
            "SOLE-R1 cannot be shown these frames",
            seen=f"{counts} views",
            allowed="three instants with one or two views each",
        )
    step, rows = _SIDE_PX + _GAP_PX, counts[0]
    joined = np.zeros((step * rows - _GAP_PX, step * 3 - _GAP_PX, 3), np.uint8)
    for column, views in enumerate(frames):
        for row, view in enumerate(views):
            height, width = (max(px * _SIDE_PX // max(view.shape[:2]), 1) for px in view.shape[:2])
            top, left = row * step + (_SIDE_PX - height) // 2, column * step + (_SIDE_PX - width) // 2
            joined[top : top + height, left : left + width] = resized(view, (height, width))
    return np.asarray(Pictures.fromarray(joined).resize(composed_px(rows)[::-1]))


class SoleFold(Fold[VlmQuery, VlmReply | None]):
    """The memory of one episode: its first frame and the last few.

    Args:
        model: Whose questions to ask.
        task: The instruction in words.
    """

    def __init__(self, model: SoleModel, task: str) -> None:
        self._model = model
        (self._words,) = model.prompt.fill(task)
        self._cameras = model.config.cameras
        self._first: tuple[Image, ...] = ()
        self._latest: deque[tuple[int, tuple[Image, ...]]] = deque()

    def queries(self, observation: Observation) -> list[VlmQuery]:
        """Ask how much is done in this observation.

        Raises:
            ShapeError: If a view is missing, or it is not known which is meant.
        """
        self.skip(observation)
        picture = compose((self._first, self._latest[0][1], self._latest[-1][1]))
        return [VlmQuery(parts=(picture, self._words), max_tokens=self._model.config.max_tokens)]

    def skip(self, observation: Observation) -> None:
        """Remember an observation.

        Raises:
            ShapeError: As :meth:`queries`.
        """
        cameras = self._cameras or tuple(sorted(observation.frames))
        if not set(cameras) <= set(observation.frames) or (not self._cameras and len(cameras) != 1):
            raise ShapeError(
                "SOLE-R1 needs a view that is missing, or does not know which of several is meant",
                seen=sorted(observation.frames),
                allowed=list(self._cameras) or "one view",
                remedy="Name the views, the external camera first, as cameras in the model's file of settings",
            )
        views = tuple(observation.frames[name].rgb for name in cameras)
        self._cameras, self._first = cameras, self._first or views
        index = observation_id(observation)
        self._latest.append((index, views))
        while len(self._latest) > 1 and self._latest[1][0] <= index - self._model.config.stride:
            self._latest.popleft()

    def fold(self, observation_id: int, replies: Sequence[VlmReply | None]) -> Score:
        """Read the answer; a later score does not depend on a lost one."""
        reply = replies[0] if len(replies) == 1 else None
        version = self._model.info.version
        if reply is None:
            return missing(observation_id, NO_REPLY, version=version)
        answer = parse_answer(reply.text)
        if answer is None:
            return missing(observation_id, f"cannot be read: {reply.text}", version=version)
        return Score(
            frame_id=observation_id,
            progress=max(answer, 0.0),
            raw=100 * answer,
            version=version,
            reply=reply.text,
            timings_ms=dict(reply.timings_ms),
        )


class SoleModel:
    """A SOLE-R1 checkpoint, or any network asked in the same way.

    Args:
        judge: Who answers.
        prompt: The words of the question.
        config: How it is asked.
    """

    def __init__(self, judge: VlmJudge, prompt: Prompt, config: SoleConfig) -> None:
        self.judge = judge
        self.prompt = prompt
        self.config = config
        about = described(
            f"sole-r1-{prompt.origin}",
            config,
            judge=judge.identity,
            prompt=prompt.sha256,
            layout=[_SIDE_PX, _GAP_PX, _CELL_PX],
        )
        version = version_of(about)
        self.info = ModelInfo(
            version=version,
            cameras=config.cameras,
            most_views=None if config.cameras else 1,
            says_done=False,
            about=about,
            looks_back=True,
        )

    def start(self, task: str, references: References) -> SoleFold:
        """Return the fold of a new episode; references play no part."""
        return SoleFold(self, task)


def load_sole(place: str) -> SoleModel:
    """Load a SOLE-R1 checkpoint: its folder, its name in the hub's cache, or a YAML file of :class:`SoleConfig`.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        ConfigError: If the settings, or the wording named in them, cannot be used.
    """
    config: SoleConfig = read_settings(SoleConfig, place)
    judge, prompt = open_with_words(config, CONTRACT, max_pixels=config.max_pixels)
    return SoleModel(judge, prompt, config)
