"""How a policy strays from its best action while it learns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExplorationConfig:
    """How a policy explores: small noise at every step, and now and then a burst.

    Small noise alone never leaves a place that the policy steers back to.

    Source:
        Dabney, Ostrovski & Barreto, Temporally-Extended epsilon-Greedy Exploration (ICLR 2021) for the bursts.
    """

    # standard deviation of the noise on each component of an action
    std: float = 0.1
    # correlation of that noise from one step to the next, in [0, 1)
    persistence: float = 0.5
    # probability at each step outside a burst that one begins: one component of the action, drawn at random, is held at
    # a random value of at least half its size; 0 for no bursts
    burst_rate: float = 0.05
    # longest burst, steps; the length is drawn evenly from 1 on
    burst_steps: int = 6

    def __post_init__(self) -> None:
        if not (
            self.std >= 0.0
            and 0.0 <= self.persistence < 1.0
            and 0.0 <= self.burst_rate <= 1.0
            and self.burst_steps >= 1
        ):
            raise ConfigError(
                "A policy cannot explore in this way",
                seen=f"std={self.std:g} persistence={self.persistence:g} burst_rate={self.burst_rate:g} "
                f"burst_steps={self.burst_steps}",
                allowed="std ≥ 0, persistence in [0, 1), burst_rate in [0, 1], burst_steps ≥ 1",
                remedy="Without bursts: burst_rate 0",
            )


class Explorer:
    """Adds to actions what explores.

    Args:
        config: How.
        action_dim: Size of an action.
        seed: Of every draw.
    """

    def __init__(self, config: ExplorationConfig, action_dim: int, *, seed: int) -> None:
        self.config = config
        self._random = np.random.default_rng(seed)
        self._noise: NDArray[np.float64] = np.zeros(action_dim)
        self._component, self._value, self._left = 0, 0.0, 0

    def reset(self) -> None:
        """Begin an episode: draw fresh noise, end a burst."""
        self._noise, self._left = self._random.normal(size=self._noise.size), 0

    def __call__(self, action: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return actions (h, a) with noise, one component held where there is a burst; not yet within bounds.

        A chunk counts as one step: noise and burst hold for all of it.
        """
        config, random = self.config, self._random
        kept = config.persistence
        self._noise = kept * self._noise + np.sqrt(1 - kept**2) * random.normal(size=self._noise.size)
        strayed: NDArray[np.floating] = action + config.std * self._noise
        if not self._left and random.random() < config.burst_rate:
            self._component = int(random.integers(self._noise.size))
            self._value = float(random.choice((-1.0, 1.0)) * random.uniform(0.5, 1.0))
            self._left = int(random.integers(1, config.burst_steps + 1))
        if self._left:
            strayed[:, self._component] = self._value
            self._left -= 1
        return strayed
