"""The simulated SO-101 as a LeRobot robot: joints and pictures, and nothing else of the scene."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from lerobot.cameras.camera import Camera
from lerobot.cameras.configs import CameraConfig
from lerobot.robots.robot import Robot
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from roborl.envs.config_sim_robot import SimRobotConfig
from roborl.envs.randomisation import Strength
from roborl.envs.robot_model import load_robot_model
from roborl.envs.scene import Scene
from roborl.envs.tasks.registry import make_task
from roborl.errors import ConfigError, RobotError
from roborl.roles import Operator
from roborl.types import Image


class SimCamera(Camera):  # type: ignore[misc]  # LeRobot's base class has no types
    """One camera of a scene, read synchronously."""

    def __init__(self, config: CameraConfig, scene: Scene, name: str) -> None:
        super().__init__(config)
        self._scene, self._name, self._connected = scene, name, False

    @property
    def is_connected(self) -> bool:
        """Whether it may be read."""
        return self._connected

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        """Return an empty list: simulated cameras are not found on a machine."""
        return []

    def connect(self, warmup: bool = True) -> None:
        """Make it readable."""
        self._connected = True

    def read(self) -> Image:
        """Return the present view, uint8 (h, w, 3), owned by the caller.

        Raises:
            RobotError: If it is not connected, or nothing can be drawn on this machine.
        """
        if not self._connected:
            raise RobotError(f"Camera {self._name!r} is not connected", remedy="Connect the robot first")
        return self._scene.render(self._name, self.height, self.width)

    def async_read(self, timeout_ms: float = 200) -> Image:
        """Return :meth:`read`."""
        return self.read()

    def read_latest(self, max_age_ms: int = 500) -> Image:
        """Return :meth:`read`."""
        return self.read()

    def disconnect(self) -> None:
        """Make it unreadable."""
        self._connected = False


class SimBus:
    """The part of a motor bus that LeRobot's tools reach for directly."""

    def __init__(self, robot: SimRobot) -> None:
        self._robot = robot
        self.motors = {
            name: SimpleNamespace(id=i + 1, model="sts3215") for i, name in enumerate(robot.model.joint_names)
        }

    @property
    def is_connected(self) -> bool:
        """Whether the robot is."""
        return self._robot.is_connected

    def sync_read(self, register: str, motors: Any = None, *, num_retry: int = 0) -> dict[str, float]:
        """Return a register of all motors by name.

        Raises:
            RobotError: If the simulation has no such register.
        """
        names = self._robot.model.joint_names
        match register:
            case "Present_Position":
                return dict(zip(names, self._robot.scene.joints().tolist(), strict=True))
            case "Present_Current":
                return dict.fromkeys(names, 0.0)
        raise RobotError(
            "The simulated bus has no such register",
            seen=register,
            allowed=("Present_Position", "Present_Current"),
        )

    def sync_write(self, register: str, values: Mapping[str, float]) -> None:
        """Write goal positions and let one control period pass.

        Raises:
            RobotError: If the simulation has no such register.
        """
        if register != "Goal_Position":
            raise RobotError("The simulated bus has no such register", seen=register, allowed="Goal_Position")
        self._robot.move({f"{name}.pos": float(value) for name, value in values.items()})


class SimRobot(Robot):  # type: ignore[misc]  # LeRobot's base class has no types
    """The simulated SO-101. Time stands still except in ``send_action``, which advances it by one control period.

    Attributes:
        scene: The simulator's truth, for operators, experts and benchmarks. Nothing that acts or judges reads it.
        cameras: Simulated cameras by name.
        bus: Shim for the tools that read and write motors directly.
    """

    config_class = SimRobotConfig
    name = "so101_sim"

    def __init__(self, config: SimRobotConfig) -> None:
        super().__init__(config)
        self.config = config
        self.model = load_robot_model(self.name)
        if config.randomisation not in set(Strength):
            raise ConfigError(
                "There is no such strength of randomisation",
                seen=config.randomisation,
                allowed=[s.value for s in Strength],
                remedy="Set robot.randomisation to one of these",
            )
        self.scene = Scene(
            make_task(config.scene, config.spread_m),
            self.model,
            randomisation=Strength(config.randomisation),
            seed=config.seed,
        )
        known = self.scene.camera_names()
        for name in config.cameras:
            if name not in known:
                raise ConfigError(
                    "The simulated scene has no such camera",
                    seen=name,
                    allowed=known,
                    remedy="Rename or remove it in the bench file",
                )
        self.cameras = {name: SimCamera(camera, self.scene, name) for name, camera in config.cameras.items()}
        self.bus = SimBus(self)
        self._connected = False

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
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        """Always true."""
        return True

    @check_if_already_connected  # type: ignore[untyped-decorator]
    def connect(self, calibrate: bool = True) -> None:
        """Switch on."""
        for camera in self.cameras.values():
            camera.connect()
        self._connected = True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    @check_if_not_connected  # type: ignore[untyped-decorator]
    def get_observation(self) -> dict[str, Any]:
        """Return ``<joint>.pos`` floats and a uint8 (h, w, 3) picture per camera."""
        state = self.model.to_features(self.scene.joints())
        return {**state, **{name: camera.read() for name, camera in self.cameras.items()}}

    @check_if_not_connected  # type: ignore[untyped-decorator]
    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        """Set goal positions, let one control period pass, and return the goals after clipping to the joint limits.

        A joint that ``action`` leaves out keeps its goal.
        """
        return self.move(action)

    def move(self, action: Mapping[str, float]) -> dict[str, float]:
        """Do what ``send_action`` does, for the bus shim too."""
        goal = self.model.to_features(self.scene.commanded()) | {
            key: float(value) for key, value in action.items() if key.endswith(".pos")
        }
        joints = np.clip(self.model.from_features(goal), self.model.lower, self.model.upper)
        self.scene.command(joints)
        self.scene.advance(1.0 / self.config.control_hz)
        return self.model.to_features(joints)

    def disconnect(self) -> None:
        """Switch off and free the renderer. May be called twice."""
        for camera in self.cameras.values():
            camera.disconnect()
        self._connected = False
        self.scene.close()


class SimOperator:
    """Stands for the person at a bench: makes the scene ready and presses the button when the task is done.

    The verdict is the task's sparse success. It is the only thing about the scene that leaves it, besides pictures.
    """

    def __init__(self, robot: SimRobot) -> None:
        self._scene = robot.scene

    def reset(self, seed: int | None) -> None:
        """Draw a new start; equal seeds give equal starts."""
        self._scene.reset(seed)

    def verdict(self) -> bool | None:
        """Return True once the task is done, else None."""
        return True if self._scene.succeeded else None


class PersonInSimulation:
    """A person at a simulated bench, who says when to begin and how it went; it is the simulator that makes scenes ready.

    Args:
        person: Who is asked.
        robot: Whose scene it is.
    """

    def __init__(self, person: Operator, robot: SimRobot) -> None:
        self._person, self._scene = person, robot.scene
        self.verdict = person.verdict

    def reset(self, seed: int | None) -> None:
        """Wait for the person, then draw a new start; equal seeds give equal starts."""
        self._person.reset(seed)
        self._scene.reset(seed)
