"""A trained model as a folder: ``config.json`` and ``model.safetensors``; read back strictly or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import draccus
from safetensors.torch import load_file
from torch import Tensor

from roborl.errors import ModelLoadError
from roborl.pretrained import CONFIG, WEIGHTS
from roborl.rewards.model_folder import content_hash, reading, save_model_folder
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.model import SarmModel
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.tensors import check_tensors
from roborl.rewards.training.labels import StagePlan

FORMAT = "roborl-sarm-1"


def describe_model(
    network: SarmNetwork,
    plan: StagePlan,
    *,
    cameras: tuple[str, ...],
    tasks: tuple[str, ...],
    state_dim: int,
    trained_hz: float | None = None,
) -> dict[str, Any]:
    """Return everything about a model except its weights, ready for JSON."""
    described = {
        "format": FORMAT,
        "model": draccus.encode(network.config),
        "plan": {"names": list(plan.names), "shares": list(plan.shares)},
        "cameras": list(cameras),
        "tasks": list(tasks),
        "state_dim": state_dim,
        "frozen_encoder": network.frozen_identity,
    }
    # Models of earlier releases have no rate, and keep their version.
    return described if trained_hz is None else described | {"trained_hz": float(trained_hz)}


def freeze_sarm(
    network: SarmNetwork,
    plan: StagePlan,
    *,
    cameras: tuple[str, ...],
    tasks: tuple[str, ...],
    state_dim: int,
    trained_hz: float | None = None,
) -> SarmModel:
    """Return a model whose version is the hash of its description and its weights."""
    described = describe_model(
        network, plan, cameras=cameras, tasks=tasks, state_dim=state_dim, trained_hz=trained_hz
    )
    info = ModelInfo(
        version=f"sarm-{content_hash(network.state_dict(), described)}",
        cameras=cameras,
        image_px=network.config.image_px,
        done_rule=network.config.done_rule,
        done_holds=True,
        trained_hz=trained_hz,
        looks_back=True,
    )
    return SarmModel(network=network, plan=plan, info=info, tasks=tasks, state_dim=state_dim)


def save_sarm(model: SarmModel, folder: Path) -> None:
    """Write the model."""
    described = describe_model(
        model.network,
        model.plan,
        cameras=model.info.cameras,
        tasks=model.tasks,
        state_dim=model.state_dim,
        trained_hz=model.info.trained_hz,
    )
    weights = {name: tensor.contiguous().numpy() for name, tensor in model.network.state_dict().items()}
    save_model_folder(folder, described | {"version": model.info.version}, weights)


def load_sarm(folder: Path | str) -> SarmModel:
    """Read a model that :func:`save_sarm` wrote.

    Raises:
        ModelLoadError: If the folder is missing or foreign, a weight is missing, surplus, of another shape or not
            finite, the frozen encoder is not the one it was trained with, or the bytes are not those that were saved.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelLoadError(
                f"There is no {name} in the folder of a reward model",
                seen=str(folder),
                allowed="a folder that roborl train-reward wrote",
                remedy="Train one with: roborl train-reward --dataset PATH --out FOLDER",
            )
    with reading(folder, "A reward model", "roborl train-reward --dataset PATH --out FOLDER"):
        described = json.loads((folder / CONFIG).read_text())
        if described["format"] != FORMAT:
            raise ModelLoadError("This is another kind of model", seen=described["format"], allowed=FORMAT)
        config = draccus.decode(SarmConfig, described["model"])
        plan = StagePlan(names=tuple(described["plan"]["names"]), shares=tuple(described["plan"]["shares"]))
        cameras, tasks = tuple(described["cameras"]), tuple(described["tasks"])
        state_dim, version = int(described["state_dim"]), str(described["version"])
        frozen = str(described["frozen_encoder"])
        trained_hz = None if (hz := described.get("trained_hz")) is None else float(hz)
        network = SarmNetwork(config, plan, cameras, state_dim)
        state = load_file(folder / WEIGHTS)
    if network.frozen_identity != frozen:
        raise ModelLoadError(
            "The frozen encoder is not the one this model was trained with",
            seen=network.frozen_identity,
            allowed=frozen,
        )
    _fill(network, state)
    model = freeze_sarm(
        network, plan, cameras=cameras, tasks=tasks, state_dim=state_dim, trained_hz=trained_hz
    )
    if model.info.version != version:
        raise ModelLoadError(
            "Weights and config.json of a reward model do not belong together",
            seen=model.info.version,
            allowed=version,
            remedy="Copy the whole folder, or train again",
        )
    return model


def _fill(network: SarmNetwork, state: Mapping[str, Tensor]) -> None:
    wanted = network.state_dict()
    check_tensors(
        state,
        {name: tuple(tensor.shape) for name, tensor in wanted.items()},
        what="a reward model",
        remedy="Copy the whole folder, or train again",
    )
    for name, tensor in state.items():
        if tensor.dtype != wanted[name].dtype:
            raise ModelLoadError(
                f"The weight {name} is of another kind", seen=tensor.dtype, allowed=wanted[name].dtype
            )
    network.load_state_dict(state)
