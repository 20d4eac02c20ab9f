"""Resume points of a training run: weights, optimiser and a few words in one file, written at once or not at all."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
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
_SHOWN = 48  # characters of a value in a message

type Identity = Mapping[str, object]
"""What a run's weights depend on: the settings by dotted name, as on the command line, and hashes of the rest."""


def bearing(name: str, settings: Any, *, without: Collection[str] = ()) -> dict[str, object]:
    """Return settings by dotted name, for an identity.

    Args:
        name: What the names begin with.
        settings: A dataclass, which may hold others.
        without: Fields that bear on no weight.

    Example:
        >>> from roborl.rewards.sarm.windows import WindowConfig
        >>> bearing("model.window", WindowConfig(), without=["gap"])
        {'model.window.history': 4}
    """
    kept = {key: value for key, value in asdict(settings).items() if key not in without}
    return _dotted(name, kept)


def _dotted(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        return {name: value}
    return {
        inner: found for key, part in value.items() for inner, found in _dotted(f"{name}.{key}", part).items()
    }


def write_resume_point(
    path: Path,
    *,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    identity: Identity,
    meta: Mapping[str, str],
) -> None:
    """Write a resume point; blocks on the disk.

    Args:
        path: The file; the one before it stays until the new one is whole.
        tensors: What is to be kept of the network, by name.
        parameters: What the optimiser moves, by name.
        optimiser: Adam or AdamW.
        identity: The run's.
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
            metadata={"identity": _as_words(identity), **meta},
        )


def read_resume_point(path: Path, *, identity: Identity) -> tuple[dict[str, str], dict[str, Tensor]] | None:
    """Read a resume point; None where there is none.

    Args:
        path: The file.
        identity: What it must have been written with.

    Raises:
        ModelLoadError: If it belongs to another run, whose differences are named, or cannot be read.
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
    if differences := _differences(meta.get("identity", ""), identity):
        raise ModelLoadError(
            "The resume point belongs to a run with other settings or another dataset",
            seen=f"{path}, {differences}",
            allowed="one of a run with the same settings on the same data",
            remedy="Give another folder, or remove the resume point",
        )
    return meta, tensors


def _as_words(identity: Identity) -> str:
    return json.dumps(dict(identity), default=str)


def _differences(written: str, identity: Identity) -> str:
    """Say in which fields two identities differ; empty where in none."""
    try:
        was = json.loads(written)
    except json.JSONDecodeError:
        was = None
    if not isinstance(was, dict):
        return "which does not say of which run it is"
    now = json.loads(_as_words(identity))
    return ", ".join(
        f"{name} {_shown(was, name)} and not {_shown(now, name)}"
        for name in [*now, *sorted(was.keys() - now.keys())]
        if name not in now or name not in was or was[name] != now[name]
    )


def _shown(identity: Identity, name: str) -> str:
    return f"{identity[name]!s:.{_SHOWN}}" if name in identity else "absent"


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
