"""What stands in the folder of a LeRobot reward model, read without LeRobot: its description and the training statistics."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from roborl.errors import ModelLoadError


def view_name(key: str) -> str:
    """Return the name of a view without LeRobot's prefix.

    Example:
        >>> view_name("observation.images.front"), view_name("observation.image")
        ('front', 'image')
    """
    return key.removeprefix("observation.images.").removeprefix("observation.")


def training_statistics(folder: Path, key: str) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of a feature over the data that a model was trained on.

    They stand in the state of the normaliser in the pre-processor that LeRobot saves beside the weights. The pipeline
    itself is not rebuilt, so that no class that it names is imported.

    Args:
        folder: The checkpoint.
        key: LeRobot's name of the feature, such as ``observation.state``.

    Returns:
        Mean and deviation, float32 of the feature's shape.

    Raises:
        ModelLoadError: If they are not there, or not finite.
    """
    for described in sorted(folder.glob("*preprocessor.json")):
        for path in _state_files(described):
            found = _statistics(path, key)
            if found is not None:
                return found
    raise ModelLoadError(
        f"The statistics by which {key} was normalised in training are not with the checkpoint",
        seen=sorted(path.name for path in folder.glob("*preprocessor*")) or f"no pre-processor in {folder}",
        allowed="the pre-processor's JSON and *.safetensors, as lerobot-train saves them beside the weights",
        remedy="Copy them too; those of another data set will not do",
    )


def _state_files(described: Path) -> list[Path]:
    try:
        steps = json.loads(described.read_bytes())["steps"]
        names = [step["state_file"] for step in steps if step.get("state_file")]
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError(f"a step keeps its state elsewhere: {names}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelLoadError(
            "The pre-processor of a LeRobot checkpoint cannot be read",
            seen=f"{described}: {type(error).__name__}: {error}",
            allowed='JSON with a list of "steps" whose state files lie beside it',
        ) from error
    return [described.parent / name for name in names]


def _statistics(path: Path, key: str) -> tuple[Tensor, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            if not {f"{key}.mean", f"{key}.std"} <= set(file.keys()):
                return None
            mean, std = (file.get_tensor(f"{key}.{name}").float() for name in ("mean", "std"))
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(
            "The state of a pre-processor cannot be read", seen=f"{path}: {error}"
        ) from error
    if mean.shape != std.shape or not (torch.isfinite(mean).all() and torch.isfinite(std).all()):
        raise ModelLoadError(f"The training statistics of {key} cannot be used", seen=f"{mean} and {std}")
    return mean, std
