"""What a demonstration run left in its folder, read back for the report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from roborl.clock import NS
from roborl.data.columns import active_version, load_labels
from roborl.data.lerobot_io import read_episodes
from roborl.data.reader import StoreReader
from roborl.errors import DatasetError
from roborl.loops.learner.learn_config import (
    RunFolder,
)
from roborl.loops.references import ReferencesConfig, read_demonstration
from roborl.loops.reward_training.training_episodes import split, to_training
from roborl.loops.run_files import read_lines
from roborl.rewards.forms import RewardForm, the_form
from roborl.rewards.metrics import wilson_interval
from roborl.rewards.model import References, RewardModel, progress_of, score_episode
from roborl.rewards.training.episodes import as_video

STAGES, FIGURES, SETTINGS = "stages.json", "figures.json", "demo.yaml"


@dataclass(frozen=True, kw_only=True)
class Rate:
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


@dataclass(frozen=True, kw_only=True)
class ProgressCurve:
    """What a reward model said along one episode.

    Attributes:
        name: Of its kind: ``success``, a kind of failure, or ``online``.
        progress: float32 (T + 1,), in [0, 1].
        success: The verdict, None where there was none.
    """

    name: str
    progress: NDArray[np.float32]
    success: bool | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that the report shows.

    Attributes:
        folder: The demonstration's folder.
        settings: The resolved settings of the run, empty where they were not kept.
        stages: Each stage's result, in order, with ``wall_s``.
        before: Outcomes of the first evaluation, one per scene.
        after: The same scenes with the last published policy.
        episodes: Finished online episodes in order: ``number success steps end policy_version at_ns``.
        training: The trainer's figures over time.
        train: Resolved settings of the online run.
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    training: list[dict[str, Any]] = field(default_factory=list)
    train: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> RunFolder:
        """The online run's folder."""
        return RunFolder(self.folder / "run")

    @property
    def base(self) -> Rate:
        """Success of the policy that learning started from."""
        return _rate(self.before)

    @property
    def final(self) -> Rate:
        """Success of the last published policy."""
        return _rate(self.after)

    @property
    def minutes(self) -> list[float]:
        """When each online episode ended, minutes after the trainer's first figures."""
        stamps = [line["at_ns"] for line in [*self.training, *self.episodes] if "at_ns" in line]
        began = min(stamps, default=0)
        return [(line.get("at_ns", began) - began) / NS / 60 for line in self.episodes]

    @property
    def updates(self) -> tuple[int, int]:
        """Updates that were made, and after how many critics look all the way ahead."""
        made = max((int(line.get("updates", 0)) for line in self.training), default=0)
        return made, int(self.train.get("rlpd", {}).get("lookahead_updates", 0))

    @property
    def head_start(self) -> int:
        """Updates on recorded episodes that were asked for before the first episode."""
        return int(self.train.get("trainer", {}).get("budget", {}).get("head_start", 0))

    @property
    def form(self) -> tuple[RewardForm, str]:
        """The form of the reward that was learnt from, and whether it leaves the optimal policy alone."""
        shaping = self.train.get("shaping", {})
        scale = float(shaping.get("scale", 0.0))
        shaped = bool(self.train.get("reward")) and scale > 0
        rlpd = self.train.get("rlpd", {})
        made, needed = self.updates
        return the_form(
            [shaping.get("form", "potential")] if shaped else [],
            critic_sees_potential=bool(rlpd.get("critic_sees_potential", True)),
            lookahead=float(rlpd.get("lookahead", 1.0)),
            lookahead_grows=needed > 0,
            grown=made >= needed,
        )


def read_results(folder: Path) -> Results:
    """Read what ``roborl demo`` left; parts that are not there yet are empty.

    Raises:
        DatasetError: If no demonstration was run in this folder.
    """
    if not (folder / STAGES).is_file():
        raise DatasetError(
            "No demonstration was run here",
            seen=folder,
            allowed=f"a folder with {STAGES}",
            remedy=f"Run: roborl demo --out {folder}",
        )
    metrics = folder / "run" / "metrics.jsonl"
    return Results(
        folder=folder,
        settings=_yaml(folder / SETTINGS),
        stages=json.loads((folder / STAGES).read_text()),
        before=_lines(folder / "before.jsonl"),
        after=_lines(folder / "after.jsonl"),
        episodes=read_lines(metrics, "episode"),
        training=read_lines(metrics, "train"),
        train=_yaml(folder / "run" / "train.yaml"),
    )


def online_curves(root: Path, count: int) -> tuple[list[ProgressCurve], list[ProgressCurve]]:
    """Return the stored progress of the first and of the last ``count`` labelled online episodes.

    The two never share an episode: with fewer than ``2 · count`` labelled ones, each gets half.
    """
    version = active_version(root)
    if version is None:
        return [], []
    curves = []
    for info in StoreReader(root).episodes():
        labels = (
            load_labels(root, info.key, version) if info.kind == "online" and not info.discarded else None
        )
        if labels is not None:
            curves.append(ProgressCurve(name="online", progress=labels[0], success=info.success))
    count = min(count, len(curves) // 2)
    return curves[:count], curves[len(curves) - count :]


def held_out_curves(
    model: RewardModel[Any, Any],
    dataset: Path,
    *,
    share: float,
    seed: int,
    shown: ReferencesConfig | None = None,
) -> list[ProgressCurve]:
    """Return a model's progress along the episodes that its training held out, successes first.

    Args:
        model: The reward model.
        dataset: What it was trained on.
        share: Held-out share of its training.
        seed: Seed of its training, which decides the split.
        shown: The demonstration that the model is shown.
    """
    _, held_out = split([to_training(e) for e in read_episodes(str(dataset)) if not e.discarded], share, seed)
    curves = []
    known: dict[str, References] = {}
    for episode in sorted(held_out, key=lambda episode: not episode.success):
        frames = as_video(episode, range(episode.frames))
        if shown and episode.task not in known:
            known[episode.task] = read_demonstration(shown, tuple(episode.images), episode.task)
        scores = score_episode(model, episode.task, frames, references=known.get(episode.task))
        progress = progress_of(scores)
        curves.append(ProgressCurve(name=episode.kind, progress=progress, success=episode.success))
    return curves


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


def _rate(outcomes: list[dict[str, Any]]) -> Rate:
    return Rate(successes=sum(bool(outcome["success"]) for outcome in outcomes), of=len(outcomes))


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}
