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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from roborl.data.dataset_episode import DatasetEpisode
from roborl.errors import DatasetError
from roborl.images import square
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


@dataclass(frozen=True, kw_only=True, eq=False)
class CloningData:
    """Frames as arrays; row i is an observation and the action taken in it.

    Attributes:
        images: By camera, uint8 (n, h, w, 3).
        state: float32 (n, s).
        action: float32 (n, a).
        progress: Share of the episode that is over, float32 (n,); meaningless for failures.
        waypoints: The state at the end of each of k sub-tasks, float32 (n, k, s).
        ahead: Whether that sub-task ends after this row and was completed, float32 (n, k) of 0 and 1.
        still: Whether that sub-task is under way or to come, and its end is not known, float32 (n, k) of 0 and 1.
        age: Rows since the first of the episode, int64 (n,).
        episode: Index of the demonstration, -1 for failures, int64 (n,).
        weight: How much each row of a demonstration counts, float32 (n,), in [0, 1]; 1 for failures.
    """

    images: dict[str, Image]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    progress: NDArray[np.float32]
    waypoints: NDArray[np.float32]
    ahead: NDArray[np.float32]
    still: NDArray[np.float32]
    age: NDArray[np.int64]
    episode: NDArray[np.int64]
    weight: NDArray[np.float32]

    @property
    def first(self) -> NDArray[np.int64]:
        """The first row of each row's episode, int64 (n,)."""
        return np.arange(len(self.age)) - self.age

    def of(self, episodes: int | None) -> CloningData:
        """Return only the rows of the first so many demonstrations, of all of them for None."""
        keep = (self.episode >= 0) & (self.episode < (len(self.episode) if episodes is None else episodes))
        return CloningData(
            images={name: pixels[keep] for name, pixels in self.images.items()},
            state=self.state[keep],
            action=self.action[keep],
            progress=self.progress[keep],
            waypoints=self.waypoints[keep],
            ahead=self.ahead[keep],
            still=self.still[keep],
            age=self.age[keep],
            episode=self.episode[keep],
            weight=self.weight[keep],
        )


def cloning_data(
    demonstrations: Sequence[DatasetEpisode],
    failures: Sequence[DatasetEpisode] = (),
    *,
    cameras: Sequence[str],
    image_px: int,
    weights: Sequence[NDArray[np.float32]] = (),
) -> CloningData:
    """Lay episodes out as arrays; of one that is not annotated only its end is known, as that of the last sub-task.

    Args:
        demonstrations: Successes, to be cloned.
        failures: Their completed sub-tasks help the encoder; their actions are never cloned.
        cameras: Views to keep, in order.
        image_px: Side of the square pictures.
        weights: How much each step of each demonstration counts, float32 (T,) in [0, 1]; all count fully where there are none.

    Raises:
        DatasetError: If no demonstration has a step, no step counts, or weights have another length.
    """
    _check_weights(demonstrations, weights)
    episodes = [*demonstrations, *failures]
    rows = [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode.action))]
    if not any(e < len(demonstrations) for e, _ in rows):
        raise DatasetError(
            "There is nothing to clone", seen=f"{len(demonstrations)} episodes", allowed="at least one step"
        )
    names = list(dict.fromkeys(part.name for episode in demonstrations for part in episode.subtasks)) or [""]
    ends = np.array([_ends(episodes[e], t, names, e < len(demonstrations)) for e, t in rows])
    begun = np.array([_begun(episodes[e], t, names) for e, t in rows])
    return CloningData(
        images={
            name: np.stack([square(episodes[e].images[name][t], image_px) for e, t in rows])
            for name in cameras
        },
        state=np.stack([episodes[e].state[t] for e, t in rows]),
        action=np.stack([episodes[e].action[t] for e, t in rows]),
        progress=np.array([t / len(episodes[e].action) for e, t in rows], np.float32),
        waypoints=np.stack([episodes[e].state[at.clip(0)] for (e, _), at in zip(rows, ends, strict=True)]),
        ahead=(ends >= 0).astype(np.float32),
        still=((np.arange(len(names)) >= begun[:, None]) & (ends < 0)).astype(np.float32),
        age=np.array([t for _, t in rows]),
        episode=np.array([e if e < len(demonstrations) else -1 for e, _ in rows]),
        weight=np.array([weights[e][t] if e < len(weights) else 1.0 for e, t in rows], np.float32),
    )


def _check_weights(demonstrations: Sequence[DatasetEpisode], weights: Sequence[NDArray[np.float32]]) -> None:
    given, steps = [len(row) for row in weights], [len(episode.action) for episode in demonstrations]
    if given and (given != steps or not any(row.any() for row in weights)):
        raise DatasetError(
            "Demonstrations cannot be cloned by these weights",
            seen=f"{given} weights, the largest {max(row.max(initial=0.0) for row in weights):g}",
            allowed=f"{steps} in [0, 1], one above 0 at least",
        )


def _ends(episode: DatasetEpisode, t: int, names: Sequence[str], success: bool) -> list[int]:
    """Return for each sub-task the observation at which it next ends after ``t``, -1 where it does not."""
    if not episode.subtasks:
        # Of a success that nobody marked, where others are, it is known where the last one ended.
        return [*[-1] * (len(names) - 1), len(episode.action) if success else -1]
    # In a failure only what the next sub-task followed was completed: the last was not, nor was what came undone.
    follows = dict(pairwise(names))
    parts = [
        part
        for part, then in zip_longest(episode.subtasks, episode.subtasks[1:])
        if success or (then is not None and follows.get(part.name) == then.name)
    ]
    return [
        min((part.end for part in parts if part.name == name and part.end > t), default=-1) for name in names
    ]


def _begun(episode: DatasetEpisode, t: int, names: Sequence[str]) -> int:
    """Return the furthest sub-task that had begun by observation ``t``; beyond the last where nothing is annotated."""
    begun = (names.index(p.name) for p in episode.subtasks if p.start <= t and p.name in names)
    return max(begun, default=len(names))


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
