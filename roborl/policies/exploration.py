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


@dataclass(frozen=True, slots=True, eq=False)
class _Stray:
    """How one step strays: noise (a,), and the value at which a burst holds a component, None outside one."""

    noise: NDArray[np.float64]
    burst: tuple[int, float] | None


class Explorer:
    """Adds to actions what explores.

    How a step strays is drawn once. What an answer draws for more steps than are acted out until the next answer, that one
    takes over: noise and bursts last as many steps whatever the length of chunks, and however late they come.

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
        self._ahead: list[_Stray] = []
        self._step: int | None = None

    def reset(self) -> None:
        """Begin an episode: draw fresh noise, end a burst."""
        self._noise, self._left = self._random.normal(size=self._noise.size), 0
        self._ahead.clear()
        self._step = None

    def __call__(self, action: NDArray[np.floating], step: int | None = None) -> NDArray[np.floating]:
        """Return actions (h, a) with noise, one component held where there is a burst; not yet within bounds.

        Args:
            action: What the policy would do at the next h steps, (h, a).
            step: Index of the first of them in the episode; None where each answer is for one step after the last one's.
        """
        passed = 1 if step is None or self._step is None else max(1, step - self._step)
        self._step = step
        del self._ahead[:passed]
        while len(self._ahead) < len(action):
            self._ahead.append(self._draw())
        strays = self._ahead[: len(action)]
        strayed: NDArray[np.floating] = action + self.config.std * np.stack([stray.noise for stray in strays])
        for row, stray in zip(strayed, strays, strict=True):
            if stray.burst is not None:
                component, value = stray.burst
                row[component] = value
        return strayed

    def _draw(self) -> _Stray:
        """Draw how the step after the last one drawn strays."""
        config, random = self.config, self._random
        kept = config.persistence
        self._noise = kept * self._noise + np.sqrt(1 - kept**2) * random.normal(size=self._noise.size)
        if not self._left and random.random() < config.burst_rate:
            self._component = int(random.integers(self._noise.size))
            self._value = float(random.choice((-1.0, 1.0)) * random.uniform(0.5, 1.0))
            self._left = int(random.integers(1, config.burst_steps + 1))
        if not self._left:
            return _Stray(self._noise, None)
        self._left -= 1
        return _Stray(self._noise, (self._component, self._value))
