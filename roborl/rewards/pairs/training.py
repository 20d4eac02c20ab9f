"""Trains the small judge of hops: from scratch on many tasks, or on from there with one demonstration of a new one."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roborl.errors import ConfigError, DatasetError, TrainingError
from roborl.rewards.adaptation.training import schedule
from roborl.rewards.pairs.batches import PairEpisode, PairSampler, pairs_loss
from roborl.rewards.pairs.config import PairTraining
from roborl.rewards.pairs.judge import network_identity
from roborl.rewards.pairs.network import PairNetwork
from roborl.rewards.resume_points import (
    Identity,
    bearing,
    read_resume_point,
    restore_optimiser,
    write_resume_point,
)

_WARM_UP = 0.02
_CLIP = 1.0
_LOG_EVERY_S = 5.0

type Tasks = Mapping[str, Sequence[PairEpisode]]
type Log = Callable[[Mapping[str, float]], None]


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
        TrainingError: If the loss is no longer finite.
    """
    torch.set_num_threads(training.threads)
    run = _Run(network, tasks, training, _shares(tasks, demonstration, training), workspace)
    seconds = run.optimise(log)
    tenth = max(1, training.steps // 10)
    return TrainedPairs(
        first_loss=_mean(run.losses[:tenth]), last_loss=_mean(run.losses[-tenth:]), seconds=seconds
    )


class _Run:
    """Network and optimiser of one run, and its resume point."""

    def __init__(
        self,
        network: PairNetwork,
        tasks: Tasks,
        training: PairTraining,
        shares: Sequence[float],
        workspace: Path | None,
    ) -> None:
        self.network, self.training, self.workspace = network, training, workspace
        self.sampler = PairSampler(tasks, shares, training)
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self.losses: list[float] = []
        # Of the weights as they are given, before anything is done to them.
        self.identity = _identity(network, tasks, training, shares)
        if workspace is not None:
            self._resume(workspace)

    def optimise(self, log: Log | None) -> float:
        """Step to the end; return the seconds that it took."""
        training = self.training
        began = logged = saved = time.monotonic()
        self.network.train()
        while len(self.losses) < training.steps:
            self._update()
            done, now = len(self.losses) == training.steps, time.monotonic()
            if log is not None and (done or now - logged > _LOG_EVERY_S):
                log({"step": len(self.losses), "seconds": now - began, "loss": _mean(self.losses[-50:])})
                logged = now
            if self.workspace is not None and (done or now - saved > training.save_every_s):
                self._save(self.workspace)
                saved = now
        self.network.eval()
        return time.monotonic() - began

    def _update(self) -> None:
        step, training = len(self.losses), self.training
        # Whatever is random in a step depends on its number alone, so that a resumed run draws the same.
        rng = np.random.default_rng([training.seed, step])
        torch.manual_seed(training.seed * 1_000_003 + step)
        for group in self.optimiser.param_groups:
            group["lr"] = training.learning_rate * schedule(step, training.steps, _WARM_UP)
        loss = pairs_loss(self.network, self.sampler.draw(rng), training.no_wrist)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self.losses.append(loss.item())
        if not math.isfinite(self.losses[-1]):
            raise TrainingError(
                "The training of a judge of pairs has come to nothing: its loss is not finite",
                seen=f"step {step}",
                remedy="Lower --training.learning_rate",
            )
        self.optimiser.step()

    def _save(self, folder: Path) -> None:
        write_resume_point(
            folder / "resume.safetensors",
            tensors={f"network.{name}": p for name, p in self.network.named_parameters()},
            parameters=dict(self.network.named_parameters()),
            optimiser=self.optimiser,
            identity=self.identity,
            meta={"losses": json.dumps(self.losses)},
        )

    def _resume(self, folder: Path) -> None:
        point = read_resume_point(folder / "resume.safetensors", identity=self.identity)
        if point is None:
            return
        meta, tensors = point
        self.losses = json.loads(meta["losses"])
        parameters = dict(self.network.named_parameters())
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"network.{name}"])
        restore_optimiser(self.optimiser, parameters, tensors)


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


def _mean(losses: Sequence[float]) -> float:
    return float(np.mean(losses)) if losses else math.nan


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
