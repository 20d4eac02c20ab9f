"""``roborl annotate``: the sub-tasks of a dataset's episodes, from keyframes, a person with a browser, or the pictures."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from roborl.errors import ConfigError

if TYPE_CHECKING:
    from roborl.data.dataset_episode import Subtask

Prefix = Literal["sparse", "dense"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which dataset, and marks in or a page out."""

    dataset: Path  # folder of a LeRobotDataset v3
    # keyframes to write: YAML or JSON {episode: [{name, start, end}]}, CSV, or Robo-Dopamine's
    marks: Path | None = None
    episode: int = 0  # the episode that a file of keyframes without episode numbers is about
    prefix: Prefix = "sparse"  # which of LeRobot's two annotations, wherever marks are read or written
    replace_all: bool = False  # episodes that the file does not name lose their annotation
    # Find sub-tasks in the pictures of the successes that have none: how many, or 0 for as many as --stages names, or as
    # pay. With --page they stand on the page, to be corrected; without, they are written into the dataset as they are.
    propose: int | None = None
    encoder: str = "efficientnet-lite0"  # frozen network they are found with, or pretrained:FOLDER-OR-HUB-ID
    page: Path | None = None  # HTML file to write, on which a person marks sub-tasks and saves marks.json
    # names to choose from on the page, and of what is proposed; empty: those in the dataset
    stages: list[str] = field(default_factory=list)
    camera: str = ""  # camera shown on the page; empty: the first
    episodes: list[int] = field(default_factory=list)  # episodes on the page or to propose for; empty: all
    # episodes that failed, whatever the dataset says: nothing is proposed for them
    failed: list[int] = field(default_factory=list)


def main(config: Config) -> dict[str, Any]:
    """Write marks into the dataset, given or found, or a page to make them on; without these, say what stands there."""
    from roborl.data.annotations import read_keyframes
    from roborl.loops.reward_training.annotate import apply_marks, read_marks, read_shares, write_page

    if config.marks is not None and (config.page is not None or config.propose is not None):
        raise ConfigError(
            "Marks go in, or a page or a proposal comes out",
            seen="--marks with --page or --propose",
            allowed="--marks, or --page and --propose",
            remedy="Write the page first, mark on it, then give --marks marks.json",
        )
    proposed = _proposed(config) if config.propose is not None else {}
    if config.page is not None:
        count = write_page(
            config.dataset,
            config.page,
            prefix=config.prefix,
            stages=config.stages,
            camera=config.camera,
            episodes=config.episodes,
            proposed=proposed,
        )
        print(f"Open {config.page} in a browser; {count} episodes are on it.", file=sys.stderr)
        return {"page": str(config.page), "episodes": count, "proposed": len(proposed)}
    if proposed:
        shares = apply_marks(config.dataset, proposed, prefix=config.prefix)
        print(
            f"{len(proposed)} episodes have marks that nobody has seen yet: --page shows them",
            file=sys.stderr,
        )
        return {"annotated": len(proposed), "stage_shares": shares}
    if config.marks is not None:
        marks = read_keyframes(config.marks, episode=config.episode)
        shares = apply_marks(config.dataset, marks, prefix=config.prefix, replace_all=config.replace_all)
        return {"annotated": len(marks), "stage_shares": shares}
    there = read_marks(config.dataset, prefix=config.prefix)
    for index, subtasks in there.items():
        print(f"{index}: " + ", ".join(f"{s.name} {s.start}-{s.end}" for s in subtasks), file=sys.stderr)
    return {"annotated": len(there), "stage_shares": read_shares(config.dataset, there)}


def _proposed(config: Config) -> dict[int, tuple[Subtask, ...]]:
    from roborl.loops.reward_training.propose_marks import propose_marks
    from roborl.rewards.perceptual.config import PerceptualConfig

    assert config.propose is not None, "somebody asked for it"
    return propose_marks(
        config.dataset,
        steps=config.propose,
        names=config.stages,
        episodes=config.episodes,
        failed=config.failed,
        prefix=config.prefix,
        config=PerceptualConfig(encoder=config.encoder),
    )
