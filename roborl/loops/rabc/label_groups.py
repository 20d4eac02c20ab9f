"""Who scores which episodes of a dataset, and under which version."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roborl.data.lerobot_files import load_files
from roborl.errors import DatasetError
from roborl.loops.rabc.label_config import LabelDatasetConfig
from roborl.loops.references import NoDemonstration, read_demonstration
from roborl.loops.score_link import ServedJudge
from roborl.rewards.references import Pictures, told

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LabelGroup:
    """Episodes with which the same demonstration is shown.

    Attributes:
        task: An instruction to try a session with.
        references: The demonstration.
        episodes: Their indices.
    """

    task: str
    references: Mapping[str, Pictures]
    episodes: tuple[int, ...]


def groups_of(config: LabelDatasetConfig, root: Path, cameras: Sequence[str]) -> tuple[list[LabelGroup], int]:
    """Return a dataset's episodes by the demonstration that goes with them, and how many are left out for want of one or for several tasks.

    Args:
        config: The demonstration, and another task than the episodes' own.
        root: The dataset.
        cameras: Names of the views.

    Raises:
        DatasetError: If there is no episode, or the demonstration cannot be read or is of no task of the dataset.
    """
    said = {int(row["episode_index"]): tuple(row.get("tasks") or ("",)) for row in load_files(root).episodes}
    tasks = {index: config.task or own[0] for index, own in said.items() if config.task or len(own) == 1}
    left_out = len(said) - len(tasks)
    if left_out:
        log.warning("%d episodes with several instructions are left out", left_out)
    if not tasks:
        raise DatasetError(
            "The dataset has no episode that can be labelled",
            seen=f"{root}: {left_out} with several instructions" if left_out else root,
            allowed="one or more with one instruction",
            remedy="Name the task: --task" if left_out else "",
        )
    if not config.references.path:
        return [LabelGroup(task=next(iter(tasks.values())), references={}, episodes=tuple(tasks))], left_out
    groups = []
    for task in dict.fromkeys(tasks.values()):
        episodes = tuple(index for index, of in tasks.items() if of == task)
        try:
            shown = read_demonstration(config.references, cameras, task)
        except NoDemonstration as error:
            log.warning("%d episodes are left out: %s", len(episodes), error)
            left_out += len(episodes)
            continue
        groups.append(LabelGroup(task=task, references=shown, episodes=episodes))
    if not groups:
        raise DatasetError(
            "Nobody demonstrates a task of the dataset",
            seen=sorted(set(tasks.values())),
            allowed=f"a task of {config.references.path}",
            remedy="Name the demonstration: --references.episode NUMBER, or the task: --task",
        )
    return groups, left_out


def version_of(judges: Sequence[ServedJudge]) -> str:
    """Return the version of a file of labels: that of its scores, or of all where tasks have demonstrations of their own."""
    versions = list(dict.fromkeys(judge.info.version for judge in judges))
    if len(versions) == 1:
        return versions[0]
    model = versions[0].rpartition("-")[0]
    return told(model, hashlib.sha256("\n".join(sorted(versions)).encode()).hexdigest()[:12])
