"""Scripted policies that see the simulator's truth: for demonstrations, as an operator's stand-in and for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roborl.envs.actions import ActionConfig
from roborl.envs.kinematics import Point
from roborl.envs.plans import Phase, plan_for
from roborl.envs.scene import Scene
from roborl.types import Observation

NO_DETOUR: Point = np.zeros(3)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How far a script strays, so that demonstrations spread.

    Attributes:
        action: Standard deviation added to each motion component of an action, in units of the largest step.
        detours: Chance per episode of one detour on the way to the first object, [0, 1].
        detour_m: How far aside it leads.
    """

    action: float = 0.0
    detours: float = 0.0
    detour_m: float = 0.04


class Expert:
    """Follows a plan through the same bounded actions as a policy.

    Args:
        scene: The scene that the actions move.
        plan: Makes the phases from the present scene, at each ``reset`` and after a loss; None takes the task's own.
        action: What an action means on the bench.
        noise: How far it strays.
        seed: Seed of its noise.
        recover: Whether it starts again when it has lost what it should hold.

    Attributes:
        phase: Name of what it is doing.
    """

    version = 0

    def __init__(
        self,
        scene: Scene,
        plan: Callable[[Scene], Sequence[Phase]] | None = None,
        *,
        action: ActionConfig | None = None,
        noise: Noise | None = None,
        seed: int = 0,
        recover: bool = True,
    ) -> None:
        self._scene = scene
        self._plan = plan or (lambda scene: plan_for(scene.task, scene))
        self._action, self._noise = action or ActionConfig(), noise or Noise()
        self._rng = np.random.default_rng([seed, 13])  # not the stream that the scene looks by
        self._recover = recover
        self.reset()

    def reset(self) -> None:
        """Begin the plan from its first phase. Call it after the scene was reset."""
        self._begin()
        self._detour_left, self._detour = 0, NO_DETOUR
        if self._rng.random() < self._noise.detours:
            self._detour_left = int(self._rng.integers(4, 9))
            angle = self._rng.uniform(0, 2 * np.pi)
            self._detour = self._noise.detour_m * np.array([np.cos(angle), np.sin(angle), 0.3])

    def _begin(self) -> None:
        """Plan from the scene as it is now."""
        self._phases = list(self._plan(self._scene))
        self._at, self._steps = 0, 0

    @property
    def phase(self) -> str:
        """Name of what it is doing."""
        return self._phases[self._at].name

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return the next action as a chunk of one, float32 (1, a). The observation is not looked at."""
        scene = self._scene
        self._move_on()
        phase = self._phases[self._at]
        self._steps += 1
        goal = phase.goal(scene)
        if self._detour_left > 0 and self._at == 0:
            self._detour_left -= 1
            goal = goal + self._detour
        commanded = scene.commanded()
        move = goal - scene.kinematics.position(commanded)
        gripper = scene.robot.gripper_index
        squeeze = (phase.opening - commanded[gripper]) / self._action.gripper_step
        if self._action.kind == "joint_delta":
            reachable = move * min(1.0, self._action.step_m / max(1e-9, float(np.abs(move).max())))
            start = scene.kinematics.position(commanded)
            change = scene.kinematics.solve(start + reachable, commanded) - commanded
            action = change / self._action.joint_step_deg
            action[gripper] = squeeze
        else:
            action = np.append(move / self._action.step_m, squeeze)
        motion = np.arange(len(action)) != (gripper if self._action.kind == "joint_delta" else 3)
        action[motion] += self._noise.action * self._rng.standard_normal(int(motion.sum()))
        return np.clip(action, -1.0, 1.0).astype(np.float32)[None]

    def _move_on(self) -> None:
        """Go to the next phase where this one is done, or back to the first where what was held is lost."""
        scene = self._scene
        while self._at < len(self._phases) - 1:
            phase = self._phases[self._at]
            if not (phase.done(scene) or self._steps >= phase.patience):
                break
            self._at, self._steps = self._at + 1, 0
        held = self._phases[self._at].holding
        if self._recover and held and self._steps > 0 and not scene.grasped(held):
            self._begin()


def make_expert(
    scene: Scene, *, action: ActionConfig | None = None, noise: Noise | None = None, seed: int = 0
) -> Expert:
    """Return a scripted policy that solves the scene's task.

    Raises:
        ConfigError: If nobody has written a script for it.
    """
    return Expert(scene, action=action, noise=noise, seed=seed)
