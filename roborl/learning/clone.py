"""Cloning demonstrations: first an encoder that has to locate what matters, then an actor on its frozen features.

The encoder learns from every demonstration, the actor may be given fewer. Beside the demonstrated action the encoder
predicts how far the demonstration has come, where the hand is, and where the hand will be when the present sub-task ends:
labels that stand in any demonstration, and that a picture answers only to an encoder that sees objects sharply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from roborl.data.dataset_episode import DatasetEpisode
from roborl.errors import DatasetError
from roborl.images import square
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.types import Image

logger = logging.getLogger(__name__)

SHIFT_PX = 2


@dataclass(frozen=True, kw_only=True)
class CloneConfig:
    """Settings of cloning.

    Attributes:
        encoder_updates: Updates of the encoder.
        actor_updates: Updates of the actor on frozen features.
        batch_size: Frames per update.
        learning_rate: Of both.
        feature_noise: Standard deviation of noise on features while the actor learns.
        state_noise: Standard deviation of noise on the state.
    """

    encoder_updates: int = 800
    actor_updates: int = 800
    batch_size: int = 64
    learning_rate: float = 1e-3
    feature_noise: float = 0.02
    state_noise: float = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class CloningData:
    """Demonstration frames as arrays; row i is an observation and the action taken in it.

    Attributes:
        images: By camera, uint8 (n, h, w, 3).
        state: float32 (n, s).
        action: float32 (n, a).
        progress: Share of the episode that is over, float32 (n,).
        waypoint: The state at the end of the sub-task that the row belongs to, float32 (n, s).
        episode: Index of the episode, int64 (n,).
    """

    images: dict[str, Image]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    progress: NDArray[np.float32]
    waypoint: NDArray[np.float32]
    episode: NDArray[np.int64]

    def of(self, episodes: int) -> CloningData:
        """Return only the rows of the first so many episodes."""
        keep = self.episode < episodes
        return CloningData(
            images={name: pixels[keep] for name, pixels in self.images.items()},
            state=self.state[keep],
            action=self.action[keep],
            progress=self.progress[keep],
            waypoint=self.waypoint[keep],
            episode=self.episode[keep],
        )


def cloning_data(episodes: Sequence[DatasetEpisode], *, cameras: Sequence[str], image_px: int) -> CloningData:
    """Lay demonstrations out as arrays; an episode that is not annotated counts as one sub-task.

    Raises:
        DatasetError: If there is no step at all.
    """
    rows = [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode.action))]
    if not rows:
        raise DatasetError(
            "There is nothing to clone", seen=f"{len(episodes)} episodes", allowed="at least one step"
        )

    def waypoint(e: int, t: int) -> NDArray[np.float32]:
        episode = episodes[e]
        ends = [part.end for part in episode.subtasks if part.end > t]
        reached: NDArray[np.float32] = episode.state[min(ends, default=len(episode.action))]
        return reached

    return CloningData(
        images={
            name: np.stack([square(episodes[e].images[name][t], image_px) for e, t in rows])
            for name in cameras
        },
        state=np.stack([episodes[e].state[t] for e, t in rows]),
        action=np.stack([episodes[e].action[t] for e, t in rows]),
        progress=np.array([t / len(episodes[e].action) for e, t in rows], np.float32),
        waypoint=np.stack([waypoint(e, t) for e, t in rows]),
        episode=np.array([e for e, _ in rows]),
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
    """Train an encoder on all of ``data`` and an actor on its first ``actor_episodes`` episodes.

    Args:
        config: Settings.
        shape: Shape of the policy.
        data: Demonstrations.
        actor_episodes: How many episodes the actor may see; None for all.
        seed: Of initialisation and draws.
        on_progress: Called now and then with the stage's name, updates done and updates in all.

    Returns:
        The cloned policy.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    policy = SmallPolicy(shape, seed=seed)
    _train_encoder(config, policy, data, random, on_progress)
    _train_actor(
        config, policy, data if actor_episodes is None else data.of(actor_episodes), random, on_progress
    )
    return policy


class _Heads(nn.Module):
    def __init__(self, features: int, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.action = nn.Sequential(
            nn.Linear(features + state_dim, 128), nn.ReLU(), nn.Linear(128, action_dim)
        )
        self.rest = nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 1 + 2 * state_dim))

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.action(torch.cat([features, state], dim=1))), self.rest(features)


def _train_encoder(
    config: CloneConfig,
    policy: SmallPolicy,
    data: CloningData,
    random: np.random.Generator,
    on_progress: Callable[[str, int, int], None],
) -> None:
    shape = policy.config
    heads = _Heads(policy.encoder.output_dim, shape.state_dim, shape.action_dim)
    policy.encoder.train()
    parameters = [*policy.encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, config.encoder_updates)
    answers = np.concatenate([data.progress[:, None], data.state, data.waypoint], axis=1)
    for update in range(config.encoder_updates):
        rows = random.integers(len(data.state), size=config.batch_size)
        images = {name: torch.from_numpy(shift(pixels[rows], random)) for name, pixels in data.images.items()}
        state = torch.from_numpy(data.state[rows])
        action, rest = heads(policy.encoder(images), state)
        loss = functional.mse_loss(action, torch.from_numpy(data.action[rows])) + functional.mse_loss(
            rest, torch.from_numpy(answers[rows])
        )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        if update % 50 == 0:
            on_progress("encoder", update, config.encoder_updates)
    policy.encoder.eval()


def _train_actor(
    config: CloneConfig,
    policy: SmallPolicy,
    data: CloningData,
    random: np.random.Generator,
    on_progress: Callable[[str, int, int], None],
) -> None:
    copies = [_features(policy, data, random if augment else None) for augment in (False, True, True, True)]
    features = torch.stack(copies)
    policy.actor.train()
    optimiser = torch.optim.AdamW(policy.actor.clone.parameters(), config.learning_rate, weight_decay=1e-4)
    for update in range(config.actor_updates):
        rows = random.integers(len(data.state), size=config.batch_size)
        seen = features[random.integers(len(copies), size=len(rows)), rows]
        state = torch.from_numpy(data.state[rows])
        inputs = torch.cat(
            [
                seen + config.feature_noise * torch.randn_like(seen),
                state + config.state_noise * torch.randn_like(state),
            ],
            dim=1,
        )
        loss = functional.mse_loss(policy.actor.cloned(inputs), torch.from_numpy(data.action[rows]))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        if update % 50 == 0:
            on_progress("actor", update, config.actor_updates)
    policy.actor.eval()


@torch.inference_mode()
def _features(policy: SmallPolicy, data: CloningData, random: np.random.Generator | None) -> Tensor:
    parts = []
    for start in range(0, len(data.state), 64):
        images = {name: pixels[start : start + 64] for name, pixels in data.images.items()}
        if random is not None:
            images = {name: shift(pixels, random) for name, pixels in images.items()}
        parts.append(policy.encoder({name: torch.from_numpy(pixels) for name, pixels in images.items()}))
    return torch.cat(parts).clone()


def shift(pixels: Image, random: np.random.Generator) -> Image:
    """Shift each picture by up to 2 pixels either way, repeating its edge.

    Args:
        pixels: uint8 (b, h, w, 3).
        random: Source of the shifts.

    Returns:
        New pictures, uint8 (b, h, w, 3).

    Source:
        Kostrikov et al., Image Augmentation Is All You Need (ICLR 2021).
    """
    b, h, w, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (SHIFT_PX, SHIFT_PX), (SHIFT_PX, SHIFT_PX), (0, 0)), mode="edge")
    down, right = random.integers(2 * SHIFT_PX + 1, size=(2, b))
    return np.stack([padded[i, down[i] : down[i] + h, right[i] : right[i] + w] for i in range(b)])
