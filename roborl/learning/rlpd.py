"""RLPD for a cloned policy: symmetric sampling, an ensemble of normalised critics, shaping at draw time.

The image encoder is frozen, so every picture is encoded once; the actor starts as the clone. It climbs the critics' values,
clones demonstrations and a person's steps in episodes that did not fail, and clones any other action as much as what
followed it was better than what the actor would have got: so it takes the good part of an episode that failed, which a
shaped value tells from the rest, and leaves the part of a success in which it went nowhere. The critics are told the stored
potential of each observation, the actor never is, so the shaped values stay the task's values minus the potential however
late, held or noisy that potential is.

What critics are taught towards, and how far they look ahead, is in :mod:`roborl.learning.targets`.

Source:
    Ball et al., Efficient Online Reinforcement Learning with Offline Data (ICML 2023); Fujimoto & Gu, A Minimalist
    Approach to Offline Reinforcement Learning (NeurIPS 2021) for the normalised actor loss; Peng et al., Advantage-Weighted
    Regression (2019) and Nair et al., AWAC (2020) for cloning by advantage.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from roborl.data.arena import ArenaReader
from roborl.envs.ranges import check_number
from roborl.errors import ConfigError, ModelLoadError
from roborl.learning.batch import Batch
from roborl.learning.features import FeatureCache
from roborl.learning.optimisers import go_on
from roborl.learning.targets import Targets, TargetsConfig
from roborl.policies.networks import Critics
from roborl.policies.small import SmallPolicy, Weights, to_arrays
from roborl.rewards.forms import RewardForm

# So that no single action outweighs the rest.
_MOST_WEIGHT = 20.0


@dataclass(frozen=True, kw_only=True)
class RlpdConfig(TargetsConfig):
    """Settings of the algorithm."""

    # transitions per update
    batch_size: int = 64
    # share of a batch drawn from demonstrations and successes, below 1
    demo_fraction: float = 0.5
    # longest n-step return. More than one step credits an action with what exploration made of the next ones
    n_step: int = 1
    # critics in the ensemble
    members: int = 4
    # critics whose minimum is the target
    subset: int = 2
    # units per hidden layer of a critic
    width: int = 128
    # of actor and critics
    learning_rate: float = 3e-4
    # share of the critics that enters their targets at each update
    polyak: float = 0.005
    # standard deviation of the smoothing noise on target actions
    target_noise: float = 0.1
    # critic updates per actor update
    actor_every: int = 2
    # share of the running average of actors that each update keeps; the average is what acts
    actor_average: float = 0.999
    # weight of the cloning loss on demonstrations and a person's steps in the actor's loss
    clone_weight: float = 0.33
    # weight of cloning other actions by their advantage, where that is positive
    advantage_weight: float = 1.67
    # advantage, relative to the mean value, that makes such an action count e times as much
    advantage_temperature: float = 0.05
    # values below this are not scaled up further, so that an untaught critic does not move the actor
    least_value: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_noise", "clone_weight", "advantage_weight"):
            check_number(f"rlpd.{name}", getattr(self, name), at_least=0.0, remedy=f"Set --rlpd.{name}")
        share, least = "rlpd.demo_fraction", "rlpd.least_value"
        check_number(share, self.demo_fraction, at_least=0.0, at_most=1.0, remedy=f"Set --{share}")
        check_number(least, self.least_value, above=0.0, remedy=f"Set --{least}")
        if (
            min(self.batch_size, self.members, self.subset, self.actor_every) < 1
            or not self.advantage_temperature > 0.0
        ):
            raise ConfigError(
                "RLPD cannot learn with these settings",
                seen=f"batch_size={self.batch_size} members={self.members} subset={self.subset} "
                f"actor_every={self.actor_every} advantage_temperature={self.advantage_temperature:g}",
                allowed="1 or more each, advantage_temperature > 0",
                remedy="To clone no other actions by their advantage: advantage_weight 0",
            )
        if not (
            self.subset <= self.members
            and 0.0 <= self.actor_average < 1.0
            and 0.0 < self.polyak <= 1.0
            and min(self.n_step, self.width) >= 1
            and self.learning_rate > 0.0
        ):
            raise ConfigError(
                "Critics or actor would never learn with these settings, or not be there",
                seen=f"subset={self.subset} members={self.members} actor_average={self.actor_average:g} "
                f"polyak={self.polyak:g} n_step={self.n_step} width={self.width} learning_rate={self.learning_rate:g}",
                allowed="subset <= members, actor_average in [0, 1), polyak in (0, 1], 1 or more of n_step and width, "
                "learning_rate > 0",
                remedy="For an actor that is not averaged: actor_average 0; for targets without lag: polyak 1",
            )


class Rlpd:
    """The learner's side of the algorithm.

    Args:
        config: Settings.
        policy: The cloned policy to start from; its encoder stays as it is.
        arena: The replay memory that batches are drawn from; pictures are looked up there by row.
        form: How progress becomes reward.
        seed: Of network initialisation and of every draw.
    """

    images = False  # the frozen encoder's features of a row are computed once

    def __init__(
        self,
        config: RlpdConfig,
        policy: SmallPolicy,
        arena: ArenaReader,
        *,
        form: RewardForm = RewardForm.POTENTIAL,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.config = config
        self.form = form
        self.shaped = Targets(form, config)
        shape = policy.config
        self.features = FeatureCache(policy.encoder, arena, cameras=shape.cameras, image_px=shape.image_px)
        self._remaining, self._from_first = policy.remaining, shape.from_first
        self.actor = copy.deepcopy(policy.actor).train()
        self.averaged = copy.deepcopy(policy.actor).requires_grad_(False)
        inputs = policy.remaining.output_dim + shape.action_dim + 1
        self.critics = Critics(inputs, config.members, config.width)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self._actor_optimiser = torch.optim.Adam(self.actor.parameters(), config.learning_rate, fused=True)
        self._critic_optimiser = torch.optim.Adam(self.critics.parameters(), config.learning_rate, fused=True)
        self.updates = 0

    def look_up(self, batch: Batch) -> None:
        """Encode the pictures of a batch that were not yet."""
        both = np.concatenate((batch.rows, batch.next_rows))
        self.features.look_up(both, first=self._from_first)

    def update(self, batch: Batch) -> dict[str, float]:
        """Improve critics and, every ``actor_every`` calls, the actor on one drawn batch."""
        inputs = self._inputs(batch.rows, batch.state)
        next_inputs = self._inputs(batch.next_rows, batch.next_state)
        action = torch.from_numpy(batch.action)
        potential = torch.from_numpy(batch.potential)
        target = self._target(batch, next_inputs)
        metrics = self._update_critics(inputs, action, potential, target)
        if self.updates % self.config.actor_every == 0:
            metrics |= self._update_actor(batch, inputs, action, potential, target)
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.targets.parameters()), list(self.critics.parameters()), self.config.polyak
            )
        self.updates += 1
        return metrics

    @property
    def lookahead(self) -> float:
        """What part of the value beyond the potential each step hands back now; all of it where no potential stands in."""
        return self.shaped.lookahead(self.updates)

    def practised(self, successes: int, before_practice: int) -> None:
        """Hear how many episodes of practice have succeeded without a person's help, and how many updates came before it."""
        self.shaped.successes, self.shaped.before_practice = successes, before_practice

    def actor_weights(self) -> Weights:
        """Copy what an actor process needs: the averaged actor, never critics or the frozen encoder."""
        return to_arrays(self.averaged)

    def load_actor_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Go on from an older actor; the critics stay, and learn about it as it acts.

        Raises:
            ModelLoadError: If the weights are not this actor's.
        """
        try:
            for actor in (self.actor, self.averaged):
                actor.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in weights.items()})
        except RuntimeError as error:
            raise ModelLoadError("The weights are not of this actor", seen=error) from error

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training goes on from: networks, optimisers, counter and generator."""
        return {
            "actor": self.actor.state_dict(),
            "averaged": self.averaged.state_dict(),
            "critics": self.critics.state_dict(),
            "targets": self.targets.state_dict(),
            "actor_optimiser": self._actor_optimiser.state_dict(),
            "critic_optimiser": self._critic_optimiser.state_dict(),
            "updates": self.updates,
            "generator": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.actor.load_state_dict(state["actor"])
        self.averaged.load_state_dict(state["averaged"])
        self.critics.load_state_dict(state["critics"])
        self.targets.load_state_dict(state["targets"])
        go_on(self._actor_optimiser, state["actor_optimiser"])
        go_on(self._critic_optimiser, state["critic_optimiser"])
        self.updates = int(state["updates"])
        torch.set_rng_state(state["generator"])

    def _inputs(self, rows: NDArray[np.int64], state: NDArray[np.float32]) -> Tensor:
        features = torch.from_numpy(self.features.rows(rows))
        first = torch.from_numpy(self.features.first_rows(rows)) if self._from_first else features
        inputs: Tensor = self._remaining(features, torch.from_numpy(state), first)
        return inputs

    def _values(
        self,
        critics: Critics,
        inputs: Tensor,
        action: Tensor,
        potential: Tensor,
        members: Tensor | None = None,
    ) -> Tensor:
        seen = potential if self.config.critic_sees_potential else torch.zeros_like(potential)
        values: Tensor = critics(torch.cat([inputs, action, seen.unsqueeze(1)], dim=1), members)
        return values

    @torch.no_grad()
    def _target(self, batch: Batch, next_inputs: Tensor) -> Tensor:
        config = self.config
        next_potential = torch.from_numpy(batch.next_potential)
        next_action = self.actor(next_inputs)
        noise = (config.target_noise * torch.randn_like(next_action)).clamp_(-0.3, 0.3)
        members = torch.randperm(config.members)[: config.subset]
        next_values = self._values(
            self.targets, next_inputs, (next_action + noise).clamp_(-1, 1), next_potential, members
        )
        return self.shaped.of(batch, next_values.min(dim=0).values, self.updates)

    def _update_critics(
        self, inputs: Tensor, action: Tensor, potential: Tensor, target: Tensor
    ) -> dict[str, float]:
        values = self._values(self.critics, inputs, action, potential)
        loss = functional.mse_loss(values, target.expand_as(values))
        self._critic_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._critic_optimiser.step()
        return {"critic_loss": loss.item(), "value": values.mean().item(), "target": target.mean().item()}

    def _update_actor(
        self, batch: Batch, inputs: Tensor, action: Tensor, potential: Tensor, target: Tensor
    ) -> dict[str, float]:
        config = self.config
        proposal = self.actor(inputs)
        self.critics.requires_grad_(False)
        values = self._values(self.critics, inputs, proposal, potential).mean(dim=0)
        self.critics.requires_grad_(True)
        worth = self.shaped.task_value(values.detach(), potential)
        scale = worth.abs().mean().clamp_min(config.least_value)
        error = (proposal - action).square().sum(dim=1)
        shown = torch.from_numpy(batch.demo | batch.person).float()
        clone_loss = (shown * error).sum() / shown.sum().clamp_min(1)
        with torch.no_grad():
            expected = self._values(self.targets, inputs, proposal, potential).mean(dim=0)
            better = (target - expected) / scale
            weight = (better / config.advantage_temperature).exp().clamp_max(_MOST_WEIGHT)
            weight *= (1 - shown) * (better > 0)
        better_loss = (weight * error).mean()
        loss = (
            -values.mean() / scale + config.clone_weight * clone_loss + config.advantage_weight * better_loss
        )
        self._actor_optimiser.zero_grad()
        loss.backward()
        self._actor_optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.averaged.parameters()), list(self.actor.parameters()), 1.0 - config.actor_average
            )
        return {
            "actor_value": values.mean().item(),
            "clone_loss": clone_loss.item(),
            "better_loss": better_loss.item(),
        }
