"""PegInsert-v0: put the red peg into the socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np

from roborl.envs.tasks.base import (
    BLUE,
    GREEN,
    RED,
    Task,
    add_cylinder,
    add_wall,
    closing,
    on_table,
    scatter,
)

if TYPE_CHECKING:
    from roborl.envs.scene import Scene

PEG_RADIUS_M, PEG_HALF_M = 0.010, 0.026
HOLE_HALF_M, WALL_M, SOCKET_HEIGHT_M = 0.0135, 0.006, 0.018
GRIP_M = 0.036
"""Height of the finger tips on a standing peg: near its top, so that the fingers stay clear of the socket."""
LIFT_M = 0.028
_AT_PEG_M = 0.014


class PegInsert(Task):
    """Stand the red peg in the green socket and let go, 3.5 mm of play around it; a blue peg is there to be left alone."""

    name = "PegInsert"
    instruction = "put the red peg into the green socket"
    stages = (
        "reach for the red peg",
        "grasp the red peg",
        "carry it over the socket",
        "insert it into the socket",
    )
    stage_ends = (0.3, 0.4, 0.75, 1.0)
    max_steps = 70
    peg, distractor, socket = "red_peg", "blue_peg", "socket"

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add pegs and socket."""
        add_cylinder(spec, self.peg, PEG_RADIUS_M, PEG_HALF_M, RED)
        add_cylinder(spec, self.distractor, PEG_RADIUS_M, PEG_HALF_M, BLUE)
        body = spec.worldbody.add_body(name=self.socket)
        out, half_height = HOLE_HALF_M + WALL_M / 2, SOCKET_HEIGHT_M / 2
        for x, y in ((out, 0.0), (-out, 0.0), (0.0, out), (0.0, -out)):
            size = (WALL_M / 2, HOLE_HALF_M + WALL_M) if x else (HOLE_HALF_M + WALL_M, WALL_M / 2)
            add_wall(body, (x, y, half_height), (*size, half_height), GREEN)

    def place(self, scene: Scene, rng: np.random.Generator) -> None:
        """Stand the pegs and put the socket apart from one another."""
        socket, peg, other = scatter(rng, (0.055, 0.035, 0.035), farthest_m=0.225)
        scene.place(self.socket, on_table(socket, 0.0))
        scene.place(self.peg, on_table(peg, PEG_HALF_M))
        scene.place(self.distractor, on_table(other, PEG_HALF_M))

    def begin(self, scene: Scene) -> None:
        """Remember both first distances."""
        self._reach_m, self._carry_m = self._to_peg(scene), self._to_socket(scene)

    def satisfied(self, scene: Scene) -> bool:
        """Return whether the peg stands in the socket, untouched."""
        return self._inserted(scene) and scene.speed(self.peg) < 0.02 and not any(scene.touching(self.peg))

    def measure(self, scene: Scene) -> tuple[int, float]:
        """Return reach, grasp, carry or insert and how far it has come."""
        height = float(scene.position(self.peg)[2]) - PEG_HALF_M
        up = min(1.0, max(0.0, height / LIFT_M))
        if scene.grasped(self.peg):
            if self._to_socket(scene) < 0.010 and height > -0.005:
                return 3, 0.7 * (1.0 - up)
            return 2, 0.3 * up + 0.7 * closing(self._to_socket(scene), self._carry_m)
        if self._inserted(scene):
            return 3, 0.8 if any(scene.touching(self.peg)) else 0.9
        distance = self._to_peg(scene)
        if distance < _AT_PEG_M:
            return 1, (100.0 - scene.opening()) / 65.0
        return 0, closing(distance - _AT_PEG_M, self._reach_m)

    def grip_point(self, scene: Scene) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return where the fingers should close on the peg, metres, (3,)."""
        return np.asarray(scene.position(self.peg) + np.array([0.0, 0.0, GRIP_M - PEG_HALF_M]))

    def _inserted(self, scene: Scene) -> bool:
        offset = scene.position(self.peg) - scene.position(self.socket)
        upright = scene.rotation(self.peg)[2, 2] > 0.95
        return bool(
            np.abs(offset[:2]).max() < HOLE_HALF_M and abs(offset[2] - PEG_HALF_M) < 0.006 and upright
        )

    def _to_peg(self, scene: Scene) -> float:
        return float(np.linalg.norm(scene.tool() - self.grip_point(scene)))

    def _to_socket(self, scene: Scene) -> float:
        return float(np.linalg.norm(scene.position(self.peg)[:2] - scene.position(self.socket)[:2]))
