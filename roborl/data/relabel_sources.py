"""Episodes to relabel, out of datasets of several forms: which ones, in which order, and in which part of what is made."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from roborl.data.relabel_lerobot import LeRobotSubset
from roborl.data.relabel_source import LeftOut, RelabelSource, Subset
from roborl.errors import ConfigError

__all__ = ["LeftOut", "RelabelSource", "open_sources", "part_of"]

log = logging.getLogger(__name__)


def open_sources(
    place: str,
    *,
    split: str = "",
    camera: str = "",
    rate_hz: float | None = None,
    failures: bool = True,
    cap: int | None = None,
    seed: int = 0,
) -> Iterator[RelabelSource]:
    """Open the episodes of a dataset one at a time, without their pictures.

    Episodes of no use are passed over and counted in the log: see :class:`LeftOut`.

    Args:
        place: A LeRobotDataset: a folder, or an id on the hub.
        split: Which split; empty for all.
        camera: Which camera; empty for the first that is not black.
        rate_hz: Observations per second, where the dataset does not say or is wrong.
        failures: Whether episodes that failed are wanted too.
        cap: Most episodes of each dataset and split, drawn uniformly without repetition; None for all, in their order. A
            larger cap draws those of a smaller one first.
        seed: Of the draw.

    Yields:
        Episodes, dataset by dataset, in the same order each time.

    Raises:
        ConfigError: If ``cap`` or ``rate_hz`` is not positive.
        DatasetError: If a dataset cannot be read, or lacks what is named.
    """
    if (cap is not None and cap < 1) or (rate_hz is not None and not 0 < rate_hz < np.inf):
        raise ConfigError(
            "These sources cannot be drawn",
            seen=f"cap {cap}, rate_hz {rate_hz}",
            allowed="more than 0, or none",
        )
    subsets: list[Subset] = [
        LeRobotSubset(place, split=split, cameras=[camera] if camera else (), rate_hz=rate_hz)
    ]
    for subset in subsets:
        yield from _drawn(subset, failures=failures, cap=cap, seed=seed)


def _drawn(subset: Subset, *, failures: bool, cap: int | None, seed: int) -> Iterator[RelabelSource]:
    order: Sequence[int] = range(len(subset))
    if cap is not None:
        # Each dataset has a generator of its own, so that a further one beside it changes nothing.
        order = np.random.default_rng([seed, _number(subset.name)]).permutation(len(subset)).tolist()
    given, left_out = 0, Counter[LeftOut]()
    for place in order:
        if given == cap:
            break
        source = subset.open(place)
        if isinstance(source, RelabelSource) and source.success is False and not failures:
            source = LeftOut.UNSUCCESSFUL
        if isinstance(source, LeftOut):
            left_out[source] += 1
            continue
        given += 1
        yield source
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        log.warning("%s: %d episodes taken, left out: %s", subset.name, given, reasons)


def part_of(source: RelabelSource, shares: Mapping[str, float], *, seed: int = 0) -> str:
    """Return the part of the relabelled data that everything made of an episode belongs to.

    It depends on the episode's origin alone: copies and cuts of one episode come into one part, and further episodes
    move none from one part to another.

    Args:
        source: The episode.
        shares: Share of the episodes by the part's name, 1 in all.
        seed: Another one makes other parts.

    Raises:
        ConfigError: If the shares are not such.
    """
    values = np.array(list(shares.values()), np.float64)
    if not len(values) or not np.isfinite(values).all() or (values < 0).any() or abs(values.sum() - 1) > 1e-6:
        raise ConfigError("Shares of the parts do not make a whole", seen=dict(shares), allowed="1 in all")
    name = f"{seed}/{source.dataset}/{source.origin or source.episode}"
    place = _number(name) / 2**64
    return list(shares)[min(int(np.searchsorted(np.cumsum(values), place, side="right")), len(values) - 1)]


def _number(text: str) -> int:
    """Return 64 bits that stand for a text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
