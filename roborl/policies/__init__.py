"""Observation to action chunk: LeRobot policies, small networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roborl.policies.exploration import ExplorationConfig
    from roborl.policies.lerobot_policy import LeRobotPolicy
    from roborl.policies.small import SmallPolicy


def load_policy(
    folder: Path | str,
    *,
    task: str = "",
    explore: ExplorationConfig | None = None,
    seed: int = 0,
    device: str = "",
) -> SmallPolicy | LeRobotPolicy:
    """Load a policy folder, ours or LeRobot's, whichever lies there; torch and LeRobot are imported only now.

    Args:
        folder: What a policy was saved to.
        task: The instruction in words, for a policy that reads it.
        explore: How it explores; None for not at all. A LeRobot policy does in a run alone, and says so.
        seed: Of exploration, and of the noise that some policies draw their actions from.
        device: Where a LeRobot policy runs, if not where it was saved.

    Raises:
        ModelLoadError: If the folder cannot be read or its weights do not fit.
    """
    from roborl.policies.lerobot_files import is_lerobot_policy

    folder = Path(folder)
    if is_lerobot_policy(folder):
        from roborl.policies.lerobot_policy import LeRobotPolicy

        return LeRobotPolicy.load(folder, task=task, explore=explore, seed=seed, device=device)
    from roborl.policies.small import SmallPolicy

    return SmallPolicy.load(folder, explore=explore, seed=seed)
