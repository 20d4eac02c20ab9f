"""The tasks by name."""

from __future__ import annotations

from roborl.envs.ranges import check_number
from roborl.envs.tasks.base import Task
from roborl.envs.tasks.clear import ClearTable
from roborl.envs.tasks.peg import PegInsert
from roborl.envs.tasks.pick import PickCube, PickPlace
from roborl.envs.tasks.push import PushCube
from roborl.envs.tasks.reach import Reach
from roborl.errors import ConfigError

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Reach, PushCube, PickCube, PickPlace, PegInsert, ClearTable)
}


def make_task(name: str, spread_m: float = 0.0) -> Task:
    """Return a new task object.

    Args:
        name: Its name.
        spread_m: How far from their usual places its objects start; 0: anywhere in the arm's reach.

    Raises:
        ConfigError: If there is no such task, the spread is no distance, or objects without usual places are to start near
            them.
    """
    if name not in TASKS:
        raise ConfigError(
            "There is no such simulated task",
            seen=name,
            allowed=sorted(TASKS),
            remedy="Set scene to one of these",
        )
    task = TASKS[name]()
    check_number("spread_m", spread_m, at_least=0, remedy="Correct spread_m")
    if spread_m and not task.usual:
        raise ConfigError(
            "The objects of this task cannot start near usual places",
            seen=f"{name} with spread_m {spread_m:g}",
            allowed=f"0, or more with one of {sorted(n for n, kind in TASKS.items() if kind.usual)}",
            remedy="Set spread_m to 0",
        )
    task.spread_m = spread_m or None
    return task
