"""Scripts that fail in a chosen way: negatives for reward models, and tests of what they mistake for success."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roborl.envs.actions import ActionConfig
from roborl.envs.experts import Expert, Noise
from roborl.envs.failure_kinds import Failure
from roborl.envs.kinematics import Point
from roborl.envs.plans import (
    CLOSED,
    OPEN,
    Phase,
    Where,
    above,
    carry,
    centre,
    near,
    never,
    pick,
    push,
    put_away,
    release,
    rest,
)
from roborl.envs.scene import Scene
from roborl.envs.tasks.base import CUBE_HALF_M, on_table, reachable, scatter
from roborl.envs.tasks.clear import ClearTable
from roborl.envs.tasks.peg import GRIP_M, LIFT_M, PEG_HALF_M, PegInsert
from roborl.envs.tasks.pick import PickCube, PickPlace
from roborl.envs.tasks.push import PushCube
from roborl.envs.tasks.reach import Reach
from roborl.errors import ConfigError
from roborl.types import Observation

_NEEDS_CARRYING = (Failure.DROP, Failure.NEAR_MISS, Failure.WANDER)
"""Elsewhere there is nothing to drop, and a near miss or a stroll may well succeed."""
_STOPS = 12
_DRAWS = 200
_CLEAR_M = 0.035


class Stalled:
    """Follows another script up to some progress, then commands no more motion.

    Args:
        script: What it follows.
        scene: Where it follows it.
        progress: Between which values of privileged progress it stops.
        seed: Seed of where exactly.
    """

    version = 0

    def __init__(self, script: Expert, scene: Scene, progress: tuple[float, float], seed: int) -> None:
        self._script, self._scene, self._range = script, scene, progress
        self._rng = np.random.default_rng([seed, 11])  # not the stream that the scene looks by
        self.reset()

    def reset(self) -> None:
        """Start again, and stop somewhere else."""
        self._script.reset()
        self._stalled, self._stop_at = False, self._rng.uniform(*self._range)

    @property
    def phase(self) -> str:
        """Name of what it is doing."""
        return "stall" if self._stalled else self._script.phase

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return the next action as a chunk of one, float32 (1, a)."""
        action = self._script.act(observation)
        self._stalled = self._stalled or self._scene.privileged_progress() >= self._stop_at
        return np.zeros_like(action) if self._stalled else action


def check_failure(kind: Failure | str, scene: Scene) -> None:
    """See that the scene's task can be failed in a way.

    Raises:
        ConfigError: If it cannot.
    """
    allowed = failures_of(scene)
    if kind not in allowed:
        raise ConfigError(
            "The task cannot be failed in this way",
            seen=str(kind),
            allowed=[k.value for k in allowed],
            remedy="Choose one of these",
        )


def failures_of(scene: Scene) -> tuple[Failure, ...]:
    """Return the ways in which the scene's task can be failed: nothing can be dropped that is not carried."""
    carried = not isinstance(scene.task, Reach | PushCube)
    kinds = tuple(kind for kind in Failure if carried or kind not in _NEEDS_CARRYING)
    if isinstance(scene.task, PegInsert):  # a peg can be caught by its end
        return tuple(kind for kind in kinds if kind is not Failure.NEAR_MISS)
    return kinds


def failure_maker(
    kind: Failure | str,
    scene: Scene,
    *,
    action: ActionConfig | None = None,
    noise: Noise | None = None,
    seed: int = 0,
) -> Expert | Stalled:
    """Return a script that fails the scene's task; call its ``reset`` after each reset of the scene.

    Raises:
        ConfigError: If the task cannot be failed in this way.
    """
    check_failure(kind, scene)
    allowed = failures_of(scene)
    kind, rng = Failure(kind), np.random.default_rng([seed, 7])
    if kind is Failure.STALL:
        script = Expert(scene, action=action, noise=noise, seed=seed)
        latest = 0.75 if Failure.DROP in allowed else 0.5
        return Stalled(script, scene, (0.1, latest), seed)
    plan = _PLANS[kind]
    return Expert(scene, lambda scene: plan(scene, rng), action=action, noise=noise, seed=seed, recover=False)


def _fixed(point: Point) -> Where:
    return lambda scene: point.copy()


def _without_holding(phases: Sequence[Phase]) -> list[Phase]:
    """Carry on as if something were in the fingers."""
    return [replace(phase, holding=None, patience=min(phase.patience, 14)) for phase in phases]


def _miss(scene: Scene, rng: np.random.Generator) -> list[Phase]:
    task, body = scene.task, _object(scene)
    beside = _fixed(_beside(scene, rng, scene.position(body)))
    match task:
        case Reach():
            return [_stay(beside)]
        case PushCube():
            way = scene.position(task.pad) - scene.position(body)
            across = np.array([-way[1], way[0], 0.0]) / np.linalg.norm(way[:2])
            shift = across * rng.choice((-1.0, 1.0)) * rng.uniform(0.04, 0.05)
            start = _fixed(scene.position(body) + shift - 0.3 * way)
            return [
                Phase(name="reach", goal=start, opening=CLOSED, done=near(start)),
                _stay(_fixed(start(scene) + 1.2 * way), CLOSED),
            ]
    return _empty_handed(scene, beside)


def _near_miss(scene: Scene, rng: np.random.Generator) -> list[Phase]:
    if rng.random() < 0.3:
        shift = np.array([0.0, 0.0, rng.uniform(0.025, 0.05)])
    else:
        angle = rng.uniform(0, 2 * np.pi)
        shift = rng.uniform(0.027, 0.036) * np.array([np.cos(angle), np.sin(angle), 0.0])
    return _empty_handed(scene, _fixed(scene.position(_object(scene)) + shift))


def _empty_handed(scene: Scene, beside: Where) -> list[Phase]:
    """Close the fingers at a point where there is nothing, and carry that to the target."""
    task, body = scene.task, _object(scene)
    high = above(beside, 0.05)
    grasp = [
        *pick(body, beside)[:1],
        Phase(name="grasp", goal=beside, opening=CLOSED, done=never, patience=5),
        Phase(name="lift", goal=high, opening=CLOSED, done=near(high), patience=8),
    ]
    if not isinstance(task, PickPlace | PegInsert | ClearTable):
        return [*grasp, _stay(high, CLOSED)]
    target = _target(scene)
    over = above(target, 0.05)
    return [
        *grasp,
        Phase(name="carry", goal=over, opening=CLOSED, done=near(over), patience=14),
        *release(target, rest_m=0.03),
    ]


def _wander(scene: Scene, rng: np.random.Generator) -> list[Phase]:
    task = scene.task
    assert isinstance(task, PickCube | PegInsert | ClearTable), "it is the kind of tasks that carry"
    known = [scene.position(_object(scene)), scene.position(task.distractor), _target(scene)(scene)]
    phases = []
    for _ in range(_STOPS):
        spot = scatter(rng, (0.0,))[0]
        if rng.random() < 0.75:
            aside = known[int(rng.integers(len(known)))][:2] + rng.uniform(-0.035, 0.035, 2)
            spot = aside if reachable(aside) else spot
        goal = _fixed(on_table(spot, rng.choice((0.013, 0.03, 0.06))))
        opening, patience = float(rng.choice((CLOSED, 20.0, 50.0, OPEN))), int(rng.integers(4, 12))
        phases.append(
            Phase(name="wander", goal=goal, opening=opening, done=near(goal, 0.012), patience=patience)
        )
    return phases


def _beside(scene: Scene, rng: np.random.Generator, at: Point) -> Point:
    """Return a point that the fingers can reach without coming near ``at`` or another body on the way.

    Where the hand already stands near ``at``, the way that keeps the farthest off has to do.
    """
    start = scene.tool()
    farthest, best = -1.0, at
    for _ in range(_DRAWS):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.085)
        point = at + radius * np.array([np.cos(angle), np.sin(angle), 0.0])
        way = point - start
        nearest = start + way * np.clip((at - start) @ way / (way @ way), 0.0, 1.0)
        apart = float(np.linalg.norm(nearest[:2] - at[:2]))
        if reachable(point[:2]) and apart > farthest:
            farthest, best = apart, point
            if apart > _CLEAR_M:
                break
    return best


def _drop(scene: Scene, rng: np.random.Generator) -> list[Phase]:
    body, target = _object(scene), _target(scene)
    start = scene.position(body)
    total = float(np.linalg.norm(target(scene)[:2] - start[:2]))
    share = rng.uniform(0.25, 0.6)
    clear_m = 0.085 if isinstance(scene.task, ClearTable) else 0.06

    def now(scene: Scene) -> bool:
        position = scene.position(body)
        left = float(np.linalg.norm(target(scene)[:2] - position[:2]))
        up = position[2] - start[2]
        if isinstance(scene.task, PickCube) and not isinstance(scene.task, PickPlace):
            return bool(up > 0.012 + 0.02 * share)
        return bool(up > 0.015 and (left < max(clear_m, (1 - share) * total)))

    way = _carry(scene, body, target)[0]
    return [
        *_pick(scene, body),
        replace(way, done=now, holding=None),
        Phase(
            name="drop",
            goal=lambda scene: scene.tool(),
            opening=OPEN,
            done=lambda scene: scene.opening() > 85,
            patience=4,
        ),
        Phase(
            name="carry on",
            goal=above(target, 0.055),
            opening=OPEN,
            done=never,
            patience=1_000,
        ),
    ]


def _wrong_object(scene: Scene, rng: np.random.Generator) -> list[Phase]:
    task = scene.task
    match task:
        case Reach():
            return [_stay(centre(task.distractor))]
        case PushCube():
            return push(task.distractor, centre(task.pad))
        case ClearTable():
            return [*put_away(task, task.distractor), rest()]
        case PickPlace() | PegInsert():
            target = _target(scene)
            body = task.distractor
            rest_m = GRIP_M if isinstance(task, PegInsert) else CUBE_HALF_M
            return [*_pick(scene, body), *_carry(scene, body, target), *release(target, rest_m=rest_m)]
        case PickCube():
            lift = above(centre(task.distractor), 0.075)
            return [*pick(task.distractor), _stay(lift, CLOSED)]
    raise AssertionError(task)


def _undo(scene: Scene, rng: np.random.Generator) -> list[Phase]:
    task = scene.task
    match task:
        case Reach():
            start, ball = scene.tool(), scene.position(task.goal)
            short = ball + (start - ball) * (0.03 / float(np.linalg.norm(start - ball)))
            turn = Phase(name="reach", goal=_fixed(short), opening=OPEN, done=near(_fixed(short), 0.008))
            return [turn, _stay(_fixed(start))]
        case PushCube():
            start, pad = scene.position(task.cube), centre(task.pad)
            way_m = float(np.linalg.norm((pad(scene) - start)[:2]))
            short_m = float(np.clip(0.06, 0.45 * way_m, 0.85 * way_m))

            def far_enough(scene: Scene) -> bool:
                left = scene.position(task.cube)[:2] - pad(scene)[:2]
                return bool(np.linalg.norm(left) < short_m)

            forth = replace(push(task.cube, pad)[0], done=far_enough)
            return [forth, *push(task.cube, _fixed(start))]
        case PickCube() if not isinstance(task, PickPlace):
            down = scene.position(task.cube)

            def high(scene: Scene) -> bool:
                return bool(scene.position(task.cube)[2] - CUBE_HALF_M > 0.026)

            up = above(centre(task.cube), CUBE_HALF_M + 0.034)
            return [
                *pick(task.cube),
                Phase(name="lift", goal=up, opening=CLOSED, done=high, patience=5),
                Phase(
                    name="put back",
                    goal=_fixed(down),
                    opening=CLOSED,
                    done=near(_fixed(down), 0.009),
                    patience=8,
                ),
                *release(_fixed(down)),
            ]
        case _:
            body, target = _object(scene), _target(scene)
            home = _fixed(scene.position(body))
            there, back = _carry(scene, body, target), _carry(scene, body, home)
            over = there[0]
            rest_m = GRIP_M if isinstance(task, PegInsert) else CUBE_HALF_M
            wait = Phase(name="hesitate", goal=over.goal, opening=CLOSED, done=never, patience=2)
            return [
                *_pick(scene, body),
                *_without_holding([over]),
                wait,
                *_without_holding(back),
                *release(home, rest_m=rest_m),
            ]


def _object(scene: Scene) -> str:
    match scene.task:
        case Reach():
            return scene.task.goal
        case PickCube() | PushCube():
            return scene.task.cube
        case PegInsert():
            return scene.task.peg
        case ClearTable():
            return scene.task.cubes[0]
    raise ConfigError("There are no failures for this task", seen=scene.task.name)


def _target(scene: Scene) -> Where:
    match scene.task:
        case PickPlace():
            return centre(scene.task.pad)
        case PegInsert():
            return centre(scene.task.socket)
        case ClearTable():
            return centre(scene.task.tray)
        case _:
            return _fixed(scene.position(_object(scene)))


def _pick(scene: Scene, body: str) -> list[Phase]:
    if isinstance(scene.task, PegInsert):
        return pick(body, lambda scene: scene.position(body) + np.array([0.0, 0.0, GRIP_M - PEG_HALF_M]))
    return pick(body)


def _carry(scene: Scene, body: str, target: Where) -> list[Phase]:
    if isinstance(scene.task, PegInsert):
        return carry(body, target, height_m=LIFT_M, rest_m=GRIP_M, rise_from_m=PEG_HALF_M, centred_m=0.0025)
    return carry(body, target)


def _stay(goal: Where, opening: float = OPEN) -> Phase:
    return Phase(name="stay", goal=goal, opening=opening, done=never, patience=1_000)


_PLANS: dict[Failure, Callable[[Scene, np.random.Generator], list[Phase]]] = {
    Failure.MISS: _miss,
    Failure.DROP: _drop,
    Failure.WRONG_OBJECT: _wrong_object,
    Failure.UNDO: _undo,
    Failure.NEAR_MISS: _near_miss,
    Failure.WANDER: _wander,
}
