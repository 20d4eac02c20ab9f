"""What a run has learnt: the policy with the weights that it published last."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roborl.errors import ModelLoadError, RoborlError
from roborl.learning.publish import VersionShelf
from roborl.loops.learner.learn_config import RunFolder
from roborl.policies import load_policy
from roborl.policies.lerobot_files import is_lerobot_policy

if TYPE_CHECKING:
    from roborl.policies.lerobot_policy import LeRobotPolicy
    from roborl.policies.small import SmallPolicy

log = logging.getLogger(__name__)


def is_run(folder: Path) -> bool:
    """Return whether this is the folder of a run, and not a policy's."""
    return RunFolder(folder).learner.is_file() or RunFolder(folder).versions.is_dir()


def learnt_policy(run: Path, *, task: str = "", seed: int = 0) -> SmallPolicy | LeRobotPolicy:
    """Return the policy with the last published weights of a run: the last, not the best.

    Args:
        run: The run's folder.
        task: The instruction in words, for a policy that reads it.
        seed: Of the noise that some policies draw their actions from.

    Raises:
        ModelLoadError: If the run published none, or they cannot be read.
    """
    version, weights = _last(RunFolder(run))
    policy = load_policy(RunFolder(run).policy, task=task, seed=seed)
    policy.load_actor(weights, version)
    return policy


def leave_pretrained(run: RunFolder) -> dict[str, Any]:
    """Write the LeRobot policy that a run has learnt as LeRobot saves one, and return where; nothing of any other policy.

    What cannot be written is said, and does not fail the run.
    """
    if not is_lerobot_policy(run.policy):
        return {}
    from roborl.policies.lerobot_learning import save_learnt

    try:
        version, weights = _last(run)
        save_learnt(run.policy, weights, run.pretrained)
    except (RoborlError, OSError) as error:
        log.error("The policy is not left for LeRobot: %s", error)
        return {}
    log.info("Version %d of the policy lies in %s as LeRobot saves one", version, run.pretrained)
    return {"pretrained_model": str(run.pretrained)}


def _last(run: RunFolder) -> tuple[int, dict[str, Any]]:
    shelf = VersionShelf(run.versions)
    versions = shelf.versions()
    if not versions:
        raise ModelLoadError(
            "The run has published no policy",
            seen=run.versions,
            allowed="a folder of versions",
            remedy="Let the run get as far as its first version",
        )
    return versions[-1], shelf.get(versions[-1])
