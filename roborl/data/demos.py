"""Demonstrations for the learner's store: any dataset, made to fit one bench."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode, Provenance, to_episode
from roborl.data.lerobot_files import deletion
from roborl.data.lerobot_info import DatasetInfo, describe
from roborl.data.lerobot_io import read_episodes
from roborl.data.scales import Scales
from roborl.errors import DatasetError
from roborl.types import EndCause, Episode, EpisodeKey, RewardSource

log = logging.getLogger(__name__)

_RATE_SHARE = 0.01  # By which a recording's rate may differ from the policy's.

type Convert = Callable[[DatasetEpisode, DatasetInfo], DatasetEpisode]
"""An episode as recorded, at the policy's rate, to one with the bench's own states and actions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSpec:
    """What a bench expects of a demonstration.

    Attributes:
        cameras: Height and width in px by camera name, at recording resolution.
        state_dim: Length of the state.
        action_dim: Length of an action.
        policy_hz: Observations per second.
        state_names: Where given and present in the dataset, the state is picked by these names.
        scales: What the numbers of its states and actions stand for. A dataset that says so too is rescaled to them; one
            that does not is taken as it is.
    """

    cameras: Mapping[str, tuple[int, int]]
    state_dim: int
    action_dim: int
    policy_hz: float
    state_names: tuple[str, ...] = ()
    scales: Scales | None = None


def load_demos(
    source: str | Path,
    spec: DemoSpec,
    *,
    camera_map: Mapping[str, str] | None = None,
    success: bool | Mapping[int, bool] | None = None,
    convert: Convert | None = None,
    actor: str = "demo",
    limit: int | None = None,
) -> list[Episode]:
    """Read every demonstration that is not discarded, fitted to a bench.

    Arguments and errors as for :func:`iterate_demos`; ``actor`` as for :func:`to_demo`, and ``limit`` is how many at most.
    """
    fitted = iterate_demos(source, spec, camera_map=camera_map, success=success, convert=convert)
    found = [to_demo(episode, spec.policy_hz, actor) for episode in islice(fitted, limit)]
    if not found:
        raise DatasetError(
            "The dataset holds no demonstration", seen=source, remedy="Record some: roborl record"
        )
    return found


def iterate_demos(
    source: str | Path,
    spec: DemoSpec,
    *,
    camera_map: Mapping[str, str] | None = None,
    success: bool | Mapping[int, bool] | None = None,
    convert: Convert | None = None,
) -> Iterator[DatasetEpisode]:
    """Read demonstrations one at a time, fitted to a bench.

    Args:
        source: A folder or a hub id.
        spec: What the bench expects. A faster recording is thinned out to ``policy_hz`` so that its last observation
            stays; that needs ``convert``, because deltas of another rate mean something else.
        camera_map: Our camera name to the dataset's, where order and names do not say it.
        success: The verdict on all episodes, or by episode index; by default what the file says, else success.
        convert: Makes the bench's states and actions of what was recorded, such as the absolute joint targets of
            ``lerobot-record``. By default the dataset's are the bench's own, but for their scales.

    Yields:
        Episodes in order; one without a step at the policy's rate is skipped and logged.

    Raises:
        DatasetError: If cameras, state, actions, rate or the robot's model do not fit.
    """
    info = describe(source)
    if info.fps / spec.policy_hz < 1.0 - _RATE_SHARE:
        raise DatasetError(
            "The dataset was recorded at a lower rate than the policy acts",
            seen=f"{info.fps:g} Hz",
            allowed=f"{spec.policy_hz:g} Hz, or more to be thinned out",
            remedy="Record at that rate, or set the bench's policy_hz to the dataset's",
        )
    if convert is None:
        _check_actions(info, spec)
        convert = _own_recording(info, spec)
    for episode in read_episodes(info.root, cameras=spec.cameras, camera_map=camera_map, success=success):
        if episode.discarded:
            continue
        whole = thin_out(as_judged(episode), info.fps / spec.policy_hz)
        if not whole.steps:
            log.warning(
                "episode %d of %s is over within one step at %g Hz and is skipped",
                episode.index,
                info.root,
                spec.policy_hz,
            )
            continue
        if not all(np.isfinite(numbers).all() for numbers in (whole.state, whole.action, whole.reward)):
            raise DatasetError(
                f"Episode {episode.index} holds numbers that are not finite",
                seen=source,
                allowed="finite states, actions and rewards",
                remedy=f"Take a dataset without it: {deletion(info.root, [episode.index])}",
            )
        whole = convert(whole, info)
        _check_state(whole.state.shape[1], info, spec)
        yield replace(whole, action=_checked(whole.action, episode.index, info, spec))


def to_demo(episode: DatasetEpisode, policy_hz: float, actor: str = "demo") -> Episode:
    """Return a fitted demonstration for the store, keyed ``actor-0001-<episode_index>``."""
    key = EpisodeKey(actor=actor, incarnation=1, episode=episode.index)
    return to_episode(episode, key, fps=policy_hz)


def as_judged(episode: DatasetEpisode) -> DatasetEpisode:
    """Return an episode that a store gave out as that store sampled it: where a verdict ended the task, the episode ends.

    What came after is left out, and the last step earns what the verdict came with, unless the environment paid for it.
    Any other episode is returned itself.
    """
    known, verdict = episode.provenance, episode.verdict
    if known is None or verdict is None or not verdict.ends or not 0 < verdict.index <= episode.steps:
        return episode
    at = verdict.index
    reward = episode.reward[:at].copy()
    if known.reward_source[at - 1] is not RewardSource.ENV:
        reward[-1] = float(verdict.success) if verdict.reward is None else verdict.reward
    return replace(
        episode,
        images={name: pixels[: at + 1] for name, pixels in episode.images.items()},
        state=episode.state[: at + 1],
        action=episode.action[:at],
        reward=reward,
        end=EndCause.SUCCESS if verdict.success else EndCause.FAILURE,
        subtasks=tuple(replace(p, end=min(p.end, at)) for p in episode.subtasks if p.start < at),
        benchmark_progress=None
        if episode.benchmark_progress is None
        else episode.benchmark_progress[: at + 1],
        provenance=replace(
            known,
            proposed=known.proposed[:at],
            source=known.source[:at],
            policy_version=known.policy_version[:at],
            reward_source=known.reward_source[:at],
            stamp_ns=known.stamp_ns[: at + 1],
        ),
    )


def thin_out(episode: DatasetEpisode, factor: float) -> DatasetEpisode:
    """Keep one observation in ``factor``, the last one always; rewards between are summed, the latest action stays.

    Sub-tasks begin and end at the first observation that is kept from there on.

    Args:
        episode: The episode.
        factor: Recorded rate over wanted rate; 1 returns the episode itself.
    """
    if abs(factor - 1.0) < 1e-3:
        return episode
    back = np.round(np.arange(0, episode.steps + 1e-6, factor)).astype(int)
    kept = np.unique(np.clip(episode.steps - back, 0, None))
    ends = kept[1:] - 1
    known = episode.provenance
    return replace(
        episode,
        images={name: pixels[kept] for name, pixels in episode.images.items()},
        state=episode.state[kept],
        action=episode.action[ends],
        reward=np.add.reduceat(episode.reward, kept[:-1]).astype(np.float32)
        if kept[0] == 0
        else np.add.reduceat(episode.reward[kept[0] :], kept[:-1] - kept[0]).astype(np.float32),
        subtasks=tuple(
            replace(part, start=int(start), end=int(end))
            for part in episode.subtasks
            for start, end in [np.searchsorted(kept, (part.start, part.end))]
            if end > start
        ),
        benchmark_progress=None if episode.benchmark_progress is None else episode.benchmark_progress[kept],
        provenance=None
        if known is None
        else Provenance(
            proposed=known.proposed[ends],
            source=tuple(known.source[i] for i in ends),
            policy_version=known.policy_version[ends],
            reward_source=tuple(known.reward_source[i] for i in ends),
            stamp_ns=known.stamp_ns[kept],
        ),
    )


def warn_of_cuts(episode: DatasetEpisode) -> None:
    """Warn of an episode in which the bench's largest action is asked for often: its motions may have been cut to it."""
    cut = float((np.abs(episode.action) >= 1.0).any(axis=1).mean())
    if cut > 0.1:
        log.warning(
            "episode %d: %.0f %% of its steps are at the bench's largest action; consider a larger action step",
            episode.index,
            100 * cut,
        )


def _own_recording(info: DatasetInfo, spec: DemoSpec) -> Convert:
    """Return what picks a bench's own states and, where they were recorded with other scales, rescales them and actions.

    Raises:
        DatasetError: If the state has another size, or the recording is another robot's.
    """
    columns = _state_columns(info, spec)
    theirs, ours = info.scales and info.scales.picked(columns), spec.scales
    if theirs is None or ours is None or theirs == ours:
        return lambda episode, _: replace(episode, state=episode.state[:, columns])
    if theirs.model != ours.model:
        raise DatasetError(
            "The demonstrations are of another robot model than the bench's",
            seen=theirs.model,
            allowed=ours.model,
            remedy="Use demonstrations of this robot. If its folder has another name only, correct features.action.scale.model"
            " in the dataset's meta/info.json",
        )
    log.info("%s: rescaled from %s to %s", info.root, theirs.differing(ours), ours.differing(theirs))

    def rescale(episode: DatasetEpisode, _: DatasetInfo) -> DatasetEpisode:
        known = episode.provenance
        rescaled = replace(
            episode,
            state=theirs.rescaled_state(episode.state[:, columns], ours),
            action=theirs.rescaled_action(episode.action, ours),
            provenance=known and replace(known, proposed=theirs.rescaled_action(known.proposed, ours)),
        )
        warn_of_cuts(rescaled)
        return rescaled

    return rescale


def _state_columns(info: DatasetInfo, spec: DemoSpec) -> list[int]:
    if spec.state_names and set(spec.state_names) <= set(info.state_names):
        return [info.state_names.index(name) for name in spec.state_names]
    _check_state(info.state_dim, info, spec)
    return list(range(spec.state_dim))


def _check_state(size: int, info: DatasetInfo, spec: DemoSpec) -> None:
    if size != spec.state_dim:
        raise DatasetError(
            "The dataset's state has another size than the bench's",
            seen=f"{size} {list(info.state_names)}",
            allowed=f"{spec.state_dim} {list(spec.state_names)}",
            remedy="Use demonstrations of this robot, or a bench file that fits them",
        )


def _check_actions(info: DatasetInfo, spec: DemoSpec) -> None:
    if info.action_dim != spec.action_dim:
        raise DatasetError(
            "The dataset's actions have another size than the bench's",
            seen=f"{info.action_dim} {list(info.action_names)}",
            allowed=spec.action_dim,
            remedy="If they are absolute joint targets, say --demos.actions targets",
        )
    if info.fps / spec.policy_hz > 1.0 + _RATE_SHARE:
        raise DatasetError(
            "The dataset was recorded at a higher rate than the policy acts",
            seen=f"{info.fps:g} Hz",
            allowed=f"{spec.policy_hz:g} Hz",
            remedy="If its actions are absolute joint targets, say --demos.actions targets: then it is thinned out",
        )


def _checked(
    action: NDArray[np.float32], index: int, info: DatasetInfo, spec: DemoSpec
) -> NDArray[np.float32]:
    largest = float(np.abs(action).max(initial=0.0))
    if action.shape[1] != spec.action_dim or largest > 1.0 + 1e-4:
        raise DatasetError(
            f"The actions of episode {index} are not the bench's",
            seen=f"{action.shape[1]} dimensions up to {largest:g} in size {list(info.action_names)}",
            allowed=f"{spec.action_dim} dimensions in [-1, 1]",
            remedy="If they are absolute joint targets, say --demos.actions targets",
        )
    return np.clip(action, -1.0, 1.0)
