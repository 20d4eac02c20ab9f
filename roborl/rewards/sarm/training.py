"""Trains the stage-aware reward model on demonstrations and failures, within a budget, resumably."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roborl.errors import DatasetError
from roborl.rewards.resume_points import bearing, read_resume_point, restore_optimiser, write_resume_point
from roborl.rewards.sarm.batches import PreparedEpisode, WindowBatch, WindowSampler, augmented
from roborl.rewards.sarm.checkpoint import freeze_sarm
from roborl.rewards.sarm.config import SarmConfig, SarmTraining
from roborl.rewards.sarm.loss import window_losses
from roborl.rewards.sarm.model import SarmModel
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.training.cache import frame_vectors
from roborl.rewards.training.episodes import (
    TrainingEpisode,
    common_cameras,
    label_episode,
    resize_episode,
)
from roborl.rewards.training.labels import plan_stages

_WARM_UP = 0.05
_AVERAGING = 0.98
_LOG_EVERY_S = 5.0
_BOOTSTRAP = 0.8
_NOT_BEARING = ("held_out", "threads", "save_every_s")  # on the weights that come out of the same episodes

type Log = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedSarm:
    """The outcome of a training run.

    Attributes:
        model: The model, its weights averaged over the last part of the run.
        steps: Optimiser steps taken, earlier sessions of a resumed run included.
        seconds: Seconds of optimisation, the same.
        loss: Mean total loss of the last steps.
    """

    model: SarmModel
    steps: int
    seconds: float
    loss: float


def train_sarm(
    episodes: Sequence[TrainingEpisode],
    config: SarmConfig | None = None,
    training: SarmTraining | None = None,
    *,
    rate_hz: float | None = None,
    workspace: Path | None = None,
    cache: Path | None = None,
    log: Log | None = None,
) -> TrainedSarm:
    """Train a model.

    Args:
        episodes: Demonstrations and, if there are any, failures. Privileged progress in them is not looked at.
        config: The architecture.
        training: Budget and augmentation.
        rate_hz: Observations per second of the episodes, which the model is to remember; None where it is not known.
        workspace: Folder for resume points; a run that was cut goes on from the last one. Blocks on the disk.
        cache: Folder for the vectors of a frozen encoder.
        log: Receives the step, the seconds and the losses every few seconds.

    Returns:
        The model and what it took.

    Raises:
        DatasetError: If there is no successful episode, or episodes do not fit each other.
        ModelLoadError: If ``workspace`` holds a resume point of another run.
    """
    config, training = config or SarmConfig(), training or SarmTraining()
    if not any(episode.success for episode in episodes):
        raise DatasetError(
            "A reward model needs at least one successful episode",
            seen=f"{len(episodes)} episodes, none successful",
            remedy="Record demonstrations, or say which episodes succeeded",
        )
    if training.threads:
        torch.set_num_threads(training.threads)
    cameras = common_cameras(episodes)
    plan = plan_stages([episode.subtasks for episode in episodes if episode.success])
    torch.manual_seed(training.seed)
    network = SarmNetwork(config, plan, cameras, _state_dim(episodes))
    network.set_state_statistics(np.concatenate([episode.state for episode in episodes]))
    shaking = np.random.default_rng([training.seed, 1])
    prepared = [
        PreparedEpisode(
            frames=_frames(
                network, resize_episode(episode, cameras, config.image_px), training, shaking, cache
            ),
            state=episode.state,
            task=episode.task,
            success=episode.success,
            labels=label_episode(episode, plan, training.failure_ceiling),
        )
        for episode in episodes
    ]
    run = _Run(network, prepared, config, training, workspace)
    steps, seconds, loss = run.optimise(log)
    model = freeze_sarm(
        run.averaged(),
        plan,
        cameras=cameras,
        tasks=tuple(sorted({episode.task for episode in episodes})),
        state_dim=_state_dim(episodes),
        trained_hz=rate_hz,
    )
    return TrainedSarm(model=model, steps=steps, seconds=seconds, loss=loss)


class _Run:
    """Network, optimiser and averaged weights of one run, and its resume point."""

    def __init__(
        self,
        network: SarmNetwork,
        episodes: Sequence[PreparedEpisode],
        config: SarmConfig,
        training: SarmTraining,
        workspace: Path | None,
    ) -> None:
        self.network, self.training = network, training
        self.rng = np.random.default_rng(training.seed)
        self.sampler = WindowSampler(episodes, config.window, training, self.rng)
        self.trains = torch.from_numpy(self._bootstrap(len(episodes), config.members))
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self.average = {name: p.detach().clone() for name, p in network.named_parameters()}
        self.step, self.before_s = 0, 0.0
        self.workspace = workspace
        self.identity = {
            **bearing("model", config),
            **bearing("training", training, without=_NOT_BEARING),
            "episodes": _fingerprint(episodes),
        }
        if workspace is not None:
            self._resume(workspace)

    def _bootstrap(self, episodes: int, members: int) -> NDArray[np.bool_]:
        """Return which member learns from which episode: most from most, each from one, each episode teaches someone."""
        if members == 1:
            return np.ones((1, episodes), dtype=np.bool_)
        trains = np.random.default_rng(self.training.seed).random((members, episodes)) < _BOOTSTRAP
        trains[np.arange(episodes) % members, np.arange(episodes)] = True
        trains[~trains.any(axis=1)] = True
        return trains

    def optimise(self, log: Log | None) -> tuple[int, float, float]:
        """Step until the budget is used up; return steps, seconds and the recent loss."""
        training, began = self.training, time.monotonic()
        logged = saved = began
        recent: list[float] = []
        self.network.train()
        while True:
            spent = self.before_s + time.monotonic() - began
            used = max(self.step / training.steps, spent / training.budget_s)
            if used >= 1.0:
                break
            for group in self.optimiser.param_groups:
                group["lr"] = training.learning_rate * _schedule(used)
            recent = [*recent[-49:], self._update(self.sampler.draw())]
            self.step += 1
            now = time.monotonic()
            if log and now - logged > _LOG_EVERY_S:
                log({"step": self.step, "seconds": spent, "loss": float(np.mean(recent))})
                logged = now
            if self.workspace is not None and now - saved > training.save_every_s:
                self._save(self.workspace, spent)
                saved = now
        self.network.eval()
        if self.workspace is not None:
            self._save(self.workspace, spent)
        return self.step, spent, float(np.mean(recent)) if recent else math.nan

    def _update(self, batch: WindowBatch) -> float:
        network = self.network
        vectors = batch.frames if network.encoder(0).frozen else network.encode(batch.frames).unbind(1)
        frames = torch.stack([vector[batch.place] for vector in vectors], dim=2)
        state = batch.state if network.config.use_state else None
        texts = sorted(set(batch.texts))
        text = network.text(texts)[torch.tensor([texts.index(t) for t in batch.texts])]
        heads = network(frames, state, text, batch.filled)
        losses = window_losses(network, heads, batch, self.trains[:, batch.episode])
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self.optimiser.step()
        keep = min(_AVERAGING, self.step / (self.step + 10))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                self.average[name].lerp_(parameter, 1.0 - keep)
        return losses.total.item()

    def averaged(self) -> SarmNetwork:
        """Return the network with the averaged weights in it."""
        self.network.load_state_dict(self.average, strict=False)
        return self.network

    def _save(self, folder: Path, seconds: float) -> None:
        tensors = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.average.items()}
        meta = {
            "step": str(self.step),
            "seconds": repr(seconds),
            "rng": json.dumps(self.rng.bit_generator.state),
        }
        write_resume_point(
            folder / "resume.safetensors",
            tensors=tensors,
            parameters=dict(self.network.named_parameters()),
            optimiser=self.optimiser,
            identity=self.identity,
            meta=meta,
        )

    def _resume(self, folder: Path) -> None:
        point = read_resume_point(folder / "resume.safetensors", identity=self.identity)
        if point is None:
            return
        meta, tensors = point
        self.step, self.before_s = int(meta["step"]), float(meta["seconds"])
        self.rng.bit_generator.state = json.loads(meta["rng"])
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind in parts:
                parts[kind][rest] = tensor
        self.network.load_state_dict(parts["network"])
        self.average = parts["average"]
        restore_optimiser(self.optimiser, dict(self.network.named_parameters()), tensors)


def _fingerprint(episodes: Sequence[PreparedEpisode]) -> str:
    """Return a hash of everything that is learned from."""
    digest = hashlib.sha256()
    for episode in episodes:
        labels = episode.labels
        digest.update(f"{episode.task}/{episode.success}".encode())
        for array in (*episode.frames, episode.state, labels.stage, labels.progress, labels.ceiling):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _schedule(used: float) -> float:
    """Return the learning rate's factor: a short warm-up, then a cosine to a fiftieth."""
    if used < _WARM_UP:
        return max(0.02, used / _WARM_UP)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * (used - _WARM_UP) / (1.0 - _WARM_UP)))


def _state_dim(episodes: Sequence[TrainingEpisode]) -> int:
    sizes = {episode.state.shape[1] for episode in episodes}
    if len(sizes) != 1:
        raise DatasetError("All episodes must have states of one size", seen=sorted(sizes))
    return sizes.pop()


def _frames(
    network: SarmNetwork,
    pictures: tuple[NDArray[np.uint8], ...],
    training: SarmTraining,
    rng: np.random.Generator,
    cache: Path | None,
) -> tuple[NDArray[np.uint8] | NDArray[np.float32], ...]:
    if not network.encoder(0).frozen:
        return pictures
    found: list[NDArray[np.float32]] = []
    for camera, frames in enumerate(pictures):
        others = [augmented(frames, training, rng).byte().numpy() for _ in range(training.takes - 1)]
        found.append(
            np.stack([frame_vectors(network.encoder(camera), take, cache) for take in (frames, *others)])
        )
    return tuple(found)
