"""What a training run left in its folder, read back while it goes on or afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from roborl.clock import NS
from roborl.data.columns import active_version, load_labels
from roborl.data.episodes import EpisodeInfo
from roborl.data.reader import StoreReader
from roborl.errors import DatasetError
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.run_files import read_lines
from roborl.policies.lerobot_files import is_lerobot_policy
from roborl.rewards.forms import RewardForm, the_form
from roborl.rewards.metrics import wilson_interval
from roborl.types import EndCause

# Between two lines of a run that goes on there is less; a longer silence, or a clock that began anew, is a pause.
_PAUSE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class SuccessRate:
    """A share of successes with its 95 % Wilson interval.

    Attributes:
        successes: How many.
        of: Of how many.
    """

    successes: int
    of: int

    @property
    def share(self) -> float:
        """In [0, 1]; NaN of none."""
        return self.successes / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """In [0, 1] each; all of it where nothing was tried."""
        if not self.of:
            return 0.0, 1.0
        low, high = wilson_interval(self.successes, self.of)
        return float(low), float(high)

    @classmethod
    def of_outcomes(cls, outcomes: Sequence[Mapping[str, Any]]) -> SuccessRate:
        """Count episodes by their ``success``; none there is no success."""
        return cls(successes=sum(bool(outcome["success"]) for outcome in outcomes), of=len(outcomes))


@dataclass(frozen=True, kw_only=True)
class ProgressCurve:
    """What a reward model said along one episode.

    Attributes:
        name: Of its kind: ``success``, a kind of failure, or ``online``.
        progress: float32 (T + 1,), in [0, 1].
        success: Whether the task was done, None where nobody judged; see :func:`task_done`.
    """

    name: str
    progress: NDArray[np.float32]
    success: bool | None


@dataclass(frozen=True, kw_only=True)
class LastProgress:
    """What a reward model said at the end of episodes that came out alike.

    Attributes:
        outcome: How they came out, in words.
        episodes: How many.
        low: Progress below which a tenth of them ended.
        median: The same for half of them.
        high: The same for nine tenths.
        above_half: How many ended at a progress of one half or more.
    """

    outcome: str
    episodes: int
    low: float
    median: float
    high: float
    above_half: int


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """How an online run went.

    Attributes:
        run: Its folder.
        settings: Its resolved settings: those of ``train``, or of ``learn`` where the learner stood alone.
        episodes: Finished online episodes in order: ``number success discarded steps person end policy_version minute``.
        training: The trainer's figures over time, each with its ``minute``.
        events: Starts, deaths, recoveries and degraded modes of its processes, and weights that were refused.
    """

    run: RunFolder
    settings: dict[str, Any] = field(default_factory=dict)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    training: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def minutes(self) -> list[float]:
        """When each episode ended, minutes of learning; pauses do not count."""
        return [line.get("minute", 0.0) for line in self.episodes]

    @property
    def label_version(self) -> str:
        """The version of the labels that were learnt from last, empty for none."""
        return next(
            (line["label_version"] for line in reversed(self.training) if line.get("label_version")), ""
        )

    @property
    def lookahead(self) -> float:
        """What part of the value beyond the potential each step handed back in the end; 1: critics look all the way ahead."""
        told = [float(line["lookahead"]) for line in self.training if "lookahead" in line]
        if told:
            return told[-1]
        # Of a run of an earlier release, or of an algorithm that does not say, it grew with updates alone.
        first, needed = (
            float(self.algorithm.get("lookahead", 1.0)),
            self.algorithm.get("lookahead_updates", 0),
        )
        made = max((int(line.get("updates", 0)) for line in self.training), default=0)
        return 1.0 if needed and made >= needed else first + (1.0 - first) * made / (needed or math.inf)

    @property
    def algorithm(self) -> dict[str, Any]:
        """The settings of the algorithm that learnt; one of the user's own has those of rlpd."""
        lerobot = is_lerobot_policy(self.run.policy)
        weighted = lerobot and self.settings.get("algorithm", "auto") in ("auto", "weighted")
        found: dict[str, Any] = self.settings.get("weighted" if weighted else "rlpd", {})
        return found

    @property
    def head_start(self) -> int:
        """Updates on recorded episodes that were asked for before the first episode."""
        return int(self.settings.get("trainer", {}).get("budget", {}).get("head_start", 0))

    @property
    def form(self) -> tuple[RewardForm, str]:
        """The form of the reward that was learnt from, and whether it leaves the optimal policy alone."""
        shaping = self.settings.get("shaping", {})
        scale = float(shaping.get("scale", 0.0))
        shaped = bool(self.settings.get("reward")) and scale > 0
        return the_form(
            [shaping.get("form", "potential")] if shaped else [],
            critic_sees_potential=bool(self.algorithm.get("critic_sees_potential", True)),
            lookahead=float(self.algorithm.get("lookahead", 1.0)),
            lookahead_grows=any(self.algorithm.get(f"lookahead_{of}", 0) for of in ("updates", "successes")),
            grown=self.lookahead == 1.0,
        )


def read_run(run: RunFolder) -> RunResults:
    """Read what a run has left so far; parts that are not there are empty.

    How an episode came out is read from the store, where a verdict may have come in after the trainer counted it.
    """
    lines = _timed(read_lines(run.metrics))
    infos = {str(info.key): info for info in _stored(run.store)}
    episodes = []
    for line in lines:
        if line.get("kind") == "episode":
            info = infos.get(line.get("key", ""))
            known = {} if info is None else {"success": info.success, "discarded": info.discarded}
            episodes.append(line | known)
    settings = read_yaml(run.settings("train")) or read_yaml(run.learner)
    return RunResults(
        run=run,
        settings=settings,
        episodes=episodes,
        training=[line for line in lines if line.get("kind") == "train"],
        events=[
            *read_lines(run.events),
            *(
                {"child": "trainer", "event": "weights refused"}
                for line in lines
                if line.get("kind") == "refused"
            ),
        ],
    )


def succeeded(episode: Mapping[str, Any]) -> bool:
    """Return whether one of a run's episodes counts as a success; one that was discarded does not."""
    return episode["success"] is True and not episode.get("discarded")


def online_curves(results: RunResults) -> list[ProgressCurve]:
    """Return the stored progress of all labelled online episodes, in order, each to where its task ended: what is learnt from.

    Raises:
        DatasetError: If there is no store, or its labels cannot be read.
    """
    root = results.run.store
    version = active_version(root) or results.label_version
    if not version:
        return []
    curves = []
    for info in StoreReader(root, leave_out_torn=True).episodes():
        labels = (
            load_labels(root, info.key, version) if info.kind == "online" and not info.discarded else None
        )
        if labels is not None:
            end = len(labels[0]) if info.terminal_index is None else info.terminal_index + 1
            curves.append(ProgressCurve(name="online", progress=labels[0][:end], success=task_done(info)))
    return curves


def last_progress(curves: Iterable[ProgressCurve]) -> list[LastProgress]:
    """Return what the reward model said last of episodes that succeeded, then of those that did not; unjudged ones are left out.

    Example:
        >>> said = [ProgressCurve(name="online", progress=np.float32([0, last]), success=True) for last in (0.2, 0.9, 1.0)]
        >>> [(of.outcome, of.episodes, round(of.median, 1)) for of in last_progress(said)]
        [('succeeded', 3, 0.9)]
    """
    ends: dict[bool, list[float]] = {True: [], False: []}
    for curve in curves:
        if curve.success is not None and curve.progress.size:
            ends[curve.success].append(float(curve.progress[-1]))
    return [
        LastProgress(
            outcome="succeeded" if success else "did not",
            episodes=len(of),
            low=float(np.quantile(of, 0.1)),
            median=float(np.median(of)),
            high=float(np.quantile(of, 0.9)),
            above_half=sum(last >= 0.5 for last in of),
        )
        for success, of in ends.items()
        if of
    ]


def task_done(info: EpisodeInfo) -> bool | None:
    """Return how an episode came out, None where nobody judged: one whose time ran out was not done, unless a judge is to say."""
    if info.end is EndCause.TIME_LIMIT and not info.awaits_verdict:
        return bool(info.success)
    return info.success


def running_mean(values: Sequence[bool], width: int) -> NDArray[np.float64]:
    """Return the mean over each value and the ones before it, at most ``width`` in all, (n,).

    Example:
        >>> running_mean([False, True, True, True], 2).tolist()
        [0.0, 0.5, 1.0, 1.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - width)
    means: NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return means


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a file of settings, empty where there is none.

    Raises:
        DatasetError: If it cannot be read.
    """
    try:
        return dict(yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise torn_file(path, error) from error


def torn_file(path: Path, error: Exception) -> DatasetError:
    """Return what to raise for a file of a run that cannot be read."""
    return DatasetError(
        "A file of a run cannot be read",
        seen=f"{path}: {error}",
        allowed="the file that the run wrote",
        remedy="Take it from a backup, or run it again in another folder",
    )


def _timed(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each line its minute of the run; a machine that was started anew counts from zero again."""
    timed, before_ns, elapsed_s = [], None, 0.0
    for line in lines:
        at_ns = line.get("at_ns")
        if at_ns is not None:
            step_s = 0.0 if before_ns is None else (at_ns - before_ns) / NS
            elapsed_s += step_s if 0 <= step_s <= _PAUSE_S else 0.0
            before_ns = at_ns
        timed.append(line | {"minute": elapsed_s / 60})
    return timed


def _stored(root: Path) -> list[EpisodeInfo]:
    try:
        return StoreReader(root, leave_out_torn=True).episodes()
    except DatasetError:
        return []
