"""The file that ``roborl bench-reward`` writes about reward models, as whoever goes by it reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from roborl.errors import ConfigError

FORMAT = "roborl-bench-reward-3"
"""What the file calls its own form."""
FITTED_ON = "fitted_on"
"""What the file calls the episodes that calibrations were fitted on: for each model those that it had not learnt from."""

CALIBRATED = "calibrated:"
"""What a place begins with that names a model behind the calibration of such a file."""
_ENDING = ".json"


def calibration_of(place: str) -> tuple[Path, str] | None:
    """Return the file and the model that a calibrated model's place names, None for any other place.

    The model may be calibrated too, and its path may hold colons.

    Example:
        >>> calibration_of("calibrated:out/bench_reward.json:vlac:b/2b")
        (PosixPath('out/bench_reward.json'), 'vlac:b/2b')
    """
    result, ending, model = place.removeprefix(CALIBRATED).partition(f"{_ENDING}:")
    return (Path(result + _ENDING), model) if place.startswith(CALIBRATED) and ending else None


def read_measured(path: Path) -> dict[str, Any]:
    """Return what a benchmark wrote down.

    Raises:
        ConfigError: If it cannot be read, or has another format.
    """
    try:
        measured: dict[str, Any] = json.loads(path.read_text())
        known = measured["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "The result of a benchmark of reward models cannot be read",
            seen=f"{path} ({type(error).__name__})",
            allowed="the bench_reward.json of roborl bench-reward",
            remedy="Make one: roborl bench-reward --model FOLDER --dataset PATH --require 'voc>=0.8'",
        ) from error
    if known != FORMAT:
        raise ConfigError(
            "The result of a benchmark of reward models has another format", seen=known, allowed=FORMAT
        )
    return measured


def row_of(measured: dict[str, Any], version: str, *, path: Path) -> dict[str, Any]:
    """Return what was measured about the model of a version.

    Raises:
        ConfigError: If nothing was.
    """
    rows: list[dict[str, Any]] = list(measured["models"].values())
    for row in rows:
        if row["version"] == version:
            return row
    raise ConfigError(
        f"The benchmark {path} is about another reward model",
        seen=f"version {version}",
        allowed=", ".join(sorted(row["version"] for row in rows)) or "none at all",
        remedy="Run roborl bench-reward on the model that is to be used",
    )
