"""The device process: reads a person's teleoperator, so that a slow or dying driver never reaches the control loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from roborl.clock import MonotonicClock, Rate
from roborl.errors import ConfigError, RobotError, spelt_out
from roborl.hil.devices import Action, DeltaMap, DeviceReader, LeaderMap
from roborl.hil.keyboard import Listener
from roborl.hil.presses import PressSender
from roborl.hil.supervisor import DeviceReading, InterventionConfig, Trigger
from roborl.loops.actor.act_config import ActConfig, ActSettings, shared_folder
from roborl.loops.actor.inference import await_card
from roborl.loops.actor.shared import ValueSlot
from roborl.loops.actor.status import StatusSlot, on_screen
from roborl.loops.supervise import Child

if TYPE_CHECKING:
    from roborl.envs.bench import Bench

log = logging.getLogger(__name__)

_READ_HZ = 60.0
_SLOT_BYTES = 4096
_COUNT_DEG = 360 / 4096
"""What a Feetech servo's encoder tells apart."""


class ReadingSlot(ValueSlot[DeviceReading]):
    """The newest reading of the device, from this process to control.

    Args:
        folder: Where ``device.slot`` lies.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "device.slot", _SLOT_BYTES, "A reading", _pack, _unpack)


def _pack(reading: DeviceReading) -> dict[str, Any]:
    return {"action": reading.action, "clutch": reading.clutch, "stamp_ns": reading.stamp_ns}


def _unpack(message: dict[str, Any]) -> DeviceReading:
    return DeviceReading(
        action=np.asarray(message["action"], np.float32),
        clutch=bool(message["clutch"]),
        stamp_ns=int(message["stamp_ns"]),
    )


def make_map(bench: Bench, features: Mapping[str, Any]) -> Callable[[Mapping[str, Any], int], Action]:
    """Return what turns the device's values into actions of the bench.

    Args:
        bench: The bench.
        features: The teleoperator's ``action_features``.

    Raises:
        ConfigError: If the device gives nothing that fits the bench's actions.
    """
    from roborl.envs.robot_model import load_robot_model

    model = load_robot_model(bench.model)
    if set(model.position_keys) <= set(features):
        from roborl.envs.bench_maps import action_map

        actions = action_map(bench)
        return LeaderMap(
            model.position_keys,
            actions.executed,
            1.0 / bench.policy_hz,
            gripper=model.gripper_index,
            gripper_step=bench.action.gripper_step,
        )
    if {"delta_x", "delta_y", "delta_z"} <= set(
        features.get("names", ())
    ) and bench.action.kind == "ee_delta":
        return DeltaMap()
    raise ConfigError(
        "This teleoperator does not fit the bench's actions",
        seen=f"{sorted(map(str, features.get('names', features)))} for {bench.action.kind}",
        allowed="delta_x, delta_y, delta_z for ee_delta, or the joints of the bench's own model",
        remedy="Choose a gamepad, or a leader arm of the same kind as the robot",
    )


def check_rest(
    bench: Bench, to_action: Callable[[Mapping[str, Any], int], Action], config: InterventionConfig
) -> None:
    """See whether a leader arm that nobody moves counts as at rest for the motion trigger: its encoders flicker by a count.

    Args:
        bench: The bench.
        to_action: As :func:`make_map` returns it.
        config: When the person commands.

    Raises:
        ConfigError: If its flicker may take over, and the policy would never have the arm.
    """
    if config.trigger is not Trigger.MOTION or not isinstance(to_action, LeaderMap):
        return
    from roborl.envs.bench_maps import action_map
    from roborl.envs.robot_model import load_robot_model

    model, actions = load_robot_model(bench.model), action_map(bench)
    body = [joint for joint in range(len(model.home)) if joint != model.gripper_index]
    counts = _COUNT_DEG * np.eye(len(model.home))[body]
    flicker = sum(np.abs(actions.executed(model.home, model.home + count)) for count in counts)
    needed = math.ceil(100 * float(np.max(flicker))) / 100
    if needed > config.rest:
        raise ConfigError(
            "A leader arm that nobody moves would take over: the flicker of its encoders counts as motion",
            seen=f"intervention.rest {config.rest:g}, of the largest action of this bench",
            allowed=f"a rest of {needed:g} or more: one count of {_COUNT_DEG:.2g} degrees in each joint is as much",
            remedy=f"Set intervention.rest to {needed:g}; or intervention.trigger to clutch, and take over with t on the keyboard",
        )


def make_device(
    bench: Bench, settings: ActSettings
) -> tuple[Any, Callable[[Mapping[str, Any], int], Action]]:
    """Return the device to take over with, not yet connected, and what turns its values into actions of the bench.

    Args:
        bench: The bench.
        settings: Those of its actor, which name a device.

    Raises:
        ConfigError: If its file or its driver is missing, it does not fit the bench, or it would take over while nobody moves
            it.
    """
    from roborl.loops.actor.teleoperators import read_teleoperator

    teleoperator = read_teleoperator(Path(settings.teleop))
    to_action = make_map(bench, teleoperator.action_features)
    check_rest(bench, to_action, settings.intervention)
    return teleoperator, to_action


def require_device(bench: Bench, settings: ActSettings) -> None:
    """See whether the device to take over with can be used and is plugged in, before minutes of preparation.

    A gamepad is looked for only as it is connected.

    Args:
        bench: The bench.
        settings: Those of its actor; without a device, nothing is asked.

    Raises:
        ConfigError: If its serial port is not there, or as :func:`make_device` says.
    """
    if not settings.teleop:
        return
    from roborl.envs.devices import missing_port

    teleoperator, _ = make_device(bench, settings)
    if port := missing_port(teleoperator.config):
        raise ConfigError(
            "The device to take over with is not there",
            seen=f"port {port}",
            allowed="the path of a device that is plugged in",
            remedy=f"Plug it in, or correct port in {settings.teleop}: lerobot-find-port finds it",
        )


def warn_without_clutch(teleoperator: Any, trigger: Trigger) -> None:
    """Say how to take over where the clutch is to do it and the device has none, as LeRobot's leader arms."""
    if trigger is Trigger.CLUTCH and not hasattr(teleoperator, "get_teleop_events"):
        log.warning(
            "The teleoperator %s has no clutch: press t to take over and g to give back, or set intervention.trigger to motion",
            teleoperator.name,
        )


def main(child: Child, config: ActConfig) -> None:
    """Read the device until stopped.

    Raises:
        ConfigError: If the device does not fit the bench or would take over while nobody moves it, or the bench is another than
            the control process has.
        RobotError: If it cannot be reached; once it has been, the supervisor tries again.
    """
    began = time.monotonic()
    from roborl.envs.bench import load_bench
    from roborl.envs.servos import DEVICE_FAULTS
    from roborl.loops.actor.teleoperators import (
        check_plugged_in,
        connect_teleoperator,
        disconnect_teleoperator,
    )
    from roborl.loops.bench_scales import scales

    bench = load_bench(config.bench, config.bench_overrides, config.plugins)
    teleoperator, to_action = make_device(bench, config)
    warn_without_clutch(teleoperator, config.intervention.trigger)
    import_s = time.monotonic() - began
    folder = shared_folder(config.run, config.actor)
    card = await_card(folder, child)
    if card is None:
        return
    replace(card, policy_hz=bench.policy_hz, scales=asdict(scales(bench))).check_restart(folder)
    slot, control = ReadingSlot(folder), StatusSlot(folder, "control")
    listener = Listener(
        sender=PressSender(folder, teleoperator.name), on_screen=partial(on_screen, control, config.actor)
    )
    clock = MonotonicClock()
    reader, rate = DeviceReader(teleoperator, to_action, clock), Rate(_READ_HZ, clock)
    try:
        connect_teleoperator(teleoperator)
        child.ready(import_s)
        while not child.stopping:
            reading, buttons = reader.read()
            check_plugged_in(teleoperator)
            slot.publish(reading)
            for button in buttons:
                if not listener.hear(button):
                    log.warning(
                        "%s is lost: the arm's process reads no presses. Press again once it does",
                        button.value,
                    )
            child.beat()
            rate.wait()
    except DEVICE_FAULTS as error:
        raise RobotError(
            f"The teleoperator {teleoperator.name} failed",
            seen=spelt_out(error),
            remedy="Check its cable and its power",
        ) from error
    finally:
        disconnect_teleoperator(teleoperator)
