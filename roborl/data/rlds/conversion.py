"""An RLDS episode as one of ours.

A step of RLDS is an observation, the action taken in it, and the reward for that; where ``is_last`` is set, action and
reward mean nothing, and the step is there for its observation. So a record of N steps of which the last is such a one is an
episode of T = N - 1 steps and T + 1 observations, and no transition is made of an action that nobody took. A reward on
the last step is added to that of the step before: converters put a demonstration's 1 there.

A record in which no step is the last was cut: nobody knows how it ended, and its last action is lost, since what came of it
is not there. Where its verdict is known all the same it is read as any foreign dataset is: its last observation is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.rlds.episode import STEPS, RldsEpisode
from roborl.data.rlds.mapping import RldsMapping
from roborl.errors import DatasetError
from roborl.types import EndCause, Image

_STILL = 1e-4  # What is left of no motion in floating point.


def convert(
    episode: RldsEpisode,
    mapping: RldsMapping,
    *,
    cameras: Sequence[str],
    success: bool | None = None,
    key: str = "",
    index: int = -1,
) -> DatasetEpisode | None:
    """Lay an episode out as arrays; None where it has no step.

    Args:
        episode: The episode.
        mapping: Which of its features serve as what.
        cameras: Whose pictures to decode; none for an episode without pictures.
        success: The verdict, where somebody knows better than the dataset.
        key: Its identity.
        index: Its number in the dataset.

    Raises:
        DatasetError: If the record does not hold what the dataset says it does.
    """
    if episode.count < 1:
        return None
    action = _side_by_side(episode, mapping.action)
    first = first_observation(episode, mapping, action)
    verdict = verdict_of(episode, mapping) if success is None else success
    end = {True: EndCause.SUCCESS, False: EndCause.FAILURE, None: EndCause.TIME_LIMIT}[verdict]
    repeat = not _closed(episode) and end.terminated
    steps = episode.count - first - (0 if repeat else 1)
    if steps < 1:
        return None
    shown = [*range(first, episode.count), *([episode.count - 1] if repeat else [])]
    tasks = tasks_of(episode, mapping)
    return DatasetEpisode(
        task=next(iter(tasks), ""),
        more_tasks=tasks[1:],
        images={name: _film(episode, mapping, name, shown) for name in cameras},
        state=_side_by_side(episode, mapping.state)[shown],
        action=action[first : first + steps],
        reward=_rewards(episode, first, steps, verdict),
        success=verdict,
        end=end,
        repeated_last=repeat,
        key=key,
        index=index,
    )


def tasks_of(episode: RldsEpisode, mapping: RldsMapping) -> tuple[str, ...]:
    """Return the instruction in words; empty where there is none, several where it changes from step to step."""
    for path in mapping.instruction:
        if episode.has(path):
            said = dict.fromkeys(" ".join(text.split()) for text in episode.texts(path) if text.strip())
            if said:
                return tuple(said)
    return ()


def read_pictures(
    episode: RldsEpisode, mapping: RldsMapping, camera: str, indices: Sequence[int]
) -> dict[int, Image]:
    """Decode pictures of a camera by step, uint8 RGB (h, w, 3) each."""
    found = episode.pictures(mapping.cameras[camera], indices)
    return {i: np.ascontiguousarray(p[..., ::-1]) for i, p in found.items()} if mapping.bgr else found


def first_observation(
    episode: RldsEpisode, mapping: RldsMapping, action: NDArray[np.float32] | None = None
) -> int:
    """Return the step that an episode begins with: 1 where the first action is known to be none and is none."""
    if not mapping.still_start or episode.count < 2:
        return 0
    action = _side_by_side(episode, mapping.action) if action is None else action
    return int(bool((np.abs(action[0, _arm(mapping)]) < _STILL).all()))


def verdict_of(episode: RldsEpisode, mapping: RldsMapping) -> bool | None:
    """Return whether an episode succeeded, None where nobody says.

    What the dataset says of the episode counts; then, of those that are there to their end, all of a dataset of
    demonstrations did, and elsewhere those with a reward.
    """
    path = mapping.success
    if path and episode.has(path):
        if not episode.is_text(path):
            return bool(np.any(episode.numbers(path)))
        (said,) = episode.texts(path)[:1] or [""]
        if "/success/" in said or "/failure/" in said:
            return "/success/" in said
    if not _closed(episode):
        return None
    if mapping.demonstrations:
        return True
    reward = STEPS + "reward"
    return True if episode.has(reward) and bool((episode.numbers(reward) > 0).any()) else None


def _arm(mapping: RldsMapping) -> list[int]:
    """Return the dimensions of an action that move the arm: all but the gripper's, which is last where no name tells it."""
    names = mapping.action_names
    arm = [place for place, name in enumerate(names) if "gripper" not in name]
    return arm if len(arm) < len(names) else arm[:-1]


def _film(episode: RldsEpisode, mapping: RldsMapping, camera: str, shown: Sequence[int]) -> NDArray[np.uint8]:
    found = read_pictures(episode, mapping, camera, sorted(set(shown)))
    if len(sizes := {picture.shape for picture in found.values()}) > 1:
        raise DatasetError(
            "The pictures of an episode differ in size",
            seen=f"{sorted(sizes)} of camera {camera}",
            allowed="one size within an episode",
            remedy="Leave this camera out: name others with images",
        )
    return np.stack([found[i] for i in shown])


def _closed(episode: RldsEpisode) -> bool:
    """Whether the episode is there to its end: then its last step is there for its observation alone."""
    path = STEPS + "is_last"
    return episode.has(path) and bool(episode.numbers(path)[-1:].any())


def _rewards(episode: RldsEpisode, first: int, steps: int, verdict: bool | None) -> NDArray[np.float32]:
    path = STEPS + "reward"
    whole = episode.numbers(path) if episode.has(path) else np.zeros(episode.count)
    if whole.size != episode.count:
        raise DatasetError(
            "The steps of an episode do not have one reward each",
            seen=f"{path} {whole.shape}",
            allowed=f"({episode.count},) or ({episode.count}, 1)",
            remedy="Write the dataset anew with the one that counts as reward",
        )
    whole = whole.reshape(episode.count)
    found: NDArray[np.float32] = whole[first : first + steps].astype(np.float32)
    if _closed(episode):
        found[-1] += whole[-1]
    if verdict and not (found > 0).any():
        found[-1] = 1.0
    return found


def _side_by_side(episode: RldsEpisode, paths: Sequence[str]) -> NDArray[np.float32]:
    parts = [episode.numbers(path).reshape(episode.count, -1) for path in paths]
    empty = np.zeros((episode.count, 0), np.float32)
    joined: NDArray[np.float32] = np.concatenate([empty, *parts], axis=1).astype(np.float32)
    return joined
