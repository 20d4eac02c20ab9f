"""Every observation of a dataset scored by a reward model, and its progress written beside it."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from roborl.data.dataset_episode import DatasetEpisode, to_episode
from roborl.data.lerobot_files import conversion, fingerprint, load_files
from roborl.data.lerobot_info import DatasetInfo, describe_filmed
from roborl.data.lerobot_io import read_episodes
from roborl.data.progress import Progress, every_so_many, progress_path, read_progress, write_progress
from roborl.errors import ConfigError, DatasetError
from roborl.loops.rabc.label_config import LabelDatasetConfig
from roborl.loops.rabc.label_groups import groups_of, version_of
from roborl.loops.rabc.label_journal import LabelJournal
from roborl.loops.reward_training.training_episodes import views_of
from roborl.loops.score_episodes import ShownEpisode, read_ahead, score_episodes
from roborl.loops.score_line import ScoreLine, meet
from roborl.loops.score_link import ServedJudge
from roborl.loops.serve import ServeConfig, serving
from roborl.rewards.metrics import value_order_correlation
from roborl.rewards.model import unanswered
from roborl.rewards.pool_config import PoolConfig
from roborl.rewards.references import Pictures
from roborl.rewards.registry import load_reward_model
from roborl.types import Score
from roborl.whole_files import require_writable

log = logging.getLogger(__name__)

_REASONS = 5

type OnEpisode = Callable[[int, Progress, int, int], None]
"""Told an episode's index and labels, how many episodes are labelled, and of how many."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Labelled:
    """What a labelling came to.

    Attributes:
        version: The reward model's, with what it was shown.
        path: The progress parquet.
        progress: By episode index.
        written: Episodes scored now.
        left_out: Episodes of a single row, with several instructions, or of a task that nobody demonstrates.
        unanswered: Episodes with observations that the judge gave no answer on; labelling again asks about them anew.
        reasons: Why scores are missing, of those scored now, most often first.
        value_order: Mean correlation of progress with time over the successes; NaN without one.
        wall_s: Seconds that scoring took.
        stopped: Whether it was stopped before the end; then there is no file yet.
    """

    version: str
    path: Path
    progress: Mapping[int, Progress]
    written: tuple[int, ...]
    left_out: int
    unanswered: tuple[int, ...]
    reasons: Mapping[str, int]
    value_order: float
    wall_s: float
    stopped: bool = False

    def figures(self) -> dict[str, Any]:
        """Return plain values."""
        scored = sum(len(self.progress[index].values) for index in self.written)
        return {
            "version": self.version,
            "progress": str(self.path),
            "episodes": len(self.progress),
            "present": len(self.progress) - len(self.written),
            "left_out": self.left_out,
            "observations": sum(len(labels.values) for labels in self.progress.values()),
            "unanswered": len(self.unanswered),
            "missing": sum(int(np.isnan(labels.values).sum()) for labels in self.progress.values()),
            "reasons": dict(self.reasons),
            "observations_per_s": scored / self.wall_s if scored else None,
            "value_order_correlation": None if np.isnan(self.value_order) else self.value_order,
        }


def _shown_otherwise(config: LabelDatasetConfig, views: Mapping[str, str]) -> str:
    """Return what a version of labels adds where the judge was told of another task, or saw views under other names."""
    moved = {ours: theirs for ours, theirs in views.items() if ours != theirs}
    if not (config.task or moved):
        return ""
    stated = json.dumps([config.task, moved], sort_keys=True)
    return f"-as{hashlib.sha256(stated.encode()).hexdigest()[:8]}"


def label_dataset(
    config: LabelDatasetConfig,
    *,
    on_episode: OnEpisode = lambda index, labels, done, of: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Labelled:
    """Score the episodes that have no labels of this version yet, or not in all rows, or whose judge gave no answer, and write the progress of all; blocks.

    Every score is made of its own observation and earlier ones, and held over those that get none. A labelling that was killed goes on behind the last whole
    episode. Where an observation has no score its progress is NaN.

    Args:
        config: What, and who scores.
        on_episode: Told of each episode.
        stopping: Ends it early; what is done so far is kept.

    Raises:
        ConfigError: If the model cannot watch this dataset, or was exchanged for another meanwhile.
        DatasetError: If the dataset or a demonstration cannot be read, or is labelled by another process.
        DeadlineExceeded: If the server is away or gives no scores.
        ModelLoadError: If the model cannot be used.
    """
    info = describe_filmed(config.dataset)
    views = views_of(list(info.cameras), (), config.camera_map)
    if str(load_files(info.root).info["codebase_version"]).startswith("v2."):
        log.warning(
            "%s is of LeRobot's second version: roborl filter and LeRobot's trainer do not take it, and labels are of no use once"
            " it is converted. Convert it first: %s",
            info.root,
            conversion(info.root),
        )
    with ExitStack() as stack:
        endpoint = config.server
        if config.reward:
            served = {"own": load_reward_model(config.reward)}
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(config.threads)
            # What waits is part of the episodes under way, which memory_mb bounds.
            pool = PoolConfig(max_batch=config.max_batch, max_bytes=sys.maxsize)
            endpoint = stack.enter_context(
                serving(served, ServeConfig(endpoint="tcp://127.0.0.1:*", pool=pool))
            ).endpoint

        def line_for(task: str, references: Mapping[str, Pictures]) -> ScoreLine:
            line = ScoreLine(
                endpoint,
                tuple(views),
                model=config.model,
                references=references,
                task=task,
                rate_hz=info.fps,
                name="label",
                keys=None if config.reward else config.security.load(),
            )
            stack.callback(line.leave)
            return line

        groups, left_out = groups_of(config, info.root, tuple(views))
        lines = [line_for(group.task, group.references) for group in groups]
        judges = [meet(line, config.deadline_s) for line in lines]
        version = version_of(judges) + _shown_otherwise(config, views)
        if config.stride > 1:
            version += f"-every{config.stride}"
        path = progress_path(info.root, version, folder=config.out)
        require_writable(path)
        mark = fingerprint(info.root)
        known = _known(path, info.root, config.stride)
        journal = stack.enter_context(
            LabelJournal(path.with_name(f".{path.name}.journal"), version=version, fingerprint=mark)
        )
        known |= journal.progress
        known = {index: labels for index, labels in known.items() if index not in journal.unanswered}
        work = _Work(config, info, journal, on_episode, stopping)
        began = time.monotonic()
        for group, line, judge in zip(groups, lines, judges, strict=True):
            rest = [index for index in group.episodes if index not in known]
            chosen = views_of(list(info.cameras), judge.info.cameras, config.camera_map)
            work.label(line, judge, rest, chosen, known)
        wall_s = time.monotonic() - began
        stopped = stopping() and not work.done_all
        if not stopped and (work.written or not path.is_file() or journal.progress):
            write_progress(info.root, version, known, folder=config.out, about=judges[0].info.about)
        if not stopped and not journal.unanswered:
            journal.remove()
    return Labelled(
        version=version,
        path=path,
        progress=known,
        written=tuple(work.written),
        left_out=left_out + work.skipped,
        unanswered=tuple(sorted(journal.unanswered)),
        reasons=dict(work.reasons.most_common(_REASONS)),
        value_order=_value_order(info.root, known),
        wall_s=wall_s,
        stopped=stopped,
    )


def _known(path: Path, root: Path, stride: int) -> dict[int, Progress]:
    """Return the labels of an earlier labelling or of a run, without episodes in which rows that the stride asks for have none.

    A run labels as many observations as its settings say, and may end within an episode. Of other data there are none.
    """
    if not path.is_file():
        return {}
    try:
        found = read_progress(root, path)
    except DatasetError as error:
        log.warning("All is labelled anew: %s", error)
        return {}
    whole = {i: p for i, p in found.items() if p.scored[every_so_many(stride, len(p.scored))].all()}
    if lacking := len(found) - len(whole):
        log.warning("%d episodes are labelled anew: not every observation in question has a score", lacking)
    return whole


@dataclass(eq=False)
class _Work:
    """Scores groups of episodes and writes each down as it is done."""

    config: LabelDatasetConfig
    info: DatasetInfo
    journal: LabelJournal
    on_episode: OnEpisode
    stopping: Callable[[], bool]
    written: list[int] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    done_all: bool = True

    def label(
        self,
        line: ScoreLine,
        judge: ServedJudge,
        indices: Sequence[int],
        views: Mapping[str, str],
        known: dict[int, Progress],
    ) -> None:
        """Score episodes by index and add them to ``known``."""
        if not indices:
            return
        version, before = judge.info.version, len(self.written)
        with read_ahead(self._shown(indices, views, judge)) as upcoming:
            for index, scores in score_episodes(
                line,
                upcoming,
                deadline_s=self.config.deadline_s,
                at_once=self.config.at_once,
                max_bytes=self.config.memory_mb << 20,
                stopping=self.stopping,
            ):
                labels = _labels(scores, version)
                known[index] = labels
                self.journal.add(index, labels, unanswered=sum(map(unanswered, scores)))
                self.written.append(index)
                self.reasons.update(score.reply[:80] for score in scores if not score.valid)
                self.on_episode(index, labels, len(known), self.info.episodes)
        lacking = len(indices) - (len(self.written) - before)
        if self.stopping() and lacking:
            self.done_all = False
        else:
            self.skipped += lacking

    def _shown(
        self, indices: Sequence[int], views: Mapping[str, str], judge: ServedJudge
    ) -> Iterator[ShownEpisode]:
        side = judge.info.image_px
        sizes = {
            ours: self.info.cameras[theirs] if side is None else (side, side)
            for ours, theirs in views.items()
        }
        for episode in read_episodes(self.info.root, cameras=sizes, camera_map=views, episodes=indices):
            yield _to_show(episode, self.config, self.info.fps)


def _to_show(episode: DatasetEpisode, config: LabelDatasetConfig, fps: float) -> ShownEpisode:
    observations = to_episode(replace(episode, key=""), fps=fps).observations
    # A foreign file has no observation after its last action: there is one row less.
    rows = len(observations) - episode.repeated_last
    return ShownEpisode(
        index=episode.index,
        task=config.task or episode.task,
        observations=observations[:rows],
        stride=config.stride,
    )


def _labels(scores: Sequence[Score], version: str) -> Progress:
    other = next((score.version for score in scores if score.version != version), version)
    if other != version:
        raise ConfigError(
            "The server's reward model was exchanged while the dataset was labelled",
            seen=other,
            allowed=version,
            remedy="Run the same again: another version is another file",
        )
    # Each score up to the next; the last observation has one.
    held = np.diff([score.frame_id for score in scores], append=scores[-1].frame_id + 1)
    progress = np.array([score.progress if score.valid else np.nan for score in scores], np.float32)
    spread = np.array([score.spread if score.valid else np.nan for score in scores], np.float32)
    scored = np.zeros(scores[-1].frame_id + 1, np.bool_)
    scored[[score.frame_id for score in scores]] = True
    return Progress(progress.repeat(held), spread.repeat(held), scored)


def _value_order(root: Path, progress: Mapping[int, Progress]) -> float:
    curves = (
        progress[episode.index].values
        for episode in read_episodes(root, episodes=sorted(progress), with_images=False)
        if episode.success and not episode.discarded
    )
    found = [c[~np.isnan(c)] for c in curves]
    orders = [value_order_correlation(curve) for curve in found if len(curve) > 1]
    return float(np.mean(orders)) if orders else float("nan")
