"""The unit of recorded joint positions: degrees, or LeRobot's -100 to 100 of each motor's calibrated range."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roborl.envs.robot_model import RobotModel
from roborl.errors import DatasetError

_LAST_COUNT = 4095
"""A turn of a motor in its counts, as LeRobot has it: their number less one."""
_RANGES = np.arange(500, _LAST_COUNT + 1)
"""How many counts a joint's calibrated range may have."""
_OTHER_STEPS = (360 / _LAST_COUNT, 360 / (_LAST_COUNT + 1), 360 / 1023, 0.05)
"""Steps that say nothing of -100 to 100: degrees of LeRobot now and before 2025, of smaller motors, and rounded numbers."""
_OFF = 0.02
"""How far from a whole number of steps a value may be, in steps: the numbers are float32."""
_ENOUGH = 12
"""How many values of a joint tell its step: fewer lie on many grids by chance."""


def normalised_joints(joints: NDArray[np.float64], model: RobotModel) -> list[str]:
    """Return the joints whose measured positions can only be of the unit -100 to 100.

    An arm's pose tells the units hardly apart, since its joints turn by about 100 degrees either way. What does are the
    motors' counts, in which every position is measured: in degrees they are 360 / 4095 apart, in the other unit 200 over the
    joint's range in counts. Numbers without such a grid, as of a simulation or of smoothed data, say nothing.

    Args:
        joints: Measured positions as recorded, (n, j).
        model: Whose joints they are.
    """
    return [
        name
        for column, name in enumerate(model.joint_names)
        if column != model.gripper_index and _normalised(np.unique(joints[:, column]))
    ]


def _normalised(values: NDArray[np.float64]) -> bool:
    if len(values) < _ENOUGH or np.abs(values).max() > 100.0 + 1e-3:
        return False
    above = values[1:] - values[0]
    if any(_off(above / step).max() < _OFF for step in _OTHER_STEPS):
        return False
    return bool((_off(above[:, None] * _RANGES / 200.0).max(axis=0) < _OFF).any())


def _off(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(steps - np.round(steps))


def degrees_per_part(calibration: str, model: RobotModel) -> NDArray[np.float64]:
    """Return how many degrees a hundredth of half a joint's calibrated range is, (j,); 1 for the gripper, which has no degrees.

    Args:
        calibration: LeRobot's calibration file of the arm that was recorded.
        model: Whose joints they are.

    Raises:
        DatasetError: If there is no such file, or it is not this robot's.
    """
    try:
        motors = json.loads(Path(calibration).expanduser().read_text())
        arm = [name for name in model.joint_names if name != model.gripper]
        spans = {name: _span(motors[name]) for name in arm}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            "The calibration of the recorded arm cannot be read",
            seen=f"{calibration or 'no file'}: {type(error).__name__}: {error}",
            allowed=f"LeRobot's calibration file with {', '.join(model.joint_names)}",
            remedy="Name the file of the arm that was recorded: --demos.calibration "
            "~/.cache/huggingface/lerobot/calibration/robots/so_follower/ID.json",
        ) from error
    return np.array([spans.get(name, 1.0) for name in model.joint_names])


def _span(motor: Mapping[str, int]) -> float:
    """Return the degrees that a part of 200 of the motor's range turns it by."""
    counts = motor["range_max"] - motor["range_min"]
    if counts <= 0 or motor["drive_mode"]:
        raise ValueError(
            f"a range of {counts} counts, drive_mode {motor['drive_mode']}; it takes ranges above 0 and mode 0"
        )
    return counts / 200.0 * 360.0 / _LAST_COUNT
