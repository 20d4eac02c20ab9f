"""Joint positions in degrees and in parts of a motor's range are told apart by the motors' counts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lerobot.motors import MotorCalibration, MotorNormMode
from lerobot.motors.motors_bus import SerialMotorsBus
from numpy.typing import NDArray

from roborl.envs.bench import load_bench
from roborl.envs.kinematics import Kinematics
from roborl.envs.robot_model import load_robot_model
from roborl.errors import DatasetError
from roborl.loops.joint_units import degrees_per_part, normalised_joints

MODEL = load_robot_model("so101_sim")
# Ranges in counts as they come out of lerobot-calibrate; the last joint of the chain turns all the way.
RANGES = {
    "shoulder_pan": (742, 3421),
    "shoulder_lift": (845, 3203),
    "elbow_flex": (877, 3080),
    "wrist_flex": (862, 3203),
    "wrist_roll": (0, 4095),
    "gripper": (2036, 3494),
}
CALIBRATION = {
    name: MotorCalibration(id=n, drive_mode=0, homing_offset=0, range_min=low, range_max=high)
    for n, (name, (low, high)) in enumerate(RANGES.items())
}


def lerobots(counts: NDArray[np.int64], mode: MotorNormMode) -> NDArray[np.float32]:
    """Return what LeRobot makes of motor counts (n, j) and a dataset keeps."""
    names = list(MODEL.joint_names)
    bus = SimpleNamespace(
        calibration=CALIBRATION,
        apply_drive_mode=True,
        _id_to_name=lambda n: names[n],
        _id_to_model=lambda n: "sts3215",
        model_resolution_table={"sts3215": 4096},
        motors={
            name: SimpleNamespace(norm_mode=MotorNormMode.RANGE_0_100 if name == MODEL.gripper else mode)
            for name in names
        },
    )
    rows = [SerialMotorsBus._normalize(bus, dict(enumerate(row.tolist()))) for row in counts]
    return np.array([list(row.values()) for row in rows], np.float32)


def counts_of_a_reach(seed: int) -> NDArray[np.int64]:
    """Return the motors' counts on the way to three points of the workspace, (n, j)."""
    rng, kinematics, safety = np.random.default_rng(seed), Kinematics(MODEL), load_bench("so101_sim").safety
    here, path = MODEL.home.copy(), []
    for _ in range(3):
        goal = kinematics.solve(
            rng.uniform(safety.workspace_low_m, safety.workspace_high_m), here, iterations=50
        )
        goal[MODEL.joint_names.index("wrist_roll")] = rng.uniform(-60, 60)
        path.append(here + np.linspace(0, 1, 25)[:, None] * (goal - here))
        here = goal
    degrees = np.concatenate(path)
    middle = np.array([0.5 * (low + high) for low, high in RANGES.values()])
    counts = np.round(middle + degrees * 4095 / 360).astype(np.int64)
    counts[:, -1] = 2036 + rng.integers(0, 1400, len(counts))
    low, high = np.array(list(RANGES.values())).T
    clipped: NDArray[np.int64] = np.clip(counts, low, high)
    return clipped


def written(path: Path, **changes: object) -> str:
    path.write_text(
        json.dumps({n: vars(c) | (changes if n == "elbow_flex" else {}) for n, c in CALIBRATION.items()})
    )
    return str(path)


@pytest.mark.parametrize("seed", range(8))
def test_recordings_in_the_two_units_are_told_apart(seed: int) -> None:
    counts = counts_of_a_reach(seed)
    assert normalised_joints(lerobots(counts, MotorNormMode.DEGREES).astype(float), MODEL) == []
    found = normalised_joints(lerobots(counts, MotorNormMode.RANGE_M100_100).astype(float), MODEL)
    assert len(found) >= 3
    assert MODEL.gripper not in found


@pytest.mark.parametrize("seed", range(8))
def test_numbers_without_a_grid_and_other_grids_are_not_accused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth = lerobots(counts_of_a_reach(seed), MotorNormMode.DEGREES).astype(float)
    smooth += rng.normal(0, 0.1, smooth.shape)
    for joints in (
        smooth,
        smooth.round(1),
        smooth.round(2),
        smooth.round(0),
        np.round(smooth * 4096 / 360) * 360 / 4096,
        np.round(smooth * 1023 / 360) * 360 / 1023,
        np.radians(smooth),
        smooth[:1].repeat(40, axis=0),
    ):
        assert normalised_joints(joints.astype(np.float32).astype(float), MODEL) == []


def test_parts_of_a_range_become_the_degrees_that_lerobot_gives(tmp_path: Path) -> None:
    counts = counts_of_a_reach(0)
    parts = lerobots(counts, MotorNormMode.RANGE_M100_100)
    degrees = parts * degrees_per_part(written(tmp_path / "arm.json"), MODEL)
    np.testing.assert_allclose(degrees, lerobots(counts, MotorNormMode.DEGREES), atol=1e-4)


def test_a_calibration_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for given in ("", str(tmp_path / "none.json"), written(tmp_path / "a.json", range_max=800)):
        with pytest.raises(DatasetError, match=r"calibration.*shoulder_pan.*--demos\.calibration"):
            degrees_per_part(given, MODEL)
    with pytest.raises(DatasetError, match="drive_mode 1"):
        degrees_per_part(written(tmp_path / "b.json", drive_mode=1), MODEL)
