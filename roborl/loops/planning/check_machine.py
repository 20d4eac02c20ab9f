"""``roborl check``: whether this computer can do its part: versions, the bench file, its cameras, its cards."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from roborl.errors import RoborlError, spelt_out
from roborl.types import Image

_NEEDED = ("roborl", "lerobot", "torch", "numpy", "pyzmq", "zarr")
_OPTIONAL = {
    "transformers": "vision-language judges: pip install 'roborl[vlm]'",
    "peft": "adapting them: pip install 'roborl[vlm]'",
    "mujoco": "simulation: pip install 'roborl[sim]'",
    "bitsandbytes": "judges in int8 or int4: pip install bitsandbytes",
}

_ODD_DEG = 20.0
"""By how much less or more than its model's joint a real one may have been turned while it was calibrated."""
_WHOLE_TURNS = {"so101_follower": {"wrist_roll"}, "koch_follower": {"shoulder_pan", "wrist_roll"}}
"""Joints for which LeRobot notes a whole turn, whatever they were turned; other drivers may note one for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: The thing.
        ok: Whether it is as it should be.
        says: What was found.
    """

    what: str
    ok: bool
    says: str


def check_versions() -> Iterator[Finding]:
    """Yield the versions of what roborl stands on; what only some verbs need may be missing."""
    yield Finding(what="python", ok=True, says=platform.python_version())
    for name in _NEEDED:
        found = _version(name)
        yield Finding(what=name, ok=found is not None, says=found or "missing: install roborl again")
    for name, purpose in _OPTIONAL.items():
        says = _version(name) or f"not here; only needed for {purpose}"
        yield Finding(what=name, ok=True, says=says)


def check_cards() -> Iterator[Finding]:
    """Yield the cards that torch sees; none is no fault."""
    import torch

    if not torch.cuda.is_available():
        yield Finding(what="cards", ok=True, says="none that torch sees; judges and policies run on the CPU")
        return
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        says = f"{torch.cuda.get_device_name(i)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield Finding(what=f"cuda:{i}", ok=True, says=says)


def check_bench(name: str, overrides: Sequence[str], *, look: bool) -> Iterator[Finding]:
    """Yield whether a bench file can be used, its motors answer, and its cameras show something, all of them at once.

    Motors are read and not written to: an arm that holds a place goes on holding it.

    Args:
        name: A path, or a name in ``hardware_configs/``.
        overrides: Dotted overrides.
        look: Whether to read the motors and open the cameras.
    """
    from roborl.envs.bench import device_type, load_bench

    try:
        bench = load_bench(name, overrides)
    except RoborlError as error:
        yield Finding(what=f"bench {name}", ok=False, says=str(error))
        return
    yield Finding(
        what=f"bench {name}",
        ok=True,
        says=f"{device_type(bench.robot)}, {bench.control_hz:g} Hz, task: {bench.task}",
    )
    if not bench.simulated:
        yield Finding(what="limits", ok=True, says=_limits(bench.safety))
        yield Finding(what="if control dies", ok=True, says=bench.if_control_dies)
        yield from _arm(bench, look=look)
    if look:
        pictures = _simulated(bench) if bench.simulated else _physical(bench)
        for camera, use in bench.cameras.items():
            yield _shows(camera, pictures[camera], (use.height_px, use.width_px))


def _limits(safety: Any) -> str:
    """Return the workspace and the share of the arm's speed that a bench allows, in words."""
    sides = zip("xyz", safety.workspace_low_m, safety.workspace_high_m, strict=True)
    box = ", ".join(f"{axis} {low:g} to {high:g} m" for axis, low, high in sides)
    return f"{box}; {safety.velocity_scale:.0%} of the arm's speed, {safety.acceleration_scale:.0%} of its acceleration"


def _arm(bench: Any, *, look: bool) -> Iterator[Finding]:
    """Yield what can be said of a physical arm without moving it: driver, port, calibration file, motors."""
    from roborl.envs.bench import device_type, make_robot
    from roborl.envs.devices import missing_devices, require_degrees, require_hold

    try:
        require_hold(bench)
    except RoborlError as error:
        yield Finding(what="hold", ok=False, says=str(error))
    try:
        robot: Any = make_robot(bench)
        require_degrees(bench, robot)
    except RoborlError as error:
        yield Finding(what="driver", ok=False, says=str(error))
        return
    yield Finding(what="driver", ok=True, says=f"of {device_type(bench.robot)}")
    port = getattr(bench.robot, "port", None)
    if port is not None:
        plugged = "port" not in dict(missing_devices(bench))
        says = port if plugged else f"{port} is not there: plug the arm in, or ask lerobot-find-port"
        yield Finding(what="port", ok=plugged, says=says)
    if not hasattr(getattr(robot, "bus", None), "calibration"):
        return  # Its driver has no motors that LeRobot calibrates.
    path = robot.calibration_fpath
    there = path.is_file()
    says = f"{path}" if there else f"{path} is not there: {_calibrate(bench)}"
    yield Finding(what="calibration", ok=there, says=says)
    if there:
        yield from _ranges(bench, robot)
    if look and port is not None and plugged:
        yield from _motors(bench, robot, filed=there)


def _calibrate(bench: Any) -> str:
    from roborl.envs.bench import device_type

    robot = bench.robot
    port = f" --robot.port={robot.port}" if hasattr(robot, "port") else ""
    return f"lerobot-calibrate --robot.type={device_type(robot)}{port} --robot.id={robot.id}"


def _ranges(bench: Any, robot: Any) -> Iterator[Finding]:
    """Yield whether calibration turned each joint from stop to stop: its zero is the middle of what it was turned."""
    from roborl.envs.bench import device_type
    from roborl.envs.robot_model import load_robot_model

    model, whole = load_robot_model(bench.model), _WHOLE_TURNS.get(device_type(bench.robot))
    odd = []
    for joint, low, high in zip(model.joint_names, model.lower, model.upper, strict=True):
        held = getattr(robot, "calibration", {}).get(joint)
        if joint != model.gripper and held is not None:
            turn = robot.bus.model_resolution_table[robot.bus.motors[joint].model] - 1
            more = (held.range_max - held.range_min) * 360 / turn - (high - low)
            if more < -_ODD_DEG or (more > _ODD_DEG and whole is not None and joint not in whole):
                odd.append(f"{joint} by {high - low + more:.0f} of its {high - low:.0f} degrees")
    if odd:
        says = (
            f"turned {', '.join(odd)}: their zero is wrong. Calibrate from stop to stop, each joint in its middle before:"
            f" {_calibrate(bench)}"
        )
        yield Finding(what="joint ranges", ok=False, says=says)


def _motors(bench: Any, robot: Any, *, filed: bool) -> Iterator[Finding]:
    """Ask the motors whether they are there and hold the calibration of the file, where there is one, and where the tip is."""
    from roborl.envs.servos import DEVICE_FAULTS, READ_RETRIES, close_port, diagnosis, steady

    steady(robot)
    positions: dict[str, float] = {}
    try:
        robot.bus.connect()
        calibrated = robot.is_calibrated
        if filed and calibrated:
            positions = robot.bus.sync_read("Present_Position", num_retry=READ_RETRIES)
    except DEVICE_FAULTS as error:
        says = diagnosis(robot) or " ".join(spelt_out(error).split())
        yield Finding(what="motors", ok=False, says=says)
        return
    finally:
        close_port(robot)
    if filed and not calibrated:
        says = f"they hold another calibration than the file: {_calibrate(bench)}, or the id of another arm"
        yield Finding(what="motors", ok=False, says=says)
        return
    yield Finding(
        what="motors",
        ok=True,
        says=f"{len(robot.bus.motors)} answer{', calibrated as the file says' if filed else ''}",
    )
    if positions:
        yield _tip(bench, positions)


def _tip(bench: Any, positions: dict[str, float]) -> Finding:
    """Say where the arm's tip is: led there by hand, the corners of a workspace box can be read off."""
    import numpy as np

    from roborl.envs.kinematics import Kinematics
    from roborl.envs.robot_model import load_robot_model

    model = load_robot_model(bench.model)
    tip = Kinematics(model).position(model.from_features({f"{k}.pos": v for k, v in positions.items()}))
    low, high = np.array(bench.safety.workspace_low_m), np.array(bench.safety.workspace_high_m)
    inside = bool(np.all((low <= tip) & (tip <= high)))
    x, y, z = (round(float(axis), 3) + 0.0 for axis in tip)
    return Finding(
        what="tip",
        ok=True,
        says=f"at x {x:.3f}, y {y:.3f}, z {z:.3f} m, {'in' if inside else 'outside'} the workspace box",
    )


def _shows(camera: str, picture: Image | str, recorded: tuple[int, int]) -> Finding:
    what = f"camera {camera}"
    if isinstance(picture, str):
        return Finding(what=what, ok=False, says=picture)
    height, width = picture.shape[:2]
    says = f"{width} x {height} px, recorded at {recorded[1]} x {recorded[0]}"
    if picture.min() == picture.max():
        return Finding(what=what, ok=False, says=f"{says}; every pixel is the same: is something before it?")
    return Finding(what=what, ok=True, says=says)


def _physical(bench: Any) -> dict[str, Image | str]:
    """Return a picture of each camera while all of them are open, as when an arm is driven; or in words why there is none."""
    from lerobot.cameras.utils import make_cameras_from_configs

    from roborl.envs.cameras import close_after_reading

    configs = bench.robot.cameras
    opened: dict[str, Any] = {}
    seen: dict[str, Image | str] = {}
    for camera, config in configs.items():
        try:
            made = make_cameras_from_configs({camera: config})
            close_after_reading(made)
            made[camera].connect()
            opened[camera] = made[camera]
        except Exception as error:  # a driver is foreign code: whatever it raises, the camera does not answer
            seen[camera] = _silent(configs, camera, error)
    for camera, driver in opened.items():
        try:
            seen[camera] = driver.read()
        except Exception as error:
            seen[camera] = _silent(configs, camera, error)
    for driver in opened.values():
        with contextlib.suppress(Exception):
            driver.disconnect()
    return seen


def _silent(configs: Any, camera: str, error: Exception) -> str:
    says = f"{type(error).__name__}: {error}"
    if len(configs) > 1 and getattr(configs[camera], "fourcc", "MJPG") != "MJPG":
        says += (
            "; if it shows something alone, the cameras together ask too much of one USB hub: set fourcc: MJPG for each of"
            " them, or plug them into hubs of their own"
        )
    return says


def _simulated(bench: Any) -> dict[str, Image | str]:
    from roborl.envs.bench import make_robot

    robot: Any = make_robot(bench)
    try:
        robot.connect()
        try:
            seen: dict[str, Image | str] = robot.get_observation()
        finally:
            robot.disconnect()
    except Exception as error:  # the renderer is foreign code too
        return dict.fromkeys(bench.cameras, f"{type(error).__name__}: {error}")
    return seen


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
