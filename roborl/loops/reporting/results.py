"""What a demonstration run left in its folder, read back for the report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roborl.data.lerobot_io import read_episodes
from roborl.errors import DatasetError
from roborl.loops.failed_episodes import judged
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.references import ReferencesConfig, read_demonstration
from roborl.loops.reporting.run_results import (
    ProgressCurve,
    RunResults,
    SuccessRate,
    read_run,
    read_yaml,
    torn_file,
)
from roborl.loops.reward_training.training_episodes import split, to_training
from roborl.loops.stages import REDO
from roborl.rewards.model import References, RewardModel, progress_of, score_episode
from roborl.rewards.training.episodes import as_video
from roborl.whole_files import read_json

STAGES, FIGURES, SETTINGS = "stages.json", "figures.json", "demo.yaml"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that the report shows.

    Attributes:
        folder: The demonstration's folder.
        settings: The resolved settings of the run, empty where they were not kept.
        stages: Each stage's result, in order, with ``wall_s``.
        before: Outcomes of the first evaluation, one per scene.
        after: The same scenes with the last published policy.
        online: How learning online went.
    """

    folder: Path
    online: RunResults
    settings: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)

    @property
    def base(self) -> SuccessRate:
        """Success of the policy that learning started from."""
        return SuccessRate.of_outcomes(self.before)

    @property
    def final(self) -> SuccessRate:
        """Success of the last published policy."""
        return SuccessRate.of_outcomes(self.after)


def read_results(folder: Path) -> Results:
    """Read what ``roborl demo`` left; parts that are not there yet are empty.

    Raises:
        DatasetError: If no demonstration was run in this folder, or a file of it is torn.
        ConfigError: If its stages cannot be read.
    """
    if not (folder / STAGES).is_file():
        raise DatasetError(
            "No demonstration was run here",
            seen=folder,
            allowed=f"a folder with {STAGES}",
            remedy=f"Run: roborl demo --out {folder}",
        )
    return Results(
        folder=folder,
        online=read_run(RunFolder(folder / "run")),
        settings=read_yaml(folder / SETTINGS),
        stages=read_json(folder / STAGES, remedy=REDO),
        before=_lines(folder / "before.jsonl"),
        after=_lines(folder / "after.jsonl"),
    )


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
    episodes = read_episodes(dataset, episodes=judged(dataset))
    _, held_out = split([to_training(episode) for episode in episodes], share, seed)
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


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except ValueError as error:
        raise torn_file(path, error) from error
