"""Advantage-weighted fine-tuning of a LeRobot policy: it imitates what it is shown, and what went better than expected.

The policy learns by its own imitation loss, so any network whose loss is known sample by sample will do: no likelihood and
no gradient through sampling is asked for. A chunk that a person commanded, unless the episode failed, or a demonstration,
counts once; any other chunk, of practice, counts e to the power of its advantage where that is positive, and not at all
where it is not. Within a batch these weights are scaled down to a mean of 1 where it is more, so that practice as a whole
counts no more than its share of the batch; and it counts nothing before the values have been taught for a while. The
advantage of a chunk is the shaped return over it and what the observation behind it is worth, less what the observation
before it was worth. An ensemble of small networks says what observations are worth, from a frozen encoder's features, the
state and the stored potential; the policy is never told the potential. So the shaped values stay the task's values minus
the potential, however late, held or noisy that potential is, and the advantage of a converged ensemble is the task's own.

What values are taught towards, and how far they look ahead, is in :mod:`roborl.learning.targets`.

Source:
    Peng et al., Advantage-Weighted Regression (2019), equation 10, for the weights; Kostrikov, Nair & Levine, Offline
    Reinforcement Learning with Implicit Q-Learning (ICLR 2022), equation 5, for expectile regression, here of n-step targets
    without action values; Physical Intelligence, pi*0.6: a VLA That Learns From Experience (2025) for advantages of chunks under
    a value of observations alone, in fine-tuning a vision-language-action policy (RECAP).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from roborl.data.arena import ArenaReader
from roborl.envs.ranges import check_number
from roborl.errors import ConfigError
from roborl.learning.batch import Batch
from roborl.learning.features import EachCamera, FeatureCache
from roborl.learning.optimisers import go_on, regrouped
from roborl.learning.publish import Weights
from roborl.learning.targets import Targets, TargetsConfig
from roborl.policies.networks import Critics
from roborl.rewards.forms import RewardForm
from roborl.rewards.training.encoders import build_frame_encoder

if TYPE_CHECKING:
    from roborl.policies.lerobot_policy import LeRobotPolicy

# So that no single chunk outweighs the rest.
_MOST_WEIGHT = 20.0
# Size of a vector of the encoder cnn; the others have their own.
_CNN_DIM = 64


@dataclass(frozen=True, kw_only=True)
class WeightedConfig(TargetsConfig):
    """Settings of the algorithm."""

    # chunks per update
    batch_size: int = 32
    # share of a batch drawn from demonstrations and successes, below 1
    demo_fraction: float = 0.5
    # longest chunk that is weighed and imitated, steps; 0: as many as the policy acts out, its n_action_steps. Chunks end where
    # new weights come in, too: with trainer.publish_every below chunk times budget.ratio most of practice is in shorter ones
    n_step: int = 0
    # updates after which the look ahead has grown to 1 at the latest, without those of a head start; 0: it does not grow with
    # them
    lookahead_updates: int = 20_000
    # episodes of practice that have succeeded without a person's help, after which it has; 0: it does not grow with them
    lookahead_successes: int = 0
    # what learns of the policy: all that LeRobot's trainer would change (of SmolVLA, the expert and not the vision-language
    # model); lora: adapters of low rank where LeRobot puts them; or names of modules, such as [model.action_out_proj]
    learn: list[str] = field(default_factory=lambda: ["all"])
    # rank of those adapters
    lora_rank: int = 16
    # learning rate of the policy; 0: what LeRobot trains its kind with. Optimiser and clipping are LeRobot's, and parts that it
    # trains at another rate, such as ACT's image network, keep their ratio to the rest
    learning_rate: float = 0.0
    # advantage, relative to the mean value, that makes a chunk of practice count e times as much
    temperature: float = 0.1
    # mean value below which advantages are not scaled up any further
    least_value: float = 0.1
    # updates of the values before practice is imitated at all. Values begin at random, up to a quarter of the task's reward, and
    # call half of all practice better than expected. After 5 / polyak updates, less than a hundredth of that is left in their
    # targets
    value_updates: int = 1000
    # frozen encoder of the pictures for the values: efficientnet-lite0, cnn (random) or pretrained:FOLDER-OR-HUB-ID
    encoder: str = "efficientnet-lite0"
    # which expectile of the targets values are taught towards; 0.5: their mean, higher: nearer to the best that was done
    expectile: float = 0.7
    # networks in the ensemble
    members: int = 4
    # units per hidden layer of each
    width: int = 128
    # learning rate of the values
    value_learning_rate: float = 3e-4
    # share of the values that enters their targets at each update
    polyak: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        share, least = "weighted.demo_fraction", "weighted.least_value"
        check_number(share, self.demo_fraction, at_least=0.0, at_most=1.0, remedy=f"Set --{share}")
        check_number(least, self.least_value, above=0.0, remedy=f"Set --{least}")
        if not (
            self.temperature > 0
            and 0.0 < self.expectile < 1.0
            and min(self.n_step, self.value_updates) >= 0
            and min(self.lora_rank, self.batch_size, self.members) >= 1
        ):
            raise ConfigError(
                "Chunks cannot be weighed with these settings",
                seen=f"temperature={self.temperature:g} expectile={self.expectile:g} n_step={self.n_step} "
                f"value_updates={self.value_updates} lora_rank={self.lora_rank} batch_size={self.batch_size} "
                f"members={self.members}",
                allowed="temperature > 0, expectile between 0 and 1, n_step and value_updates >= 0, 1 or more of the others",
                remedy="Correct it with --weighted.FIELD; for chunks as long as the policy acts out: n_step 0",
            )
        if not (
            0.0 < self.polyak <= 1.0
            and self.width >= 1
            and self.learning_rate >= 0.0
            and self.value_learning_rate > 0.0
        ):
            raise ConfigError(
                "Values or policy would never learn with these settings, or not be there",
                seen=f"polyak={self.polyak:g} width={self.width} learning_rate={self.learning_rate:g} "
                f"value_learning_rate={self.value_learning_rate:g}",
                allowed="polyak in (0, 1], width >= 1, learning_rate >= 0, value_learning_rate > 0",
                remedy="For targets without lag: polyak 1; for LeRobot's own rate: learning_rate 0",
            )
        if not self.learn or (len(self.learn) > 1 and {"all", "lora"} & set(self.learn)):
            raise ConfigError(
                "It is not clear what of the policy learns",
                seen=self.learn,
                allowed="all, or lora, or names of modules",
                remedy="Set --weighted.learn to one of these",
            )


def value_networks(
    config: WeightedConfig, cameras: tuple[str, ...], *, image_px: int, state_dim: int
) -> tuple[EachCamera, Critics]:
    """Return the frozen encoder of pictures, and the ensemble that says what observations are worth.

    Args:
        config: Settings.
        cameras: What the policy looks through.
        image_px: Side of the square pictures in the replay memory.
        state_dim: Size of the state.
    """
    encoder = EachCamera(build_frame_encoder(config.encoder, px=image_px, dim=_CNN_DIM), cameras)
    return encoder, Critics(encoder.output_dim + state_dim + 1, config.members, config.width)


class Weighted:
    """The learner's side of the algorithm.

    Args:
        config: Settings.
        policy: The policy of a run. It is the one that learns: what it does when asked is what would be published now.
        arena: The replay memory that batches are drawn from; features of pictures are looked up there by row.
        form: How progress becomes reward.
        seed: Of network initialisation and of every draw.
    """

    images = True

    def __init__(
        self,
        config: WeightedConfig,
        policy: LeRobotPolicy,
        arena: ArenaReader,
        *,
        form: RewardForm = RewardForm.POTENTIAL,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.config, self.policy = config, policy
        self.shaped = Targets(form, config)
        side, cameras = arena.layout.image_px, tuple(policy.cameras)
        encoder, self.values = value_networks(
            config, cameras, image_px=side, state_dim=arena.layout.state_dim
        )
        self._encoder = encoder.encoder
        self.features = FeatureCache(encoder, arena, cameras=cameras, image_px=side)
        self.targets = copy.deepcopy(self.values).requires_grad_(False)
        self._value_optimiser = torch.optim.Adam(
            self.values.parameters(), config.value_learning_rate, fused=True
        )
        preset = policy.parts.config.get_optimizer_preset()
        groups = policy.learnt_groups()
        if config.learning_rate:
            for group in groups:
                if "lr" in group:
                    group["lr"] *= config.learning_rate / preset.lr
            preset = replace(preset, lr=config.learning_rate)
        self._most_norm = preset.grad_clip_norm or float("inf")
        self._policy_optimiser: torch.optim.Optimizer = preset.build(groups)
        self._device = next(iter(policy.learnt.values())).device
        self._on_card = self._device.type == "cuda"
        self.updates = 0

    def look_up(self, batch: Batch) -> None:
        """Encode the pictures of a batch that were not yet."""
        self.features.look_up(np.concatenate((batch.rows, batch.next_rows)))

    def update(self, batch: Batch) -> dict[str, float]:
        """Improve values and policy on one drawn batch of chunks."""
        told = self._told(batch.rows, batch.state, batch.potential)
        with torch.no_grad():
            after = self._told(batch.next_rows, batch.next_state, batch.next_potential)
            target = self.shaped.of(batch, self.targets(after).mean(dim=0), self.updates)
            weight, metrics = self._weigh(batch, self.targets(told).mean(dim=0), target)
        metrics |= self._update_values(told, target)
        metrics |= self._update_policy(batch, weight)
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
        """Copy what of the policy learns, and nothing else of it; nothing of the values."""
        return self.policy.actor_weights()

    def load_actor_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Go on from older weights; the values stay, and learn about the policy as it acts.

        Raises:
            ModelLoadError: If they are not this policy's.
        """
        self.policy.load_actor(weights, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training goes on from: what learns, optimisers, counter and generator."""
        return {
            "policy": {name: parameter.detach() for name, parameter in self.policy.learnt.items()},
            "encoder": self._encoder.state_dict(),
            "values": self.values.state_dict(),
            "targets": self.targets.state_dict(),
            "policy_optimiser": self._policy_optimiser.state_dict(),
            "value_optimiser": self._value_optimiser.state_dict(),
            "updates": self.updates,
            "generator": torch.get_rng_state(),
            # A list, which a run need not have had before: its checkpoints may be older, or from a computer without a card.
            "cuda_generator": torch.cuda.get_rng_state(self._device).tolist() if self._on_card else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        with torch.no_grad():
            for name, parameter in self.policy.learnt.items():
                parameter.copy_(state["policy"][name])
        self._encoder.load_state_dict(state["encoder"])
        self.values.load_state_dict(state["values"])
        self.targets.load_state_dict(state["targets"])
        saved = regrouped(state["policy_optimiser"], self._policy_optimiser, self.policy.learnt.values())
        go_on(self._policy_optimiser, saved)
        go_on(self._value_optimiser, state["value_optimiser"])
        self.updates = int(state["updates"])
        torch.set_rng_state(state["generator"])
        if self._on_card and (drawn := state.get("cuda_generator")):
            torch.cuda.set_rng_state(torch.tensor(drawn, dtype=torch.uint8), self._device)

    def _told(
        self, rows: NDArray[np.int64], state: NDArray[np.float32], potential: NDArray[np.float32]
    ) -> Tensor:
        """Return what values are told of observations, (b, inputs)."""
        features = torch.from_numpy(self.features.rows(rows))
        seen = potential if self.config.critic_sees_potential else np.zeros_like(potential)
        return torch.cat(
            [
                # Encoders differ in scale.
                functional.layer_norm(features, features.shape[1:]),
                torch.from_numpy(state),
                torch.from_numpy(seen)[:, None],
            ],
            dim=1,
        )

    def _weigh(self, batch: Batch, value: Tensor, target: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return what each chunk counts in imitation, (b,)."""
        config = self.config
        worth = self.shaped.task_value(value, torch.from_numpy(batch.potential))
        scale = worth.abs().mean().clamp_min(config.least_value)
        advantage = (target - value) / scale
        counts = (advantage > 0) & (self.updates >= config.value_updates)
        better = (advantage / config.temperature).exp().clamp_max(_MOST_WEIGHT) * counts
        shown = torch.from_numpy(batch.demo | batch.person)
        practice = better[~shown]
        count = max(len(practice), 1)
        # Scaled down alone: practice of which little was better is not to count like a demonstration.
        better = better / (practice.sum() / count).clamp_min(1.0)
        return torch.where(shown, 1.0, better), {
            "advantage": advantage.mean().item(),
            "practice_imitated": float((practice > 0).sum()) / count,
        }

    def _update_values(self, told: Tensor, target: Tensor) -> dict[str, float]:
        values = self.values(told)
        error = target - values
        share = torch.where(error > 0, self.config.expectile, 1.0 - self.config.expectile)
        loss = (share * error.square()).mean()
        self._value_optimiser.zero_grad()
        loss.backward()
        self._value_optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.targets.parameters()), list(self.values.parameters()), self.config.polyak
            )
        return {"value_loss": loss.item(), "value": values.mean().item(), "target": target.mean().item()}

    def _update_policy(self, batch: Batch, weight: Tensor) -> dict[str, float]:
        # What counts nothing need not be looked at: it has no gradient.
        counts = np.flatnonzero(weight.numpy() > 0)
        if not counts.size:
            return {"policy_loss": 0.0}
        assert batch.chunk is not None, "drawn with chunked"
        losses = self.policy.losses(
            {camera: pictures[counts] for camera, pictures in batch.images.items()},
            batch.state[counts],
            batch.chunk[counts],
            batch.horizon[counts],
        )
        loss = (weight[counts].to(losses) * losses).sum() / len(batch)
        self._policy_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self.policy.learnt.values()), self._most_norm)
        self._policy_optimiser.step()
        return {"policy_loss": losses.detach().mean().item()}
