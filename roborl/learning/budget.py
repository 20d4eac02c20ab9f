"""How many updates the learner may make: a token bucket filled by new experience, never a brake on the actor."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """How fast updates are earned and how far they may run ahead of experience or behind it."""

    # updates earned by one new sampleable transition
    ratio: float = 8.0
    # updates the learner may make before they are earned, while an actor is alive; .inf for as many as it can
    max_lead: float = 64.0
    # updates that may stay owed; what lies beyond is forgiven and counted; .inf forgives nothing
    max_owed: float = 20_000.0
    # updates on recorded episodes alone, before the first episode online: actors wait for them; needs recorded episodes
    head_start: int = 0
    # online transitions that must be sampleable before they earn the first update
    start_at: int = 200
    # updates owed at which actors are asked to wait between two episodes, until half of them are made; 0: never. For
    # simulations, which may run faster than any learner; an arm with a person beside it should not wait
    hold_actors_at: float = 0.0
    # seconds without news of an actor after which nothing is done ahead of experience
    silence_s: float = 5.0

    def __post_init__(self) -> None:
        least = (self.max_lead, self.head_start, self.start_at, self.silence_s)
        if not (
            0 < self.ratio < math.inf and all(number >= 0 for number in least) and self.max_owed >= self.ratio
        ):
            raise ConfigError(
                "The replay ratio cannot be kept",
                seen=f"ratio={self.ratio:g} max_lead={self.max_lead:g} max_owed={self.max_owed:g} "
                f"head_start={self.head_start} start_at={self.start_at} silence_s={self.silence_s:g}",
                allowed="finite ratio > 0, max_owed >= ratio, 0 or more each of max_lead, head_start, start_at and silence_s",
                remedy="Set trainer.budget.ratio to updates per new transition, for example 8; for a learner that does not wait for "
                "experience while an actor is alive, trainer.budget.max_lead .inf",
            )
        if not 0.0 <= self.hold_actors_at < self.max_owed:
            raise ConfigError(
                "Actors would never be held, for what is owed beyond a limit is forgiven",
                seen=f"hold_actors_at={self.hold_actors_at:g} max_owed={self.max_owed:g}",
                allowed="hold_actors_at from 0, for never, to less than max_owed",
                remedy="Lower trainer.budget.hold_actors_at, or raise trainer.budget.max_owed",
            )


class ReplayBudget:
    """Counts what experience has earned and what updates have spent.

    Only transitions that arrive after training may start earn updates: what was there at the start (demonstrations,
    or the first random steps) is a data set, not a debt. It gets a fixed number of updates, the head start.

    Example:
        >>> budget = ReplayBudget(BudgetConfig(ratio=2.0, max_lead=3.0, start_at=10))
        >>> budget.arrived(9); budget.allowance(actor_alive=True)
        0
        >>> budget.arrived(3); budget.allowance(actor_alive=True), budget.allowance(actor_alive=False)
        (7, 4)
        >>> budget.spend(5); budget.allowance(actor_alive=True), round(budget.achieved_ratio, 2)
        (2, 2.5)
    """

    def __init__(self, config: BudgetConfig) -> None:
        self.config = config
        self._waiting = 0
        self._started = config.start_at <= 0
        self._earning = 0
        self._tokens = 0.0
        self._updates = 0
        self._forgiven = 0.0
        self._holding = False
        self._head_start, self._recorded = config.head_start, False
        self._made_ahead = self._before_practice = 0

    @property
    def holds_actors(self) -> bool:
        """True while the learner has its head start, or is so far behind that actors should wait between episodes."""
        if self.ahead:
            return True
        limit = self.config.hold_actors_at
        if not limit or self._tokens <= limit / 2:
            self._holding = False
        elif self._tokens > limit:
            self._holding = True
        return self._holding

    @property
    def ahead(self) -> bool:
        """True while the head start lasts."""
        return self._head_start > 0

    @property
    def started(self) -> bool:
        """True once the minimum number of transitions has been there."""
        return self._started

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return self._updates

    @property
    def before_practice(self) -> int:
        """Updates that no schedule of practice moves on with: the head start's, but for those with which they once did in this run."""
        return self._before_practice

    @property
    def in_practice(self) -> int:
        """Updates that schedules of practice move on with: all others."""
        return self._updates - self._before_practice

    @property
    def achieved_ratio(self) -> float:
        """Updates made per transition that earned some, without the head start; 0 before the first."""
        return (self._updates - self._made_ahead) / self._earning if self._earning else 0.0

    def recorded(self) -> None:
        """Take note that the recorded episodes stand there whole, so that the head start may begin."""
        self._recorded = True

    def arrived(self, transitions: int) -> None:
        """Count ``transitions`` newly sampleable ones, online and not demonstrations."""
        if not self._started:
            self._waiting += transitions
            if self._waiting < self.config.start_at:
                return
            self._started, transitions = True, self._waiting - max(self.config.start_at, 0)
        self._earning += transitions
        self._tokens += transitions * self.config.ratio
        if self._tokens > self.config.max_owed:
            self._forgiven += self._tokens - self.config.max_owed
            self._tokens = self.config.max_owed

    def allowance(self, *, actor_alive: bool) -> int:
        """Return how many updates may be made now.

        A silent actor takes away the lead only: updates that its experience has earned are still made, so a learner
        works on while a person clears the table and stops when it has nothing new to learn from.
        """
        if self._head_start:
            return self._head_start if self._recorded else 0
        if not self._started:
            return 0
        lead = self.config.max_lead if actor_alive else 0.0
        return int(max(0.0, min(self._tokens + lead, sys.maxsize)))

    def spend(self, updates: int) -> None:
        """Count ``updates`` made."""
        ahead = min(updates, self._head_start)
        self._head_start -= ahead
        self._made_ahead += ahead
        self._before_practice += ahead
        self._updates += updates
        self._tokens -= updates - ahead

    def report(self) -> dict[str, float]:
        """Return the figures for the metrics."""
        return {
            "updates": float(self._updates),
            "requested_ratio": self.config.ratio,
            "achieved_ratio": self.achieved_ratio,
            "owed_updates": self._tokens,
            "forgiven_updates": self._forgiven,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counters for a checkpoint."""
        return {
            "waiting": self._waiting,
            "started": self._started,
            "earning": self._earning,
            "tokens": self._tokens,
            "updates": self._updates,
            "forgiven": self._forgiven,
            "made_ahead": self._made_ahead,
            "before_practice": self._before_practice,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the counters of a checkpoint; a head start that is longer than it was goes on.

        A lead beyond the one that is allowed now need not be earned.
        """
        self._waiting, self._started = int(state["waiting"]), bool(state["started"])
        self._earning = int(state["earning"])
        self._tokens = max(float(state["tokens"]), -self.config.max_lead)
        self._updates, self._forgiven = int(state["updates"]), float(state["forgiven"])
        self._made_ahead = int(state.get("made_ahead", 0))  # Runs of older releases had no head start.
        # In runs of older releases schedules moved on with the head start: what they have come to they keep.
        self._before_practice = int(state.get("before_practice", 0))
        self._head_start = max(0, self.config.head_start - self._made_ahead)
