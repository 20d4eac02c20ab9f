"""Whether the tensors of a checkpoint are exactly those of the network that its settings describe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from roborl.errors import ModelLoadError


def check_tensors(
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[int, ...] | None],
    *,
    what: str,
    remedy: str,
    foreign: Iterable[str] = (),
) -> None:
    """Refuse tensors unless each that is wanted is there once, of its shape and finite, and none besides.

    Args:
        tensors: What was found, under our names.
        wanted: What should be: shape by name, None where it is not known.
        what: Where they are from, such as "a SARM checkpoint".
        remedy: What the reader should do about others.
        foreign: Published names that have no name among ours.

    Raises:
        ModelLoadError: If one is missing, surplus, of another shape or not finite; each such name is counted.
    """
    absent = sorted(wanted.keys() - tensors.keys())
    surplus = [*foreign, *sorted(tensors.keys() - wanted.keys())]
    wrong = [
        f"{name} {tuple(tensors[name].shape)} for {shape}"
        for name, shape in sorted(wanted.items())
        if shape is not None and name in tensors and tuple(tensors[name].shape) != shape
    ]
    if absent or surplus or wrong:
        raise ModelLoadError(
            f"The tensors of {what} are not those of the network that its settings describe",
            seen=f"{len(absent)} missing {absent[:3]}, {len(surplus)} surplus {surplus[:3]},"
            f" {len(wrong)} of another shape {wrong[:3]}",
            allowed="each tensor once, none besides",
            remedy=remedy,
        )
    infinite = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if infinite:
        raise ModelLoadError(
            f"Tensors of {what} are not finite",
            seen=f"{len(infinite)}: {infinite[:3]}",
            allowed="finite numbers",
            remedy=remedy,
        )
