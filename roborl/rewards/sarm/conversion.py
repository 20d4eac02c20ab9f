"""Tensors of published SARM checkpoints under our names: a renaming, complete or refused.

LeRobot and opensarm keep the same tensors under the same names, for each of the two transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from roborl.rewards.sarm.published_network import PublishedNetwork, PublishedShape
from roborl.rewards.tensors import check_tensors

_NAMES = (
    (r"visual_proj\.(weight|bias)", r"frame.\1"),
    (r"lang_proj\.(weight|bias)", r"text.\1"),
    (r"state_proj\.(weight|bias)", r"state.\1"),
    (r"first_pos", "first"),
    (r"transformer\.layers\.(\d+)\.(.+)", r"body.\1.\2"),
    (r"fusion_backbone\.([01])\.(weight|bias)", r"fuse.\1.\2"),
)
_RENAMES = tuple((re.compile(published), ours) for published, ours in _NAMES)
_HEAD = re.compile(r"heads\.(sparse|dense)\.(weight|bias)")


def convert_weights(
    published: Mapping[str, Mapping[str, Tensor]],
    shape: PublishedShape,
    *,
    head: str,
    other_classes: int | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of both transformers under our names; of their heads only the one that is used.

    Args:
        published: Tensors of the ``stage`` and the ``within`` transformer under their published names.
        shape: What they should be.
        head: The stages to use, sparse or dense.
        other_classes: Number of classes of the head that is not used, where it is known.

    Raises:
        ModelLoadError: If a tensor is missing, surplus, of another shape or not finite.
    """
    # opensarm trains and reads the progress by the head called sparse, whichever stages are used.
    used = {"stage": head, "within": "sparse" if shape.shuffled else head}
    ours: dict[str, Tensor] = {}
    for part, tensors in published.items():
        for name, tensor in tensors.items():
            ours[f"{part}.{_renamed(name, used[part])}"] = tensor
    wanted = {name: tuple(tensor.shape) for name, tensor in PublishedNetwork(shape).state_dict().items()}
    dropped: dict[str, tuple[int, ...] | None] = {}
    for part in published:
        outputs = other_classes if part == "stage" else 1
        dropped[f"{part}.unused.weight"] = None if outputs is None else (outputs, shape.dim)
        dropped[f"{part}.unused.bias"] = None if outputs is None else (outputs,)
    check_tensors(
        ours,
        wanted | dropped,
        what="a SARM checkpoint",
        remedy="Copy the whole checkpoint again, and for opensarm's check sizes and stages in the settings",
    )
    return {name: ours[name].float().contiguous() for name in wanted}


def _renamed(name: str, head: str) -> str:
    for pattern, ours in _RENAMES:
        if pattern.fullmatch(name):
            return pattern.sub(ours, name)
    matched = _HEAD.fullmatch(name)
    if matched:
        return f"{'head' if matched[1] == head else 'unused'}.{matched[2]}"
    return name
