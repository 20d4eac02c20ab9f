"""What is evaluated after a run is what it published last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roborl.errors import ModelLoadError
from roborl.learning.publish import VersionShelf
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.learnt import is_run, learnt_policy
from roborl.policies.small import SmallPolicy, SmallPolicyConfig, to_arrays


def policy() -> SmallPolicy:
    shape = SmallPolicyConfig(cameras=("front",), image_px=16, state_dim=3, action_dim=2, width=8)
    return SmallPolicy(shape)


def test_the_last_published_weights_are_the_ones_that_count(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    made = policy()
    made.save(run.policy)
    shelf = VersionShelf(run.versions)
    for version in (1, 12, 3):
        weights = {name: np.full_like(array, version) for name, array in to_arrays(made.actor).items()}
        shelf.put(version, weights, {})
    learnt = learnt_policy(tmp_path)
    assert learnt.version == 12
    assert all((array == 12).all() for array in to_arrays(learnt.actor).values())
    assert is_run(tmp_path)
    assert not is_run(run.policy)


def test_a_run_without_a_published_policy_is_refused(tmp_path: Path) -> None:
    policy().save(RunFolder(tmp_path).policy)
    with pytest.raises(ModelLoadError, match="published no policy"):
        learnt_policy(tmp_path)
