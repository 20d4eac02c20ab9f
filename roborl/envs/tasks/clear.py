"""ClearTable-v0: put the three cubes into the tray, one after another."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from roborl.envs.tasks.base import (
    BLUE,
    CUBE_HALF_M,
    PURPLE,
    RED,
    YELLOW,
    Task,
    add_box,
    add_wall,
    closing,
    facing,
    on_table,
    scatter,
)

if TYPE_CHECKING:
    from roborl.envs.scene import Scene

HALF_X_M, HALF_Y_M, WALL_HALF_M = 0.034, 0.054, 0.003
WALL_HEIGHT_M = 0.012
DROP_M = 0.038
"""Height of the finger tips when they let go: above the cubes that already lie in the tray."""
_TRAY = (0.20, 0.52, 0.50)
_LONG_M = 0.2
_CARRY_SHARE = 0.6


class ClearTable(Task):
    """Put red, yellow and purple cube into the tray in any order; the blue one is to be left alone. Three stages."""

    name = "ClearTable"
    instruction = "put the red, yellow and purple cubes into the tray"
    stages = (
        "put a first cube into the tray",
        "put a second cube into the tray",
        "put the last cube into the tray",
    )
    stage_ends = (1 / 3, 2 / 3, 1.0)
    max_steps = 160
    cubes, distractor, tray = ("red_cube", "yellow_cube", "purple_cube"), "blue_cube", "tray"
    usual = MappingProxyType(
        {"red_cube": (0.245, -0.015), "yellow_cube": (0.175, -0.045), "purple_cube": (0.23, -0.085)}
    )

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add cubes and tray."""
        for name, rgb in zip((*self.cubes, self.distractor), (RED, YELLOW, PURPLE, BLUE), strict=True):
            add_box(spec, name, [CUBE_HALF_M] * 3, rgb)
        body = spec.worldbody.add_body(name=self.tray)
        add_wall(body, (0.0, 0.0, 0.0008), (HALF_X_M, HALF_Y_M, 0.0008), [0.5 + 0.5 * c for c in _TRAY])
        half_height = WALL_HEIGHT_M / 2
        for side in (-1.0, 1.0):
            x, y = side * (HALF_X_M + WALL_HALF_M), side * (HALF_Y_M + WALL_HALF_M)
            add_wall(
                body, (x, 0.0, half_height), (WALL_HALF_M, HALF_Y_M + 2 * WALL_HALF_M, half_height), _TRAY
            )
            add_wall(
                body, (0.0, y, half_height), (HALF_X_M + 2 * WALL_HALF_M, WALL_HALF_M, half_height), _TRAY
            )

    def place(self, scene: Scene, rng: np.random.Generator) -> None:
        """Put the tray to one side, the same one where cubes start near their usual places, and these on the rest of the table."""
        side = rng.choice((-1.0, 1.0)) if self.spread_m is None else 1.0
        tray = np.array([rng.uniform(0.185, 0.215), side * rng.uniform(0.10, 0.11)])
        scene.place(self.tray, on_table(tray, 0.0))
        points = scatter(
            rng,
            [0.029] * 4,
            avoid=tray,
            avoid_m=0.107,
            around=self.around(*self.cubes),
            spread_m=self.spread_m,
        )
        for name, point in zip((*self.cubes, self.distractor), points, strict=True):
            scene.place(name, on_table(point, CUBE_HALF_M), facing(point) + rng.uniform(-0.3, 0.3))

    def satisfied(self, scene: Scene) -> bool:
        """Return whether all three lie in the tray, untouched."""
        return not self.remaining(scene) and not any(any(scene.touching(body)) for body in self.cubes)

    def measure(self, scene: Scene) -> tuple[int, float]:
        """Return how many lie in the tray and how far the next has come."""
        rest = self.remaining(scene)
        stage = min(2, 3 - len(rest))
        if not rest:
            return 2, 1.0
        tray = scene.position(self.tray)
        held = [body for body in rest if scene.grasped(body)]
        if held:
            offset = scene.position(held[0]) - tray
            up = min(1.0, max(0.0, (offset[2] - CUBE_HALF_M) / (DROP_M - CUBE_HALF_M)))
            carried = 0.25 * up + 0.75 * closing(float(np.linalg.norm(offset[:2])), _LONG_M)
            return stage, 1.0 - _CARRY_SHARE * (1.0 - carried)
        nearest = min(float(np.linalg.norm(scene.tool() - scene.position(body))) for body in rest)
        return stage, (1.0 - _CARRY_SHARE) * closing(nearest - 0.012, _LONG_M)

    def inside(self, scene: Scene, body: str) -> bool:
        """Return whether a cube lies in the tray, let go."""
        offset = scene.position(body) - scene.position(self.tray)
        within = abs(offset[0]) < HALF_X_M and abs(offset[1]) < HALF_Y_M and offset[2] < 0.045
        return bool(within) and not scene.grasped(body)

    def remaining(self, scene: Scene) -> list[str]:
        """Return the cubes that are still to be put away, in their fixed order."""
        return [body for body in self.cubes if not self.inside(scene, body)]
