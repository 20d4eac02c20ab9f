"""PushCube-v0: push the red cube onto the green pad."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from roborl.envs.tasks.base import (
    BLUE,
    CUBE_HALF_M,
    GREEN,
    RED,
    Task,
    add_box,
    add_pad,
    closing,
    on_table,
    reachable,
    scatter,
)
from roborl.envs.tasks.pick import INSIDE_M, PAD_HALF_M

if TYPE_CHECKING:
    from roborl.envs.scene import Scene

BEHIND_M = 0.045
"""How far behind the cube the fingers come down before they push."""
_SHORTEST_M, _LONGEST_M = 0.07, 0.13


class PushCube(Task):
    """Push the red cube onto the green pad without lifting it; a blue cube is there to be left alone."""

    name = "PushCube"
    instruction = "push the red cube onto the green pad"
    stages = ("go behind the red cube", "push it onto the pad")
    stage_ends = (0.4, 1.0)
    max_steps = 60
    cube, distractor, pad = "red_cube", "blue_cube", "green_pad"
    usual: Mapping[str, tuple[float, float]] = MappingProxyType(
        {"red_cube": (0.215, -0.045), "green_pad": (0.235, 0.055)}
    )

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add cubes and pad."""
        add_box(spec, self.cube, [CUBE_HALF_M] * 3, RED)
        add_box(spec, self.distractor, [CUBE_HALF_M] * 3, BLUE)
        add_pad(spec, self.pad, PAD_HALF_M, GREEN)

    def place(self, scene: Scene, rng: np.random.Generator) -> None:
        """Put the cube where the arm can come down behind it, a short push from the pad, face towards it."""
        while True:
            near = self.around(self.pad, self.cube)
            pad, cube, other = scatter(rng, (0.055, 0.015, 0.03), around=near, spread_m=self.spread_m)
            way = pad - cube
            distance = float(np.linalg.norm(way))
            behind = cube - way / distance * (BEHIND_M + 0.015)
            aside = np.linalg.norm(
                other - cube - way * np.clip((other - cube) @ way / distance**2, -0.5, 1.0)
            )
            if _SHORTEST_M < distance < _LONGEST_M and reachable(behind) and aside > 0.08:
                break
        scene.place(self.pad, on_table(pad, 0.0))
        scene.place(self.cube, on_table(cube, CUBE_HALF_M), float(np.arctan2(way[1], way[0])))
        scene.place(self.distractor, on_table(other, CUBE_HALF_M), rng.uniform(-np.pi, np.pi))

    def begin(self, scene: Scene) -> None:
        """Remember both first distances."""
        self._push_m, self._reach_m = self._to_pad(scene), self._to_start(scene)

    def satisfied(self, scene: Scene) -> bool:
        """Return whether the cube lies still inside the pad."""
        offset = scene.position(self.cube) - scene.position(self.pad)
        inside = np.abs(offset[:2]).max() < INSIDE_M and offset[2] < CUBE_HALF_M + 0.004
        return bool(inside and scene.speed(self.cube) < 0.02)

    def measure(self, scene: Scene) -> tuple[int, float]:
        """Return whether the fingers are still on their way or the cube is, and how far."""
        pushed = closing(self._to_pad(scene) - 0.5 * INSIDE_M, self._push_m - 0.5 * INSIDE_M)
        if pushed > 0.03:
            return 1, pushed
        return 0, closing(self._to_start(scene), self._reach_m)

    def _to_start(self, scene: Scene) -> float:
        """Return the distance from the finger tips to the short way along which a push begins."""
        cube = scene.position(self.cube)
        way = scene.position(self.pad) - cube
        ahead = way * (1.0, 1.0, 0.0) / max(1e-6, float(np.linalg.norm(way[:2])))
        lag = np.clip((cube - scene.tool()) @ ahead, 0.0, BEHIND_M)
        return float(np.linalg.norm(cube - lag * ahead - scene.tool()))

    def _to_pad(self, scene: Scene) -> float:
        return float(np.linalg.norm(scene.position(self.cube)[:2] - scene.position(self.pad)[:2]))
