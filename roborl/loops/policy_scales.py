"""What the numbers of a policy's states and actions stand for, kept with it: on another bench the same numbers move the arm otherwise."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from roborl.data.scales import Scales
from roborl.errors import ConfigError, ModelLoadError
from roborl.whole_files import write_whole

log = logging.getLogger(__name__)

_FILE = "scales.json"
_SET_BY = {
    "model": "model",
    "state_low": "safety.workspace_low_m",
    "state_high": "safety.workspace_high_m",
    "action_unit": "the step sizes under action, such as step_m and gripper_step",
}


def keep_scales(folder: Path, scales: Scales) -> None:
    """Note in the folder of a policy or of a run what its states and actions stand for."""
    write_whole(folder / _FILE, json.dumps(asdict(scales), indent=2))


def kept_scales(folder: Path) -> Scales | None:
    """Return what :func:`keep_scales` noted in a folder, None where it noted nothing.

    Raises:
        ModelLoadError: If it cannot be read.
    """
    path = folder / _FILE
    try:
        told = json.loads(path.read_bytes())
        low, high, unit = (
            tuple(map(float, told[name])) for name in ("state_low", "state_high", "action_unit")
        )
        return Scales(model=str(told["model"]), state_low=low, state_high=high, action_unit=unit)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelLoadError(
            "What the numbers of a policy stand for cannot be read",
            seen=f"{path}: {type(error).__name__}: {error}",
            allowed="the JSON that was written beside the policy",
            remedy="Copy the policy's folder again; without that file it is only not compared with the bench",
        ) from error


def check_scales(folder: Path, bench: Scales) -> None:
    """See whether a policy's numbers stand for what the bench's do; where its folder does not say, that is a warning.

    Args:
        folder: Of a policy, or of a run.
        bench: The scales of the bench.

    Raises:
        ConfigError: If they do not: every action would move the arm otherwise than the policy has learnt.
        ModelLoadError: If what the folder says cannot be read.
    """
    policy = kept_scales(folder)
    if policy is None:
        if folder.is_dir():
            log.warning(
                "%s does not say what the policy's states and actions stand for: see yourself that workspace and step sizes of"
                " the bench are those it was made with",
                folder,
            )
        return
    if differing := bench.differing(policy):
        set_by, way_on = dict(_SET_BY), ": a new run takes demonstrations of either"
        if len(policy.action_unit) != len(bench.action_unit):
            set_by["action_unit"], way_on = "action.kind", ", of demonstrations with its kind of action"
        raise ConfigError(
            "The policy was made with other scales of state and action than the bench has, and would move the arm otherwise",
            seen=differing,
            allowed=policy.differing(bench),
            remedy=f"Set back in the bench file: {', '.join(set_by[name] for name in differing)}; or make a policy for this"
            f" bench{way_on}",
        )
