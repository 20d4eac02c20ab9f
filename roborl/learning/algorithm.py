"""What every algorithm is to the trainer; one of one's own needs nothing else."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from roborl.learning.publish import Weights


class Algorithm[B](Protocol):
    """Sampled batch to new weights and metrics.

    Attributes:
        images: Whether its batches bring pictures, each under its own random shift; without, it may look them up by row, see
            :class:`LooksUp`.
    """

    images: bool

    def update(self, batch: B) -> dict[str, float]:
        """Make one update and return its figures."""
        ...

    def actor_weights(self) -> Weights:
        """Return what an actor needs, by name; nothing of the critics."""
        ...

    def load_actor_weights(self, weights: Weights) -> None:
        """Go on from an older actor.

        Raises:
            ModelLoadError: If they do not fit.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training needs in order to go on: networks, optimisers, generators, counters."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


@runtime_checkable
class LooksAhead(Protocol):
    """What an algorithm has besides whose look ahead grows with what the policy can do; one of one's own need not."""

    @property
    def lookahead(self) -> float:
        """What part of the value beyond the potential each step hands back now."""
        ...

    def practised(self, successes: int, before_practice: int) -> None:
        """Hear how far practice has come.

        Args:
            successes: Online episodes of the run that have succeeded so far without a person's help.
            before_practice: Updates of its head start so far, with which no schedule of practice moves on; in a run that began when
                schedules did, those made since.
        """
        ...


@runtime_checkable
class LooksUp[B](Protocol):
    """What an algorithm has besides that reads from the replay memory, by row, what its batches do not bring.

    By the time of an update the store may have given their rows to other episodes.
    """

    def look_up(self, batch: B) -> None:
        """Read what the update with this batch will want, and keep it; another batch comes instead where it came too late."""
        ...
