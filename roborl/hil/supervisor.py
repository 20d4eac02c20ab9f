"""Who commands: the policy alone, or a person over the policy's shoulder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from roborl.clock import NS, Clock
from roborl.errors import ConfigError, WireError
from roborl.types import Observation, Source


class Trigger(StrEnum):
    """What makes a person command."""

    CLUTCH = "clutch"
    MOTION = "motion"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceReading:
    """The newest state of a person's device.

    Attributes:
        action: In the policy's own action frame, in [-1, 1], float32 (a,).
        clutch: Whether the clutch is held.
        stamp_ns: When it was read, on the reader's clock.
    """

    action: NDArray[np.float32]
    clutch: bool
    stamp_ns: int


@dataclass(frozen=True, kw_only=True)
class InterventionConfig:
    """How a person takes over and gives back."""

    # What takes over: holding the clutch, which is a gamepad's RB (safer), or moving the device. A leader arm has no clutch: t on
    # the keyboard takes over with it, and g gives back, whatever stands here.
    trigger: Trigger = Trigger.CLUTCH
    # With the motion trigger: the largest component of an action that still counts as rest, in [0, 1].
    rest: float = 0.05
    # With the motion trigger: how long the person keeps the arm after the last motion, in seconds.
    hold_over_s: float = 0.5
    # A reading older than this, in seconds, is no reading: the arm is stopped where the person has it, and no episode
    # begins before there is a younger one.
    stale_s: float = 0.2

    def __post_init__(self) -> None:
        for name in ("rest", "hold_over_s", "stale_s"):
            value = getattr(self, name)
            if not 0.0 <= value < float("inf"):
                raise ConfigError(f"intervention.{name} is out of range", seen=value, allowed="[0, inf)")


class PolicyOnly:
    """The policy commands, always."""

    def decide(
        self, observation: Observation, proposed: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], Source]:
        """Return the proposal."""
        return proposed, Source.POLICY

    def release(self) -> None:
        """Nobody has taken over."""


class Intervention:
    """A person takes over by clutch or by motion, and the policy has the arm otherwise.

    Args:
        read: Returns the newest reading of the device, None before the first; raises WireError where what is there is no
            reading. Must not wait.
        clock: The clock of the readings' stamps.
        config: When the person commands.

    Attributes:
        engaged: Whether the person had the arm at the last decision.
    """

    def __init__(
        self, read: Callable[[], DeviceReading | None], clock: Clock, config: InterventionConfig
    ) -> None:
        self._read = read
        self._clock = clock
        self._config = config
        self._held_until_ns = -1
        self._forced = False
        self.engaged = False

    @property
    def connected(self) -> bool:
        """Whether the device gives readings that can be used."""
        return self._reading(self._clock.now_ns()) is not None

    def force(self, engaged: bool) -> None:
        """Take over, or give back, by a button, until the episode is over; the trigger keeps working beside it.

        Between two episodes it counts for the next one.
        """
        self._forced = engaged

    def release(self) -> None:
        """Give back what a button took over."""
        self._forced = False

    def decide(
        self, observation: Observation, proposed: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], Source] | None:
        """Return the person's action while the person commands, else the proposal.

        None where the person has the arm, or asked for it, and the device cannot be heard: the arm is given to nobody.
        The person has to take over again afterwards.
        """
        now_ns = self._clock.now_ns()
        reading = self._reading(now_ns)
        if reading is None:
            lost = self.engaged or self._forced
            self.engaged = self._forced = False
            self._held_until_ns = -1
            return None if lost else (proposed, Source.POLICY)
        if self._config.trigger is Trigger.MOTION:
            if float(np.abs(reading.action).max(initial=0.0)) > self._config.rest:
                self._held_until_ns = now_ns + int(self._config.hold_over_s * NS)
            engaged = now_ns < self._held_until_ns
        else:
            engaged = reading.clutch
        self.engaged = engaged or self._forced
        if not self.engaged:
            return proposed, Source.POLICY
        return np.clip(reading.action, -1.0, 1.0).astype(np.float32), Source.PERSON

    def _reading(self, now_ns: int) -> DeviceReading | None:
        """Return the newest reading, None where it is malformed, too old or not finite."""
        try:
            reading = self._read()
        except WireError:
            return None
        if reading is None or now_ns - reading.stamp_ns > self._config.stale_s * NS:
            return None
        return reading if np.isfinite(reading.action).all() else None
