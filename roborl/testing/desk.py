"""An emulated SO-101 on a desk: its port, its calibration, and a copy of ``so101_desk.yaml`` that is wired to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import yaml

from roborl.envs.robot_model import Joints, load_robot_model
from roborl.paths import bench_file
from roborl.testing.config_noise_camera import NoiseCameraConfig
from roborl.testing.servo_chain import ServoChain

CAMERA_TYPE = NoiseCameraConfig.get_choice_name(NoiseCameraConfig)
_TURN = 4095
# A magnet is never glued on in the middle, and the limits of an arm are no round numbers.
_OFFSETS = (-37, 512, -801, 64, 1033, -250)
_GRIPPER_RANGE = (1490, 2890)


class DeskArm:
    """One arm of the desk, follower or leader, calibrated.

    Args:
        folder: Where its port appears and its calibration file lies.
        name: Of its port and of its calibration.
        clock_s: The clock that its servos move by; by default that on the wall.
        byte_s: How long a byte takes on its bus.
        speed_per_s: Steps that its servos turn in a second; 0: they turn only as they are placed.

    Attributes:
        chain: Its servos.
        model: What an SO-101 is.
        id: Its name, as in LeRobot's configurations.
        calibration: Its file.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "desk",
        *,
        clock_s: Callable[[], float] | None = None,
        byte_s: float = 0.0,
        speed_per_s: float = 3000.0,
    ) -> None:
        self.model, self.id = load_robot_model("so101_sim"), name
        self.chain = ServoChain(
            folder / f"tty-{name}",
            self.model.joint_names,
            now_s=clock_s or time.monotonic,
            byte_s=byte_s,
            speed_per_s=speed_per_s,
        )
        self.calibration = folder / "calibration" / f"{name}.json"
        self.calibrate()
        self.place(self.model.home)

    def __enter__(self) -> Self:
        self.chain.plug_in()
        return self

    def __exit__(self, *_: object) -> None:
        self.chain.unplug()

    def calibrate(self) -> None:
        """Write its calibration into its servos and its file, as LeRobot does: ranges as wide as the model's joints."""
        held = {}
        ranges = zip(self.chain.servos.items(), self.model.lower, self.model.upper, _OFFSETS, strict=True)
        for (name, servo), low, high, offset in ranges:
            half = round((high - low) / 2 * _TURN / 360)
            span = (_TURN // 2 - half, _TURN // 2 + half)
            span = _GRIPPER_RANGE if name == self.model.gripper else span
            span = (0, _TURN) if name == "wrist_roll" else span
            entry = {"homing_offset": offset, "range_min": span[0], "range_max": span[1]}
            servo.keep("Homing_Offset", offset)
            servo.keep("Min_Position_Limit", span[0])
            servo.keep("Max_Position_Limit", span[1])
            held[name] = {"id": servo.id, "drive_mode": 0, **entry}
        self.calibration.parent.mkdir(parents=True, exist_ok=True)
        self.calibration.write_text(json.dumps(held))

    def place(self, joints: Joints) -> None:
        """Turn all joints by hand, (n,), in LeRobot's units."""
        for name, steps in self.steps(joints).items():
            self.chain.servos[name].place(steps)

    def steps(self, joints: Joints) -> dict[str, int]:
        """Return the servos' positions, in steps as they report them, at which the joints stand at ``joints``, (n,)."""
        steps = {}
        for (name, servo), value in zip(self.chain.servos.items(), joints, strict=True):
            low, high = servo["Min_Position_Limit"], servo["Max_Position_Limit"]
            middle = (low + high) / 2 + value * _TURN / 360
            steps[name] = round(low + value / 100 * (high - low) if name == self.model.gripper else middle)
        return steps

    def joints(self) -> Joints:
        """Return where it really stands, (n,), in LeRobot's units."""
        return self._from_steps(self.chain.positions())

    def goals(self) -> Joints:
        """Return where its servos turn to, (n,), in LeRobot's units: a joint without torque to where it stands."""
        driven = {name: servo.driven_to for name, servo in self.chain.servos.items()}
        there = self.chain.positions()
        return self._from_steps(
            {name: there[name] if goal is None else goal for name, goal in driven.items()}
        )

    def _from_steps(self, steps: Mapping[str, int]) -> Joints:
        values = {}
        for name, servo in self.chain.servos.items():
            low, high = servo["Min_Position_Limit"], servo["Max_Position_Limit"]
            share = (steps[name] - low) / (high - low)
            values[f"{name}.pos"] = (
                100 * share if name == self.model.gripper else (steps[name] - (low + high) / 2) * 360 / _TURN
            )
        return self.model.from_features(values)

    def let_hold(self) -> None:
        """Put its torque on where it stands, as an earlier process left it."""
        for servo in self.chain.servos.values():
            servo.hold()

    @property
    def holds(self) -> list[bool]:
        """Whether each of its servos has torque now."""
        return [bool(servo["Torque_Enable"]) for servo in self.chain.servos.values()]

    def bench(
        self,
        *,
        cameras: Mapping[str, Mapping[str, object]] | None = None,
        fields: Mapping[str, object] | None = None,
        **changes: object,
    ) -> Path:
        """Copy ``so101_desk.yaml`` beside the calibration, wired to this arm; return the copy.

        Args:
            cameras: LeRobot's configuration of each camera, recorded at its own size; by default two of noise.
            fields: Fields of the bench that are set otherwise.
            **changes: Fields of the robot that are set otherwise.
        """
        wired = yaml.safe_load(bench_file("so101_desk").read_text())
        noise = {"type": CAMERA_TYPE, "width": 64, "height": 48, "fps": 30}
        given = cameras or dict.fromkeys(wired["cameras"], noise)
        folder = self.calibration.parent
        wired["robot"].update(port=str(self.chain.port), id=self.id, calibration_dir=str(folder))
        wired["robot"].update(changes)
        wired["robot"]["cameras"] = {name: dict(config) for name, config in given.items()}
        wired["cameras"] = {
            name: {"height_px": config["height"], "width_px": config["width"]}
            for name, config in given.items()
        }
        wired.update(fields or {})
        path = folder.parent / f"bench-{self.id}.yaml"
        path.write_text(yaml.safe_dump(wired))
        return path
