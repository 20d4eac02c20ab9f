"""``roborl annotate``: the sub-tasks of a dataset's episodes, from keyframes or from a person with a browser."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which dataset, and marks in or a page out."""

    dataset: Path  # folder of a LeRobotDataset v3
    marks: Path | None = (
        None  # keyframes to write: YAML or JSON {episode: [{name, start, end}]}, CSV, or Robo-Dopamine's
    )
    episode: int = 0  # the episode that a file of keyframes without episode numbers is about
    prefix: Literal["sparse", "dense"] = "sparse"  # which of LeRobot's two annotations
    replace_all: bool = False  # episodes that the file does not name lose their annotation
    page: Path | None = None  # HTML file to write, on which a person marks sub-tasks and saves marks.json
    stages: list[str] = field(
        default_factory=list
    )  # names to choose from on the page; empty: those in the dataset
    camera: str = ""  # camera shown on the page; empty: the first
    episodes: list[int] = field(default_factory=list)  # episodes on the page; empty: all


def main(config: Config) -> dict[str, Any]:
    """Write marks into the dataset, or a page to make them on; without either, say what stands there."""
    from roborl.data.annotations import read_keyframes, stage_shares
    from roborl.loops.annotate import apply_marks, read_marks, write_page

    if config.marks is not None and config.page is not None:
        raise ConfigError(
            "Marks go in, or a page comes out",
            seen="--marks and --page",
            allowed="one of them",
            remedy="Write the page first, mark on it, then give --marks marks.json",
        )
    if config.page is not None:
        count = write_page(
            config.dataset,
            config.page,
            stages=config.stages,
            camera=config.camera,
            episodes=config.episodes,
        )
        print(f"Open {config.page} in a browser; {count} episodes are on it.", file=sys.stderr)
        return {"page": str(config.page), "episodes": count}
    if config.marks is not None:
        marks = read_keyframes(config.marks, episode=config.episode)
        shares = apply_marks(config.dataset, marks, prefix=config.prefix, replace_all=config.replace_all)
        return {"annotated": len(marks), "stage_shares": shares}
    there = read_marks(config.dataset)
    for index, subtasks in there.items():
        print(f"{index}: " + ", ".join(f"{s.name} {s.start}-{s.end}" for s in subtasks), file=sys.stderr)
    return {"annotated": len(there), "stage_shares": stage_shares(list(there.values()))}
