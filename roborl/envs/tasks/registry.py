"""The tasks by name."""

from __future__ import annotations

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


def make_task(name: str) -> Task:
    """Return a new task object.

    Raises:
        ConfigError: If there is no such task.
    """
    if name not in TASKS:
        raise ConfigError(
            "There is no such simulated task",
            seen=name,
            allowed=sorted(TASKS),
            remedy="Set robot.scene to one of these",
        )
    return TASKS[name]()
