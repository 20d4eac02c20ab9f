"""What a run leaves: the policy with the weights that it published last, and its page."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roborl.errors import ModelLoadError, RoborlError
from roborl.learning.publish import VersionShelf
from roborl.loops.learner.learn_config import RunFolder
from roborl.policies import load_policy
from roborl.policies.lerobot_files import is_lerobot_policy

if TYPE_CHECKING:
    from roborl.policies.exploration import ExplorationConfig
    from roborl.policies.lerobot_policy import LeRobotPolicy
    from roborl.policies.small import SmallPolicy

log = logging.getLogger(__name__)


def is_run(folder: Path) -> bool:
    """Return whether this is the folder of a run, and not a policy's."""
    return RunFolder(folder).learner.is_file() or RunFolder(folder).versions.is_dir()


def policy_of(
    folder: Path, *, task: str = "", explore: ExplorationConfig | None = None, seed: int = 0
) -> SmallPolicy | LeRobotPolicy:
    """Return what a run has learnt, of a run's folder, and of any other folder the policy that lies there.

    Args:
        folder: A run's folder, or a policy's.
        task: The instruction in words, for a policy that reads it.
        explore: How it explores; None for not at all.
        seed: Of exploration, and of the noise that some policies draw their actions from.

    Raises:
        ModelLoadError: If the run published nothing, or the folder cannot be read.
    """
    if is_run(folder):
        return learnt_policy(folder, task=task, explore=explore, seed=seed)
    return load_policy(folder, task=task, explore=explore, seed=seed)


def warn_of_start(folder: Path) -> None:
    """Say so where a policy is the one that a run began with, and not what the run has learnt."""
    if is_run(folder.parent) and folder.name == RunFolder(folder.parent).policy.name:
        log.warning("%s is the policy that a run began with; what it has learnt: %s", folder, folder.parent)


def learnt_policy(
    run: Path, *, task: str = "", explore: ExplorationConfig | None = None, seed: int = 0
) -> SmallPolicy | LeRobotPolicy:
    """Return the policy with the last published weights of a run: the last, not the best.

    Args:
        run: The run's folder.
        task: The instruction in words, for a policy that reads it.
        explore: How it explores; None for not at all.
        seed: Of exploration, and of the noise that some policies draw their actions from.

    Raises:
        ModelLoadError: If the run published none, or they cannot be read.
    """
    version, weights = _last(RunFolder(run))
    policy = load_policy(RunFolder(run).policy, task=task, explore=explore, seed=seed)
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


def leave_run_page(run: RunFolder, told: Mapping[str, Any]) -> dict[str, str]:
    """Write the page of a run that has ended. One that cannot be made costs a word in the log, never the run's result.

    Returns:
        Its place as ``report``, nothing where there is none.
    """
    try:
        # What draws is loaded once the arms are still, and is not installed everywhere.
        from roborl.loops.reporting.run_page import write_run_page

        page = write_run_page(run, told)
    except (OSError, ImportError, RoborlError) as error:
        log.error("The run's page cannot be written: %s", error)
        return {}
    log.info("The report is at %s", page)
    return {"report": str(page)}


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
