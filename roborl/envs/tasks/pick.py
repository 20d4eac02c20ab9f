"""PickCube-v0 and PickPlace-v0: lift the red cube; carry it to the green pad and leave it there."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from roborl.envs.tasks.base import (
    BLUE,
    CUBE_HALF_M,
    GREEN,
    RED,
    Task,
    add_box,
    add_pad,
    closing,
    facing,
    on_table,
    scatter,
)

if TYPE_CHECKING:
    from roborl.envs.scene import Scene

LIFTED_M = 0.04
CARRY_M = 0.045
PAD_HALF_M = 0.04
INSIDE_M = 0.03
_AT_CUBE_M = 0.014
_YAW_SPREAD_RAD = 0.35


class PickCube(Task):
    """Lift the red cube 4 cm; a blue one is there to be left alone."""

    name = "PickCube"
    instruction = "pick up the red cube"
    stages: tuple[str, ...] = ("reach for the red cube", "grasp the red cube", "lift the red cube")
    stage_ends: tuple[float, ...] = (0.45, 0.6, 1.0)
    max_steps = 40
    cube, distractor = "red_cube", "blue_cube"
    usual: Mapping[str, tuple[float, float]] = MappingProxyType({"red_cube": (0.215, -0.055)})

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the cubes."""
        add_box(spec, self.cube, [CUBE_HALF_M] * 3, RED)
        add_box(spec, self.distractor, [CUBE_HALF_M] * 3, BLUE)

    def place(self, scene: Scene, rng: np.random.Generator) -> None:
        """Put the cubes apart from each other, roughly square to the arm."""
        points = scatter(rng, (0.035, 0.035), around=self.around(self.cube), spread_m=self.spread_m)
        self._put_cubes(scene, rng, points)

    def _put_cubes(self, scene: Scene, rng: np.random.Generator, points: list[NDArray[np.float64]]) -> None:
        for name, point in zip((self.cube, self.distractor), points, strict=True):
            yaw = facing(point) + rng.uniform(-_YAW_SPREAD_RAD, _YAW_SPREAD_RAD)
            scene.place(name, on_table(point, CUBE_HALF_M), yaw)

    def begin(self, scene: Scene) -> None:
        """Remember the first distance."""
        self._reach_m = self._distance(scene)

    def satisfied(self, scene: Scene) -> bool:
        """Return whether the cube is held at least 4 cm up."""
        return self._height(scene) > LIFTED_M and scene.grasped(self.cube)

    def measure(self, scene: Scene) -> tuple[int, float]:
        """Return reach, grasp or lift and how far it has come."""
        if scene.grasped(self.cube):
            return 2, self._height(scene) / LIFTED_M
        return self._approach(scene)

    def _approach(self, scene: Scene) -> tuple[int, float]:
        distance = self._distance(scene)
        if distance < _AT_CUBE_M:
            return 1, (100.0 - scene.opening()) / 55.0
        return 0, closing(distance - _AT_CUBE_M, self._reach_m)

    def _distance(self, scene: Scene) -> float:
        return float(np.linalg.norm(scene.tool() - scene.position(self.cube)))

    def _height(self, scene: Scene) -> float:
        return float(scene.position(self.cube)[2]) - CUBE_HALF_M


class PickPlace(PickCube):
    """Carry the red cube to the green pad, put it down inside and let go; a blue cube is there to be left alone."""

    name = "PickPlace"
    instruction = "put the red cube on the green pad"
    stages = ("reach for the red cube", "grasp the red cube", "carry it to the pad", "place it on the pad")
    stage_ends = (0.3, 0.4, 0.8, 1.0)
    max_steps = 60
    pad = "green_pad"
    usual = MappingProxyType({"red_cube": (0.215, -0.055), "green_pad": (0.235, 0.065)})

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add cubes and pad."""
        super().build(spec)
        add_pad(spec, self.pad, PAD_HALF_M, GREEN)

    def place(self, scene: Scene, rng: np.random.Generator) -> None:
        """Put cubes and pad apart from one another, anywhere the arm reaches."""
        near = self.around(self.pad, self.cube)
        pad, cube, other = scatter(rng, (0.055, 0.035, 0.03), around=near, spread_m=self.spread_m)
        scene.place(self.pad, on_table(pad, 0.0))
        self._put_cubes(scene, rng, [cube, other])

    def begin(self, scene: Scene) -> None:
        """Remember both first distances."""
        super().begin(scene)
        self._carry_m = self._to_pad(scene)

    def satisfied(self, scene: Scene) -> bool:
        """Return whether the cube rests inside the pad, untouched."""
        return self._resting(scene) and scene.speed(self.cube) < 0.02 and not any(scene.touching(self.cube))

    def measure(self, scene: Scene) -> tuple[int, float]:
        """Return reach, grasp, carry or place and how far it has come."""
        up = min(1.0, max(0.0, self._height(scene) / CARRY_M))
        if scene.grasped(self.cube):
            if self._inside(scene):
                return 3, 0.6 * (1.0 - up)
            return 2, 0.3 * up + 0.7 * closing(self._to_pad(scene), self._carry_m)
        if self._resting(scene):
            return 3, 0.7 if any(scene.touching(self.cube)) else 0.85
        return self._approach(scene)

    def _resting(self, scene: Scene) -> bool:
        return self._inside(scene) and self._height(scene) < 0.004

    def _inside(self, scene: Scene) -> bool:
        offset = scene.position(self.cube)[:2] - scene.position(self.pad)[:2]
        return bool(np.abs(offset).max() < INSIDE_M)

    def _to_pad(self, scene: Scene) -> float:
        return float(np.linalg.norm(scene.position(self.cube)[:2] - scene.position(self.pad)[:2]))
