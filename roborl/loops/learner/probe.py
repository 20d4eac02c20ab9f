"""What new weights are tried on before they go out: observations of the run, renewed as it goes on."""

from __future__ import annotations

import logging
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.data.reader import StoreReader
from roborl.errors import DatasetError
from roborl.learning.publish import ProbeActions, probe_with
from roborl.types import Observation

log = logging.getLogger(__name__)

# Weights that are tried before others are remembered: minutes of a run, in which an episode or more has ended.
_RENEWED_AFTER = 20


class WeightsProbe:
    """Tries weights on remembered observations, once there are some: the first of each of the newest episodes.

    Args:
        policy: Is filled with the weights. One that clips its actions is asked for what it would do unclipped.
        recording: Where the observations come from.
        count: How many.
    """

    def __init__(self, policy: Any, recording: StoreReader, count: int) -> None:
        self._policy, self._recording, self._count = policy, recording, count
        self._observations: list[Observation] = []
        self._tried = 0

    def __call__(self) -> ProbeActions | None:
        """Return what tries weights, None while nothing is recorded."""
        if len(self._observations) < self._count or self._tried >= _RENEWED_AFTER:
            self._remember()
        if not self._observations:
            return None
        self._tried += 1
        return probe_with(
            self._propose, lambda weights: self._policy.load_actor(weights, 0), self._observations
        )

    def _propose(self, observation: Observation) -> NDArray[np.floating]:
        """Return what these weights do by themselves: nothing seen before, or planned with others, goes into it."""
        self._policy.reset()
        actions: NDArray[np.floating] = getattr(self._policy, "unclipped", self._policy.act)(observation)
        return actions

    def _remember(self) -> None:
        found: list[Observation] = []
        try:
            infos = [info for info in self._recording.episodes() if info.observations]
            for info in infos[-self._count :]:
                wanted = max(1, self._count // len(infos))
                step = max(1, info.observations // wanted)
                seen = self._recording.observations(info.key)
                found += list(islice(seen, 0, wanted * step, step))
        except DatasetError:
            log.debug("An episode was sealed while it was read; the probe takes others next time")
            return
        self._observations, self._tried = found[: self._count], 0
