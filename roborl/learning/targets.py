"""What critics are taught towards: the shaped return of a transition, and as much of what follows as they look ahead to."""

from __future__ import annotations

import torch
from torch import Tensor

from roborl.errors import ConfigError
from roborl.learning.sampling import Batch
from roborl.rewards.forms import RewardForm, reward_along
from roborl.rewards.shaping import shaped_reward


def check_lookahead(lookahead: float, lookahead_updates: int, lookahead_successes: int) -> None:
    """See whether values can look ahead like this; arguments as for :class:`Targets`.

    Raises:
        ConfigError: If they cannot.
    """
    if not (0.0 <= lookahead <= 1.0 and min(lookahead_updates, lookahead_successes) >= 0):
        raise ConfigError(
            "Values cannot look ahead like this",
            seen=f"lookahead={lookahead:g} lookahead_updates={lookahead_updates} "
            f"lookahead_successes={lookahead_successes}",
            allowed="lookahead in [0, 1], 0 or more of lookahead_updates and lookahead_successes",
            remedy="For plain potential shaping: lookahead 1",
        )


class Targets:
    """Shaped n-step targets with a look ahead that grows.

    Once critics have converged, shaping no longer changes which action is best: by its own law every action is worth what the
    task says. So critics begin with a short look ahead, where the potential stands for most of what is to come, and end with
    the whole. Of a policy that never succeeds they can only learn that nothing is to come, whatever the potential promises: what
    it promised is paid back behind it. So the look ahead grows with the successes of practice, and with updates where these
    stay away. Where no potential stands in, critics look all the way at once.

    Args:
        form: How progress becomes reward.
        discount: The one discount, of the return and of the shaping.
        lookahead: What part of the value beyond the potential each step hands back, at the beginning.
        lookahead_updates: Updates after which it has grown to 1; 0: it does not grow with them.
        lookahead_successes: Successes in practice after which it has, if that is sooner; 0: it does not grow with them.

    Source:
        Ng, Harada & Russell, Policy Invariance under Reward Transformations (ICML 1999) for the shaping; Cheng, Kolobov &
        Swaminathan, Heuristic-Guided Reinforcement Learning (NeurIPS 2021) for the growing look ahead.
    """

    def __init__(
        self,
        form: RewardForm,
        *,
        discount: float,
        lookahead: float,
        lookahead_updates: int,
        lookahead_successes: int = 0,
    ) -> None:
        self.form = form
        self.successes = 0
        """Episodes of practice that have succeeded so far."""
        self._discount, self._first = discount, lookahead
        self._updates, self._successes = lookahead_updates, lookahead_successes

    def lookahead(self, updates: int) -> float:
        """Return what part of the value beyond the potential each step hands back after so many updates."""
        if self.form is not RewardForm.POTENTIAL:
            return 1.0
        by_updates = updates / self._updates if self._updates else 0.0
        by_successes = self.successes / self._successes if self._successes else 0.0
        grown = min(1.0, max(by_updates, by_successes))
        return self._first + grown * (1.0 - self._first) if grown < 1.0 else 1.0

    def of(self, batch: Batch, next_values: Tensor, updates: int) -> Tensor:
        """Return the targets of a batch, (b,).

        Args:
            batch: The transitions.
            next_values: What the observations behind them are worth, (b,); not looked at where the task ended.
            updates: How many updates have been made.
        """
        terminated, horizon = torch.from_numpy(batch.terminated), torch.from_numpy(batch.horizon)
        handed_back = (self.lookahead(updates) * self._discount) ** horizon * next_values
        return self._reward(batch) + handed_back.masked_fill(terminated, 0.0)

    def _reward(self, batch: Batch) -> Tensor:
        reward, terminated, horizon = map(torch.from_numpy, (batch.reward, batch.terminated, batch.horizon))
        if self.form is RewardForm.SPARSE:
            return reward
        if self.form is RewardForm.POTENTIAL:
            now, after = map(torch.from_numpy, (batch.potential, batch.next_potential))
            return shaped_reward(reward, now, after, terminated, discount=self._discount, horizon=horizon)
        assert batch.potentials is not None, "drawn with every_potential"
        return torch.from_numpy(
            reward_along(
                self.form,
                batch.reward,
                batch.potentials,
                batch.terminated,
                discount=self._discount,
                horizon=batch.horizon,
            )
        )

    def task_value(self, values: Tensor, potential: Tensor) -> Tensor:
        """Return what the task's value is where critics say ``values``: those plus the potential they are shaped with."""
        return values + potential if self.form is RewardForm.POTENTIAL else values
