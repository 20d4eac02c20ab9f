"""Checkpoints: tensors in safetensors, everything else in JSON, appearing whole or not at all. Never pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from roborl.errors import ModelLoadError, TrainingError
from roborl.pretrained import disk_faults

FORMAT = 2
_TENSORS, _STATE = "tensors.safetensors", "state.json"
# Ends the name of a checkpoint that stands beside an older one of its step, and sorts behind it.
_NEWER = ".newer"


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """What a run needs in order to go on.

    Attributes:
        step: Updates made when it was written; orders checkpoints of a run.
        identity: What the model was made for: algorithm, cameras, sizes. Loading compares it field by field.
        parts: State by owner ("algorithm", "budget", ...): nested maps, lists and tuples of tensors, numpy arrays
            and plain values.
    """

    step: int
    identity: Mapping[str, Any]
    parts: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int = 3) -> Path:
    """Write ``checkpoint`` under ``folder`` and drop all but the newest ``keep``.

    The files reach the disk under another name first, so a crash at any instant leaves the older ones intact. Where there is
    one of the same step, the new one stands beside it, and counts as the newer, before that one goes.

    Returns:
        The new folder, named after the step.

    Raises:
        TrainingError: If a number in it is not finite; the older ones stay.
        OSError: If the disk does not take it; the older ones stay.
    """
    tensors: dict[str, torch.Tensor] = {}
    state = {name: _flatten(part, name, tensors) for name, part in checkpoint.parts.items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(
            "A checkpoint would hold numbers that are not finite, and is not written",
            seen=broken[0],
            allowed="finite numbers",
            remedy="Resuming goes on from the last good one; look at the trainer's losses before that",
        )
    target = folder / f"{checkpoint.step:012d}"
    draft, replaced = (folder / f".{target.name}.{os.getpid()}.{part}draft" for part in ("", "replaced."))
    for leftover in (draft, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    for newer in folder.glob(f"[0-9]*{_NEWER}"):
        _take_place(newer, replaced)  # A crash left it beside the one that it replaces.
        shutil.rmtree(replaced, ignore_errors=True)
    draft.mkdir(parents=True)
    with disk_faults():
        save_file(tensors, draft / _TENSORS)
    header = {
        "format": FORMAT,
        "step": checkpoint.step,
        "identity": dict(checkpoint.identity),
        "parts": state,
    }
    (draft / _STATE).write_text(json.dumps(header))
    for path in (draft / _TENSORS, draft / _STATE, draft):
        _sync(path)
    if target.exists():
        newer = target.with_name(target.name + _NEWER)
        draft.rename(newer)
        _sync(folder)
        _take_place(newer, replaced)
    else:
        draft.rename(target)
    _sync(folder)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    for leftover in folder.glob(".*.draft"):
        shutil.rmtree(leftover, ignore_errors=True)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints under ``folder``, oldest first."""
    return sorted(path.parent for path in folder.glob(f"[0-9]*/{_STATE}"))


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Read the checkpoint at ``path``.

    Raises:
        ModelLoadError: If it is missing, torn, of another format, or was made for something other than ``identity``;
            the message names the field and both values.
    """
    try:
        header = json.loads((path / _STATE).read_text())
        tensors = load_file(path / _TENSORS)
        if header["format"] != FORMAT:
            raise ModelLoadError(
                f"The checkpoint {path} has another format",
                seen=header["format"],
                allowed=FORMAT,
                remedy="Use the version of roborl that wrote it",
            )
        step, found = int(header["step"]), dict(header["identity"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelLoadError(
            f"The checkpoint {path} cannot be read",
            seen=f"{type(error).__name__}: {error}",
            allowed=f"a folder with {_TENSORS} and {_STATE}",
            remedy="Delete that folder: the run goes on from the checkpoint before it, if there is one",
        ) from error
    check_identity(path, found, identity)
    try:
        parts = {name: _unflatten(part, tensors) for name, part in header["parts"].items()}
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"The checkpoint {path} is incomplete", seen=f"{type(error).__name__}: {error}"
        ) from error
    return Checkpoint(step=step, identity=found, parts=parts)


def check_identity(where: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare what a model was made for with what it is wanted for. A field that either does not name is unknown, and fits.

    Raises:
        ModelLoadError: Naming the first field that differs, what was found and what is wanted.
    """
    plain = json.loads(json.dumps(dict(wanted)))
    for field in sorted(plain.keys() & found.keys()):
        if found.get(field) != plain.get(field):
            raise ModelLoadError(
                f"{where} was made for another {field}",
                seen=found.get(field),
                allowed=plain.get(field),
                remedy="Point to a model of this bench and algorithm, or start a new run folder",
            )


def check_shapes(where: Path, found: Any, wanted: Any, name: str = "") -> None:
    """Compare two nested states of tensors; ``wanted`` is that of the model to be filled.

    More in ``found`` is not looked at: an optimiser that has not stepped yet has no moments to compare with.

    Raises:
        ModelLoadError: Naming the first tensor that is missing or of another shape.
    """
    ours, theirs = _shapes(wanted, name), _shapes(found, name)
    for key in sorted(ours):
        if ours.get(key) != theirs.get(key):
            raise ModelLoadError(
                f"{where} does not fit the model at {key}",
                seen=theirs.get(key, "nothing"),
                allowed=ours[key],
                remedy="Use the settings it was trained with, or start a new run folder",
            )


def _shapes(tree: Any, name: str) -> dict[str, list[int]]:
    if isinstance(tree, torch.Tensor | np.ndarray):
        return {name: list(tree.shape)}
    items = (
        tree.items()
        if isinstance(tree, Mapping)
        else enumerate(tree)
        if isinstance(tree, list | tuple)
        else ()
    )
    return {
        key: shape for k, value in items for key, shape in _shapes(value, f"{name}.{k}".strip(".")).items()
    }


def _flatten(tree: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Replace the tensors of ``tree`` by their names; JSON keeps lists and string keys, the rest is marked."""
    match tree:
        case torch.Tensor():
            # A clone, because safetensors refuses tensors that share memory.
            tensors[name] = tree.detach().cpu().contiguous().clone()
            return {"$tensor": name}
        case np.ndarray():
            tensors[name] = torch.from_numpy(np.array(tree))
            return {"$array": name}
        case np.generic():
            return tree.item()
        case Mapping():
            return {"$map": [[key, _flatten(value, f"{name}.{key}", tensors)] for key, value in tree.items()]}
        case tuple():
            return {"$tuple": [_flatten(value, f"{name}.{i}", tensors) for i, value in enumerate(tree)]}
        case list():
            return [_flatten(value, f"{name}.{i}", tensors) for i, value in enumerate(tree)]
        case None | bool() | int() | float() | str():
            return tree
    raise TypeError(f"{name} holds a {type(tree).__name__}, which a checkpoint does not keep")


def _unflatten(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unflatten(value, tensors) for value in tree]
    if not isinstance(tree, dict):
        return tree
    ((mark, value),) = tree.items()
    match mark:
        case "$tensor":
            return tensors[value]
        case "$array":
            return tensors[value].numpy()
        case "$map":
            return {key: _unflatten(item, tensors) for key, item in value}
        case "$tuple":
            return tuple(_unflatten(item, tensors) for item in value)
    raise ValueError(f"unknown mark {mark!r}")


def _take_place(newer: Path, replaced: Path) -> None:
    """Give a checkpoint the name of the one of its step that it stands beside, which gets the name ``replaced``.

    That one is moved away whole: removed file by file it would be torn to whoever looks meanwhile.
    """
    target = newer.with_name(newer.name.removesuffix(_NEWER))
    if target.exists():
        target.rename(replaced)
    newer.rename(target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
