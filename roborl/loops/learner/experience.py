"""What the trainer sees of the replay memory: batches, and what has happened since the last look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """A finished online episode, for the metrics.

    Attributes:
        key: Its key as text.
        steps: Transitions.
        person: Of those, how many a person commanded.
        reward: Sum of the task's rewards.
        success: The verdict, None where there was none.
        end: Why it ended.
        policy_version: Version behind its last step.
    """

    key: str
    steps: int
    person: int
    reward: float
    success: bool | None
    end: str
    policy_version: int


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What the store holds for the trainer.

    Attributes:
        committed: Online observations ever committed; moves while an actor is alive.
        sampleable: Online transitions of this run that ever became sampleable, each counted once.
        finished: Online episodes that ended since the last look, in the order they ended; one that is left to a judge once
            there is a verdict, or none is waited for any more.
        successes: Online episodes of this run that succeeded, by their newest verdicts; what was discarded is none.
        unaided: Online episodes that succeeded, by their newest verdicts, without a step that a person commanded.
        policy_version: Version behind the newest step, 0 for none.
        held: Transitions that may be sampled with their potential held, because labels are late.
        held_draws: Transitions that were drawn so, since the run began, each as often as it was drawn.
        label_version: Version of the labels behind the potentials, empty for none.
        recorded: Recorded episodes stand there whole, with their labels.
    """

    committed: int
    sampleable: int
    finished: Sequence[EpisodeResult]
    successes: int
    policy_version: int
    held: int
    held_draws: int = 0
    label_version: str = ""
    recorded: bool = False
    unaided: int = 0


class BatchSource[B](Protocol):
    """The replay memory, seen from the trainer."""

    def refresh(self) -> Experience:
        """Take in what is new."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return, for a checkpoint, which transitions have been counted as sampleable, and how far draws have come."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: what it counted is not counted again, whenever it comes into memory."""
        ...

    def sample(self) -> B | None:
        """Draw the next batch, None while there is nothing to draw: sizes, mixing and shaping inputs are its business."""
        ...
