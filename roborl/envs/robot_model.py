"""What a robot is: joints, limits, home pose and serial chain, read from ``robots/<name>/robot.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from roborl.errors import ConfigError
from roborl.paths import robot_folder

type Joints = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotModel:
    """Joints and serial chain of one kind of robot.

    All joint vectors of the project hold the joints in the order of ``joint_names``, in LeRobot's units: degrees, and
    0 to 100 for the gripper.

    Attributes:
        name: Name of its folder under ``robots/``.
        joint_names: All joints, gripper included, (n,).
        lower: Lower limits, (n,).
        upper: Upper limits, (n,).
        home: Where an episode starts, (n,).
        max_velocity: Largest speed of a set-point, units per second, (n,).
        max_acceleration: Largest change of that speed, units per second squared, (n,).
        gripper: Name of the joint that opens and closes.
        chain_joints: Index into ``joint_names`` of each joint of the chain, base first, (k,).
        chain_offsets_m: Shift before each joint in its parent's frame, (k, 3).
        chain_axes: Unit axis of each joint, (k, 3).
        tool_offset_m: End effector in the last link's frame, (3,).
        tool_approach: Direction the fingers point in the last link's frame, (3,).
    """

    name: str
    joint_names: tuple[str, ...]
    lower: Joints
    upper: Joints
    home: Joints
    max_velocity: Joints
    max_acceleration: Joints
    gripper: str
    chain_joints: NDArray[np.intp]
    chain_offsets_m: NDArray[np.float64]
    chain_axes: NDArray[np.float64]
    tool_offset_m: NDArray[np.float64]
    tool_approach: NDArray[np.float64]

    @property
    def gripper_index(self) -> int:
        """Index of the gripper among the joints."""
        return self.joint_names.index(self.gripper)

    @property
    def reach_m(self) -> float:
        """How far from the base frame's origin the end effector is at the most: all of the chain in one line."""
        return float(np.linalg.norm([*self.chain_offsets_m, self.tool_offset_m], axis=1).sum())

    @property
    def position_keys(self) -> tuple[str, ...]:
        """LeRobot's feature names, ``<joint>.pos``."""
        return tuple(f"{name}.pos" for name in self.joint_names)

    def from_features(self, features: Mapping[str, Any]) -> Joints:
        """Read the joint vector out of a LeRobot observation or action.

        Raises:
            ConfigError: If a joint is missing, with the names that are there.
        """
        try:
            return np.array([features[key] for key in self.position_keys], dtype=np.float64)
        except KeyError as error:
            raise ConfigError(
                f"The robot does not report a joint of model {self.name!r}",
                seen=sorted(map(str, features)),
                allowed=self.position_keys,
                remedy="Name the robot's own model in the bench file",
            ) from error

    def to_features(self, joints: Joints) -> dict[str, float]:
        """Return the joint vector as a LeRobot action."""
        return dict(zip(self.position_keys, joints.tolist(), strict=True))


def load_robot_model(name: str) -> RobotModel:
    """Read ``robots/<name>/robot.yaml``, or that of the folder that ``name`` is the path of.

    Raises:
        ConfigError: If the folder is missing or a field does not fit.
    """
    path = robot_folder(name) / "robot.yaml"
    try:
        raw = yaml.safe_load(path.read_text())
        joints, chain = raw["joints"], raw["chain"]
        names = tuple(joints)
        model = RobotModel(
            name=raw["name"],
            joint_names=names,
            lower=_column(joints, "limits")[:, 0],
            upper=_column(joints, "limits")[:, 1],
            home=_column(joints, "home"),
            max_velocity=_column(joints, "max_velocity_per_s"),
            max_acceleration=_column(joints, "max_acceleration_per_s2"),
            gripper=raw["gripper"],
            chain_joints=np.array([names.index(link["joint"]) for link in chain]),
            chain_offsets_m=np.array([link["offset_m"] for link in chain], dtype=np.float64),
            chain_axes=np.array([link["axis"] for link in chain], dtype=np.float64),
            tool_offset_m=np.array(raw["tool"]["offset_m"], dtype=np.float64),
            tool_approach=np.array(raw["tool"]["approach"], dtype=np.float64),
        )
    except (KeyError, TypeError, ValueError, IndexError, yaml.YAMLError) as error:
        raise ConfigError(
            "A robot description cannot be read",
            seen=f"{path}: {type(error).__name__}: {error}",
            allowed="joints, gripper, chain and tool as in robots/so101_sim/robot.yaml",
            remedy="Correct the file",
        ) from error
    if not (np.all(model.lower <= model.home) and np.all(model.home <= model.upper)):
        raise ConfigError(
            "A robot's home pose lies outside its joint limits",
            seen=dict(zip(names, model.home.tolist(), strict=True)),
            allowed=list(zip(model.lower.tolist(), model.upper.tolist(), strict=True)),
            remedy=f"Correct {path}",
        )
    for field, values in (
        ("max_velocity_per_s", model.max_velocity),
        ("max_acceleration_per_s2", model.max_acceleration),
    ):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ConfigError(
                f"A joint's {field} is out of range",
                seen=dict(zip(names, values.tolist(), strict=True)),
                allowed="finite and above 0, also for a joint that no action turns",
                remedy=f"Correct {path}",
            )
    lengths = np.linalg.norm([*model.chain_axes, model.tool_approach], axis=1)
    if not np.allclose(lengths, 1.0, atol=1e-3):
        raise ConfigError(
            "A robot's chain has an axis that is no unit vector",
            seen=[*model.chain_axes.tolist(), model.tool_approach.tolist()],
            allowed="vectors of length 1: the axis of each link, and the tool's approach",
            remedy=f"Correct {path}",
        )
    return model


def _column(joints: Mapping[str, Mapping[str, Any]], field: str) -> NDArray[np.float64]:
    return np.array([joint[field] for joint in joints.values()], dtype=np.float64)
