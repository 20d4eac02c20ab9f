"""The reward models of LeRobot as ours: Robometer, TOPReward, the image classifier and LeRobot's SARM.

LeRobot's classes do the computing. What they are shown and how their answers are read is decided here, because of what is
known to be wrong with LeRobot 0.6.1; each defect is named where it is avoided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roborl.errors import ConfigError
from roborl.rewards.frame_grid import FrameGrid
from roborl.rewards.lerobot_checkpoint import view_name
from roborl.rewards.lerobot_judges import (
    ClassifierJudge,
    RewardReply,
    RobometerJudge,
    Showing,
    ShowingJudge,
    TopRewardJudge,
)
from roborl.rewards.lerobot_loading import LerobotModel, load_lerobot_model
from roborl.rewards.model import NO_REPLY, Fold, References, missing, observation_id, views_of
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.sarm.published_model import PublishedModel
from roborl.rewards.sarm.published_network import PublishedShape, WindowOpinion
from roborl.rewards.settings import settings_at, version_of
from roborl.rewards.verdicts import InARow
from roborl.types import Image, Observation, Score


@dataclass(frozen=True, kw_only=True)
class LerobotRewardConfig:
    """Which reward model of LeRobot watches, and what it is shown."""

    # Folder of the checkpoint, or its name in the hub's cache.
    checkpoint: str = ""
    # The network that it is built on, or for SARM its CLIP network: a folder, if not where its settings say.
    backbone: str = ""
    # Where it runs: auto, cpu, cuda or cuda:1.
    device: str = "auto"
    # Views to look at, by name, in the order of the checkpoint's own; empty where the names are the same.
    cameras: tuple[str, ...] = ()
    # Most frames that a video model is shown; 0 for the checkpoint's own number.
    frames: int = 0
    # Frames that a video model is shown per second of the episode, until they are too many; then half as many, and so on,
    # Hz.
    frame_hz: float = 2.0
    # Observations per second, Hz; the classifier watches at any rate.
    observation_hz: float = 10.0
    # Finished observations in a row that make "done", where the model has a threshold.
    done_frames: int = 3
    # SARM: which of its two sets of stages, sparse or dense.
    head: str = "sparse"
    # SARM: frames per second of what it was trained on, Hz; its own data have 30.
    trained_hz: float = 30.0
    # SARM: whether to show it the state.
    use_state: bool = True
    # SARM: whether the present observation may stand for all later ones. It is trained to look ahead, and is refused
    # without.
    repeat_present: bool = False

    def __post_init__(self) -> None:
        if self.frames < 0 or self.frames == 1 or self.done_frames < 1 or not self.trained_hz > 0:
            raise ConfigError(
                "The settings of a LeRobot reward model cannot be used",
                seen=f"frames {self.frames}, done_frames {self.done_frames}, trained_hz {self.trained_hz}",
                allowed="frames 0 or at least 2, done_frames ≥ 1, trained_hz > 0",
            )
        if not 0 < self.frame_hz <= self.observation_hz or self.head not in ("sparse", "dense"):
            raise ConfigError(
                "The settings of a LeRobot reward model cannot be used",
                seen=f"frame_hz {self.frame_hz}, observation_hz {self.observation_hz}, head {self.head!r}",
                allowed="0 < frame_hz ≤ observation_hz, head sparse or dense",
            )


class LerobotFold(Fold[Showing, RewardReply]):
    """The memory of one episode: for a video model evenly spaced frames from the first on, else none.

    Args:
        model: Whose showings to form.
        task: The instruction in words.
    """

    def __init__(self, model: LerobotRewardModel, task: str) -> None:
        self._model = model
        self._task = task
        stride = round(model.config.observation_hz / model.config.frame_hz)
        self._kept = FrameGrid(most=model.frames, stride=stride) if model.frames else None
        self._finished = InARow(model.config.done_frames)

    def queries(self, observation: Observation) -> list[Showing]:
        """Show the episode so far, or the present pictures.

        Raises:
            ShapeError: If a view is missing, or of a video model's of another size than before.
        """
        self.skip(observation)
        frames = self._model.views(observation) if self._kept is None else self._kept.video()[1]
        return [Showing(frames=frames, task=self._task)]

    def skip(self, observation: Observation) -> None:
        """Remember an observation.

        Raises:
            ShapeError: As :meth:`queries`.
        """
        views = self._model.views(observation)
        if self._kept is not None:
            self._kept.add(observation_id(observation), views[0])

    def fold(self, observation_id: int, replies: Sequence[RewardReply | None]) -> Score:
        """Turn the reply into a score; "done" needs several finished observations in a row."""
        (reply,) = replies
        version = self._model.info.version
        if reply is None:
            return missing(observation_id, NO_REPLY, version=version)
        if not (math.isfinite(reply.progress) and math.isfinite(reply.raw)):
            return missing(observation_id, "not finite", version=version)
        done = None
        if reply.finished is not None:
            done = self._finished.read(reply.finished)
        return Score(
            frame_id=observation_id, progress=reply.progress, raw=reply.raw, done=done, version=version
        )


class LerobotRewardModel:
    """A video model or the image classifier of LeRobot.

    Args:
        judge: Who answers.
        config: What it is shown.
        kind: LeRobot's name of its kind.
        cameras: Views that it looks at, by name.
        frames: Most frames of a showing; 0 for one picture per view.
        image_px: Side of the square pictures it looks at, None where it takes any size.
        digest: Hash of its files.
    """

    def __init__(
        self,
        judge: ShowingJudge,
        config: LerobotRewardConfig,
        *,
        kind: str,
        cameras: tuple[str, ...],
        frames: int,
        image_px: int | None,
        digest: str,
    ) -> None:
        self.judge = judge
        self.config = config
        self.frames = frames
        # One picture at a time is the same at any rate: the version has that of whoever sets none.
        paced = config if frames else LerobotRewardConfig
        rates = [paced.frame_hz, paced.observation_hz]
        asked = [cameras, frames, *rates, config.done_frames]
        about = {"kind": f"lerobot-{kind}", "files": digest, "asked": asked}
        self.info = ModelInfo(
            version=version_of(about),
            cameras=cameras,
            image_px=image_px,
            says_done=judge.says_done,
            about=about,
            observation_hz=config.observation_hz if frames else None,
            looks_back=bool(frames),
        )

    def start(self, task: str, references: References) -> LerobotFold:
        """Return the fold of a new episode; references play no part."""
        return LerobotFold(self, task)

    def views(self, observation: Observation) -> tuple[Image, ...]:
        """Take from an observation what the model looks at.

        Raises:
            ShapeError: If a view is missing.
        """
        return views_of(observation, self.info.cameras)


class LerobotSarmNetwork:
    """LeRobot's own SARM class as a judge of windows.

    Args:
        model: The model.
        shape: What its settings say of it.
        head: The stages to use, sparse or dense.
    """

    def __init__(self, model: Any, shape: PublishedShape, head: str) -> None:
        self.shape = shape
        self._model = model
        self._head = head

    def __call__(self, frames: Tensor, text: Tensor, state: Tensor, filled: int) -> WindowOpinion:
        """Judge every slot of a batch of windows."""
        # Known defect: compute_reward reads the last slot, which lies in the future, passes no lengths, and knows only
        # the sparse stages. All slots are asked for here, and the window says which one is the present.
        progress, stages = self._model.calculate_rewards(
            text,
            frames[:, 0],
            state,
            lengths=torch.full((len(frames),), filled),
            return_all_frames=True,
            return_stages=True,
            head_mode=self._head,
        )
        shares = np.array(self.shape.shares)
        starts = np.concatenate([[0.0], shares.cumsum()])
        likeliest = stages.argmax(axis=-1)
        within = (progress - starts[likeliest]) / np.maximum(shares[likeliest], 1e-9)
        raw = likeliest + np.clip(within, 0.0, 1.0)
        return WindowOpinion(*(torch.from_numpy(part) for part in (stages, raw, progress)))


def load_lerobot(place: str) -> LerobotRewardModel | PublishedModel:
    """Load a reward model of LeRobot with its settings.

    Args:
        place: Folder of a checkpoint, its name in the hub's cache, or a YAML file of :class:`LerobotRewardConfig`.

    Raises:
        ModelLoadError: If the checkpoint, or what it is built on, cannot be used.
        ConfigError: If the settings cannot be used.
    """
    return open_lerobot(settings_at(LerobotRewardConfig, place))


def open_lerobot(config: LerobotRewardConfig) -> LerobotRewardModel | PublishedModel:
    """Load the model that the settings name; errors as of :func:`load_lerobot`."""
    loaded = load_lerobot_model(config.checkpoint, backbone=config.backbone, device=config.device)
    if loaded.kind == "sarm":
        return _open_sarm(loaded, config)
    if loaded.kind == "reward_classifier":
        classifier = ClassifierJudge(loaded)
        judge: ShowingJudge = classifier
        keys, frames = classifier.keys, 0
        sides = {side for size in classifier.sizes for side in size}
        image_px = sides.pop() if len(sides) == 1 else None
    else:
        judge = RobometerJudge(loaded) if loaded.kind == "robometer" else TopRewardJudge(loaded)
        keys, image_px = (loaded.model.config.image_key,), None
        frames = _frames(config, loaded.model.config.max_frames)
    return LerobotRewardModel(
        judge,
        config,
        kind=loaded.kind,
        cameras=_cameras(config, keys),
        frames=frames,
        image_px=image_px,
        digest=loaded.digest,
    )


def _open_sarm(loaded: LerobotModel, config: LerobotRewardConfig) -> PublishedModel:
    from roborl.rewards.judges.clip_judge import ClipNetwork
    from roborl.rewards.sarm.lerobot_layout import lerobot_scale, lerobot_shape, lerobot_window
    from roborl.rewards.sarm.published_checkpoint import CLIP, check_clip

    # Known defect: LeRobot's encoder fetches this network from the hub, and cannot be told of another place.
    encoder = ClipNetwork.load(config.backbone or CLIP, device=config.device)
    shape = lerobot_shape(loaded.described, head=config.head)
    check_clip(encoder, shape)
    own = loaded.model.config
    return PublishedModel(
        LerobotSarmNetwork(loaded.model, shape, config.head),
        encoder,
        window=lerobot_window(
            loaded.described,
            trained_hz=config.trained_hz,
            observation_hz=config.observation_hz,
            repeat_present=config.repeat_present,
        ),
        scale=lerobot_scale(loaded.folder, own.state_key) if config.use_state else None,
        cameras=_cameras(config, (own.image_key,)),
        digest=f"lerobot-{config.head}-{loaded.digest}",
        observation_hz=config.observation_hz,
        done_frames=config.done_frames,
    )


def _cameras(config: LerobotRewardConfig, keys: Sequence[str]) -> tuple[str, ...]:
    cameras = config.cameras or tuple(view_name(key) for key in keys)
    if len(cameras) != len(keys) or not keys or len(set(cameras)) != len(cameras):
        raise ConfigError(
            "The reward model looks at another number of views",
            seen=cameras,
            allowed=f"one different view for each of {list(keys)}",
        )
    return cameras


def _frames(config: LerobotRewardConfig, most: int | None) -> int:
    if most is not None and config.frames > most:
        raise ConfigError(
            "The reward model was not made for so many frames",
            seen=f"frames {config.frames}",
            allowed=f"at most {most}",
        )
    frames = config.frames or most or 0
    if frames < 2:
        raise ConfigError(
            "It must be said how many frames the reward model is shown",
            seen=f"frames {config.frames}, max_frames {most}",
            allowed="at least 2",
        )
    return frames
