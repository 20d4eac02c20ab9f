"""A labelled dataset weighed frame by frame and, by rules, without the episodes that are not worth cloning."""

from __future__ import annotations

import importlib
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.demos import as_judged
from roborl.data.lerobot_files import Files, load_files
from roborl.data.lerobot_info import describe
from roborl.data.lerobot_io import read_episodes
from roborl.data.progress import (
    Progress,
    progress_about,
    progress_path,
    progress_version,
    read_progress,
    write_progress,
)
from roborl.data.rabc import RabcSettings, Weighed, on_lines, weigh
from roborl.data.weights import LEROBOT_KAPPA, weights_path, write_weights
from roborl.errors import ConfigError, DatasetError
from roborl.loops.rabc.dataset_copy import copy_episodes
from roborl.loops.rabc.episode_figures import episode_figures
from roborl.loops.rabc.filter_config import FilterConfig
from roborl.rewards.instructions import one_spelling

log = logging.getLogger(__name__)

DISCARDED = "discarded by its operator"
_SEVERAL = "; "  # Between the instructions of an episode that has several.
_PUBLISHED = {"smolvla": "lerobot/smolvla_base", "pi0": "lerobot/pi0_base", "pi05": "lerobot/pi05_base"}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FilteredEpisode:
    """What became of an episode.

    Attributes:
        index: Its index in the dataset.
        task: Its instruction, or several.
        success: The verdict in the dataset, which decides nothing.
        progress: As far as the observation at which a verdict ended the task; NaN where a score is missing, float32 (rows,).
        weights: How much each row with an action counts, as far as that observation and before any rule.
        figures: See :func:`roborl.loops.rabc.episode_figures.episode_figures`.
        dropped: The rules that leave it out; empty where it stays.
    """

    index: int
    task: str
    success: bool | None
    progress: NDArray[np.float32]
    weights: NDArray[np.float32]
    figures: Mapping[str, float]
    dropped: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """In words."""
        if self.dropped:
            return "left out: " + ", ".join(self.dropped)
        return "no scores" if np.isnan(self.progress).all() else "kept"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Filtered:
    """What a filtering came to.

    Attributes:
        version: The reward model's.
        dataset: The dataset that the weights are of: the filtered one, where it was written.
        weights: File of the weights.
        episodes: All that the dataset held.
        kappa: Gain from which a frame counts fully, by instruction as it is spelled first.
        unknown: Rows whose gain is not known.
        command: How LeRobot's trainer goes on.
    """

    version: str
    dataset: Path
    weights: Path
    episodes: tuple[FilteredEpisode, ...]
    kappa: Mapping[str, float]
    unknown: int
    command: str

    @property
    def kept(self) -> tuple[FilteredEpisode, ...]:
        """The episodes that stay."""
        return tuple(episode for episode in self.episodes if not episode.dropped)

    def figures(self) -> dict[str, Any]:
        """Return plain values; the shares are of the frames of episodes that stay."""
        left = np.concatenate([episode.weights for episode in self.kept])
        full, none = float((left >= 1).mean()), float((left <= 0).mean())
        return {
            "version": self.version,
            "dataset": str(self.dataset),
            "weights": str(self.weights),
            "kappa": dict(self.kappa),
            "mean_weight": float(left.mean()),
            "share_full": full,
            "share_soft": 1.0 - full - none,
            "share_none": none,
            "frames": len(left),
            "unknown": self.unknown,
            "episodes": len(self.episodes),
            "kept": len(self.kept),
            "dropped": [episode.index for episode in self.episodes if episode.dropped],
            "command": self.command,
        }


def filter_dataset(config: FilterConfig) -> Filtered:
    """Weigh the frames of a dataset, decide which episodes stay, and write what follows from it; blocks.

    Weights go beside the dataset, with 0 for episodes that are left out and for what came after a verdict ended the task: it
    plays no part. With ``config.out`` the episodes that stay become a dataset of their own, with progress and weights beside
    it. What the verdict was, rewards and privileged progress play none either.

    Raises:
        DatasetError: If dataset or progress cannot be read or do not belong together, no frame is left, or the dataset is of
            LeRobot's second version.
        ConfigError: If there is a folder at ``config.out``, or LeRobot knows no policy of the kind that is to be trained.
    """
    _check_kind(config.policy)
    # What LeRobot's trainer cannot read is not weighed for it.
    files = load_files(config.dataset, to_write=True)
    path = find_progress(files.root, config.progress)
    progress = read_progress(files.root, path)
    version = progress_version(path)
    lengths = {int(row["episode_index"]): int(row["length"]) for row in files.episodes}
    found = {e.index: e for e in read_episodes(files.root, with_images=False)}
    # A foreign episode may have a step more than pairs of rows: its last observation is repeated.
    rows = {i: min(n, as_judged(found[i]).steps + 1) if i in found else n for i, n in lengths.items()}
    # Before lines are drawn: one to a score behind the verdict would let it decide the rows before.
    judged = {
        i: Progress(labels.values[:n], labels.spread[:n], labels.scored[:n])
        for i, labels in progress.items()
        for n in [rows[i]]
    }
    curves = {i: _as_far_as_scored(labels) for i, labels in judged.items()}
    tasks = {int(row["episode_index"]): _SEVERAL.join(row.get("tasks") or ("",)) for row in files.episodes}
    weighed = _until_the_verdict(weigh(curves, rows, config, tasks), rows)
    episodes = _weighed_episodes(config, files, found, tasks, judged, weighed)
    spelled = one_spelling(tasks[index] for index in weighed.kappa)
    kappa = {spelled[tasks[index]]: kappa for index, kappa in weighed.kappa.items()}
    if not any(e.weights.any() for e in episodes if not e.dropped):
        raise DatasetError(
            "Nothing is left to clone",
            seen=f"{sum(not e.dropped for e in episodes)} of {len(episodes)} episodes stay, kappa {in_words(kappa)}",
            allowed="one frame above 0 at least",
            remedy="Loosen --drop, lower --pace or --kappa, or look at the labels",
        )
    weights = {e.index: _of_rows(e, lengths[e.index]) for e in episodes}
    settings = {field.name: getattr(config, field.name) for field in fields(RabcSettings)} | {
        "drop": config.drop
    }

    def weigh_in(folder: Path, places: Mapping[int, int]) -> Path:
        into = weights_path(folder, version, settings)
        moved = {new: weights[old] for old, new in places.items()}
        write_weights(folder, into, moved, version=version, settings=settings)
        return into

    def complete(draft: Path, places: Mapping[int, int]) -> None:
        moved = {new: progress[old] for old, new in places.items() if old in progress}
        write_progress(draft, version, moved, about=progress_about(path))
        weigh_in(draft, places)

    chosen = [e.index for e in episodes if not e.dropped]
    if config.out is None:
        root, into = files.root, weigh_in(files.root, {index: index for index in weights})
    else:
        root, into = config.out, weights_path(config.out, version, settings)
        copy_episodes(files.root, root, chosen, complete=complete)
    return Filtered(
        version=version,
        dataset=root,
        weights=into,
        episodes=episodes,
        kappa=kappa,
        unknown=weighed.unknown,
        command=train_command(
            config, root, into, chosen if config.out is None and len(chosen) < len(episodes) else []
        ),
    )


def in_words(kappa: Mapping[str, float]) -> str:
    """Return gains from which frames count fully, by instruction, as one number or as what they lie between.

    Example:
        >>> in_words({"press": 0.5, "fold": 0.05}), in_words({"press": 0.5})
        ('0.05 to 0.5', '0.5')
    """
    least, most = (f"{value:.3g}" for value in (min(kappa.values()), max(kappa.values())))
    return least if least == most else f"{least} to {most}"


def find_progress(root: Path, named: str) -> Path:
    """Return the file of progress that is named, or the only one beside a dataset.

    Args:
        root: The dataset.
        named: A file, also by its name beside the dataset, or a version; empty for the only one.

    Raises:
        DatasetError: If there is none, or several and none is named.
    """
    if named:
        files = (Path(named), root / named)
        return next((path for path in files if path.is_file()), progress_path(root, named))
    there = sorted(root.glob("*progress*.parquet"))
    if len(there) != 1:
        raise DatasetError(
            "It is not clear by which progress to weigh",
            seen=[path.name for path in there] or f"no file of progress in {root}",
            allowed="one file beside the dataset, or one that is named with --progress",
            remedy="Name it" if there else "Label the dataset first: roborl label",
        )
    return there[0]


def _check_kind(policy: str) -> None:
    if policy in _PUBLISHED:
        return
    # Here alone: it loads what all policies need, which takes seconds.
    known = importlib.import_module("roborl.policies.lerobot_opening").known_kinds(policy)
    if policy not in known:
        raise ConfigError(
            "LeRobot knows no policy of this kind",
            seen=policy,
            allowed=known,
            remedy=f"Correct --policy, or install the plug-in that brings it, lerobot_policy_{policy}",
        )


def train_command(config: FilterConfig, root: Path, weights: Path, episodes: list[int]) -> str:
    """Return the command with which LeRobot trains a policy by the weights.

    The policy begins with what LeRobot published of its kind; by the kind alone, LeRobot would begin with random numbers.

    Args:
        config: Chunk and kind of the policy.
        root: The dataset.
        weights: The file of weights.
        episodes: Those to train on; empty for all.
    """
    published = _PUBLISHED.get(config.policy, "")
    words = [
        "lerobot-train",
        f"--dataset.repo_id=local/{root.name}",
        f"--dataset.root={root}",
        *([f"--dataset.episodes=[{','.join(map(str, episodes))}]"] if episodes else []),
        f"--policy.type={config.policy}",
        # Not --policy.path: it would bring the cameras that the published policy was trained with, and LeRobot refuses others.
        *([f"--policy.pretrained_path={published}"] if published else []),
        f"--policy.chunk_size={config.chunk}",
        f"--policy.n_action_steps={config.chunk}",
        "--policy.push_to_hub=false",
        "--sample_weighting.type=rabc",
        f"--sample_weighting.progress_path={weights}",
        f"--sample_weighting.kappa={LEROBOT_KAPPA:g}",
        f"--output_dir=outputs/train/{root.name}",
    ]
    return shlex.join(words)


def _as_far_as_scored(labels: Progress) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return progress on lines, and its spread, up to the last row that was scored: behind it nothing says how it goes on."""
    rows = len(labels.scored) - int(labels.scored[::-1].argmax())
    return on_lines(labels.values[:rows], labels.scored[:rows]), labels.spread[:rows]


def _until_the_verdict(weighed: Weighed, rows: Mapping[int, int]) -> Weighed:
    """Let rows between the last score and a verdict, which none behind it may weigh, count as the row of that score does."""

    def lengthened(curves: Mapping[int, NDArray[np.float32]]) -> dict[int, NDArray[np.float32]]:
        return {i: np.pad(curve, (0, rows[i] - len(curve)), mode="edge") for i, curve in curves.items()}

    return replace(weighed, weights=lengthened(weighed.weights), gains=lengthened(weighed.gains))


def _weighed_episodes(
    config: FilterConfig,
    files: Files,
    found: Mapping[int, DatasetEpisode],
    tasks: Mapping[int, str],
    progress: Mapping[int, Progress],
    weighed: Weighed,
) -> tuple[FilteredEpisode, ...]:
    rules, ours = config.rules(), describe(files.root).ours
    episodes = []
    for index, weights in weighed.weights.items():
        # In a dataset of ours the last row is an observation in which nothing was done.
        acted = weights[:-1] if ours else weights
        rows = len(weights)
        unread = np.full(rows, np.nan, np.float32)
        labels = progress.get(index, Progress(unread, unread, np.zeros(rows, np.bool_)))
        figures = episode_figures(
            labels.values,
            weighed.gains[index],
            acted,
            scored=labels.scored,
            kappa=weighed.kappa[index],
            finished=config.finished,
        )
        # A rule says nothing of an episode without scores: NaN meets none.
        dropped = [
            f"{text} ({figures[rule.name]:.2f})"
            for text, rule in zip(config.drop, rules, strict=True)
            if rule.holds(figures)
        ]
        known = found.get(index)
        if known is not None and known.discarded:
            dropped.append(DISCARDED)
        episodes.append(
            FilteredEpisode(
                index=index,
                task=tasks[index],
                success=known.success if known else None,
                progress=labels.values,
                weights=acted,
                figures=figures,
                dropped=tuple(dropped),
            )
        )
    return tuple(episodes)


def _of_rows(episode: FilteredEpisode, rows: int) -> NDArray[np.float32]:
    """Return a weight for each row: 0 in which nothing was done, and throughout an episode that is left out."""
    weights = np.zeros(rows, np.float32)
    if not episode.dropped:
        weights[: len(episode.weights)] = episode.weights
    return weights
