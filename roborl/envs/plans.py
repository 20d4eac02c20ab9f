"""What a scripted hand does: phases with a goal for the finger tips, an opening, and a sign that it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from roborl.envs.kinematics import Point
from roborl.envs.scene import Scene
from roborl.envs.tasks.base import CUBE_HALF_M, Task
from roborl.envs.tasks.pick import CARRY_M, PickCube, PickPlace
from roborl.envs.tasks.reach import Reach
from roborl.errors import ConfigError

type Where = Callable[[Scene], Point]

OPEN, CLOSED = 100.0, 0.0
HOVER_M = 0.05
_AT_M = 0.006
_RELEASED = 85.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """One part of a script.

    Attributes:
        name: For people.
        goal: Where the finger tips should be, from the present scene.
        opening: What the gripper should be at, 0 to 100.
        done: Whether the next phase may begin.
        patience: Policy steps after which the next phase begins anyway.
        holding: Body that must be in the fingers; when it is not, the script starts again.
    """

    name: str
    goal: Where
    opening: float
    done: Callable[[Scene], bool]
    patience: int = 40
    holding: str | None = None


def near(goal: Where, tolerance_m: float = _AT_M) -> Callable[[Scene], bool]:
    """Return a sign that the finger tips are at a goal."""
    return lambda scene: bool(np.linalg.norm(scene.tool() - goal(scene)) < tolerance_m)


def centre(body: str) -> Where:
    """Return a body's position."""
    return lambda scene: scene.position(body)


def above(place: Where, height_m: float) -> Where:
    """Return the point over a place, at a height over the table."""
    return lambda scene: np.array([*place(scene)[:2], height_m])


def _funnel(place: Where) -> Where:
    """Come from above: high until over the place, then straight down."""

    def goal(scene: Scene) -> Point:
        point = place(scene)
        aside = float(np.linalg.norm(scene.tool()[:2] - point[:2]))
        return point + np.array([0.0, 0.0, min(HOVER_M, 3.0 * max(0.0, aside - 0.008))])

    return goal


def _lift_then_over(place: Where, height_m: float, body: str, rest_m: float) -> Where:
    """Go up first, across once the body is off the table."""

    def goal(scene: Scene) -> Point:
        tool = scene.tool()
        lifted = scene.position(body)[2] - rest_m > 0.4 * height_m
        xy = place(scene)[:2] if lifted else tool[:2]
        return np.array([*xy, height_m + rest_m])

    return goal


def pick(body: str, place: Where | None = None) -> list[Phase]:
    """Go to a body from above and close the fingers on it, or on the empty ``place``."""
    at = place or centre(body)
    return [
        Phase(name="reach", goal=_funnel(at), opening=OPEN, done=near(at)),
        Phase(name="grasp", goal=at, opening=CLOSED, done=lambda scene: scene.grasped(body), patience=5),
        Phase(name="squeeze", goal=at, opening=CLOSED, done=lambda scene: False, patience=1),
    ]


def carry(body: str, place: Where, *, height_m: float = CARRY_M, rest_m: float = CUBE_HALF_M) -> list[Phase]:
    """Lift, go over a place and lower; ``rest_m`` is the finger tips' height when the body stands there."""
    over, down = above(place, height_m + rest_m), above(place, rest_m)
    return [
        Phase(
            name="carry",
            goal=_lift_then_over(place, height_m, body, rest_m),
            opening=CLOSED,
            done=lambda scene: bool(np.linalg.norm((scene.tool() - over(scene))[:2]) < 0.008),
            holding=body,
        ),
        Phase(name="lower", goal=down, opening=CLOSED, done=near(down), patience=8, holding=body),
    ]


def release(place: Where, *, rest_m: float = CUBE_HALF_M) -> list[Phase]:
    """Open the fingers and go up."""
    up = above(place, HOVER_M + rest_m)
    return [
        Phase(
            name="open",
            goal=above(place, rest_m),
            opening=OPEN,
            done=lambda scene: scene.opening() > _RELEASED,
            patience=5,
        ),
        Phase(name="leave", goal=up, opening=OPEN, done=lambda scene: False, patience=1_000),
    ]


def lift(body: str) -> list[Phase]:
    """Go straight up with a body in the fingers, and stay."""

    def goal(scene: Scene) -> Point:
        return np.array([*scene.tool()[:2], 0.075])

    return [
        Phase(name="lift", goal=goal, opening=CLOSED, done=lambda scene: False, patience=1_000, holding=body)
    ]


def plan_for(task: Task, scene: Scene) -> list[Phase]:
    """Return the phases that solve a task from the scene's present start.

    Raises:
        ConfigError: If nobody has written a script for it.
    """
    match task:
        case PickPlace():
            pad = centre(task.pad)
            return [*pick(task.cube), *carry(task.cube, pad), *release(pad)]
        case PickCube():
            return [*pick(task.cube), *lift(task.cube)]
        case Reach():
            ball = centre(task.goal)
            return [Phase(name="reach", goal=ball, opening=OPEN, done=lambda scene: False, patience=1_000)]
    raise ConfigError("There is no script for this task", seen=task.name)
