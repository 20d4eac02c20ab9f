"""How many transitions of a batch come from which index set, as a schedule over the learner's updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from roborl.errors import ConfigError, DatasetError
from roborl.learning.batch import Batch
from roborl.learning.sampling import Sampler

Schedule = Literal["fixed", "linear", "proportional"]


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of a batch that one index set gets.

    Attributes:
        kind: ``fixed``: always ``share``. ``linear``: from ``share`` to ``final`` over ``over_updates``.
            ``proportional``: of what fixed and linear shares leave, the part that the set has of all transitions in other
            sets than theirs, but never less than ``share``. ``rest``: what the other sets leave.
        share: A part of the batch, 0 to 1.
        final: Where a linear share ends, 0 to 1.
        over_updates: Updates a linear share takes to get there.
    """

    kind: Schedule | Literal["rest"] = "fixed"
    share: float = 0.5
    final: float = 0.5
    over_updates: int = 1

    def __post_init__(self) -> None:
        shares = (self.share, self.final)
        if not (min(shares) >= 0.0 and max(shares) <= 1.0 and self.over_updates >= 1):
            raise ConfigError(
                "A share of the batch cannot be used",
                seen=f"{self.share} to {self.final} over {self.over_updates}",
                allowed="shares in [0, 1], over_updates ≥ 1",
            )

    def at(self, update: int, natural: float) -> float:
        """Return the share at one update, given the one that the set has by its size; 0 for the rest."""
        match self.kind:
            case "fixed":
                return self.share
            case "linear":
                done = min(1.0, update / self.over_updates)
                return self.share + done * (self.final - self.share)
            case "proportional":
                return max(self.share, natural)
            case "rest":
                return 0.0


def split_batch(
    batch_size: int, mix: Mapping[str, Share], counts: Mapping[str, int], update: int
) -> dict[str, int]:
    """Divide a batch among index sets; shares are relative to each other, and an empty set leaves its part to the others.

    Args:
        batch_size: Transitions to draw.
        mix: Share by index set.
        counts: Transitions in each of these sets.
        update: Which update of the learner this is, from 0.

    Returns:
        Transitions by index set, adding up to ``batch_size``; rounding errors go to the sets they are largest for.

    Raises:
        DatasetError: If all sets with a share are empty.

    Example:
        >>> mix = {"online": Share(share=0.75), "demo": Share(share=0.25)}
        >>> split_batch(6, mix, {"online": 100, "demo": 9}, update=0)
        {'online': 5, 'demo': 1}
        >>> split_batch(6, mix, {"online": 0, "demo": 9}, update=0)
        {'demo': 6}
    """
    shares = _present_shares(mix, counts, update)
    total = sum(shares.values())
    if total <= 0.0:
        raise DatasetError(
            "There is nothing to sample yet",
            seen={name: counts[name] for name in mix},
            remedy="Wait for episodes, or give demonstrations a share",
        )
    exact = {name: batch_size * share / total for name, share in shares.items()}
    parts = {name: int(value) for name, value in exact.items()}
    by_rest = sorted(exact, key=lambda name: parts[name] - exact[name])
    for name in by_rest[: batch_size - sum(parts.values())]:
        parts[name] += 1
    return parts


def _present_shares(mix: Mapping[str, Share], counts: Mapping[str, int], update: int) -> dict[str, float]:
    present = {name: share for name, share in mix.items() if counts[name] > 0}
    by_size = [name for name, share in present.items() if share.kind in ("proportional", "rest")]
    unreserved = max(0.0, 1.0 - sum(present[name].at(update, 0.0) for name in present.keys() - set(by_size)))
    everything = max(1, sum(counts[name] for name in by_size))
    shares = {
        name: share.at(update, unreserved * counts[name] / everything) for name, share in present.items()
    }
    left = max(0.0, 1.0 - sum(shares.values()))
    return {name: left if mix[name].kind == "rest" else share for name, share in shares.items()}


class Mixer:
    """Draws mixed batches.

    Args:
        sampler: Where from.
        mix: Share by index set, several sets joined by ``+`` counting as one.
    """

    def __init__(self, sampler: Sampler, mix: Mapping[str, Share]) -> None:
        self.sampler, self.mix = sampler, dict(mix)

    def empty(self, update: int) -> bool:
        """Return whether all sets with a share are empty."""
        return not sum(_present_shares(self.mix, self._counts(), update).values()) > 0.0

    def sample(
        self,
        batch_size: int,
        update: int,
        *,
        images: bool = True,
        look_up: Callable[[Batch], None] | None = None,
    ) -> Batch:
        """Draw one batch, its transitions in the order of the mix; see :meth:`Sampler.sample_parts`.

        Raises:
            DatasetError: If all sets with a share are empty.
        """
        parts = split_batch(batch_size, self.mix, self._counts(), update)
        return self.sampler.sample_parts(parts, images=images, look_up=look_up)

    def _counts(self) -> dict[str, int]:
        return {name: self.sampler.count(name) for name in self.mix}
