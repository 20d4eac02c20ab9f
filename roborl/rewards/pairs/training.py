"""Trains the small judge of hops: from scratch on many tasks, or on from there with one demonstration of a new one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roborl.errors import ConfigError, DatasetError
from roborl.rewards.pairs.batches import PairEpisode, PairSampler, pairs_loss
from roborl.rewards.pairs.config import PairTraining
from roborl.rewards.pairs.judge import network_identity
from roborl.rewards.pairs.network import PairNetwork
from roborl.rewards.resume_points import Identity, bearing
from roborl.rewards.training.pace import Pace
from roborl.rewards.training.run import Learner, Log, TrainingRun

_WARM_UP = 0.02

type Tasks = Mapping[str, Sequence[PairEpisode]]


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedPairs:
    """What training came to.

    Attributes:
        first_loss: Mean loss of the first tenth of the steps; NaN without any.
        last_loss: The same of the last tenth.
        seconds: Time of this session.
    """

    first_loss: float
    last_loss: float
    seconds: float


def train_pairs(
    network: PairNetwork,
    tasks: Tasks,
    training: PairTraining,
    *,
    demonstration: str = "",
    workspace: Path | None = None,
    log: Log | None = None,
) -> TrainedPairs:
    """Train a network in place.

    Args:
        network: New, or trained before.
        tasks: Episodes of each task, a success at least of each.
        training: How.
        demonstration: The task that the judge is adapted to, and is shown more often; empty for none.
        workspace: Folder for the resume point; a run that was cut goes on from there. Blocks on the disk.
        log: Receives step, seconds and loss every few seconds.

    Raises:
        DatasetError: If there is no task.
        ConfigError: If there is no such task as ``demonstration``.
        ModelLoadError: If ``workspace`` holds a resume point of another run.
        TrainingError: If losses, gradients or weights are no longer finite.
    """
    torch.set_num_threads(training.threads)
    shares = _shares(tasks, demonstration, training)
    run = TrainingRun(
        _PairLearner(network, PairSampler(tasks, shares, training), training),
        Pace(steps=training.steps, learning_rate=training.learning_rate, warm_up=_WARM_UP),
        identity=_identity(network, tasks, training, shares),
        workspace=workspace,
        save_every_s=training.save_every_s,
    )
    network.train()
    run.optimise(log)
    network.eval()
    return TrainedPairs(first_loss=run.first_loss, last_loss=run.last_loss, seconds=run.session_s)


class _PairLearner(Learner):
    """The network, and what it is shown."""

    def __init__(self, network: PairNetwork, sampler: PairSampler, training: PairTraining) -> None:
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        super().__init__(optimiser, dict(network.named_parameters()))
        self.network, self.sampler, self.training = network, sampler, training

    def losses(self, step: int) -> Iterator[Tensor]:
        """Draw pairs and yield their loss."""
        # Whatever is random in a step depends on its number alone, so that a resumed run draws the same.
        rng = np.random.default_rng([self.training.seed, step])
        torch.manual_seed(self.training.seed * 1_000_003 + step)
        yield pairs_loss(self.network, self.sampler.draw(rng), self.training.no_wrist)


def _identity(
    network: PairNetwork, tasks: Tasks, training: PairTraining, shares: Sequence[float]
) -> Identity:
    digest = hashlib.sha256()
    for share, (name, episodes) in zip(shares, tasks.items(), strict=True):
        digest.update(f"{name} {share!r}".encode())
        for episode in episodes:
            digest.update(f"{episode.success}".encode())
            arrays: list[NDArray[Any]] = [*episode.views, episode.low, episode.high]
            for array in arrays:
                digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return {
        **bearing("training", training, without=("threads", "save_every_s")),
        "network": network_identity(network),
        "episodes": digest.hexdigest(),
    }


def _shares(tasks: Tasks, demonstration: str, training: PairTraining) -> list[float]:
    """How often each task is drawn: equally often, but for the demonstration's."""
    if not tasks:
        raise DatasetError("A judge of pairs has nothing to learn from", seen="no dataset")
    if not demonstration:
        return [1.0 / len(tasks)] * len(tasks)
    if demonstration not in tasks:
        raise ConfigError("There is no such task to adapt to", seen=demonstration, allowed=sorted(tasks))
    own = training.demonstration_share if len(tasks) > 1 else 1.0
    return [own if name == demonstration else (1.0 - own) / (len(tasks) - 1) for name in tasks]
