"""Made-up experience in which every picture, state and action says which episode and step it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from roborl.data.store import StoreSpec
from roborl.records import Arrival, Begin, End, Record
from roborl.types import Command, EndCause, EpisodeKey, Frame, Image, Observation, RewardSource, Source

CAMERAS = {"front": (12, 16), "wrist": (8, 8)}
STATE_DIM, ACTION_DIM = 4, 3


def store_spec(*, max_steps: int, capacity_bytes: int = 1 << 20) -> StoreSpec:
    """Return the form of a store that such experience goes into, with square pictures of 8 px in its replay memory."""
    return StoreSpec(
        cameras=CAMERAS,
        image_px=8,
        state_dim=STATE_DIM,
        action_dim=ACTION_DIM,
        max_steps=max_steps,
        capacity_bytes=capacity_bytes,
    )


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
    state = np.array([actor, episode, index, key.incarnation % 1000], np.float32)
    return Observation(frames=frames, state=state, stamp_ns=1000 * index)


def command(key: EpisodeKey, step: int, source: Source = Source.POLICY, policy_version: int = 1) -> Command:
    """Return the command of a step: its action names episode and step."""
    action = np.array([key.episode % 256 / 1000, step / 1000, key.incarnation % 1000 / 1000], np.float32)
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


def check_arrival(record: Arrival) -> None:
    """Raise AssertionError unless pictures, state and command are those of this episode and step, to the last pixel."""
    expected = arrival(record.key, record.index)
    seen, wanted = record.observation, expected.observation
    assert sorted(seen.frames) == sorted(wanted.frames)
    for name, frame in seen.frames.items():
        np.testing.assert_array_equal(frame.rgb, wanted.frames[name].rgb)
        assert (frame.stamp_ns, frame.id) == (wanted.frames[name].stamp_ns, wanted.frames[name].id)
    np.testing.assert_array_equal(seen.state, wanted.state)
    assert seen.stamp_ns == wanted.stamp_ns
    assert (record.command is None) == (record.index == 0)
    if record.command is not None and expected.command is not None:
        np.testing.assert_array_equal(record.command.action, expected.command.action)
        np.testing.assert_array_equal(record.command.proposed, expected.command.proposed)


def check_instants(
    images: Mapping[str, Image], state: NDArray[np.float32], action: NDArray[np.float32] | None = None
) -> None:
    """Raise AssertionError unless pictures (b, h, w, 3), state (b, s) and action (b, a) of each row are of one instant."""
    actor, episode, index, incarnation = state.T
    for camera, pixels in images.items():
        number = list(CAMERAS).index(camera)
        colour = np.stack([actor, episode % 256, (index * len(CAMERAS) + number) % 256], axis=1)
        wanted = np.broadcast_to(colour[:, None, None, :], pixels.shape)
        np.testing.assert_array_equal(pixels, wanted.astype(np.uint8))
    if action is not None:
        wanted_action = np.stack([episode, index, incarnation], axis=1) / 1000
        np.testing.assert_allclose(action, wanted_action, atol=1e-6)
