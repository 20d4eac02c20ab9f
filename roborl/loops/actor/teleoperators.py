"""LeRobot's teleoperators, made and connected so that what is amiss is said, and never asked at a terminal that others read."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import signal
from pathlib import Path
from typing import Any

from lerobot.teleoperators.config import TeleoperatorConfig
from lerobot.teleoperators.teleoperator import Teleoperator
from lerobot.utils.import_utils import register_third_party_plugins

from roborl.config import load
from roborl.envs.bench import device_type
from roborl.envs.servos import DEVICE_FAULTS, close_port, diagnosis, other_units, steady
from roborl.errors import ConfigError, RobotError, spelt_out

log = logging.getLogger(__name__)

_DEVICES = ("gamepad", "keyboard", "so_leader", "koch_leader", "omx_leader")
_KEYBOARDS = ("keyboard", "keyboard_ee", "keyboard_rover")


def register_teleoperators() -> None:
    """Make LeRobot's own teleoperators, and those of installed ``lerobot_*`` plug-ins, known by name."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)  # Of a keyboard that LeRobot would read under X, which nothing here uses.
    try:
        for name in _DEVICES:  # Importing a package is what registers its type name.
            importlib.import_module(f"lerobot.teleoperators.{name}")
        register_third_party_plugins()
    finally:
        logging.disable(before)


def teleoperator_types() -> list[str]:
    """Return the types that :func:`make_teleoperator` takes, of those that are known by name."""
    return sorted(set(TeleoperatorConfig.get_known_choices()) - set(_KEYBOARDS))


def read_teleoperator(path: Path) -> Teleoperator:
    """Return the teleoperator that a YAML file describes, not yet connected.

    Raises:
        ConfigError: If the file does not fit, names an unknown device, or its driver is not installed.
    """
    register_teleoperators()
    return make_teleoperator(load(TeleoperatorConfig, path))


def make_teleoperator(config: TeleoperatorConfig) -> Teleoperator:
    """Return the teleoperator of a configuration, not yet connected.

    Raises:
        ConfigError: If it is a keyboard or a gamepad that is not missed, its joints are not in degrees, its driver is not
            installed, its settings do not fit or its calibration file cannot be read.
    """
    # LeRobot 0.6.1 forgets a key that is held whenever it is asked for events, and never forgets one that was let go where
    # it is not: the gripper closes for ever.
    if device_type(config) in _KEYBOARDS:
        raise ConfigError(
            "LeRobot's keyboards do not hold an arm: they forget keys that are held, and hear those of every window",
            seen=device_type(config),
            allowed="a gamepad, or a leader arm of the same kind as the robot",
            remedy="Use one of those; success, failure and stop stay on the terminal's keyboard",
        )
    if getattr(config, "hidapi_fallback", False):
        raise ConfigError(
            "LeRobot's HID gamepads do not stop an arm: one that is pulled out goes on as it was held last",
            seen="hidapi_fallback=true",
            allowed="false: a pad that pygame sees is missed once it is gone",
            remedy="Leave it out",
        )
    if getattr(config, "use_degrees", True) is False:
        raise ConfigError(
            "The teleoperator gives its joints in other units than degrees",
            seen="use_degrees=false",
            allowed="true: the follower would be sent elsewhere than the leader is",
            remedy="Leave it out; the calibration stays",
        )
    if device_type(config) == "gamepad" and importlib.util.find_spec("pygame") is None:
        raise _lacks_driver("gamepad", "no pygame")
    try:
        made: Teleoperator = importlib.import_module(
            "lerobot.teleoperators.utils"
        ).make_teleoperator_from_config(config)
    except Exception as error:  # foreign code, as in roborl.envs.bench.make_robot
        raise ConfigError(
            "The teleoperator cannot be made",
            seen=f"{device_type(config)}: {spelt_out(error)}",
            allowed="a device whose driver is installed, and whose calibration file is whole where it has one",
            remedy="Install what the message names, for a leader arm: pip install 'roborl[so101]'; or calibrate again under"
            f" id {config.id}",
        ) from error
    if odd := other_units(made):
        raise ConfigError(
            "The teleoperator gives its joints in other units than degrees",
            seen=f"{device_type(config)}: {', '.join(f'{name} {unit}' for name, unit in odd.items())}",
            allowed="degrees of every joint but the gripper: the follower would be sent elsewhere than the leader is",
            remedy="Use a gamepad, or a leader arm whose LeRobot driver gives degrees, such as so101_leader",
        )
    return made


def connect_teleoperator(teleoperator: Any) -> None:
    """Connect a teleoperator and read it once. It is never calibrated here: that asks questions at the terminal.

    Args:
        teleoperator: As :func:`make_teleoperator` returns it.

    Raises:
        ConfigError: If it is not calibrated as its file says, or its driver is not installed.
        RobotError: If it does not answer.
    """
    asks = "calibrate" in inspect.signature(teleoperator.connect).parameters
    ends = signal.getsignal(signal.SIGTERM)
    steady(teleoperator)
    try:
        teleoperator.connect(**({"calibrate": False} if asks else {}))
        if getattr(teleoperator, "bus", None) is not None and not teleoperator.is_calibrated:
            raise ConfigError(
                "The teleoperator is not calibrated, or its motors hold another calibration than its file",
                seen=f"{teleoperator.name} with id {teleoperator.id!r}, file {teleoperator.calibration_fpath}",
                allowed="motors that are calibrated as the file says",
                remedy="Give the id that it was calibrated under, or calibrate it: lerobot-calibrate"
                f" --teleop.type={device_type(teleoperator.config)} --teleop.port=PORT --teleop.id=NAME",
            )
        teleoperator.get_action()
    except ConfigError:
        raise
    except ImportError as error:
        raise _lacks_driver(teleoperator.name, spelt_out(error)) from error
    except (
        Exception
    ) as error:  # a driver is foreign code: a gamepad that is not plugged in is an AttributeError
        why = diagnosis(teleoperator)
        close_port(teleoperator)
        raise RobotError(
            f"The teleoperator {teleoperator.name} does not answer",
            seen=why or spelt_out(error),
            allowed="values of its axes or joints",
            remedy="Check that it is plugged in, its port, its cable and its power",
        ) from error
    finally:
        if ends is not None:
            signal.signal(signal.SIGTERM, ends)  # A gamepad's library takes the signal for itself.


def _lacks_driver(name: str, seen: str) -> ConfigError:
    return ConfigError(
        f"The teleoperator {name} lacks its driver",
        seen=seen,
        allowed="a device whose driver is installed",
        remedy="Install what the message names, for a gamepad: pip install 'roborl[gamepad]'",
    )


def check_plugged_in(teleoperator: Any) -> None:
    """Raise if a gamepad was unplugged or switched off since it was connected.

    LeRobot 0.6.1 reads one that is gone as a pad at rest, and does not find it again once it is back. Any other device
    speaks for itself.

    Args:
        teleoperator: Connected, and read just before.

    Raises:
        ConnectionError: If it is gone.
    """
    joystick = getattr(getattr(teleoperator, "gamepad", None), "joystick", None)
    if joystick is None:
        return
    pads = importlib.import_module("pygame").joystick
    own = joystick.get_instance_id()  # Places in the list change with what is plugged in, this number never.
    if not any(pads.Joystick(place).get_instance_id() == own for place in range(pads.get_count())):
        raise ConnectionError("the gamepad was unplugged or switched off")


def disconnect_teleoperator(teleoperator: Any) -> None:
    """Disconnect a teleoperator if it is connected. One that does not answer any more is told of, and its port closed."""
    if not teleoperator.is_connected:
        return
    try:
        teleoperator.disconnect()
    except DEVICE_FAULTS as error:
        close_port(teleoperator)
        log.warning("The teleoperator %s cannot be disconnected: %s", teleoperator.name, spelt_out(error))
