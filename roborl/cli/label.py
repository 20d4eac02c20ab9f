"""``roborl label``: a dataset and a reward model in, the progress of every observation out, beside the dataset."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from roborl.data.progress import Progress
from roborl.loops.rabc.label_config import LabelDatasetConfig
from roborl.loops.rabc.label_dataset import label_dataset
from roborl.loops.supervise import Child

Config = LabelDatasetConfig


def main(config: LabelDatasetConfig) -> dict[str, Any]:
    """Label until all is done, or Ctrl-C; return the figures, with ``exit`` 1 where it was stopped or the judge owes answers."""
    child = Child.alone("label")
    labelled = label_dataset(config, on_episode=_show, stopping=lambda: child.stopping)
    if labelled.stopped:
        print("stopped; run the same again to go on behind the last whole episode", file=sys.stderr)
    if labelled.unanswered:
        print(
            f"the judge gave no answer on some observations of {len(labelled.unanswered)} episodes;"
            " run the same again to ask about them",
            file=sys.stderr,
        )
    return labelled.figures() | ({"exit": 1} if labelled.stopped or labelled.unanswered else {})


def _show(index: int, labels: Progress, done: int, of: int) -> None:
    values = labels.values[~np.isnan(labels.values)]
    course = f"{values[0]:.2f} to {values[-1]:.2f}" if len(values) else "no score"
    missing = len(labels.values) - len(values)
    print(
        f"{done}/{of}  episode {index}: {len(labels.values)} observations, progress {course}"
        + (f", {missing} missing" if missing else ""),
        file=sys.stderr,
        flush=True,
    )
