"""The small judge as a folder: weights and ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import draccus
import torch
from safetensors.torch import load_file

from roborl.errors import ModelLoadError
from roborl.pretrained import CONFIG, WEIGHTS
from roborl.rewards.model_folder import reading, save_model_folder
from roborl.rewards.pairs.config import PairNetworkConfig
from roborl.rewards.pairs.judge import PairJudge
from roborl.rewards.pairs.network import PairNetwork

FORMAT = "roborl-pairs-1"


def save_pairs(network: PairNetwork, folder: Path, *, tasks: Sequence[str]) -> None:
    """Write a judge; its weights appear last.

    Args:
        network: Trained.
        folder: Where to.
        tasks: What it has learnt from, for people.
    """
    described: dict[str, Any] = {
        "format": FORMAT,
        "network": draccus.encode(network.config),
        "wrists": network.wrists,
        "tasks": list(tasks),
        "identity": PairJudge(network).identity,
    }
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
