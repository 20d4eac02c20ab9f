"""The roles of the running system, one verb each. Reward models and judges have theirs in ``roborl.rewards.model``."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from roborl.types import Observation, Source


class Policy(Protocol):
    """Observation to action chunk."""

    @property
    def version(self) -> int:
        """Version of the weights in use, 0 for a policy that has none."""
        ...

    def reset(self) -> None:
        """Forget the episode so far."""
        ...

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return the next h actions, float32 (h, a), each in [-1, 1]."""
        ...


@runtime_checkable
class Planner(Protocol):
    """A policy that keeps plans: actions that it has chosen and not given away yet. Others need not have this."""

    def forget_plans(self) -> None:
        """Choose the next actions by what is seen then and by the weights of then; the episode goes on.

        Asked for where somebody else has moved the robot, and where other weights have been loaded.
        """
        ...


class Operator(Protocol):
    """Whoever makes the scene ready and says whether the task is done: a person, or a simulation standing for one."""

    def reset(self, seed: int | None) -> None:
        """Make the scene ready for an episode. May take long; the arm is at rest meanwhile."""
        ...

    def verdict(self) -> bool | None:
        """Return True for success, False for failure, None while neither has been said. Never blocks."""
        ...


class Supervisor(Protocol):
    """Decides who commands at each policy step. Never blocks."""

    def decide(
        self, observation: Observation, proposed: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], Source] | None:
        """Return the action to execute, float32 (a,), and who chose it; None where the arm must stop.

        May be asked several times in one step, as long as nobody acts. ``proposed`` is no move where the policy has
        proposed nothing for this step; the policy is not given the arm then.
        """
        ...

    def release(self) -> None:
        """Take note that an episode is over: the next one is the policy's, unless a person takes over anew."""
        ...
