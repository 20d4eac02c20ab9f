"""Resume points of a training run: weights, optimiser and a few words in one file, written at once or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from roborl.errors import ModelLoadError
from roborl.pretrained import disk_faults
from roborl.whole_files import whole_file

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def write_resume_point(
    path: Path,
    *,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    meta: Mapping[str, str],
) -> None:
    """Write a resume point; blocks on the disk.

    Args:
        path: The file; the one before it stays until the new one is whole.
        tensors: What is to be kept of the network, by name.
        parameters: What the optimiser moves, by name.
        optimiser: Adam or AdamW.
        meta: Words kept beside them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = dict(tensors)
    for name, parameter in parameters.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            kept[f"optimiser.{key}.{name}"] = value
    with whole_file(path) as draft, disk_faults():
        save_file(
            {name: tensor.detach().cpu().clone().contiguous() for name, tensor in kept.items()},
            draft,
            metadata=dict(meta),
        )


def read_resume_point(path: Path, *, identity: str) -> tuple[dict[str, str], dict[str, Tensor]] | None:
    """Read a resume point; None where there is none.

    Args:
        path: The file.
        identity: What its ``identity`` must be.

    Raises:
        ModelLoadError: If it belongs to another run, or cannot be read.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            meta = cast(dict[str, str], file.metadata() or {})
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ModelLoadError(
            "A resume point cannot be read",
            seen=f"{path}: {error}",
            allowed="the file that the training wrote",
            remedy="Remove it to begin again",
        ) from error
    if meta.get("identity") != identity:
        raise ModelLoadError(
            "The resume point belongs to a run with other settings or another dataset",
            seen=str(path),
            allowed="one of a run with the same settings on the same data",
            remedy="Give another folder, or remove the resume point",
        )
    return meta, tensors


def restore_optimiser(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimiser the moments that a resume point holds."""
    for name, parameter in parameters.items():
        state: dict[str, Any] = {
            key: tensors[saved] if key == "step" else tensors[saved].to(parameter.device)
            for key in _MOMENTS
            if (saved := f"optimiser.{key}.{name}") in tensors
        }
        if state:
            optimiser.state[parameter] = state
