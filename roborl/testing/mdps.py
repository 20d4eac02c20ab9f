"""Random Markov decision processes solved exactly, many at once: for testing whether a reward changes what is best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mdps:
    """A batch of n tabular problems.

    Attributes:
        probability: Chance of each next state, float64 (n, s, a, s).
        reward: Task reward of each transition, float64 (n, s, a, s).
        terminal: States in which the task has ended, bool (n, s).
        time_out: Transitions after which the episode is truncated, bool (n, s, a, s). The learner bootstraps across
            them, so that they change nothing by themselves.
        discount: γ.
    """

    probability: Floats
    reward: Floats
    terminal: NDArray[np.bool_]
    time_out: NDArray[np.bool_]
    discount: float

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Whether a transition terminates, bool (n, s, a, s)."""
        return np.broadcast_to(self.terminal[:, None, None, :], self.reward.shape)

    def here(self, potential: Floats) -> Floats:
        """Lay one value per state (n, s) over the transitions that leave it, (n, s, a, s)."""
        return np.broadcast_to(potential[:, :, None, None], self.reward.shape)

    def there(self, potential: Floats) -> Floats:
        """Lay one value per state (n, s) over the transitions that reach it, (n, s, a, s)."""
        return np.broadcast_to(potential[:, None, None, :], self.reward.shape)

    def action_values(self, reward: Floats | None = None) -> Floats:
        """Return the optimal Q, float64 (n, s, a), for ``reward`` (n, s, a, s) instead of the task's own if given."""
        expected = np.einsum("nsat,nsat->nsa", self.probability, self.reward if reward is None else reward)
        onwards = self.discount * self.probability * ~self.terminal[:, None, None, :]
        q: Floats = np.zeros_like(expected)
        for _ in range(10_000):
            new: Floats = expected + np.einsum("nsat,nt->nsa", onwards, q.max(axis=2))
            if np.abs(new - q).max() < 1e-10:
                break
            q = new
        return new

    def flipped(self, reward: Floats) -> NDArray[np.bool_]:
        """Return in which problems acting greedily for ``reward`` is not optimal for the task, bool (n,)."""
        return self.misled(self.action_values(reward))

    def misled(self, values: Floats) -> NDArray[np.bool_]:
        """Return in which problems acting greedily for these values of actions (n, s, a) is not optimal for the task, bool (n,)."""
        task = self.action_values()
        chosen = np.take_along_axis(task, values.argmax(axis=2, keepdims=True), axis=2)[..., 0]
        loss = (task.max(axis=2) - chosen) * ~self.terminal
        return np.asarray((loss > 1e-6).any(axis=1))


def random_mdps(
    count: int, *, seed: int = 0, states: int = 8, actions: int = 3, discount: float = 0.9
) -> Mdps:
    """Draw problems with two terminal states, one of them worth 1 and the other nothing, and scattered time-outs.

    Args:
        count: Number of problems.
        seed: Of the draw.
        states: States each, the last two of them terminal.
        actions: Actions each.
        discount: γ of the learner.
    """
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.full(states, 0.3), size=(count, states, actions))
    reward = np.zeros(probability.shape)
    reward[..., -1] = 1.0
    terminal = np.zeros((count, states), np.bool_)
    terminal[:, -2:] = True
    time_out = (rng.random(probability.shape) < 0.2) & ~terminal[:, None, None, :]
    return Mdps(
        probability=probability, reward=reward, terminal=terminal, time_out=time_out, discount=discount
    )
