"""What the control loop is told, and the words in which it says why it waits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from roborl.errors import ConfigError
from roborl.loops.seeds import Purpose


class WaitReason(IntEnum):
    """Why no episode runs at the moment."""

    NOTHING = 0
    RING_FULL = 1
    LEARNER_PAUSED = 2
    NO_POLICY = 3
    NO_DEVICE = 4
    OPERATOR = 5
    NO_LEARNER = 6
    NO_WEIGHTS = 7


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """What the control loop has to know beside its parts.

    Attributes:
        task: The instruction in words.
        meta: Goes with every episode: bench, mode.
        control_hz: Rate of the set-points.
        max_steps: Policy steps after which an episode is cut off.
        episodes: How many to run in all, None for no end.
        purpose: What the scenes are for.
        seed: Which set of them to run through.
        replan_steps: After how many steps of a chunk another one is asked for.
        action_deadline_s: Wall seconds without an action after which the episode ends, once more as many where the answer to
            an earlier observation comes meanwhile; and for which the arm goes on with a chunk while the next one, asked for,
            does not come.
        tick_deadline_s: Wall seconds by which a control tick may be late before the episode ends; 0: any.
        time_scale: How many clock seconds pass per wall second.
        world_waits: Let a simulated world stand still while no action is there, so that an episode does not depend on
            the load of the machine. On a physical arm this is false: it is held.
        goes_home: Bring the arm to its home pose once the scene is ready, before each episode. A simulated scene puts it
            there itself.
    """

    task: str
    meta: dict[str, str | int | float]
    control_hz: float
    max_steps: int
    episodes: int | None = None
    purpose: Purpose = "online"
    seed: int = 0
    replan_steps: int = 1
    action_deadline_s: float = 1.0
    tick_deadline_s: float = 0.0
    time_scale: float = 1.0
    world_waits: bool = False
    goes_home: bool = False

    def __post_init__(self) -> None:
        for name in ("control_hz", "max_steps", "replan_steps", "action_deadline_s", "time_scale"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is out of range", seen=getattr(self, name), allowed="above 0")

    @property
    def evaluates(self) -> bool:
        """Whether a policy's successes are counted."""
        return self.purpose == "evaluation"

    def enough(self, episodes: int, *, cut_short: int) -> bool:
        """Return whether so many episodes are enough.

        In an evaluation those that were cut short say nothing of the policy and do not count, so that others are run; up to
        as many as were wanted, and five.

        Args:
            episodes: How many have been run.
            cut_short: How many of them a fault, or the end of an earlier start, cut short.
        """
        if self.episodes is None:
            return False
        if not self.evaluates:
            return episodes >= self.episodes
        return episodes - cut_short >= self.episodes or cut_short >= self.episodes + 5

    def patience_steps(self, ticks_per_step: int) -> int:
        """Return the policy steps, each of so many control ticks, that make up ``action_deadline_s``; at least 1."""
        deadline_s = self.action_deadline_s * self.time_scale
        return math.ceil(deadline_s * self.control_hz / ticks_per_step - 1e-9)
