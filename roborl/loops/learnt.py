"""What a run has learnt: the policy with the weights that it published last."""

from __future__ import annotations

from pathlib import Path

from roborl.errors import ModelLoadError
from roborl.learning.publish import VersionShelf
from roborl.loops.learner.learn_config import RunFolder
from roborl.policies.small import SmallPolicy


def is_run(folder: Path) -> bool:
    """Return whether this is the folder of a run, and not a policy's."""
    return RunFolder(folder).learner.is_file() or RunFolder(folder).versions.is_dir()


def learnt_policy(run: Path) -> SmallPolicy:
    """Return the policy with the last published weights of a run: the last, not the best.

    Raises:
        ModelLoadError: If the run published none, or they cannot be read.
    """
    folder = RunFolder(run)
    shelf = VersionShelf(folder.versions)
    versions = shelf.versions()
    if not versions:
        raise ModelLoadError(
            "The run has published no policy",
            seen=folder.versions,
            allowed="a folder of versions",
            remedy="Let the run get as far as its first version",
        )
    policy = SmallPolicy.load(folder.policy)
    policy.load_actor(shelf.get(versions[-1]), versions[-1])
    return policy
