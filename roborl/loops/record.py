"""Demonstrations and failures into a LeRobotDataset: by script in simulation, or by a person's hands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode, Provenance, Subtask
from roborl.data.lerobot_info import describe
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_writer import DatasetWriter
from roborl.envs.failure_kinds import Failure
from roborl.envs.robot_env import RobotEnv
from roborl.errors import ConfigError, DatasetError, RoborlError
from roborl.loops.bench_scales import scales
from roborl.loops.rollout import Rollout, run_episode
from roborl.loops.seeds import Purpose, scene_seed
from roborl.roles import Policy
from roborl.signals import interrupt_later
from roborl.types import EpisodeKey, Observation, RewardSource, Source

log = logging.getLogger(__name__)

EXPERT = "expert"
_ATTEMPTS = 10

type ScriptMaker = Callable[[RobotEnv, str, int], Policy]
"""Environment, kind (``expert`` or a kind of failure) and seed to a scripted policy."""


@dataclass(slots=True, kw_only=True)
class Recorded:
    """What a recording came to.

    Attributes:
        written: Episodes written now, by kind.
        present: Episodes that were there before, by kind.
        rejected: Attempts thrown away, by kind: an expert that failed, a failure that succeeded, a robot that
            failed in somebody's hands.
    """

    written: dict[str, int] = field(default_factory=dict)
    present: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)


def open_writer(
    path: Path,
    env: RobotEnv,
    *,
    video: bool = False,
    benchmark_progress: bool = False,
    checkpoint_every: int = 50,
) -> DatasetWriter:
    """Return a writer for what an environment perceives; the state's names are the robot's.

    Raises:
        ConfigError: If the bench has no whole number of observations per second.
        DatasetError: If there is a dataset of another form, of other scales or of another task.
    """
    bench, arm = env.bench, env.arm
    if not bench.policy_hz.is_integer():
        raise ConfigError(
            "A LeRobotDataset has a whole number of observations per second",
            seen=f"policy_hz {bench.policy_hz:g}",
            allowed="a whole number that divides control_hz",
            remedy="Set policy_hz in the bench file before recording for it",
        )
    axes = ["x", "y", "z"]
    joints = [f"{name}.pos" for name in arm.model.joint_names]
    writer = DatasetWriter(
        path,
        fps=round(bench.policy_hz),
        cameras={name: (shape[0], shape[1]) for name, shape in arm.cameras.items()},
        state_names=[*joints, *(f"ee.{axis}" for axis in axes)],
        action_names=[*(f"delta_{axis}" for axis in axes), "delta_gripper"]
        if bench.action.kind == "ee_delta"
        else [f"delta_{name}" for name in arm.model.joint_names],
        robot_type=arm.model.name,
        scales=scales(bench),
        video=video,
        benchmark_progress=benchmark_progress,
        checkpoint_every=checkpoint_every,
    )
    held = describe(path).tasks if writer.episodes else ()
    if set(held) - {env.task}:
        raise DatasetError(
            "The dataset to continue holds another task",
            seen=f"{', '.join(map(repr, held))} in {path}",
            allowed=f"{env.task!r}, which this run records",
            remedy="Record into a new path, or choose the scene of the dataset's task; if only its words differ, "
            "give the bench those: --bench_overrides '[--task=...]'",
        )
    return writer


def record_scripted(
    env: RobotEnv,
    path: Path,
    make_script: ScriptMaker,
    *,
    demonstrations: int,
    failures: int = 0,
    failure_kinds: Sequence[str] = (),
    seed: int = 0,
    video: bool = False,
    benchmark_progress: bool = False,
    on_episode: Callable[[str, int, int], None] = lambda kind, done, wanted: None,
) -> Recorded:
    """Record scripted episodes in simulation, each on a scene of its own; continue where an earlier call stopped.

    An interruption, Ctrl-C included, keeps every finished episode. Scenes follow from seed, kind and count alone, so a
    recording that was continued equals one that was not.

    Args:
        env: A simulated environment with pictures.
        path: The dataset.
        make_script: Makes the scripted policy for a kind and a seed.
        demonstrations: How many successes of the expert.
        failures: How many of each kind of failure.
        failure_kinds: Which kinds.
        seed: Which set of scenes.
        video: Store MP4 rather than exact pictures.
        benchmark_progress: Also store the simulator's true progress, for benchmarks and tests; it is never fed to a
            policy or a reward model.
        on_episode: Told the kind, and how many of how many episodes stand.

    Raises:
        DatasetError: If there is a dataset of another form or of another task.
        RoborlError: If a script does not do what it is for, ten times in a row on one place in the list.
    """
    wanted = [(EXPERT, index) for index in range(demonstrations)]
    wanted += [(kind, index) for kind in failure_kinds for index in range(failures)]
    result = Recorded()
    with open_writer(path, env, video=video, benchmark_progress=benchmark_progress) as writer:
        present = set(_present(path)) if writer.episodes else set()
        for done, (kind, index) in enumerate(wanted, start=1):
            key = EpisodeKey(actor=kind.replace(" ", "_"), incarnation=seed + 1, episode=index)
            if str(key) in present:
                result.present[kind] = result.present.get(kind, 0) + 1
            else:
                # Between episodes alone: in the middle of one, a library's callback or destructor may swallow an interrupt.
                with interrupt_later():
                    writer.append(_attempt(env, make_script, kind, key, seed, result))
                result.written[kind] = result.written.get(kind, 0) + 1
            on_episode(kind, done, len(wanted))
    return result


def _present(path: Path) -> Iterator[str]:
    for episode in read_episodes(path, with_images=False):
        yield episode.key


def _attempt(
    env: RobotEnv, make_script: ScriptMaker, kind: str, key: EpisodeKey, seed: int, result: Recorded
) -> DatasetEpisode:
    purpose: Purpose = "demo" if kind == EXPERT else "failure"
    # The kinds of failure take turns, so that no two share a scene, however many are recorded; other kinds come last.
    kinds = [EXPERT] if kind == EXPERT else [*Failure, kind]
    for attempt in range(_ATTEMPTS):
        turn = key.episode * _ATTEMPTS + attempt
        scene = scene_seed(purpose, seed, turn * len(kinds) + kinds.index(kind))
        watcher = SceneWatcher(env)
        rollout = run_episode(
            env,
            _Deferred(partial(make_script, env, kind, scene)),
            seed=scene,
            keep=True,
            watch=watcher,
        )
        if rollout.success == (kind == EXPERT):
            return to_dataset_episode(
                rollout,
                env.task,
                key=key,
                source=Source.SCRIPT,
                failure="" if kind == EXPERT else kind,
                subtasks=watcher.subtasks(rollout.success),
                benchmark_progress=np.array(watcher.progress, np.float32),
            )
        result.rejected[kind] = result.rejected.get(kind, 0) + 1
        log.info("%s on scene %d ended in %s and is not kept", kind, scene, rollout.end.value)
    raise RoborlError(
        f"The script {kind!r} does not do what it is for",
        seen=f"{_ATTEMPTS} attempts that {'failed' if kind == EXPERT else 'succeeded'}",
        allowed="a success" if kind == EXPERT else "a failure",
        remedy="Use less noise, or another task",
    )


class _Deferred:
    """A script that is made when the scene stands, since it plans from there."""

    version = 0

    def __init__(self, make: Callable[[], Policy]) -> None:
        self._make = make
        self._policy: Policy | None = None

    def reset(self) -> None:
        """Plan anew from the present scene."""
        self._policy = self._make()
        self._policy.reset()

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return the script's next actions."""
        assert self._policy is not None, "reset comes first"
        return self._policy.act(observation)


class SceneWatcher:
    """Notes the true stage and progress at each observation, for annotation and benchmarks; no policy sees them.

    Attributes:
        stages: Index of the stage at each observation.
        progress: Privileged progress at each observation.
    """

    def __init__(self, env: RobotEnv) -> None:
        self._scene = env.scene
        self.stages: list[int] = []
        self.progress: list[float] = []

    def __call__(self, observation: Observation) -> None:
        """Take the scene's present stage and progress down."""
        self.stages.append(self._scene.privileged_stage())
        self.progress.append(float(np.clip(self._scene.privileged_progress(), 0.0, 1.0)))

    def subtasks(self, success: bool) -> tuple[Subtask, ...]:
        """Return the stages that were gone through, see :func:`spans`."""
        return spans(self.stages, self._scene.task.stages, success=success)


def spans(stages: Sequence[int], names: Sequence[str], *, success: bool) -> tuple[Subtask, ...]:
    """Turn the stage at each observation into sub-tasks.

    A stage ends at the observation at which the next begins. Work that is undone begins its stage again. A stage that
    was passed between two observations gets the last step of the one before. The last span of a failure was not
    completed.

    Args:
        stages: T + 1 stage indices.
        names: Name of each stage.
        success: Whether the task was done, which completes the last stage.

    Example:
        >>> for span in spans([0, 0, 0, 2, 2], ["reach", "grasp", "lift"], success=True):
        ...     print(span.name, span.start, span.end)
        reach 0 2
        grasp 2 3
        lift 3 4
    """
    last = len(stages) - 1
    runs = [[stage, t] for t, stage in enumerate(stages) if t == 0 or stage != stages[t - 1]]
    if len(runs) > 1 and runs[-1][1] == last:
        # Reached with the last observation: a success did it in its last step, a failure has not begun it.
        if success and last - 1 > runs[-2][1]:
            runs[-1][1] = last - 1
        else:
            runs.pop()
    filled = runs[:1]
    for stage, start in runs[1:]:
        room = start - filled[-1][1] - 1
        passed = list(range(filled[-1][0] + 1, stage))
        passed = passed[max(0, len(passed) - room) :]
        filled += [[skipped, start - len(passed) + k] for k, skipped in enumerate(passed)]
        filled.append([stage, start])
    ends = [*(start for _, start in filled[1:]), last]
    return tuple(
        Subtask(name=names[stage], start=start, end=end)
        for (stage, start), end in zip(filled, ends, strict=True)
    )


def to_dataset_episode(
    rollout: Rollout,
    task: str,
    *,
    key: EpisodeKey,
    source: Source,
    failure: str = "",
    subtasks: tuple[Subtask, ...] = (),
    benchmark_progress: NDArray[np.float32] | None = None,
) -> DatasetEpisode:
    """Lay a kept rollout out as arrays.

    Args:
        rollout: With its observations.
        task: The instruction in words.
        key: Identity.
        source: Who chose the actions.
        failure: The kind of a scripted failure.
        subtasks: Its annotation.
        benchmark_progress: Privileged progress, float32 (T + 1,).
    """
    observations, steps = rollout.observations, rollout.steps
    cameras = list(observations[0].frames)
    judged = RewardSource.ENV if source is Source.SCRIPT else RewardSource.OPERATOR
    return DatasetEpisode(
        task=task,
        images={name: np.stack([o.frames[name].rgb for o in observations]) for name in cameras},
        state=np.stack([o.state for o in observations]),
        action=np.stack(rollout.executed),
        reward=np.array(rollout.rewards, np.float32),
        success=rollout.success,
        end=rollout.end,
        subtasks=subtasks,
        failure=failure,
        key=str(key),
        provenance=Provenance(
            proposed=np.stack(rollout.proposed),
            source=(source,) * steps,
            policy_version=np.full(steps, rollout.policy_version, np.int64),
            reward_source=(judged,) * steps,
            stamp_ns=np.array(
                [[o.stamp_ns, *(o.frames[name].stamp_ns for name in cameras)] for o in observations], np.int64
            ),
        ),
        benchmark_progress=benchmark_progress,
    )
