"""The small judge as a folder: weights, ``config.json``, and the settings with which it is asked, ``reward.yaml``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import draccus
import torch
from safetensors.torch import load_file

from roborl import config as configs
from roborl.errors import ModelLoadError
from roborl.pretrained import CONFIG, WEIGHTS
from roborl.rewards.dopamine import DopamineConfig, DopamineModel, load_dopamine
from roborl.rewards.dopamine_question import CONTRACT
from roborl.rewards.judges.config import JudgeKind
from roborl.rewards.model_folder import reading, save_model_folder
from roborl.rewards.pairs.config import PairNetworkConfig
from roborl.rewards.pairs.judge import PairJudge
from roborl.rewards.pairs.network import PairNetwork
from roborl.rewards.prompts import PromptConfig, own_prompt
from roborl.rewards.settings import SETTINGS
from roborl.types import Image

FORMAT = "roborl-pairs-1"
_WORDING, _GOAL = "wording.txt", "goal.png"


def save_pairs(
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
    judge = PairJudge(network)
    described: dict[str, Any] = {
        "format": FORMAT,
        "network": draccus.encode(network.config),
        "wrists": network.wrists,
        "tasks": list(tasks),
        "identity": judge.identity,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)
    words = own_prompt(CONTRACT)
    (folder / _WORDING).write_text(words.template)
    references = dict(asked.references)
    if goal is not None:
        cv2.imwrite(str(folder / _GOAL), goal[..., ::-1])
        references = {f"goal/{asked.front}": _GOAL}
    settings = replace(
        asked,
        checkpoint="",
        judge=replace(asked.judge, kind=JudgeKind.PAIRS),
        prompt=PromptConfig(file=_WORDING, sha256=words.sha256),
        references=references,
    )
    (folder / SETTINGS).write_text(configs.dump(settings))
    weights = {name: tensor.contiguous().numpy() for name, tensor in network.state_dict().items()}
    save_model_folder(folder, described, weights)


def load_pairs(folder: Path | str) -> PairNetwork:
    """Read the network that :func:`save_pairs` wrote.

    Raises:
        ModelLoadError: If the folder is missing or foreign, or the bytes are not those that were saved.
    """
    folder = Path(folder)
    with reading(
        folder, "A judge of pairs", "roborl train-reward --model pairs --dataset '[PATH]' --out FOLDER"
    ):
        described = json.loads((folder / CONFIG).read_text())
        if described["format"] != FORMAT:
            raise ModelLoadError("This is another kind of model", seen=described["format"], allowed=FORMAT)
        config = draccus.decode(PairNetworkConfig, described["network"])
        network = PairNetwork(config, int(described["wrists"]))
        identity = str(described["identity"])
        weights = load_file(folder / WEIGHTS)
        network.load_state_dict(weights)
    if broken := [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]:
        raise ModelLoadError("The weights of a judge of pairs are not finite", seen=broken)
    if (found := PairJudge(network).identity) != identity:
        raise ModelLoadError(
            "Weights and config.json of a judge of pairs do not belong together",
            seen=found,
            allowed=identity,
            remedy="Copy the whole folder, or train again",
        )
    return network


def load_pair_model(folder: Path | str) -> DopamineModel:
    """Read the reward model that asks a judge of pairs, with the settings beside it.

    Raises:
        ModelLoadError: As :func:`load_pairs`, or if the settings are missing.
        ConfigError: If they cannot be used.
    """
    if not (Path(folder) / SETTINGS).is_file():
        raise ModelLoadError(
            f"There is no {SETTINGS} in the folder of a judge of pairs",
            seen=str(folder),
            allowed="a whole folder",
        )
    return load_dopamine(str(folder))
