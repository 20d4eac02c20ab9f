"""Which scenes are for what: five ranges of scene seeds that never meet.

A scene seed is ``400,000,000 × purpose + 10,000 × run seed + index``. So what a policy is evaluated on was never in its
demonstrations nor in its online episodes, and scenes that settings were chosen on (``tuning``) are not those a result is
reported on (``evaluation``).

=============  ==============================  ===========================================
purpose        scene seeds                     used by
=============  ==============================  ===========================================
``online``     0 to 399,999,999                ``act``, ``train``
``demo``       400,000,000 to 799,999,999      ``record``: demonstrations
``failure``    800,000,000 to 1,199,999,999    ``record``: scripted failures
``tuning``     1,200,000,000 to 1,599,999,999  choosing settings
``evaluation`` 1,600,000,000 to 1,999,999,999  ``evaluate``, ``act --mode evaluate``
=============  ==============================  ===========================================
"""

from __future__ import annotations

from typing import Literal

from roborl.errors import ConfigError

type Purpose = Literal["online", "demo", "failure", "tuning", "evaluation"]

PURPOSES: tuple[Purpose, ...] = ("online", "demo", "failure", "tuning", "evaluation")
SCENES = 10_000
_RANGE = 400_000_000


def scene_seed(purpose: Purpose, run_seed: int, index: int) -> int:
    """Return the seed of one scene.

    Args:
        purpose: What the scene is for.
        run_seed: Which set of scenes, 0 to 39,999.
        index: Which scene of the set, 0 to 9,999.

    Raises:
        ConfigError: If a number is out of its range.

    Example:
        >>> scene_seed("evaluation", 0, 3)
        1600000003
    """
    sets = _RANGE // SCENES
    if not (0 <= run_seed < sets and 0 <= index < SCENES):
        raise ConfigError(
            "There is no such scene",
            seen=f"seed {run_seed}, index {index}",
            allowed=f"seed 0 to {sets - 1}, index 0 to {SCENES - 1}",
            remedy="Choose a smaller seed or fewer episodes",
        )
    return PURPOSES.index(purpose) * _RANGE + run_seed * SCENES + index
