"""What every simulated task is, and the building blocks they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from roborl.envs.kinematics import Point

if TYPE_CHECKING:
    from roborl.envs.scene import Scene

CUBE_HALF_M = 0.013
RED, BLUE, YELLOW, PURPLE = (0.86, 0.10, 0.09), (0.10, 0.28, 0.86), (0.95, 0.78, 0.10), (0.50, 0.18, 0.62)
GREEN = (0.16, 0.62, 0.30)

_AREA_LOW, _AREA_HIGH = np.array([0.15, -0.11]), np.array([0.30, 0.11])
_PAN_AXIS = np.array([0.0388, 0.0])
_REACH_M = 0.252
_SOLID = {
    "contype": 1,
    "conaffinity": 1,
    "condim": 4,
    "friction": [1.0, 0.01, 0.0001],
    "solref": [0.01, 1.0],
    "solimp": [0.95, 0.99, 0.001, 0.5, 2.0],
    "group": 1,
}


class Task(ABC):
    """Objects, starts, condition and progress of one task.

    Attributes:
        name: As in the Gymnasium id.
        instruction: The task in words.
        stages: What a person would call its parts, in order.
        stage_ends: Privileged progress at the end of each stage; the last is 1.
        max_steps: Time limit in policy steps at 10 Hz.
        usual: Where on the table the bodies that matter usually stand, (x, y) m by name; empty where a task has no such places.
        spread_m: How far along either axis a start may be from the usual place; None: anywhere in the arm's reach.
    """

    name: str
    instruction: str
    stages: tuple[str, ...]
    stage_ends: tuple[float, ...]
    max_steps: int
    usual: Mapping[str, tuple[float, float]] = MappingProxyType({})
    spread_m: float | None = None

    @abstractmethod
    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the task's bodies to a scene that holds the arm and the table."""

    @abstractmethod
    def place(self, scene: Scene, rng: np.random.Generator) -> None:
        """Put the bodies at a random start."""

    def begin(self, scene: Scene) -> None:  # noqa: B027  (a task may have nothing to remember)
        """Take from the start what progress is measured against."""

    def around(self, *bodies: str) -> tuple[tuple[float, float] | None, ...]:
        """Return the usual place of each body where starts are bound to it, else None: for :func:`scatter`."""
        return tuple(self.usual.get(body) if self.spread_m is not None else None for body in bodies)

    @abstractmethod
    def satisfied(self, scene: Scene) -> bool:
        """Return whether the task's condition holds at this instant."""

    @abstractmethod
    def measure(self, scene: Scene) -> tuple[int, float]:
        """Return the present stage and how far it has come, [0, 1]."""


def add_box(
    spec: mujoco.MjSpec,
    name: str,
    half_size_m: Sequence[float],
    rgb: Sequence[float],
    *,
    mass_kg: float = 0.03,
) -> None:
    """Add a free box."""
    body = spec.worldbody.add_body(name=name, pos=[0.2, 0.0, half_size_m[2]])
    body.add_freejoint()
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=list(half_size_m),
        rgba=[*rgb, 1.0],
        mass=mass_kg,
        **_SOLID,
    )


def add_cylinder(
    spec: mujoco.MjSpec, name: str, radius_m: float, half_m: float, rgb: Sequence[float]
) -> None:
    """Add a free upright cylinder."""
    body = spec.worldbody.add_body(name=name, pos=[0.2, 0.0, half_m])
    body.add_freejoint()
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[radius_m, half_m, 0.0],
        rgba=[*rgb, 1.0],
        mass=0.03,
        **_SOLID,
    )


def add_pad(spec: mujoco.MjSpec, name: str, half_m: float, rgb: Sequence[float]) -> None:
    """Add a square mark on the table: a coloured border around a paler inside, nothing to bump into."""
    body = spec.worldbody.add_body(name=name, pos=[0.25, 0.0, 0.0])
    pale = [0.55 + 0.45 * c for c in rgb]
    for half, height, colour in ((half_m, 0.0006, rgb), (0.72 * half_m, 0.0010, pale)):
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[half, half, height],
            rgba=[*colour, 1.0],
            contype=0,
            conaffinity=0,
            group=1,
        )


def add_wall(
    body: mujoco.MjsBody, position: Sequence[float], half_size_m: Sequence[float], rgb: Sequence[float]
) -> None:
    """Add a solid box to a fixed body."""
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, pos=list(position), size=list(half_size_m), rgba=[*rgb, 1.0], **_SOLID
    )


def scatter(
    rng: np.random.Generator,
    clearances_m: Sequence[float],
    *,
    avoid: NDArray[np.float64] | None = None,
    avoid_m: float = 0.0,
    farthest_m: float = _REACH_M,
    around: Sequence[tuple[float, float] | None] = (),
    spread_m: float | None = None,
) -> list[NDArray[np.float64]]:
    """Draw points on the part of the table that the arm reaches, apart from one another.

    Args:
        rng: Source of chance.
        clearances_m: Radius kept free around each point; two points are at least the sum of theirs apart.
        avoid: A further point to keep away from.
        avoid_m: By how much.
        farthest_m: Greatest distance from the arm's first axis.
        around: For the first points, a place to stay near, or None for anywhere in reach.
        spread_m: How near, along either axis; needed where a place is given.

    Returns:
        One (x, y) per clearance, metres.
    """
    while True:
        points: list[NDArray[np.float64]] = []
        for index, clearance in enumerate(clearances_m):
            place = around[index] if index < len(around) else None
            low, high = (
                (_AREA_LOW, _AREA_HIGH)
                if place is None
                else (np.subtract(place, spread_m or 0.0), np.add(place, spread_m or 0.0))
            )
            for _ in range(60):
                point = rng.uniform(low, high)
                apart = all(
                    np.linalg.norm(point - other) > clearance + c
                    for other, c in zip(points, clearances_m, strict=False)
                )
                clear = avoid is None or np.linalg.norm(point - avoid[:2]) > avoid_m
                if apart and clear and np.linalg.norm(point - _PAN_AXIS) < farthest_m:
                    points.append(point)
                    break
            else:
                break
        if len(points) == len(clearances_m):
            return points


def reachable(point: NDArray[np.float64]) -> bool:
    """Return whether the fingers can stand upright on a table point."""
    inside = bool(np.all(point > (0.13, -0.15)) and np.all(point < (0.31, 0.15)))
    return inside and bool(np.linalg.norm(point - _PAN_AXIS) < _REACH_M)


def on_table(point: NDArray[np.float64], height_m: float) -> Point:
    """Return the table point raised to ``height_m``."""
    return np.array([point[0], point[1], height_m])


def facing(point: NDArray[np.float64]) -> float:
    """Return the yaw, rad, at which a box at ``point`` lies square to the fingers that come for it."""
    return float(np.arctan2(point[1] - _PAN_AXIS[1], point[0] - _PAN_AXIS[0]))


def closing(distance: float, initial: float) -> float:
    """Return how much of an initial distance is covered, [0, 1]."""
    return min(1.0, max(0.0, 1.0 - distance / max(initial, 1e-6)))
