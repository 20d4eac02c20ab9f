"""Whose turn it is at each step of an episode, the policy's or the person's, and what is done in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roborl.loops.actor.newest_chunk import NewestChunk
from roborl.loops.actor.remarks import Remarks
from roborl.loops.actor.status import StatusSlot
from roborl.roles import Supervisor
from roborl.types import EpisodeKey, Observation, Source


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """What is to be done in one step.

    Attributes:
        action: In [-1, 1], float32 (a,).
        source: Who chose it.
        proposed: What the policy had proposed, float32 (a,); no move where it had said nothing of this step.
        policy_version: Of the weights behind the proposal, 0 where there is none.
    """

    action: NDArray[np.float32]
    source: Source
    proposed: NDArray[np.float32]
    policy_version: int


class Turns:
    """Gives each step to whom the supervisor gives the arm. Never waits.

    The policy acts on what it chose after the person's last step; a person does not wait for the policy.

    Args:
        supervisor: Decides who commands.
        newest: What the policy chose.
        status: The control process's counters.
        remarks: Takes what is to be said of take-overs.
        action_dim: Length of an action.

    Attributes:
        lost: Whether the arm was given to nobody: the person's device fell silent while the person had it.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        newest: NewestChunk,
        status: StatusSlot,
        remarks: Remarks,
        action_dim: int,
    ) -> None:
        self._supervisor, self._newest = supervisor, newest
        self._status, self._remarks = status, remarks
        self._idle = np.zeros(action_dim, np.float32)
        self._key: EpisodeKey | None = None
        self._taken: list[list[int]] = []
        self.lost = False

    def begin(self, key: EpisodeKey) -> None:
        """Forget the episode before; nobody has commanded in episode ``key`` yet."""
        self._newest.forget()
        self._key, self._taken, self.lost = key, [], False

    @property
    def heard(self) -> int:
        """How many answers of the policy's have come."""
        return self._newest.heard

    def wanted(self, index: int) -> bool:
        """Look for what the policy has chosen meanwhile; return whether it is to be asked again at step ``index``."""
        assert self._key is not None, "an episode has begun"
        self._newest.look(index)
        return self._newest.wanted(self._key, index, person_at=self._person_at)

    def after_person(self, index: int) -> bool:
        """Return whether a person commanded the step before ``index``."""
        return bool(self._taken) and self._person_at == index - 1

    def take(self, observation: Observation, index: int, *, alone: bool) -> Turn | None:
        """Return what is done in step ``index``; None while nobody does anything, for good where the arm is ``lost``.

        Args:
            observation: The step's.
            index: The step.
            alone: Whether a person acts although the policy has proposed nothing for this step yet.
        """
        assert self._key is not None, "an episode has begun"
        self._newest.look(index)
        chunk = self._newest.covering(self._key, index)
        proposed = self._idle if chunk is None else chunk.actions[index - chunk.first]
        decision = self._supervisor.decide(observation, proposed)
        if decision is None:
            self.lost = True
            return None
        action, source = decision
        if source is Source.PERSON:
            if chunk is None and not alone:
                return None
        elif self._newest.usable(self._key, index, person_at=self._person_at) is None:
            return None
        version = 0 if chunk is None else chunk.policy_version
        return Turn(action=action, source=source, proposed=proposed, policy_version=version)

    def done(self, source: Source, index: int) -> None:
        """Step ``index`` is committed, as commanded by ``source``."""
        if source is not Source.PERSON:
            return
        if self._taken and self._person_at == index - 1:
            self._taken[-1][1] = index
        else:
            self._taken.append([index, index])
            self._status.add("takeovers")
        self._status.add("person_steps")

    def finish(self) -> None:
        """The episode is over, and with it what a button took over."""
        self._supervisor.release()
        if self._taken:
            spans = ", ".join(f"{a} to {b}" if b > a else f"{a}" for a, b in self._taken)
            self._remarks.keep("person", f"{self._key}: the person had the arm in steps {spans}")

    @property
    def by_person(self) -> bool:
        """Whether a person has commanded a step of the present episode."""
        return bool(self._taken)

    @property
    def _person_at(self) -> int:
        """The last step that a person commanded, -1 for none."""
        return self._taken[-1][1] if self._taken else -1
