from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from roborl.errors import ModelLoadError
from roborl.rewards.resume_points import read_resume_point, write_resume_point


def test_every_field_in_which_two_runs_differ_is_named_with_both_values(tmp_path: Path) -> None:
    path = tmp_path / "resume.safetensors"
    weight = torch.nn.Parameter(torch.ones(2))
    identity = {"training.targets": ("q", "k"), "training.gone": 1, "training.same": "x"}
    write_resume_point(
        path,
        tensors={"weight": weight},
        parameters={"weight": weight},
        optimiser=torch.optim.AdamW([weight]),
        identity=identity,
        meta={"step": "3"},
    )
    point = read_resume_point(path, identity=identity)
    assert point is not None
    assert point[0]["step"] == "3"
    assert torch.equal(point[1]["weight"], weight)
    other = {"training.targets": ("q",), "training.same": "x", "training.new": 2.5}
    named = (
        r"resume\.safetensors, training\.targets \['q', 'k'\] and not \['q'\], training\.new absent and not 2\.5,"
        r" training\.gone 1 and not absent\."
    )
    with pytest.raises(ModelLoadError, match=named):
        read_resume_point(path, identity=other)


def test_a_resume_point_that_does_not_say_of_which_run_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resume.safetensors"
    for older in ({"identity": "0a1b"}, {"identity": '[{"steps": 3}, "0a1b"]'}, {}):
        save_file({"weight": torch.ones(2)}, path, metadata=older)
        with pytest.raises(
            ModelLoadError, match=r"does not say of which run.*Give another folder, or remove"
        ):
            read_resume_point(path, identity={"training.steps": 3})
