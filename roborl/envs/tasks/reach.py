"""Reach-v0: bring the finger tips to the red ball."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np

from roborl.envs.tasks.base import BLUE, RED, Task, closing, on_table, scatter

if TYPE_CHECKING:
    from roborl.envs.scene import Scene

TOLERANCE_M = 0.018


class Reach(Task):
    """Bring the finger tips to a red ball that floats over the table; a blue one is there to be left alone."""

    name = "Reach"
    instruction = "touch the red ball"
    stages = ("reach for the red ball",)
    stage_ends = (1.0,)
    max_steps = 30
    goal, distractor = "red_ball", "blue_ball"

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the two balls."""
        for name, rgb in ((self.goal, RED), (self.distractor, BLUE)):
            body = spec.worldbody.add_body(name=name)
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_SPHERE,
                size=[0.012, 0, 0],
                rgba=[*rgb, 1.0],
                contype=0,
                conaffinity=0,
                group=1,
            )

    def place(self, scene: Scene, rng: np.random.Generator) -> None:
        """Put the balls 2 to 6 cm above the table, the red one away from the fingers."""
        goal, other = scatter(rng, (0.03, 0.03), avoid=scene.tool(), avoid_m=0.06)
        scene.place(self.goal, on_table(goal, rng.uniform(0.02, 0.06)))
        scene.place(self.distractor, on_table(other, rng.uniform(0.02, 0.06)))

    def begin(self, scene: Scene) -> None:
        """Remember the first distance."""
        self._initial_m = self._distance(scene)

    def satisfied(self, scene: Scene) -> bool:
        """Return whether the finger tips are at the red ball."""
        return self._distance(scene) < TOLERANCE_M

    def measure(self, scene: Scene) -> tuple[int, float]:
        """Return the covered part of the first distance."""
        return 0, closing(max(0.0, self._distance(scene) - TOLERANCE_M / 2), self._initial_m)

    def _distance(self, scene: Scene) -> float:
        return float(np.linalg.norm(scene.tool() - scene.position(self.goal)))
