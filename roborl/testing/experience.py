"""Made-up experience in which every picture, state and action says which episode and step it belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from roborl.records import Arrival, Begin, End, Record
from roborl.types import Command, EndCause, EpisodeKey, Frame, Image, Observation, RewardSource, Source

CAMERAS = {"front": (12, 16), "wrist": (8, 8)}
STATE_DIM, ACTION_DIM = 4, 3


def mark(key: EpisodeKey, index: int, camera: int) -> Image:
    """Return a picture of one colour: actor and incarnation, episode, and index with camera."""
    actor = sum(key.actor.encode()) * 7 + key.incarnation
    height, width = list(CAMERAS.values())[camera]
    colour = np.array([actor % 256, key.episode % 256, (index * len(CAMERAS) + camera) % 256], np.uint8)
    return np.broadcast_to(colour, (height, width, 3)).copy()


def observation(key: EpisodeKey, index: int) -> Observation:
    """Return the observation of a step: its state repeats what its pictures say."""
    frames = {
        name: Frame(rgb=mark(key, index, n), camera=name, stamp_ns=1000 * index + n, id=index)
        for n, name in enumerate(CAMERAS)
    }
    actor, episode, _ = (float(value) for value in frames["front"].rgb[0, 0])
    state = np.array([actor, episode, index, key.incarnation], np.float32)
    return Observation(frames=frames, state=state, stamp_ns=1000 * index)


def command(key: EpisodeKey, step: int, source: Source = Source.POLICY, policy_version: int = 1) -> Command:
    """Return the command of a step: its action names episode and step."""
    action = np.array([key.episode / 1000, step / 1000, key.incarnation / 1000], np.float32)
    return Command(action=action, proposed=-action, source=source, policy_version=policy_version)


def arrival(
    key: EpisodeKey,
    index: int,
    *,
    reward: float = 0.0,
    source: Source = Source.POLICY,
    policy_version: int = 1,
    reward_source: RewardSource = RewardSource.NONE,
) -> Arrival:
    """Return arrival ``index``; command and reward are those of step ``index - 1``."""
    return Arrival(
        key=key,
        index=index,
        observation=observation(key, index),
        command=command(key, index - 1, source, policy_version) if index else None,
        reward=reward,
        reward_source=reward_source,
    )


def episode_records(
    key: EpisodeKey, steps: int, cause: EndCause = EndCause.TIME_LIMIT, *, mode: str = "train"
) -> Iterator[Record]:
    """Yield the records of a whole episode; a successful one gives reward 1 for its last step."""
    yield Begin(key=key, task=f"task {key.episode % 3}", meta={"mode": mode})
    for index in range(steps + 1):
        won = cause is EndCause.SUCCESS and index == steps
        yield arrival(
            key,
            index,
            reward=float(won),
            reward_source=RewardSource.ENV if won else RewardSource.NONE,
        )
    yield End(key=key, index=steps, cause=cause)
