"""What the numbers of a bench mean: its workspace, and the maps between joint positions, states and actions."""

from __future__ import annotations

import numpy as np

from roborl.envs.actions import ActionMap
from roborl.envs.bench import Bench
from roborl.envs.kinematics import Kinematics, Point
from roborl.envs.proprioception import StateMap
from roborl.envs.robot_model import load_robot_model


def workspace(bench: Bench) -> tuple[Point, Point]:
    """Return the lowest and the highest x, y, z in metres, (3,) each."""
    return np.array(bench.safety.workspace_low_m), np.array(bench.safety.workspace_high_m)


def state_map(bench: Bench) -> StateMap:
    """Return what turns joint positions into the bench's state."""
    return StateMap(Kinematics(load_robot_model(bench.model)), *workspace(bench))


def action_map(bench: Bench) -> ActionMap:
    """Return what turns set-points into the bench's actions and back."""
    return ActionMap(Kinematics(load_robot_model(bench.model)), bench.action, *workspace(bench))
