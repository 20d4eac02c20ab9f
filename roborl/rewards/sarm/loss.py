"""What the network is trained for: the stage, the progress within it, the progress of the mixture, and ceilings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roborl.rewards.sarm.batches import WindowBatch
from roborl.rewards.sarm.network import Heads, SarmNetwork
from roborl.rewards.training.labels import UNKNOWN

_WITHIN, _PROGRESS = 2.0, 10.0
"""Weights that bring the squared errors to the size of the stages' cross entropy."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Losses:
    """Means over the slots that have the label in question; empty slots count in none.

    Attributes:
        stage: Cross entropy of the stage.
        within: Squared error of τ under the true stage.
        progress: Squared error of Σ_k p_k (P_{k-1} + α_k τ_k).
        ceiling: Squared excess of the progress over its ceiling.
    """

    stage: Tensor
    within: Tensor
    progress: Tensor
    ceiling: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum that is minimised."""
        return self.stage + _WITHIN * self.within + _PROGRESS * (self.progress + self.ceiling)


def window_losses(network: SarmNetwork, heads: Heads, batch: WindowBatch, trains: Tensor) -> Losses:
    """Compare heads and labels.

    Args:
        network: Whose mixture to use.
        heads: Its output for the batch.
        batch: Labels.
        trains: Which member learns from which window (bootstrap), bool (m, b).
    """
    learns = trains[:, :, None] & batch.filled
    staged = learns & (batch.stage != UNKNOWN)
    stages = heads.within.shape[-1]
    logits = heads.stage_logits.flatten(0, 2)
    target = batch.stage.clamp_min(0).expand(learns.shape)
    entropy = nn.functional.cross_entropy(logits, target.flatten(), reduction="none").view(learns.shape)
    timed = staged & (batch.stage < stages) & ~batch.within.isnan()
    own = heads.within.gather(-1, target.clamp_max(stages - 1)[..., None])[..., 0]
    progress, _ = network.progress(heads)
    known = learns & ~batch.progress.isnan()
    bounded = learns & (batch.ceiling < 1.0)
    return Losses(
        stage=_mean(entropy, staged),
        within=_mean((own - batch.within.nan_to_num()) ** 2, timed),
        progress=_mean((progress - batch.progress.nan_to_num()) ** 2, known),
        ceiling=_mean((progress - batch.ceiling).clamp_min(0.0) ** 2, bounded),
    )


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, torch.zeros_like(values)).sum() / where.sum().clamp_min(1)
