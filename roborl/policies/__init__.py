"""Observation to action chunk: LeRobot policies, small networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roborl.policies.exploration import ExplorationConfig
    from roborl.policies.small import SmallPolicy


def load_policy(
    folder: Path | str, *, explore: ExplorationConfig | None = None, seed: int = 0
) -> SmallPolicy:
    """Load a policy folder; torch is imported only now.

    Raises:
        ModelLoadError: If the folder cannot be read or its weights do not fit.
    """
    from roborl.policies.small import SmallPolicy

    return SmallPolicy.load(Path(folder), explore=explore, seed=seed)
