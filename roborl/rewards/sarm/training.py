"""Trains the stage-aware reward model on demonstrations and failures, within a budget, resumably."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roborl.errors import DatasetError
from roborl.rewards.resume_points import bearing
from roborl.rewards.sarm.batches import PreparedEpisode, WindowSampler, augmented
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
from roborl.rewards.training.pace import Pace
from roborl.rewards.training.run import Learner, Log, TrainingRun

_WARM_UP = 0.05
_AVERAGING = 0.98
_BOOTSTRAP = 0.8
_NOT_BEARING = ("held_out", "threads", "save_every_s")  # on the weights that come out of the same episodes


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
        log: Receives step, seconds and loss every few seconds.

    Returns:
        The model and what it took.

    Raises:
        DatasetError: If there is no successful episode, or episodes do not fit each other.
        ModelLoadError: If ``workspace`` holds a resume point of another run.
        TrainingError: If losses, gradients or weights are no longer finite.
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
            ends_only=episode.success and episode.ends_only,
        )
        for episode in episodes
    ]
    learner = _SarmLearner(network, prepared, training)
    run = TrainingRun(
        learner,
        Pace(
            steps=training.steps,
            learning_rate=training.learning_rate,
            warm_up=_WARM_UP,
            budget_s=training.budget_s,
        ),
        identity={
            **bearing("model", config),
            **bearing("training", training, without=_NOT_BEARING),
            "episodes": _fingerprint(prepared),
        },
        workspace=workspace,
        save_every_s=training.save_every_s,
    )
    network.train()
    run.optimise(log)
    network.eval()
    model = freeze_sarm(
        learner.averaged(),
        plan,
        cameras=cameras,
        tasks=tuple(sorted({episode.task for episode in episodes})),
        state_dim=_state_dim(episodes),
        trained_hz=rate_hz,
    )
    return TrainedSarm(model=model, steps=run.step, seconds=run.seconds, loss=run.recent_loss)


class _SarmLearner(Learner):
    """The network and the average of its weights."""

    def __init__(
        self, network: SarmNetwork, episodes: Sequence[PreparedEpisode], training: SarmTraining
    ) -> None:
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        super().__init__(optimiser, dict(network.named_parameters()))
        self.network, self.training = network, training
        self.rng = np.random.default_rng(training.seed)
        self.sampler = WindowSampler(episodes, network.config.window, training, self.rng)
        self.trains = torch.from_numpy(self._bootstrap(len(episodes), network.config.members))
        self.average = {name: p.detach().clone() for name, p in self.named.items()}

    def _bootstrap(self, episodes: int, members: int) -> NDArray[np.bool_]:
        """Return which member learns from which episode: most from most, each from one, each episode teaches someone."""
        if members == 1:
            return np.ones((1, episodes), dtype=np.bool_)
        trains = np.random.default_rng(self.training.seed).random((members, episodes)) < _BOOTSTRAP
        trains[np.arange(episodes) % members, np.arange(episodes)] = True
        trains[~trains.any(axis=1)] = True
        return trains

    def losses(self, step: int) -> Iterator[Tensor]:
        """Draw windows and yield their loss."""
        network, batch = self.network, self.sampler.draw()
        vectors = batch.frames if network.encoder(0).frozen else network.encode(batch.frames).unbind(1)
        frames = torch.stack([vector[batch.place] for vector in vectors], dim=2)
        state = batch.state if network.config.use_state else None
        texts = sorted(set(batch.texts))
        text = network.text(texts)[torch.tensor([texts.index(t) for t in batch.texts])]
        heads = network(frames, state, text, batch.filled)
        yield window_losses(network, heads, batch, self.trains[:, batch.episode]).total

    def moved(self, step: int) -> None:
        """Move the average after the weights."""
        keep = min(_AVERAGING, step / (step + 10))
        with torch.no_grad():
            for name, parameter in self.named.items():
                self.average[name].lerp_(parameter, 1.0 - keep)

    def averaged(self) -> SarmNetwork:
        """Return the network with the averaged weights in it."""
        self.network.load_state_dict(self.average, strict=False)
        return self.network

    def kept(self) -> dict[str, Tensor]:
        """Return the network and the average."""
        network = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        return network | {f"average.{n}": t for n, t in self.average.items()}

    def words(self) -> dict[str, str]:
        """Return where the draws stand."""
        return {"rng": json.dumps(self.rng.bit_generator.state)}

    def restore(self, tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> None:
        """Take back network, average and draws."""
        self.rng.bit_generator.state = json.loads(words["rng"])
        self.network.load_state_dict({n: tensors[f"network.{n}"] for n in self.network.state_dict()})
        self.average = {n: tensors[f"average.{n}"] for n in self.average}


def _fingerprint(episodes: Sequence[PreparedEpisode]) -> str:
    """Return a hash of everything that is learned from."""
    digest = hashlib.sha256()
    for episode in episodes:
        labels = episode.labels
        digest.update(f"{episode.task}/{episode.success}".encode())
        for array in (*episode.frames, episode.state, labels.stage, labels.progress, labels.ceiling):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


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
