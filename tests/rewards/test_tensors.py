"""Tensors of a checkpoint are those of its network, all of them, or none is used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from roborl.errors import ModelLoadError
from roborl.rewards.tensors import check_tensors

WANTED: dict[str, tuple[int, ...] | None] = {"weight": (2, 3), "bias": (2,), "unused": None}
WHOLE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2), "unused": torch.zeros(7)}


def check(tensors: dict[str, Tensor], foreign: tuple[str, ...] = ()) -> None:
    check_tensors(tensors, WANTED, what="a toy checkpoint", remedy="Copy it again", foreign=foreign)


def test_what_is_wanted_passes_whatever_the_shape_that_is_not_known() -> None:
    check(WHOLE)
    check(WHOLE | {"unused": torch.zeros(1, 1)})


@pytest.mark.parametrize(
    ("tensors", "foreign", "says"),
    [
        ({"weight": WHOLE["weight"], "unused": WHOLE["unused"]}, (), r"1 missing \['bias'\], 0 surplus"),
        ({"weight": WHOLE["weight"], "bias": WHOLE["bias"]}, (), r"1 missing \['unused'\]"),
        (WHOLE | {"more": torch.zeros(1)}, (), r"0 missing \[\], 1 surplus \['more'\]"),
        (WHOLE, ("lora.weight",), r"1 surplus \['lora.weight'\]"),
        (WHOLE | {"bias": torch.zeros(2, 1)}, (), r"1 of another shape \['bias \(2, 1\) for \(2,\)'\]"),
        (WHOLE | {"unused": torch.tensor([0.0, torch.nan])}, (), r"not finite.*1: \['unused'\]"),
    ],
)
def test_anything_else_is_refused_by_name(
    tensors: dict[str, Tensor], foreign: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ModelLoadError, match=f"a toy checkpoint.*{says}.*Copy it again"):
        check(tensors, foreign)
