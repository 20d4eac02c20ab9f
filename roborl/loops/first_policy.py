"""The policy that learning starts from: cloned from demonstrations, fitted to a bench."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode
from roborl.envs.bench import Bench
from roborl.images import square
from roborl.learning.clone import CloneConfig, clone
from roborl.learning.cloning_data import cloning_data
from roborl.policies.small import SmallPolicy, SmallPolicyConfig

log = logging.getLogger(__name__)


def first_policy(
    config: CloneConfig,
    episodes: Iterable[DatasetEpisode],
    bench: Bench,
    *,
    actor_episodes: int | None = None,
    seed: int,
    weights: Mapping[int, NDArray[np.float32]] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> SmallPolicy:
    """Clone a policy; takes a minute or two on one thread.

    Args:
        config: Settings of cloning.
        episodes: Demonstrations and failures with the bench's states and actions; what is marked as sub-tasks in them
            tells the policy where to go.
        bench: The bench that it is for.
        actor_episodes: How many of the demonstrations are copied; None for all. The others, and the failures, teach only
            what to see.
        seed: Of initialisation and draws.
        weights: How much each step counts, by the episode's index, float32 (T,) or longer; None for all alike.
        stopping: Asked now and then.

    Raises:
        DatasetError: If no demonstration has a step that counts.
        KeyboardInterrupt: If ``stopping`` says so.
    """

    def go_on() -> None:
        if stopping():
            raise KeyboardInterrupt

    demonstrations: list[DatasetEpisode] = []
    failures: list[DatasetEpisode] = []
    for episode in episodes:
        go_on()
        # One that nobody judged is among them only where nobody judged any: then it is taken for a demonstration.
        (failures if episode.success is False else demonstrations).append(_small(episode, bench))
    data = cloning_data(
        demonstrations,
        failures,
        cameras=tuple(bench.cameras),
        image_px=bench.image_px,
        weights=[] if weights is None else [weights[e.index][: e.steps] for e in demonstrations],
    )
    shape = SmallPolicyConfig(
        cameras=tuple(bench.cameras),
        image_px=bench.image_px,
        state_dim=data.state.shape[1],
        action_dim=data.action.shape[1],
        keypoints=config.keypoints,
        channels=config.channels,
        waypoints=data.ahead.shape[1],
        from_first=config.from_first,
        ways_alone=config.ways_alone,
    )

    def tell(stage: str, done: int, of: int) -> None:
        go_on()
        log.info("%s %d/%d", stage, done, of)

    return clone(config, shape, data, actor_episodes=actor_episodes, seed=seed, on_progress=tell)


def _small(episode: DatasetEpisode, bench: Bench) -> DatasetEpisode:
    """Return an episode with the pictures that a policy sees: those of a whole dataset at recorded size fill a memory."""
    return replace(
        episode,
        images={
            name: np.stack([square(picture, bench.image_px) for picture in episode.images[name]])
            for name in bench.cameras
        },
    )
