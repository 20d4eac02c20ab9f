"""Demonstrations of any origin for one bench: our own as they are, joint recordings of ``lerobot-record`` converted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.demos import Convert, DemoSpec, as_judged, iterate_demos, thin_out, to_demo, warn_of_cuts
from roborl.data.lerobot_info import DatasetInfo, describe, map_cameras
from roborl.data.lerobot_io import read_episodes
from roborl.data.weights import read_weights
from roborl.envs.bench import Bench
from roborl.envs.bench_maps import action_map, state_map
from roborl.envs.ranges import check_number
from roborl.envs.robot_model import load_robot_model
from roborl.errors import DatasetError
from roborl.loops.bench_scales import scales
from roborl.loops.failed_episodes import Say, judges_some, verdicts, with_one_task, without_verdict
from roborl.loops.joint_units import degrees_per_part, normalised_joints
from roborl.types import Episode

log = logging.getLogger(__name__)

Actions = Literal["auto", "bench", "targets"]
Units = Literal["auto", "degrees", "normalised"]
Verdicts = Literal["file", "all", "none"]

_SAME_ASPECT = 0.02
_TOLD_TASKS = 5  # most of them in a warning


@dataclass(frozen=True, kw_only=True)
class DemosConfig:
    """Which demonstrations, and how to read them."""

    # folder or hub id of a LeRobotDataset v3 or v2, also given as --demos PATH; empty: none
    path: str = ""
    # our camera name to the dataset's, where not plain
    camera_map: dict[str, str] = field(default_factory=dict)
    # what its actions are; auto: targets where named like joints
    actions: Actions = "auto"
    # the verdicts: what the file says (else success; where it says one of others, left out), or one on all
    success: Verdicts = "file"
    # episodes that failed, by number, whatever that verdict says
    failed: list[int] = field(default_factory=list)
    # take only those whose instruction is the bench's task, to the letter
    only_task: bool = False
    # how many demonstrations at most; 0: all
    limit: int = 0
    # take its failures too: critics learn from them, and they are not cloned as a whole
    failures: bool = False
    # first part of their keys
    actor: str = "demo"
    # of joint positions: degrees, or normalised to -100..100 (use_degrees false); auto: degrees, refused if plainly not
    units: Units = "auto"
    # LeRobot's calibration file of the recorded arm, for units normalised
    calibration: str = ""
    # file that roborl filter wrote: how much each step counts where a first policy is cloned from them; empty: all alike
    weights: str = ""

    def __post_init__(self) -> None:
        check_number("demos.limit", self.limit, at_least=0, remedy="Set --demos.limit, 0 for all")


def bench_demos(config: DemosConfig, bench: Bench) -> Iterator[Episode]:
    """Read demonstrations one at a time for the store, fitted to a bench.

    Raises:
        DatasetError: If cameras, state, actions or rate do not fit.
    """
    return (to_demo(episode, bench.policy_hz, config.actor) for episode in bench_episodes(config, bench))


def bench_episodes(config: DemosConfig, bench: Bench) -> Iterator[DatasetEpisode]:
    """Read demonstrations one at a time, fitted to a bench, with the sub-tasks that are marked in them.

    Of a dataset that says of some episodes whether they succeeded, those of which it does not are left out and counted in
    the log, unless the config says it of all; one that says it of none holds successes alone. Episodes with several
    instructions are left out as well.

    Raises:
        DatasetError: If cameras, state, actions or rate do not fit.
    """
    info = describe(config.path)
    model = load_robot_model(bench.model)
    targets = config.actions == "targets" or (config.actions == "auto" and is_joint_recording(info, bench))
    state = state_map(bench)
    spec = DemoSpec(
        cameras={name: (use.height_px, use.width_px) for name, use in bench.cameras.items()},
        state_dim=state.size,
        action_dim=action_map(bench).size,
        policy_hz=bench.policy_hz,
        state_names=() if targets else state.names,
        scales=scales(bench),
    )
    if not info.ours:
        _warn_of_another_aspect(config, info, bench)
    if targets:
        log.info("%s: absolute joint targets of %s become this bench's actions", config.path, model.name)
    told = _told(config, info, log.warning)
    success = verdicts(config.failed, info.episodes, others=told)
    read = read_episodes(info.root, with_images=False, success=success)
    left_out = _left_out(config, info, bench.task, read, log.warning)
    found = iterate_demos(
        info.root,
        spec,
        camera_map=config.camera_map or None,
        success=success,
        convert=joint_recording(bench, config.units, config.calibration) if targets else None,
    )
    for episode in _taken(config, found, left_out):
        told_of = told is not None or episode.index in config.failed
        yield _paid(episode) if told_of else episode


def _told(config: DemosConfig, info: DatasetInfo, say: Say) -> bool | None:
    """Return the verdict on all episodes that are not named, None for what the dataset says."""
    told = {"file": None, "all": True, "none": False}[config.success]
    if told is None and info.ours and not judges_some(info.root):
        say(
            "%s: nobody says of any episode whether it succeeded, and they are taken for successes: name those that failed"
            " with --demos.failed",
            config.path,
        )
        return True
    return told


def _taken(
    config: DemosConfig, episodes: Iterable[DatasetEpisode], left_out: Collection[int]
) -> Iterator[DatasetEpisode]:
    """Yield the demonstrations, up to the limit, and with them the failures where these are asked for."""
    shown = 0
    for episode in episodes:
        if episode.index in left_out:
            continue
        failed = episode.success is False
        if not failed and config.limit and shown == config.limit:
            if not config.failures:
                return
            continue
        if not failed or config.failures:
            shown += not failed
            yield episode


def _left_out(
    config: DemosConfig, info: DatasetInfo, task: str, episodes: Iterable[DatasetEpisode], say: Say
) -> set[int]:
    """Return the numbers of the episodes to leave out, and say how many: as in training reward models, and as config says."""
    shown = [episode for episode in episodes if not episode.discarded]
    kept = with_one_task(shown, config.path, say)
    if config.only_task:
        kept = [episode for episode in kept if episode.task == task]
    left_out = {episode.index for episode in shown} - {episode.index for episode in kept}
    if not info.ours:
        return left_out  # Of another dataset's episodes each has a verdict, by its rewards or else by its being there.
    return left_out | without_verdict(
        kept,
        config.path,
        lambda: judges_some(info.root),
        say,
        option="--demos.failed",
        succeeded="--demos.success all",
    )


def demo_weights(config: DemosConfig, bench: Bench) -> dict[int, NDArray[np.float32]] | None:
    """Return how much each row of each demonstration counts, by the episode's index; None where all count alike.

    Raises:
        DatasetError: If the file cannot be read, was written for other data, or the recording would have to be thinned out.
    """
    if not config.weights:
        return None
    info = describe(config.path)
    if abs(info.fps / bench.policy_hz - 1.0) > 0.01:
        raise DatasetError(
            "Demonstrations that are thinned out cannot be weighed step by step",
            seen=f"{info.fps:g} Hz",
            allowed=f"{bench.policy_hz:g} Hz",
            remedy="Leave episodes out instead: roborl filter --drop RULE --out FOLDER",
        )
    return read_weights(info.root, Path(config.weights))


def _paid(episode: DatasetEpisode) -> DatasetEpisode:
    """Return an episode whose outcome was told with the reward of that outcome: the file may know of another one, or of none."""
    reward = episode.reward.copy()
    reward[-1] = max(reward[-1], 1.0) if episode.success else min(reward[-1], 0.0)
    return replace(episode, reward=reward)


def warn_of_another_task(config: DemosConfig, bench: Bench) -> None:
    """Warn where demonstrations have another task than the bench's: it is learnt from all the same, for words differ.

    Raises:
        DatasetError: If the dataset cannot be read.
    """
    if config.only_task:
        return
    read = read_episodes(config.path, with_images=False)
    tasks = Counter(episode.task for episode in read if not (episode.discarded or episode.more_tasks))
    others = Counter({task: count for task, count in tasks.items() if task != bench.task})
    if others:
        log.warning(
            "%d of %d demonstrations in %s have another task than the bench, which asks for %r: %s. They are taken for"
            " it; if they do not mean the same, leave them out with --demos.only_task true",
            others.total(),
            tasks.total(),
            config.path,
            bench.task,
            ", ".join(f"{task!r} ({count})" for task, count in others.most_common(_TOLD_TASKS)),
        )


def recorded_observations(config: DemosConfig, task: str, policy_hz: float) -> int:
    """Return how many observations demonstrations bring to a bench of this task and rate; :func:`bench_episodes` says of which.

    Raises:
        DatasetError: If the dataset cannot be read.
    """
    info = describe(config.path)
    success = verdicts(config.failed, info.episodes, others=_told(config, info, log.debug))
    read = list(read_episodes(info.root, with_images=False, success=success))
    left_out = _left_out(config, info, task, read, log.debug)
    whole = (thin_out(as_judged(episode), info.fps / policy_hz) for episode in read if not episode.discarded)
    fitted = (episode for episode in whole if episode.steps)
    return sum(episode.steps + 1 for episode in _taken(config, fitted, left_out))


def _warn_of_another_aspect(config: DemosConfig, info: DatasetInfo, bench: Bench) -> None:
    """Warn where a camera was recorded at another aspect than the bench's gives: both are resized whole."""
    cameras = getattr(bench.robot, "cameras", {})
    live = {name: (cameras[name].height, cameras[name].width) for name in bench.cameras if name in cameras}
    if {w / h for h, w in info.cameras.values()} == {w / h for h, w in live.values() if h and w}:
        return
    for name, theirs in map_cameras(list(info.cameras), list(bench.cameras), config.camera_map).items():
        (height, width), (high, wide) = info.cameras[theirs], live.get(name, (None, None))
        if high and wide and abs(width * high / (height * wide) - 1.0) > _SAME_ASPECT:
            log.warning(
                "%s: camera %s was recorded at %dx%d, this bench's gives %dx%d. Things have other proportions in the "
                "demonstrations than the policy sees; set the camera to the aspect of the recording",
                config.path,
                theirs,
                width,
                height,
                wide,
                high,
            )


def is_joint_recording(info: DatasetInfo, bench: Bench) -> bool:
    """Return whether states and actions are named like the robot's joint positions, as ``lerobot-record`` has them."""
    keys = set(load_robot_model(bench.model).position_keys)
    return not info.ours and keys <= set(info.state_names) and keys <= set(info.action_names)


def joint_recording(bench: Bench, units: Units = "auto", calibration: str = "") -> Convert:
    """Return what makes the bench's states and actions of joint positions and absolute joint targets.

    Each action leads from the target before it to its own, the first from the measured pose. Motions faster than an
    action may be are cut and counted in the log: the demonstration was quicker than the bench allows.

    Args:
        bench: The bench.
        units: Of the positions; under "auto" degrees, and an episode that is plainly in the other unit is refused.
        calibration: LeRobot's calibration file of the recorded arm, for "normalised".

    Raises:
        DatasetError: If that file cannot be used.
    """
    model = load_robot_model(bench.model)
    states, actions = state_map(bench), action_map(bench)
    degrees = degrees_per_part(calibration, model) if units == "normalised" else 1.0

    def joints(rows: NDArray[np.float32], names: tuple[str, ...], what: str) -> NDArray[np.float64]:
        missing = [key for key in model.position_keys if key not in names]
        if missing:
            raise DatasetError(
                f"The dataset's {what} lacks joints of the robot",
                seen=list(names),
                allowed=list(model.position_keys),
                remedy="Use a recording of this robot",
            )
        return rows[:, [names.index(key) for key in model.position_keys]].astype(np.float64)

    def convert(episode: DatasetEpisode, info: DatasetInfo) -> DatasetEpisode:
        read = joints(episode.state, info.state_names, "state")
        if units == "auto" and (plainly := normalised_joints(read, model)):
            raise DatasetError(
                "The recorded joint positions are not in degrees",
                seen=f"{', '.join(plainly)} of episode {episode.index} in steps of a motor's range mapped to -100..100",
                allowed="degrees, as of a robot with use_degrees true",
                remedy="Say --demos.units normalised and name the recorded arm's calibration file with --demos.calibration;"
                " or, if they are degrees, --demos.units degrees",
            )
        measured = read * degrees
        path = np.concatenate([measured[:1], joints(episode.action, info.action_names, "action") * degrees])
        action = np.stack([actions.executed(a, b) for a, b in pairwise(path)])
        known = episode.provenance
        converted = replace(
            episode,
            state=np.stack([states(row) for row in measured]),
            action=action,
            provenance=replace(known, proposed=action) if known else None,
        )
        warn_of_cuts(converted)
        return converted

    return convert
