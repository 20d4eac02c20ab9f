"""Devices are missed before a run prepares anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lerobot.motors import Motor, MotorNormMode

from roborl.envs.bench import load_bench
from roborl.envs.devices import missing_devices, require_degrees, require_devices, require_hold
from roborl.errors import ConfigError


def desk(port: Path, camera: Path) -> list[str]:
    front = f"front: {{type: opencv, index_or_path: {camera}, width: 640, height: 480, fps: 30}}"
    wrist = "wrist: {type: opencv, index_or_path: 2, width: 640, height: 480, fps: 30}"
    return [f"--robot.port={port}", f"--robot.cameras={{{front}, {wrist}}}"]


def test_what_is_not_plugged_in_is_named_with_what_finds_it(tmp_path: Path) -> None:
    bench = load_bench("so101_desk", desk(tmp_path / "ttyACM0", tmp_path / "video0"))
    with pytest.raises(
        ConfigError, match=r"port .*ttyACM0, camera .*video0\..*lerobot-find-port, lerobot-find-cam"
    ):
        require_devices(bench)
    (tmp_path / "video0").touch()
    with pytest.raises(ConfigError, match=r"ttyACM0\.") as caught:
        require_devices(bench)
    assert "camera" not in str(caught.value.seen)
    (tmp_path / "ttyACM0").touch()
    require_devices(bench)


def test_a_simulated_bench_needs_none() -> None:
    bench = load_bench("so101_sim")
    require_devices(bench)
    assert list(missing_devices(bench)) == []


def test_an_arm_that_would_drop_once_it_is_disconnected_is_refused() -> None:
    require_hold(load_bench("so101_desk"))
    require_hold(load_bench("so101_sim"))
    with pytest.raises(
        ConfigError, match=r"would drop.*LeRobot's default.*disable_torque_on_disconnect: false"
    ):
        require_hold(load_bench("so101_desk", ["--robot.disable_torque_on_disconnect=true"]))


def robot_in(unit: MotorNormMode) -> Any:
    """Return a robot whose body joint and gripper are of the model, and whose wheel is not."""
    units = {"elbow_flex": unit, "gripper": MotorNormMode.RANGE_0_100, "wheel": MotorNormMode.RANGE_M100_100}
    motors = {name: Motor(id, "sts3215", unit) for id, (name, unit) in enumerate(units.items())}
    return SimpleNamespace(bus=SimpleNamespace(motors=motors))


def test_a_robot_whose_driver_knows_no_degrees_is_refused() -> None:
    bench = load_bench("so101_desk")
    for fits in (robot_in(MotorNormMode.DEGREES), SimpleNamespace(), SimpleNamespace(bus=object())):
        require_degrees(bench, fits)
    with pytest.raises(
        ConfigError, match=r"other units.*so101_follower: elbow_flex range_m100_100\. .*DEGREES"
    ):
        require_degrees(bench, robot_in(MotorNormMode.RANGE_M100_100))
