"""What can be said of a physical bench's devices without opening any: whether they are plugged in, and the arm will hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roborl.envs.bench import Bench, device_type
from roborl.envs.robot_model import load_robot_model
from roborl.envs.servos import other_units
from roborl.errors import ConfigError

_FINDERS = {"port": "lerobot-find-port", "camera": "lerobot-find-cameras opencv"}


def missing_port(config: Any) -> Path | None:
    """Return the path of a robot's or teleoperator's serial port where it is not there; None where it is, or there is none."""
    port = getattr(config, "port", None)
    return Path(port) if isinstance(port, str | Path) and not Path(port).exists() else None


def missing_devices(bench: Bench) -> Iterator[tuple[str, Path]]:
    """Yield "port" or "camera" and the path of each device that is not there; a camera given by number has no path."""
    if port := missing_port(bench.robot):
        yield "port", port
    cameras = getattr(bench.robot, "cameras", {})
    for name in bench.cameras:
        place = getattr(cameras[name], "index_or_path", None)
        if isinstance(place, str | Path) and not str(place).isdecimal() and not Path(place).exists():
            yield "camera", Path(place)


def require_devices(bench: Bench) -> None:
    """See whether the devices of a physical bench are there, before minutes of preparation.

    Raises:
        ConfigError: If one is not.
    """
    missing = [] if bench.simulated else list(missing_devices(bench))
    if missing:
        raise ConfigError(
            "Devices of the bench are not there",
            seen=", ".join(f"{kind} {path}" for kind, path in missing),
            allowed="paths of devices that are plugged in",
            remedy=f"Plug them in, or find them: {', '.join(_FINDERS[kind] for kind in dict(missing))}",
        )


def require_hold(bench: Bench) -> None:
    """See whether the arm of a physical bench holds its pose once it is disconnected, before it is connected.

    Raises:
        ConfigError: If its servos would be switched off, which is LeRobot's default.
    """
    if not bench.simulated and getattr(bench.robot, "disable_torque_on_disconnect", False):
        raise ConfigError(
            "The arm would drop at the end of every command, and in mid-air where a camera or the arm stalls and is connected"
            " anew",
            seen="robot.disable_torque_on_disconnect=true, LeRobot's default",
            allowed="false: the servos hold the arm's pose after every stop and every command",
            remedy="Set disable_torque_on_disconnect: false under robot in the bench file; to let the arm go, support it and"
            " switch its power off",
        )


def require_degrees(bench: Bench, robot: Any) -> None:
    """See whether the motors of a bench's robot count in degrees, whatever its configuration can say of that.

    Raises:
        ConfigError: If a joint of the model, other than its gripper, has another unit.
    """
    model = load_robot_model(bench.model)
    body = set(model.joint_names) - {model.gripper}
    if odd := {joint: unit for joint, unit in other_units(robot).items() if joint in body}:
        raise ConfigError(
            "The robot gives its joints in other units than degrees",
            seen=f"{device_type(bench.robot)}: {', '.join(f'{joint} {unit}' for joint, unit in odd.items())}",
            allowed="degrees of every joint but the gripper: limits, workspace and inverse kinematics count in them",
            remedy="Let its driver give its motors LeRobot's norm mode DEGREES; the calibration stays",
        )
