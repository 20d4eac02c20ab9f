"""The small judge as a reward model: beside its weights the settings with which it is asked, ``reward.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from roborl import config as configs
from roborl.errors import ModelLoadError
from roborl.images import encode_png
from roborl.pretrained import WEIGHTS
from roborl.rewards.dopamine import DopamineConfig, DopamineModel, load_dopamine
from roborl.rewards.dopamine_question import CONTRACT
from roborl.rewards.judges.config import JudgeKind
from roborl.rewards.pairs.checkpoint import save_pairs
from roborl.rewards.pairs.network import PairNetwork
from roborl.rewards.prompts import PromptConfig, own_prompt
from roborl.rewards.settings import SETTINGS
from roborl.types import Image
from roborl.whole_files import write_whole

_WORDING, _GOAL = "wording.txt", "goal.png"


def save_pair_model(
    network: PairNetwork,
    folder: Path,
    *,
    asked: DopamineConfig,
    tasks: Sequence[str],
    goal: Image | None = None,
) -> None:
    """Write a judge and how it is asked; its weights appear last.

    Args:
        network: Trained.
        folder: Where to.
        asked: Cameras, perspectives and rules.
        tasks: What it has learnt from, for people.
        goal: A picture of the front camera with the task done, for sessions that bring none; None where tasks differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)
    words = own_prompt(CONTRACT)
    (folder / _WORDING).write_text(words.template)
    references = dict(asked.references)
    if goal is not None:
        write_whole(folder / _GOAL, encode_png(goal))
        references = {f"goal/{asked.front}": _GOAL}
    settings = replace(
        asked,
        checkpoint="",
        judge=replace(asked.judge, kind=JudgeKind.PAIRS),
        prompt=PromptConfig(file=_WORDING, sha256=words.sha256),
        references=references,
    )
    (folder / SETTINGS).write_text(configs.dump(settings))
    save_pairs(network, folder, tasks=tasks)


def load_pair_model(folder: Path | str) -> DopamineModel:
    """Read the reward model that asks a judge of pairs, with the settings beside it.

    Raises:
        ModelLoadError: As :func:`roborl.rewards.pairs.checkpoint.load_pairs`, or if the settings are missing.
        ConfigError: If they cannot be used.
    """
    if not (Path(folder) / SETTINGS).is_file():
        raise ModelLoadError(
            f"There is no {SETTINGS} in the folder of a judge of pairs",
            seen=str(folder),
            allowed="a whole folder",
        )
    return load_dopamine(str(folder))
