"""Cloning demonstrations: first an encoder that has to locate what matters, then an actor on its frozen features.

The encoder learns from every demonstration, the actor may be given fewer. Beside the demonstrated action the encoder
predicts how far the demonstration has come, where the hand is, and where the hand will be at the end of the present and
of every later sub-task: labels that stand in any demonstration, and that a picture answers only to an encoder that sees
objects sharply, those of later sub-tasks too. Failures that went through some sub-tasks teach the encoder where those ended.

What a sub-task is done to lies still until that begins, so its end has to be seen at one place however the hand moves about.
That holds in failures that completed nothing too, and teaches the encoder not to be misled by poses that no demonstration has.

Where nobody has said which episodes succeeded, weights do, step by step (see :mod:`roborl.data.rabc`): a step that counts for
nothing teaches neither action nor aim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from roborl.errors import ConfigError
from roborl.learning.cloning_data import CloningData
from roborl.policies.networks import Encoder
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.types import Image

# Before that share of its updates the encoder does not see well enough to be its own teacher.
_STILL_FROM = 0.25
_LOOK_AGAIN_EVERY = 100
# In the linear fit, beside the ends that are known: more of it pulls every place towards the middle.
_STILL_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class CloneConfig:
    """Settings of cloning."""

    # keypoints that the encoder finds in each camera's picture
    keypoints: int = 16
    # channels of its convolutions
    channels: int = 16
    # updates of the encoder
    encoder_updates: int = 1500
    # weight, beside the action's, of seeing where sub-tasks end
    aim_weight: float = 10.0
    # share of the encoder's batches drawn from failures, where they completed a sub-task
    failure_share: float = 0.4
    # weight of seeing the end of a sub-task that is not over where the episode's first picture shows it; failures that
    # completed nothing are then drawn too; 0: never asked
    still_weight: float = 0.0
    # tell the actor where the episode's first pictures show the ends of sub-tasks too
    from_first: bool = False
    # tell the actor, not the critics, of the pictures no more than what remains of the way to the ends of sub-tasks: for tasks
    # whose sub-tasks are marked and end where something has to be seen
    ways_alone: bool = False
    # updates of the actor on frozen features
    actor_updates: int = 1000
    # frames per update
    batch_size: int = 64
    # of encoder and actor
    learning_rate: float = 1e-3
    # standard deviation of noise on features while the actor learns
    feature_noise: float = 0.02
    # standard deviation of noise on the state, and on the way that remains
    state_noise: float = 0.01

    def __post_init__(self) -> None:
        counts = (self.keypoints, self.channels, self.encoder_updates, self.actor_updates, self.batch_size)
        if min(counts) < 1:
            raise ConfigError(
                "Nothing can be cloned in so little",
                seen=f"keypoints={self.keypoints} channels={self.channels} encoder_updates={self.encoder_updates} "
                f"actor_updates={self.actor_updates} batch_size={self.batch_size}",
                allowed="1 or more each",
                remedy="Leave them at their defaults; a policy that is named with --policy is not cloned",
            )
        weights = (self.aim_weight, self.still_weight, self.feature_noise, self.state_noise)
        if not (
            all(0.0 <= weight < math.inf for weight in weights)
            and 0.0 <= self.failure_share < 1.0
            and 0.0 < self.learning_rate < math.inf
        ):
            raise ConfigError(
                "Cloning cannot use these settings",
                seen=f"aim_weight={self.aim_weight:g} still_weight={self.still_weight:g} "
                f"feature_noise={self.feature_noise:g} state_noise={self.state_noise:g} "
                f"failure_share={self.failure_share:g} learning_rate={self.learning_rate:g}",
                allowed="weights and noise >= 0, failure_share in [0, 1), learning_rate > 0, all finite",
                remedy="Without failures in the encoder's batches: --clone.failure_share 0",
            )


def clone(
    config: CloneConfig,
    shape: SmallPolicyConfig,
    data: CloningData,
    *,
    actor_episodes: int | None = None,
    seed: int,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, of: None,
) -> SmallPolicy:
    """Train an encoder on all of ``data`` and an actor on its first ``actor_episodes`` demonstrations.

    Args:
        config: Settings.
        shape: Shape of the policy.
        data: Demonstrations, and failures for the encoder.
        actor_episodes: How many demonstrations the actor may see; None for all.
        seed: Of initialisation and draws.
        on_progress: Called now and then with the stage's name, updates done and updates in all.

    Returns:
        The cloned policy.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    policy = SmallPolicy(shape, seed=seed)
    _train_encoder(config, policy, data, random, on_progress)
    _train_actor(config, policy, data.of(actor_episodes), random, on_progress)
    return policy


class _Heads(nn.Module):
    """What the encoder is asked: the action, given the state too; and from the pictures alone progress, state, waypoints.

    The latter are read off linearly, so that what is asked for has to stand in the features plainly.
    """

    def __init__(self, features: int, state_dim: int, action_dim: int, waypoints: int) -> None:
        super().__init__()
        self.action = nn.Sequential(
            nn.Linear(features + state_dim, 128), nn.ReLU(), nn.Linear(128, action_dim)
        )
        self.rest = nn.Linear(features, 1 + state_dim + waypoints * state_dim)
        self.sizes = (1, state_dim, waypoints * state_dim)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        action = torch.tanh(self.action(torch.cat([features, state], dim=1)))
        return action, *self.places(features)

    def places(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read off progress (b,), state (b, s) and waypoints (b, k, s)."""
        progress, own, waypoints = self.rest(features).split(self.sizes, dim=1)
        return progress[:, 0], own, waypoints.unflatten(1, (-1, own.shape[1]))


def _train_encoder(
    config: CloneConfig,
    policy: SmallPolicy,
    data: CloningData,
    random: np.random.Generator,
    on_progress: Callable[[str, int, int], None],
) -> None:
    shape, encoder = policy.config, policy.encoder
    heads = _Heads(encoder.output_dim, shape.state_dim, shape.action_dim, data.ahead.shape[1])
    encoder.train()
    optimiser = torch.optim.AdamW(
        [*encoder.parameters(), *heads.parameters()], config.learning_rate, weight_decay=1e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, config.encoder_updates)
    shown = np.flatnonzero(data.episode >= 0)
    failed = np.flatnonzero((data.episode < 0) & data.ahead.any(axis=1))
    of_failures = int(config.batch_size * config.failure_share) if failed.size else 0
    share = _share(data.weight[shown])
    at_first: Tensor | None = None
    for update in range(config.encoder_updates):
        since = update - int(_STILL_FROM * config.encoder_updates)
        if config.still_weight and since >= 0 and since % _LOOK_AGAIN_EVERY == 0:
            at_first = _at_first(encoder, heads, data)
            failed = np.flatnonzero((data.episode < 0) & (data.ahead + data.still).any(axis=1))
            of_failures = int(config.batch_size * config.failure_share) if failed.size else 0
        rows = random.choice(shown, config.batch_size - of_failures, p=share)
        if of_failures:
            rows = np.concatenate([rows, random.choice(failed, of_failures)])
        images = {name: torch.from_numpy(pixels[rows]) for name, pixels in data.images.items()}
        state = torch.from_numpy(data.state[rows])
        action, progress, own, waypoints = heads(encoder.keypoints(images), state)
        ahead, demo = torch.from_numpy(data.ahead[rows]), torch.from_numpy(data.episode[rows] >= 0).float()
        missed = (waypoints - torch.from_numpy(data.waypoints[rows])).square().mean(dim=2)
        astray = (action - torch.from_numpy(data.action[rows])).square().mean(dim=1)
        early = (progress - torch.from_numpy(data.progress[rows])).square()
        loss = (
            _mean(astray, demo)
            + config.aim_weight * _mean(missed, ahead)
            + 0.5 * functional.mse_loss(own, state)
            + 0.1 * _mean(early, demo)
        )
        if at_first is not None:
            strayed = (waypoints - at_first[rows]).square().mean(dim=2)
            loss = loss + config.still_weight * _mean(strayed, torch.from_numpy(data.still[rows]))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        if update % 50 == 0:
            on_progress("encoder", update, config.encoder_updates)
    encoder.eval()
    with torch.inference_mode():
        encoder.standardise(_encode(encoder.keypoints, data.images))
        if policy.config.waypoints:
            features = _encode(encoder, data.images)
            policy.remaining.fit(
                features,
                torch.from_numpy(data.waypoints),
                torch.from_numpy(data.ahead * data.weight[:, None]),
                strayed=features - features[torch.from_numpy(data.first)],
                still=torch.from_numpy(data.still),
                weight=_STILL_SHARE * config.still_weight,
            )


@torch.no_grad()
def _at_first(encoder: Encoder, heads: _Heads, data: CloningData) -> Tensor:
    """Return for each row where the first picture of its episode shows that each sub-task ends, (n, k, s)."""
    rows, which = np.unique(data.first, return_inverse=True)
    keypoints = _encode(encoder.keypoints, {name: pixels[rows] for name, pixels in data.images.items()})
    return heads.places(keypoints)[2][torch.from_numpy(which)]


def _mean(errors: Tensor, counted: Tensor) -> Tensor:
    return (errors * counted).sum() / counted.sum().clamp_min(1.0)


def _train_actor(
    config: CloneConfig,
    policy: SmallPolicy,
    data: CloningData,
    random: np.random.Generator,
    on_progress: Callable[[str, int, int], None],
) -> None:
    with torch.inference_mode():
        features = _encode(policy.encoder, data.images)
        first = features[torch.from_numpy(data.first)]
        inputs = policy.remaining(features, torch.from_numpy(data.state), first).clone()
    noise = torch.full((inputs.shape[1],), config.state_noise)
    noise[: features.shape[1]] = config.feature_noise
    share = _share(data.weight)
    policy.actor.train()
    optimiser = torch.optim.AdamW(policy.actor.parameters(), config.learning_rate, weight_decay=1e-4)
    for update in range(config.actor_updates):
        rows = (
            random.integers(len(data.state), size=config.batch_size)
            if share is None
            else random.choice(len(data.state), config.batch_size, p=share)
        )
        seen = inputs[rows]
        proposed = policy.actor(seen + noise * torch.randn_like(seen))
        loss = functional.mse_loss(proposed, torch.from_numpy(data.action[rows]))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        if update % 50 == 0:
            on_progress("actor", update, config.actor_updates)
    policy.actor.eval()


def _share(weight: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Return how often rows are to be drawn: as often as they count, so that no update is spent on what counts for nothing."""
    return None if (weight == 1).all() else weight / weight.sum(dtype=np.float64)


def _encode(encode: Callable[[dict[str, Tensor]], Tensor], images: dict[str, Image]) -> Tensor:
    count = len(next(iter(images.values())))
    return torch.cat(
        [
            encode({name: torch.from_numpy(pixels[start : start + 64]) for name, pixels in images.items()})
            for start in range(0, count, 64)
        ]
    )
