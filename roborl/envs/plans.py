"""What a scripted hand does: phases with a goal for the finger tips, an opening, and a sign that it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from roborl.envs.kinematics import Point
from roborl.envs.scene import Scene
from roborl.envs.tasks.base import CUBE_HALF_M, Task, reachable
from roborl.envs.tasks.clear import DROP_M, HALF_Y_M, ClearTable
from roborl.envs.tasks.peg import GRIP_M, LIFT_M, PEG_HALF_M, PegInsert
from roborl.envs.tasks.pick import CARRY_M, PickCube, PickPlace
from roborl.envs.tasks.push import BEHIND_M, PushCube
from roborl.envs.tasks.reach import Reach
from roborl.errors import ConfigError

type Where = Callable[[Scene], Point]

OPEN, CLOSED = 100.0, 0.0
HOVER_M = 0.05
_AT_M = 0.006
_RELEASED = 85.0
_CLEAR_M = 0.042
"""Finger tips at this height pass over a cube."""


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


def never(scene: Scene) -> bool:
    """Never: the phase lasts as long as its patience."""
    return False


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
        point[2] += min(HOVER_M, 3.0 * max(0.0, aside - 0.008))
        return point

    return goal


def _lift_then_over(place: Where, height_m: float, body: str, rest_m: float, bottom_m: float) -> Where:
    """Go up first, across once the body is off the table."""

    def goal(scene: Scene) -> Point:
        tool = scene.tool()
        lifted = scene.position(body)[2] - bottom_m > 0.4 * height_m
        xy = place(scene)[:2] if lifted else tool[:2]
        return np.array([*xy, height_m + rest_m])

    return goal


def pick(body: str, place: Where | None = None) -> list[Phase]:
    """Go to a body from above and close the fingers on it, or on the empty ``place``."""
    at = place or centre(body)
    return [
        Phase(name="reach", goal=_funnel(at), opening=OPEN, done=near(at)),
        Phase(name="grasp", goal=at, opening=CLOSED, done=lambda scene: scene.grasped(body), patience=5),
        Phase(name="squeeze", goal=at, opening=CLOSED, done=never, patience=1),
    ]


def carry(
    body: str,
    place: Where,
    *,
    height_m: float = CARRY_M,
    rest_m: float = CUBE_HALF_M,
    rise_from_m: float = CUBE_HALF_M,
    centred_m: float = 0.008,
) -> list[Phase]:
    """Lift a body, take it over a place and lower it.

    Args:
        body: What is in the fingers.
        place: Where to.
        height_m: How high.
        rest_m: Height of the finger tips when the body stands there.
        rise_from_m: Height of the body's middle when it stands on the table.
        centred_m: How near to the place's middle it must be before it is lowered.
    """
    over, down = above(place, height_m + rest_m), above(place, rest_m)

    def offset(scene: Scene) -> Point:
        """The body hangs as it was grasped: bring it over the place, not the finger tips."""
        held = scene.position(body) - scene.tool()
        return np.array([held[0], held[1], 0.0])

    lifted = _lift_then_over(lambda scene: over(scene) - offset(scene), height_m, body, rest_m, rise_from_m)
    return [
        Phase(
            name="carry",
            goal=lifted,
            opening=CLOSED,
            done=lambda scene: bool(np.linalg.norm((scene.position(body) - over(scene))[:2]) < centred_m),
            holding=body,
        ),
        Phase(
            name="lower",
            goal=lambda scene: down(scene) - offset(scene),
            opening=CLOSED,
            done=lambda scene: bool(scene.tool()[2] < rest_m + _AT_M),
            patience=8,
            holding=body,
        ),
    ]


def rest() -> Phase:
    """Stay high above the table, open."""
    return Phase(
        name="rest",
        goal=lambda scene: np.array([*scene.tool()[:2], 0.085]),
        opening=OPEN,
        done=never,
        patience=1_000,
    )


def release(place: Where, *, rest_m: float = CUBE_HALF_M) -> list[Phase]:
    """Open the fingers and go up."""

    def here(scene: Scene) -> Point:
        return np.array([*scene.tool()[:2], rest_m])

    up = above(place, HOVER_M + rest_m)
    return [
        Phase(
            name="open",
            goal=here,
            opening=OPEN,
            done=lambda scene: scene.opening() > _RELEASED,
            patience=5,
        ),
        Phase(name="leave", goal=up, opening=OPEN, done=never, patience=1_000),
    ]


def lift(body: str) -> list[Phase]:
    """Go straight up with a body in the fingers, and stay."""

    def goal(scene: Scene) -> Point:
        return np.array([*scene.tool()[:2], 0.075])

    return [Phase(name="lift", goal=goal, opening=CLOSED, done=never, patience=1_000, holding=body)]


def push(body: str, place: Where) -> list[Phase]:
    """Come down behind a body and push it to a place; round again where it has slipped aside."""
    approached = False

    def goal(scene: Scene) -> Point:
        nonlocal approached
        cube, tool = scene.position(body)[:2], scene.tool()
        way = place(scene)[:2] - cube
        ahead = way / max(1e-6, float(np.linalg.norm(way)))
        lag = float((cube - tool[:2]) @ ahead)
        aside = float(np.linalg.norm(cube - tool[:2] - lag * ahead))
        # After a slip the full run-up may be out of reach; three quarters are just clear of the cube.
        run_ups = (cube - share * BEHIND_M * ahead for share in (1.0, 0.85, 0.75))
        behind = next((point for point in run_ups if reachable(point)), cube - 0.75 * BEHIND_M * ahead)
        low = tool[2] < CUBE_HALF_M + 0.012
        if lag > 0.015 and aside < (0.012 if approached else 0.006) and low:
            approached = True
            return np.array([*(cube - (0.010 - 0.4 * aside) * ahead), CUBE_HALF_M])
        approached = False
        far = float(np.linalg.norm(tool[:2] - behind))
        if far > 0.02 and tool[2] < _CLEAR_M:
            return np.array([*tool[:2], _CLEAR_M + 0.01])
        return np.array([*behind, min(_CLEAR_M + 0.01, CUBE_HALF_M + 3.0 * max(0.0, far - 0.008))])

    def there(scene: Scene) -> bool:
        return bool(np.abs(scene.position(body)[:2] - place(scene)[:2]).max() < 0.012)

    return [
        Phase(name="push", goal=goal, opening=CLOSED, done=there, patience=1_000),
        Phase(
            name="stay",
            goal=lambda scene: scene.tool(),
            opening=CLOSED,
            done=never,
            patience=1_000,
        ),
    ]


def put_away(task: ClearTable, body: str) -> list[Phase]:
    """Pick a cube and let it fall into its own part of the tray."""
    slot = (task.cubes.index(body) - 1) * (HALF_Y_M - CUBE_HALF_M - 0.006) if body in task.cubes else 0.0

    def place(scene: Scene) -> Point:
        return np.asarray(scene.position(task.tray) + np.array([0.0, slot, 0.0]))

    return [
        *pick(body),
        *carry(body, place, height_m=DROP_M + 0.004 - CUBE_HALF_M, rest_m=CUBE_HALF_M)[:1],
        *release(place, rest_m=DROP_M)[:1],
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
        case PushCube():
            return push(task.cube, centre(task.pad))
        case PegInsert():
            socket = centre(task.socket)
            return [
                *pick(task.peg, task.grip_point),
                *carry(
                    task.peg, socket, height_m=LIFT_M, rest_m=GRIP_M, centred_m=0.0025, rise_from_m=PEG_HALF_M
                ),
                *release(socket, rest_m=GRIP_M),
            ]
        case ClearTable():
            left = sorted(
                task.remaining(scene),
                key=lambda body: float(np.linalg.norm(scene.position(body)[:2] - scene.tool()[:2])),
            )
            return [phase for body in left for phase in put_away(task, body)] + [rest()]
        case Reach():
            ball = centre(task.goal)
            return [Phase(name="reach", goal=ball, opening=OPEN, done=never, patience=1_000)]
    raise ConfigError("There is no script for this task", seen=task.name)
