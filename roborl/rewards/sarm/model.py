"""The trained model as a reward model: a fold that remembers frames, and a judge that batches over sessions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from roborl.images import square
from roborl.rewards.judges.queries import picture_key
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
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.sarm.sightings import Sighting, Sightings
from roborl.rewards.sarm.windows import EMPTY, causal_window
from roborl.rewards.training.labels import StagePlan
from roborl.rewards.verdicts import DoneCounter
from roborl.types import Observation, Score


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SarmQuery:
    """A causal window: what to look at to judge its last slot.

    Attributes:
        slots: Anchor and history, oldest first; None for an empty slot.
        text: Vector of the instruction, float32 (dim,).
    """

    slots: tuple[Sighting | None, ...]
    text: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SarmReply:
    """What the network says about one observation.

    Attributes:
        progress: Mean over the members, in [0, 1].
        spread: Standard deviation over members and stages.
        stages: Probability of each stage and of the finished state, (K + 1,).
        within: Progress within each stage, (K,).
    """

    progress: float
    spread: float
    stages: tuple[float, ...]
    within: tuple[float, ...]


class SarmJudge(Judge[SarmQuery, SarmReply]):
    """Encodes every frame once and judges all windows in one pass.

    Args:
        network: In evaluation mode; used by one thread at a time.
    """

    def __init__(self, network: SarmNetwork) -> None:
        self._network = network

    @torch.inference_mode()
    def answer(self, queries: Sequence[SarmQuery]) -> list[SarmReply]:
        """Return one reply per query."""
        if not queries:
            return []
        network = self._network
        self.encode({id(s): s for query in queries for s in query.slots if s is not None}.values())
        blank = next(s for s in queries[0].slots[::-1] if s is not None)
        rows = [[blank if s is None else s for s in query.slots] for query in queries]
        filled = torch.tensor([[s is not None for s in query.slots] for query in queries])
        frames = torch.stack([torch.stack([s.encoded for s in row]) for row in rows])
        state = None
        if network.config.use_state:
            state = torch.from_numpy(np.array([[s.state for s in row] for row in rows]))
        heads = network(frames, state, torch.stack([query.text for query in queries]), filled)
        mean, variance = network.progress(heads)
        mean, variance = mean[:, :, -1], variance[:, :, -1]
        progress = mean.mean(dim=0)
        spread = (variance.mean(dim=0) + mean.var(dim=0, unbiased=False)).sqrt()
        stages = heads.stage_logits[:, :, -1].softmax(dim=-1).mean(dim=0)
        within = heads.within[:, :, -1].mean(dim=0)
        return [
            SarmReply(progress=p, spread=s, stages=tuple(k), within=tuple(w))
            for p, s, k, w in zip(
                progress.tolist(), spread.tolist(), stages.tolist(), within.tolist(), strict=True
            )
        ]

    def encode(self, sightings: Iterable[Sighting]) -> None:
        """Make the vectors of those that have none yet."""
        fresh = [s for s in sightings if s.vectors is None]
        if not fresh:
            return
        per_camera = zip(*(s.images or () for s in fresh), strict=True)
        vectors = self._network.encode([torch.from_numpy(np.stack(images)) for images in per_camera])
        for sighting, vector in zip(fresh, vectors, strict=True):
            sighting.vectors, sighting.images = vector, None


class RememberingJudge(SarmJudge):
    """A judge that encodes a picture once, in whatever order and however often it is shown: for reports."""

    def __init__(self, network: SarmNetwork) -> None:
        super().__init__(network)
        self._known: dict[bytes, Tensor] = {}

    def encode(self, sightings: Iterable[Sighting]) -> None:
        """Make the vectors of those whose pictures were never seen."""
        fresh = [(s, picture_key(*s.images)) for s in sightings if s.images is not None]
        for sighting, key in fresh:
            if key in self._known:
                sighting.vectors, sighting.images = self._known[key], None
        super().encode(s for s, _ in fresh)
        self._known |= {key: s.vectors for s, key in fresh if s.vectors is not None}


class SarmFold(Fold[SarmQuery, SarmReply]):
    """The memory of one episode: its first observation and the last few.

    Args:
        model: Whose windows to form.
        text: Vector of the instruction.
    """

    def __init__(self, model: SarmModel, text: Tensor) -> None:
        self._model = model
        self._text = text
        self._seen = Sightings(reach=model.config.window.reach)
        self._done = DoneCounter(model.config.done_rule)

    def queries(self, observation: Observation) -> list[SarmQuery]:
        """Return one query: the causal window that ends at this observation.

        Raises:
            ShapeError: If a view is missing, or the state has another size than the model was trained with.
        """
        self.skip(observation)
        wanted = causal_window(self._model.config.window, self._seen.newest.id)
        slots = [self._seen.at(int(index)) if index != EMPTY else None for index in wanted[1:]]
        return [SarmQuery(slots=(self._seen.first, *slots), text=self._text)]

    def skip(self, observation: Observation) -> None:
        """Remember an observation.

        Raises:
            ShapeError: As :meth:`queries`.
        """
        self._seen.add(self._model.sighting(observation))

    def fold(self, observation_id: int, replies: Sequence[SarmReply | None]) -> Score:
        """Turn the reply into a score; "done" needs several finished frames in a row, missing ones left out."""
        (reply,) = replies
        model = self._model
        if reply is None:
            return missing(observation_id, NO_REPLY, version=model.info.version)
        if not (math.isfinite(reply.progress) and math.isfinite(reply.spread)):
            return missing(observation_id, "not finite", version=model.info.version)
        progress = min(max(reply.progress, 0.0), 1.0)
        return Score(
            frame_id=observation_id,
            progress=progress,
            raw=reply.progress,
            spread=reply.spread,
            done=self._done.read(progress),
            stage=int(np.argmax(reply.stages)),
            version=model.info.version,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class SarmModel:
    """A trained stage-aware reward model.

    Attributes:
        network: Its weights, in evaluation mode.
        plan: Stages and shares.
        info: Its version is the hash of weights, architecture, plan, views, settings and rate.
        tasks: Instructions it was trained on.
        state_dim: Size of the state it was trained with.
    """

    network: SarmNetwork
    plan: StagePlan
    info: ModelInfo
    tasks: tuple[str, ...]
    state_dim: int
    judge: SarmJudge = field(init=False)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
        object.__setattr__(self, "judge", SarmJudge(self.network))

    @property
    def config(self) -> SarmConfig:
        """The architecture."""
        return self.network.config

    def start(self, task: str, references: References) -> SarmFold:
        """Return the fold of a new episode; references play no part."""
        with torch.inference_mode():
            return SarmFold(self, self.network.text([task])[0])

    def sighting(self, observation: Observation) -> Sighting:
        """Take from an observation what the model looks at.

        Raises:
            ShapeError: If a view is missing, or the state has the wrong size where it is used.
        """
        views = views_of(observation, self.info.cameras)
        state = state_of(observation, self.state_dim) if self.config.use_state else observation.state
        images = tuple(square(view, self.config.image_px) for view in views)
        return Sighting(id=observation_id(observation), images=images, state=state)
