"""A published SARM network as a reward model: the windows it was trained on, and the slot that is read.

The windows of opensarm look back alone. Those of LeRobot reach as far ahead as back, and a reward must not look ahead, so
the present observation stands for all later ones: exactly what LeRobot shows the network at the last frame of an episode.
In mid-episode that is not what they were trained on, so it is done only where the settings allow it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from roborl.rewards.model import (
    NO_REPLY,
    Fold,
    Judge,
    References,
    missing,
    observation_id,
    state_of,
    views_of,
)
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.sarm.published_network import PublishedShape, WindowOpinion
from roborl.rewards.sarm.sightings import Sighting, Sightings
from roborl.rewards.sarm.smoothing import SureMean
from roborl.rewards.settings import version_of
from roborl.rewards.verdicts import InARow
from roborl.types import Image, Observation, Score

log = logging.getLogger(__name__)

_OFF = 0.1  # of the time between slots that may be lost in rounding it to observations
_BLACK: Image = np.zeros((32, 32, 3), np.uint8)


class WindowNetwork(Protocol):
    """Judges windows: our network with converted weights, or LeRobot's own class."""

    @property
    def shape(self) -> PublishedShape:
        """Sizes, stages and shares."""
        ...

    def __call__(self, frames: Tensor, text: Tensor, state: Tensor, filled: int) -> WindowOpinion:
        """Judge every slot; see :class:`roborl.rewards.sarm.published_network.PublishedNetwork`."""
        ...


class PairEncoder(Protocol):
    """Turns pictures and words into the vectors that the network was trained on: a CLIP network's projections."""

    @property
    def identity(self) -> str:
        """Hash of its weights and settings."""
        ...

    def pictures(self, pictures: Sequence[Image]) -> Tensor:
        """Return vectors of pictures, float32 (n, d)."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return vectors of texts, float32 (n, d)."""
        ...


def gap_of(frames: int, *, trained_hz: float, observation_hz: float) -> int:
    """Return how many observations apart the slots of a window are, so that they are as many seconds apart as in training.

    Where there is no such whole number, the nearest one serves, and a warning says so if it is far off.

    Args:
        frames: Frames between neighbouring slots in training.
        trained_hz: Frames per second of what it was trained on.
        observation_hz: Observations per second.

    Example:
        >>> gap_of(30, trained_hz=30.0, observation_hz=10.0)
        10
    """
    exact = frames * observation_hz / trained_hz
    gap = max(1, round(exact))
    if abs(gap - exact) > _OFF * exact:
        log.warning(
            "this SARM checkpoint was trained on observations %.3g s apart, and at %g Hz it is shown them %.3g s apart",
            frames / trained_hz,
            observation_hz,
            gap / observation_hz,
        )
    return gap


@dataclass(frozen=True, kw_only=True)
class PublishedWindow:
    """Which observations make a window.

    Attributes:
        steps: Slots besides the present one, as trained.
        gap: Observations between neighbouring slots.
        centred: Whether it was trained to reach ahead as far as back; the present then stands in the middle.
        from_start: Whether the oldest slot is the episode's first observation however long ago that is; of windows that
            look back alone.
        behind: Empty slots behind the last one, as trained.
    """

    steps: int
    gap: int
    centred: bool
    from_start: bool = True
    behind: int = 0

    @property
    def read(self) -> int:
        """Index of the slot of the present observation."""
        return self.steps // 2 if self.centred else self.steps

    @property
    def reach(self) -> int:
        """How many observations back the window looks, the first one aside."""
        return (self.steps // 2 if self.centred else self.steps) * self.gap

    def indices(self, first: int, present: int) -> list[int]:
        """Return the observations to look at, oldest first, none later than the present one.

        Example:
            >>> PublishedWindow(steps=4, gap=3, centred=True).indices(0, 5)
            [0, 2, 5, 5, 5]
            >>> PublishedWindow(steps=4, gap=3, centred=False).indices(0, 5)
            [0, 1, 2, 4, 5]
            >>> PublishedWindow(steps=4, gap=3, centred=False).indices(0, 20)
            [0, 11, 14, 17, 20]
            >>> PublishedWindow(steps=4, gap=3, centred=False, from_start=False).indices(0, 20)
            [8, 11, 14, 17, 20]
        """
        if self.centred:
            half = self.steps // 2
            return [
                min(max(first, present + self.gap * k), present) for k in range(-half, self.steps - half + 1)
            ]
        past = present - first
        if past >= self.gap * self.steps:
            if not self.from_start:
                first = present - self.gap * self.steps
            middle = [present - self.gap * k for k in range(self.steps - 1, 0, -1)]
        else:
            middle = [first + round(past * k / self.steps) for k in range(1, self.steps)]
        return [first, *middle, present]


@dataclass(frozen=True, eq=False, kw_only=True)
class StateScale:
    """How the state is normalised: (state - mean) / std.

    Attributes:
        mean: Over the training data, float32 (s,).
        std: The same, positive.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WindowQuery:
    """A window to judge.

    Attributes:
        slots: What is in it, oldest first.
        text: Vector of the instruction, float32 (e,).
    """

    slots: tuple[Sighting, ...]
    text: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReply:
    """What the network says about the present observation.

    Attributes:
        progress: In [0, 1].
        raw: Index of the likeliest class plus the progress within it.
        classes: Probability of each class.
    """

    progress: float
    raw: float
    classes: tuple[float, ...]


class PublishedJudge(Judge[WindowQuery, WindowReply]):
    """Encodes every picture once, and judges all windows in one pass. Used by one thread at a time.

    Args:
        network: In evaluation mode.
        encoder: What pictures are encoded with.
        window: Form of the windows.
        scale: How the state is normalised; None where the network is shown zeros instead.
    """

    def __init__(
        self,
        network: WindowNetwork,
        encoder: PairEncoder,
        window: PublishedWindow,
        scale: StateScale | None,
    ) -> None:
        self._network = network
        self._encoder = encoder
        self._window = window
        self._scale = scale
        self._black: Tensor | None = None

    @torch.inference_mode()
    def answer(self, queries: Sequence[WindowQuery]) -> list[WindowReply]:
        """Return one reply per query."""
        if not queries:
            return []
        self._encode({id(s): s for query in queries for s in query.slots})
        frames = torch.stack([torch.stack([s.encoded for s in q.slots], dim=1) for q in queries])
        state = self._states(queries)
        if self._window.behind:
            black = self._black_vector().expand(*frames.shape[:2], self._window.behind, -1)
            frames = torch.cat([frames, black], dim=2)
        text = torch.stack([query.text for query in queries])
        opinion = self._network(frames, text, state, self._window.steps + 1)
        stages, raw, progress = (part[:, self._window.read].tolist() for part in opinion)
        return [
            WindowReply(progress=p, raw=r, classes=tuple(c))
            for p, r, c in zip(progress, raw, stages, strict=True)
        ]

    def _encode(self, sightings: dict[int, Sighting]) -> None:
        fresh = [s for s in sightings.values() if s.vectors is None]
        pictures = [image for s in fresh for image in s.images or ()]
        if not pictures:
            return
        vectors = self._encoder.pictures(pictures).view(len(fresh), self._network.shape.cameras, -1)
        for sighting, own in zip(fresh, vectors, strict=True):
            sighting.vectors, sighting.images = own, None

    def _black_vector(self) -> Tensor:
        if self._black is None:
            self._black = self._encoder.pictures([_BLACK])[0]
        return self._black

    def _states(self, queries: Sequence[WindowQuery]) -> Tensor:
        """Return the states as the network takes them: empty slots zero, normalised, cut or padded to its size."""
        size, slots = self._network.shape.state_dim, self._window.steps + 1 + self._window.behind
        device = queries[0].text.device
        if self._scale is None:
            return torch.zeros(len(queries), slots, size, device=device)
        states = torch.from_numpy(np.array([[s.state for s in q.slots] for q in queries]))
        states = pad(states, (0, 0, 0, self._window.behind))
        states = ((states - self._scale.mean) / self._scale.std)[..., :size]
        return pad(states, (0, size - states.shape[-1])).to(device)


class PublishedFold(Fold[WindowQuery, WindowReply]):
    """The memory of one episode: its first observation, and as many as a window reaches back.

    Args:
        model: Whose windows to form.
        text: Vector of the instruction.
    """

    def __init__(self, model: PublishedModel, text: Tensor) -> None:
        self._model = model
        self._text = text
        self._seen = Sightings(reach=model.window.reach)
        self._finished = InARow(model.done_frames)
        self._mean = SureMean(model.smooth) if model.smooth else None

    def queries(self, observation: Observation) -> list[WindowQuery]:
        """Return one query: the window of this observation.

        Raises:
            ShapeError: If a view is missing, or the state has another size than in training.
        """
        self.skip(observation)
        wanted = self._model.window.indices(self._seen.first.id, self._seen.newest.id)
        # Where the live lane has passed over an observation, the one before it stands in.
        slots = tuple(self._seen.until(index) for index in wanted)
        return [WindowQuery(slots=slots, text=self._text)]

    def skip(self, observation: Observation) -> None:
        """Remember an observation.

        Raises:
            ShapeError: As :meth:`queries`.
        """
        self._seen.add(self._model.sighting(observation))

    def fold(self, observation_id: int, replies: Sequence[WindowReply | None]) -> Score:
        """Turn the reply into a score; it says "done" only where the network has a class for the finished task."""
        (reply,) = replies
        model = self._model
        if reply is None:
            return missing(observation_id, NO_REPLY, version=model.info.version)
        if not (math.isfinite(reply.progress) and all(map(math.isfinite, reply.classes))):
            return missing(observation_id, "not finite", version=model.info.version)
        stage = int(np.argmax(reply.classes))
        done = None
        if model.network.shape.finished:
            done = self._finished.read(stage == len(model.network.shape.stages))
        progress = min(max(reply.progress, 0.0), 1.0)
        if self._mean is not None:
            progress = self._mean.read(observation_id, progress, max(reply.classes))
        return Score(
            frame_id=observation_id,
            progress=progress,
            raw=reply.raw,
            done=done,
            stage=stage,
            version=model.info.version,
        )


class PublishedModel:
    """A published SARM checkpoint that watches.

    Args:
        network: In evaluation mode.
        encoder: What pictures and words are encoded with.
        window: Form of the windows.
        scale: How the state is normalised; None to show the network zeros.
        cameras: Views that it looks at, by name, in the order of training.
        digest: Hash of the weights, as a part of the version.
        observation_hz: Rate that the window is made for, Hz.
        done_frames: Finished observations in a row that make "done".
        smooth: Observations over which progress is a mean of the sure readings; 0 for the latest reading alone.
    """

    def __init__(
        self,
        network: WindowNetwork,
        encoder: PairEncoder,
        *,
        window: PublishedWindow,
        scale: StateScale | None,
        cameras: tuple[str, ...],
        digest: str,
        observation_hz: float,
        done_frames: int = 2,
        smooth: int = 0,
    ) -> None:
        self.network = network
        self.smooth = smooth
        self.window = window
        self.done_frames = done_frames
        self.judge = PublishedJudge(network, encoder, window, scale)
        self._encoder = encoder
        self._scale = scale
        about = {
            "kind": "sarm-published",
            "weights": digest,
            "encoder": encoder.identity,
            "shape": repr(network.shape),
            "window": repr(window),
            "state": None if scale is None else [scale.mean.tolist(), scale.std.tolist()],
            "cameras": cameras,
            "done_frames": done_frames,
            "smooth": smooth,
        }
        self.info = ModelInfo(
            version=version_of(about),
            cameras=cameras,
            says_done=network.shape.finished,
            about=about,
            observation_hz=observation_hz,
            looks_back=True,
        )

    def start(self, task: str, references: References) -> PublishedFold:
        """Return the fold of a new episode; references play no part.

        Raises:
            ConfigError: If the instruction is longer than the encoder reads.
        """
        return PublishedFold(self, self._encoder.texts([task])[0])

    def sighting(self, observation: Observation) -> Sighting:
        """Take from an observation what the network looks at.

        Raises:
            ShapeError: If a view is missing, or the state has another size than in training.
        """
        images = views_of(observation, self.info.cameras)
        scale = self._scale
        state = observation.state if scale is None else state_of(observation, len(scale.mean))
        return Sighting(id=observation_id(observation), images=images, state=state)
