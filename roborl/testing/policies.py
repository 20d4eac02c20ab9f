"""Policies without a tensor library, for tests and for trying an actor out before anything was learned."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ModelLoadError
from roborl.policies.exploration import ExplorationConfig
from roborl.types import Observation


class RandomPolicy:
    """Uniform actions around a bias that can be published like weights.

    Args:
        action_dim: Size of an action.
        length: Actions per chunk.
        seed: Of the actions.
        latency_s: How long choosing them takes.
    """

    def __init__(
        self, *, action_dim: int = 4, length: int = 1, seed: int = 0, latency_s: float = 0.0
    ) -> None:
        self._shape = (length, action_dim)
        self._random = np.random.default_rng(seed)
        self._latency_s = latency_s
        self._bias: NDArray[np.float32] = np.zeros(action_dim, np.float32)
        self._version = 0

    @property
    def version(self) -> int:
        """Version of the bias, 0 before any was published."""
        return self._version

    def reset(self) -> None:
        """Nothing is remembered from one episode to the next."""

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return random actions, float32 (length, action_dim), in [-1, 1] unless the bias leads out of them."""
        if self._latency_s:
            time.sleep(self._latency_s)
        noise = self._random.uniform(-0.5, 0.5, self._shape).astype(np.float32)
        return noise + self._bias

    def load_actor(self, weights: Mapping[str, NDArray[Any]], version: int) -> None:
        """Take the bias named "bias".

        Raises:
            ModelLoadError: If it is not there or has another size.
        """
        bias = weights.get("bias")
        if bias is None or bias.shape != self._bias.shape:
            raise ModelLoadError("These are not the weights of a random policy", seen=sorted(weights))
        self._bias, self._version = np.array(bias, np.float32), version


def random_policy(
    folder: Path, *, task: str = "", explore: ExplorationConfig | None = None, seed: int = 0
) -> RandomPolicy:
    """Make a random policy with four action components; there is nothing to read from ``folder``."""
    return RandomPolicy(seed=seed)
