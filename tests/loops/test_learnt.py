"""What is evaluated after a run is what it published last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roborl.errors import ModelLoadError
from roborl.learning.publish import VersionShelf
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.learnt import is_run, learnt_policy, policy_of, warn_of_start
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


def test_a_run_stands_for_what_it_has_learnt_and_the_policy_in_it_for_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path / "run")
    made = policy()
    made.save(run.policy)
    VersionShelf(run.versions).put(4, to_arrays(made.actor), {})
    made.save(tmp_path / "policy")
    assert [policy_of(folder).version for folder in (run.root, run.policy, tmp_path / "policy")] == [4, 0, 0]
    warn_of_start(run.root)
    warn_of_start(tmp_path / "policy")
    assert not caplog.records
    warn_of_start(run.policy)
    assert f"what it has learnt: {run.root}" in caplog.text


def test_a_run_without_a_published_policy_is_refused(tmp_path: Path) -> None:
    policy().save(RunFolder(tmp_path).policy)
    with pytest.raises(ModelLoadError, match="published no policy"):
        learnt_policy(tmp_path)
