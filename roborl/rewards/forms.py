"""Every way of turning progress into reward, by name: one leaves the optimal policy alone, the others say that they do not.

Each is the reward of one step. Over several steps potential shaping needs the potentials at both ends alone; what others pay
is summed along the way.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError
from roborl.rewards.shaping import shaped_reward

POLICY_INVARIANT = "policy-invariant"
INVARIANT_IN_THE_END = "policy-invariant once critics look all the way ahead"
INVARIANT_LATER = "not policy-invariant until critics look all the way ahead"
NOT_YET_INVARIANT = "not yet policy-invariant"
NOT_POLICY_INVARIANT = "not policy-invariant"


class RewardForm(StrEnum):
    """How the reward of a step is formed from task reward r, the potentials Φ before and Φ′ after it, and discount γ."""

    SPARSE = "sparse"
    """r alone."""
    POTENTIAL = "potential"
    """r + γΦ′ − Φ, with Φ′ = 0 where the task ended."""
    PROGRESS = "progress"
    """r + Φ′: pays for staying where progress is high."""
    DIFFERENCE = "difference"
    """r + Φ′ − Φ without discount and without the zero at the end: pays (1 − γ)Φ′ for staying."""
    POSITIVE = "positive"
    """r + max(γΦ′ − Φ, 0): pays again for what was undone."""

    @property
    def policy_invariant(self) -> bool:
        """True where no optimal policy changes, given that the critic sees Φ (or Φ depends on the frame alone)."""
        return self in (RewardForm.SPARSE, RewardForm.POTENTIAL)

    @property
    def along_the_way(self) -> bool:
        """True where a transition of several steps is paid for the potentials inside it too, see :func:`reward_along`."""
        return not self.policy_invariant


class RewardFunction(Protocol):
    """The signature shared by all forms, for transitions of one step; see :func:`roborl.rewards.shaping.shaped_reward`."""

    def __call__(  # noqa: D102
        self,
        reward: Any,
        potential: Any,
        next_potential: Any,
        terminated: Any,
        *,
        discount: float,
    ) -> Any: ...


def reward_of(form: RewardForm) -> RewardFunction:
    """Return the function of a form."""
    return _FUNCTIONS[form]


def reward_along[F: np.floating[Any]](
    form: RewardForm,
    reward: NDArray[F],
    potentials: NDArray[F],
    terminated: NDArray[np.bool_],
    *,
    discount: float,
    horizon: NDArray[np.int64],
) -> NDArray[F]:
    """Return the reward of transitions of several steps: Σγⁱ of what the form makes of each.

    Args:
        form: The form.
        reward: Task reward Σγⁱrᵢ, already discounted, (b,).
        potentials: Φ of the observation acted in and of those after it, (b, n + 1); beyond the horizon they mean nothing.
        terminated: True where the task itself ended at the last of these steps, (b,).
        discount: The learner's own γ, in (0, 1].
        horizon: Steps of each transition, 1 to n, (b,).

    Example:
        >>> path, more = np.array([[0.5, 0.5, 0.5]]), {"discount": 0.5, "horizon": np.array([2])}
        >>> reward_along(RewardForm.PROGRESS, np.zeros(1), path, np.array([False]), **more)
        array([0.75])
    """
    steps = np.arange(potentials.shape[1] - 1)
    inside, last = steps < horizon[:, None], steps == horizon[:, None] - 1
    before, after = np.where(inside, potentials[:, :-1], 0), np.where(inside, potentials[:, 1:], 0)
    ended = last & terminated[:, None]
    paid = reward_of(form)(np.zeros_like(before), before, after, ended, discount=discount)
    total: NDArray[F] = (reward + (discount**steps * paid).sum(axis=1)).astype(reward.dtype)
    return total


def the_form(
    named: Collection[str],
    *,
    critic_sees_potential: bool,
    potential_of_frame: bool = False,
    lookahead: float = 1.0,
    lookahead_grows: bool = False,
    grown: bool | None = None,
) -> tuple[RewardForm, str]:
    """Return the one form that the named ones amount to, and what a run with it says about itself.

    Args:
        named: Names of the forms switched on; none for the sparse task reward.
        critic_sees_potential: Whether Φ is an input of the critic.
        potential_of_frame: Whether Φ depends on the frame and fixed anchors alone: no history, hold or late score.
        lookahead: What part of the value beyond the potential each step hands back, at the beginning; other forms know
            no such thing.
        lookahead_grows: Whether that part grows to 1.
        grown: Whether it had, of a run that is over; None while it may still.

    Returns:
        The form, and whether it is policy-invariant, at once or in the end, which stands on the run and its plots.

    Raises:
        ConfigError: If a name is unknown, or more than one form that uses progress is asked for.
    """
    unknown = sorted(set(named) - set(RewardForm))
    if unknown:
        raise ConfigError(
            "There is no such form of reward", seen=unknown, allowed=[str(form) for form in RewardForm]
        )
    forms = {RewardForm(name) for name in named} - {RewardForm.SPARSE}
    if len(forms) > 1:
        raise ConfigError(
            "Two forms of progress reward cannot stand beside each other: their sum is not a potential difference",
            seen=sorted(str(form) for form in forms),
            allowed="one form",
            remedy="Keep 'potential', or choose one other form, whose run is then labelled 'not policy-invariant'",
        )
    form = forms.pop() if forms else RewardForm.SPARSE
    seen = form is RewardForm.SPARSE or critic_sees_potential or potential_of_frame
    short = form is RewardForm.POTENTIAL and lookahead != 1.0
    if not (form.policy_invariant and seen) or (short and not lookahead_grows):
        return form, NOT_POLICY_INVARIANT
    if not short:
        return form, POLICY_INVARIANT
    return form, {None: INVARIANT_LATER, False: NOT_YET_INVARIANT, True: INVARIANT_IN_THE_END}[grown]


def _sparse(reward: Any, potential: Any, next_potential: Any, terminated: Any, *, discount: float) -> Any:
    return reward


def _progress(reward: Any, potential: Any, next_potential: Any, terminated: Any, *, discount: float) -> Any:
    return reward + next_potential


def _difference(reward: Any, potential: Any, next_potential: Any, terminated: Any, *, discount: float) -> Any:
    return reward + next_potential - potential


def _positive(reward: Any, potential: Any, next_potential: Any, terminated: Any, *, discount: float) -> Any:
    change = shaped_reward(reward * 0, potential, next_potential, terminated, discount=discount)
    return reward + change * (change > 0)


_FUNCTIONS: dict[RewardForm, RewardFunction] = {
    RewardForm.SPARSE: _sparse,
    RewardForm.POTENTIAL: shaped_reward,
    RewardForm.PROGRESS: _progress,
    RewardForm.DIFFERENCE: _difference,
    RewardForm.POSITIVE: _positive,
}
