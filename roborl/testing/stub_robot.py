"""A robot without hardware or physics whose faults are scripted: for tests of everything that drives a robot."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from lerobot.cameras.configs import CameraConfig
from lerobot.robots.robot import Robot

from roborl.envs.robot_model import Joints, load_robot_model
from roborl.testing.config_stub_robot import StubRobotConfig
from roborl.types import Image


class Fault(StrEnum):
    """What can go wrong.

    SLOW_CAMERA delivers frames that are ever older. FROZEN_CAMERA repeats its last frame with fresh stamps. DEAD_CAMERA
    raises. SLOW_BUS answers late. BUS_TIMEOUT raises on every read and write. BUS_HICCUP raises once. LOST_JOINT answers in time
    with a joint that is no number.
    """

    SLOW_CAMERA = "slow_camera"
    FROZEN_CAMERA = "frozen_camera"
    DEAD_CAMERA = "dead_camera"
    SLOW_BUS = "slow_bus"
    BUS_TIMEOUT = "bus_timeout"
    BUS_HICCUP = "bus_hiccup"
    LOST_JOINT = "lost_joint"


class StubCamera:
    """Pictures that change with the arm's pose and carry a little noise, like a real one's.

    Attributes:
        latest_timestamp: Capture instant of the newest frame on ``time.perf_counter``, as LeRobot's cameras keep it.
    """

    def __init__(self, config: CameraConfig, robot: StubRobot, seed: int) -> None:
        self.width, self.height, self.fps = config.width, config.height, config.fps
        self._robot, self._rng = robot, np.random.default_rng(seed)
        self._last: Image | None = None
        self.latest_timestamp: float | None = None
        self.is_connected = False

    def connect(self, warmup: bool = True) -> None:
        """Switch on."""
        self.is_connected = True

    def disconnect(self) -> None:
        """Switch off."""
        self.is_connected = False

    def read_latest(self, max_age_ms: int = 500) -> Image:
        """Return the newest frame, uint8 (h, w, 3).

        Raises:
            TimeoutError: When it is dead.
        """
        robot = self._robot
        if robot.faulty(Fault.DEAD_CAMERA):
            raise TimeoutError("no frame from the camera")
        slow = robot.faulty(Fault.SLOW_CAMERA)
        if self._last is not None and (slow or robot.faulty(Fault.FROZEN_CAMERA)):
            if not slow:
                self.latest_timestamp = time.perf_counter()
            return self._last
        shade = int(robot.joints[:5].sum()) % 200
        noise = self._rng.integers(0, 8, (self.height, self.width, 3), dtype=np.uint8)
        self._last = (noise + shade).astype(np.uint8)
        self.latest_timestamp = time.perf_counter()
        return self._last


class _StubBus:
    def __init__(self, robot: StubRobot) -> None:
        self._robot = robot
        self.motors = {name: SimpleNamespace(id=i + 1) for i, name in enumerate(robot.model.joint_names)}
        self.is_connected = False

    def sync_read(self, register: str, motors: Any = None, *, num_retry: int = 0) -> dict[str, float]:
        self._robot.answer()
        return dict(zip(self._robot.model.joint_names, self._robot.reported().tolist(), strict=True))


class StubRobot(Robot):  # type: ignore[misc]  # LeRobot's base class has no types
    """Goes at once where it is told, until its fault comes.

    Args:
        config: Its fault and cameras.
        sleep: What a slow bus spends its time with.

    Attributes:
        joints: Where it is, (n,).
        sent: Every joint vector it was told, for tests to look at.
    """

    config_class = StubRobotConfig
    name = "stub"

    def __init__(self, config: StubRobotConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(config)
        self._sleep = sleep
        self.config = config
        self.model = load_robot_model(config.model)
        self.joints = self.model.home.copy()
        self.sent: list[Joints] = []
        self.cameras = {
            name: StubCamera(camera, self, seed) for seed, (name, camera) in enumerate(config.cameras.items())
        }
        self.bus = _StubBus(self)
        self._fault = Fault(config.fault) if config.fault else None

    @property
    def observation_features(self) -> dict[str, Any]:
        """Joint positions and cameras."""
        pictures = {name: (camera.height, camera.width, 3) for name, camera in self.cameras.items()}
        return {**self.action_features, **pictures}

    @property
    def action_features(self) -> dict[str, Any]:
        """Joint positions."""
        return dict.fromkeys(self.model.position_keys, float)

    @property
    def is_connected(self) -> bool:
        """Whether ``connect`` was called."""
        return self.bus.is_connected

    @property
    def is_calibrated(self) -> bool:
        """Always true."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Switch on."""
        self.bus.is_connected = True
        for camera in self.cameras.values():
            camera.connect()

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def faulty(self, fault: Fault) -> bool:
        """Return whether a fault is upon it now."""
        return self._fault is fault and len(self.sent) >= self.config.fault_after

    def answer(self) -> None:
        """Answer as the bus does now: at once, late, or not at all.

        Raises:
            ConnectionError: When the bus is silent.
        """
        if self.faulty(Fault.SLOW_BUS):
            self._sleep(self.config.slow_s)
        if self.faulty(Fault.BUS_TIMEOUT):
            raise ConnectionError("no status packet from the motors")
        if self.faulty(Fault.BUS_HICCUP):
            self._fault = None
            raise ConnectionError("incorrect status packet")

    def reported(self) -> Joints:
        """Return where it says it is, (n,)."""
        joints = self.joints.copy()
        if self.faulty(Fault.LOST_JOINT):
            joints[0] = np.nan
        return joints

    def get_observation(self) -> dict[str, Any]:
        """Return joint positions and frames.

        Raises:
            ConnectionError: When the bus is silent.
            TimeoutError: When a camera is dead.
        """
        self.answer()
        pictures = {name: camera.read_latest() for name, camera in self.cameras.items()}
        return {**self.model.to_features(self.reported()), **pictures}

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        """Go there.

        Raises:
            ConnectionError: When the bus is silent.
        """
        self.answer()
        self.joints = self.model.from_features(action)
        self.sent.append(self.joints.copy())
        return dict(action)

    def disconnect(self) -> None:
        """Switch off."""
        self.bus.is_connected = False
        for camera in self.cameras.values():
            camera.disconnect()
