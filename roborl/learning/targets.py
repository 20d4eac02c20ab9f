"""What critics are taught towards: the shaped return of a transition, and as much of what follows as they look ahead to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roborl.envs.ranges import check_number
from roborl.errors import ConfigError
from roborl.learning.batch import Batch
from roborl.rewards.forms import RewardForm, reward_along
from roborl.rewards.shaping import shaped_reward


@dataclass(frozen=True, kw_only=True)
class TargetsConfig:
    """What every algorithm with a critic can be told about that critic's targets."""

    # the one discount, of the return and of the shaping
    discount: float = 0.98
    # what part of the value beyond the potential each step hands back, at the beginning. 1: all of it, plain potential
    # shaping. Below 1 the best policy may differ from the task's. Without a potential it is 1. Inside an n-step window or a
    # chunk nothing is damped: longer ones look further than the source's one-step rule
    lookahead: float = 0.9
    # updates after which it has grown to 1 at the latest, without those of a head start; 0: it does not grow with them
    lookahead_updates: int = 150_000
    # episodes of practice that have succeeded without a person's help, after which it has; 0: it does not grow with them. With
    # neither it never grows, and the run says so
    lookahead_successes: int = 60
    # false breaks the invariance; the run then says so
    critic_sees_potential: bool = True

    def __post_init__(self) -> None:
        check_number(
            "discount",
            self.discount,
            above=0.0,
            at_most=1.0,
            remedy="Set --rlpd.discount or --weighted.discount",
        )
        if not (0.0 <= self.lookahead <= 1.0 and min(self.lookahead_updates, self.lookahead_successes) >= 0):
            raise ConfigError(
                "Values cannot look ahead like this",
                seen=f"lookahead={self.lookahead:g} lookahead_updates={self.lookahead_updates} "
                f"lookahead_successes={self.lookahead_successes}",
                allowed="lookahead in [0, 1], 0 or more of lookahead_updates and lookahead_successes",
                remedy="For plain potential shaping: lookahead 1",
            )

    @property
    def lookahead_grows(self) -> bool:
        """Whether critics may come to look all the way ahead."""
        return max(self.lookahead_updates, self.lookahead_successes) > 0


class Targets:
    """Shaped n-step targets with a look ahead that grows.

    Once critics have converged, shaping no longer changes which action is best: by its own law every action is worth what the
    task says. So critics begin with a short look ahead, where the potential stands for most of what is to come, and end with
    the whole. Of a policy that never succeeds they can only learn that nothing is to come, whatever the potential promises: what
    it promised is paid back behind it. So the look ahead grows with the successes of practice, and with its updates where these
    stay away. Where no potential stands in, critics look all the way at once.

    Args:
        form: How progress becomes reward.
        config: Discount and look ahead.

    Source:
        Ng, Harada & Russell, Policy Invariance under Reward Transformations (ICML 1999) for the shaping; Cheng, Kolobov &
        Swaminathan, Heuristic-Guided Reinforcement Learning (NeurIPS 2021) for the growing look ahead.
    """

    def __init__(self, form: RewardForm, config: TargetsConfig) -> None:
        self.form = form
        self.successes = 0
        """Episodes of practice that have succeeded so far."""
        self.before_practice = 0
        """Updates so far that schedules of practice do not move on with: the head start's."""
        self._config = config

    def lookahead(self, updates: int) -> float:
        """Return what part of the value beyond the potential each step hands back after so many updates, a head start's too."""
        if self.form is not RewardForm.POTENTIAL:
            return 1.0
        config = self._config
        in_practice = updates - self.before_practice
        by_updates = in_practice / config.lookahead_updates if config.lookahead_updates else 0.0
        by_successes = self.successes / config.lookahead_successes if config.lookahead_successes else 0.0
        grown = min(1.0, max(by_updates, by_successes))
        return config.lookahead + grown * (1.0 - config.lookahead) if grown < 1.0 else 1.0

    def of(self, batch: Batch, next_values: Tensor, updates: int) -> Tensor:
        """Return the targets of a batch, (b,).

        Args:
            batch: The transitions.
            next_values: What the observations behind them are worth, (b,); not looked at where the task ended.
            updates: How many updates have been made.
        """
        terminated, horizon = torch.from_numpy(batch.terminated), torch.from_numpy(batch.horizon)
        handed_back = (self.lookahead(updates) * self._config.discount) ** horizon * next_values
        return self._reward(batch) + handed_back.masked_fill(terminated, 0.0)

    def _reward(self, batch: Batch) -> Tensor:
        reward, terminated, horizon = map(torch.from_numpy, (batch.reward, batch.terminated, batch.horizon))
        if self.form is RewardForm.SPARSE:
            return reward
        if self.form is RewardForm.POTENTIAL:
            now, after = map(torch.from_numpy, (batch.potential, batch.next_potential))
            return shaped_reward(
                reward, now, after, terminated, discount=self._config.discount, horizon=horizon
            )
        assert batch.potentials is not None, "drawn with every_potential"
        return torch.from_numpy(
            reward_along(
                self.form,
                batch.reward,
                batch.potentials,
                batch.terminated,
                discount=self._config.discount,
                horizon=batch.horizon,
            )
        )

    def task_value(self, values: Tensor, potential: Tensor) -> Tensor:
        """Return what the task's value is where critics say ``values``: those plus the potential they are shaped with."""
        return values + potential if self.form is RewardForm.POTENTIAL else values
