"""What training leaves behind: a folder that the registry opens, with the words and a record of the training in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from roborl import config as configs
from roborl.pretrained import CONFIG
from roborl.rewards.adaptation.config import Method
from roborl.rewards.adaptation.lessons import Lessons
from roborl.rewards.adaptation.weights import LearningWeights
from roborl.rewards.prompts import PromptConfig
from roborl.rewards.settings import ADAPTER, RECORD, SETTINGS
from roborl.rewards.training.learnt_from import FILE as LEARNT_FROM

_SETTING_FILES = (".json", ".jinja", ".txt", ".model")


def save_adapted(
    folder: Path,
    lessons: Lessons,
    weights: LearningWeights,
    *,
    method: Method,
    base: Path,
    record: Mapping[str, Any],
    references: Mapping[str, Path] | None = None,
) -> None:
    """Write a trained judge; its weights appear last, so a torn save does not load.

    Args:
        folder: Where to; what an earlier run left of a judge there is replaced. What it learnt from is written by whoever
            knows the episodes, and stays.
        lessons: What it learnt, and its settings.
        weights: What learnt.
        method: Which weights those are.
        base: Folder of the checkpoint that was trained.
        record: How it came about, for ``training.json``.
        references: Files in ``folder`` that show the goal, by the name under which the model is told of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / ".part"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    weights.write(staging)
    if method is Method.FULL:
        for path in base.iterdir():
            # The processor and the rest, as they are, but for the network's own description and what tells of its training.
            written = path.name in (CONFIG, RECORD, LEARNT_FROM) or path.name.endswith(".index.json")
            if path.suffix in _SETTING_FILES and not written:
                shutil.copyfile(path, staging / path.name)
    words, text = lessons.wording()
    (staging / words).write_text(text)
    (staging / RECORD).write_text(json.dumps(record, indent=2, default=str) + "\n")
    settings = replace(
        lessons.config,
        checkpoint="" if method is Method.FULL else _lasting(lessons.config.checkpoint),
        judge=replace(lessons.config.judge, adapter=""),
        prompt=PromptConfig(file=words, sha256=lessons.prompt_sha256),
        **({"references": {n: str(p) for n, p in references.items()}} if references else {}),
    )
    (staging / SETTINGS).write_text(configs.dump(settings))
    # All of it is on the disk: only now does the one go that is replaced.
    for path in folder.iterdir():
        if path.is_file() and (path.suffix == ".safetensors" or path.name in (ADAPTER, SETTINGS)):
            path.unlink()
    files = sorted(staging.iterdir(), key=lambda path: path.suffix == ".safetensors")
    for path in files:
        path.replace(folder / path.name)
    staging.rmdir()


def _lasting(checkpoint: str) -> str:
    """Return a checkpoint's name so that it means the same from another folder."""
    return str(Path(checkpoint).absolute()) if Path(checkpoint).is_dir() else checkpoint
