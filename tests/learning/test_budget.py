from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import ConfigError
from roborl.learning.budget import BudgetConfig, ReplayBudget

RATIOS = st.floats(0.1, 30.0)


@given(RATIOS, st.floats(0, 100), st.lists(st.integers(0, 50), max_size=60))
def test_updates_never_exceed_what_was_earned_by_more_than_the_lead(
    ratio: float, lead: float, arrivals: list[int]
) -> None:
    budget = ReplayBudget(BudgetConfig(ratio=ratio, max_lead=lead, start_at=0, max_owed=1e9))
    total = 0
    for count in arrivals:
        budget.arrived(count)
        total += count
        budget.spend(budget.allowance(actor_alive=True))
        assert budget.updates <= ratio * total + lead + 1e-6
        assert budget.updates > ratio * total + lead - 1 - 1e-6


@given(RATIOS, st.integers(100, 1000))
def test_the_achieved_ratio_is_the_requested_one_when_the_learner_keeps_up(ratio: float, count: int) -> None:
    budget = ReplayBudget(BudgetConfig(ratio=ratio, max_lead=0.0, start_at=0, max_owed=1e9))
    for _ in range(count):
        budget.arrived(1)
        budget.spend(budget.allowance(actor_alive=True))
    assert budget.achieved_ratio == pytest.approx(ratio, abs=1.01 / count)


def test_a_silent_actor_costs_the_lead_and_not_what_was_earned() -> None:
    budget = ReplayBudget(BudgetConfig(ratio=2.0, max_lead=10.0, start_at=0))
    budget.arrived(4)
    assert budget.allowance(actor_alive=False) == 8
    budget.spend(8)
    assert budget.allowance(actor_alive=False) == 0
    assert budget.allowance(actor_alive=True) == 10


def test_what_was_there_before_the_start_earns_nothing() -> None:
    budget = ReplayBudget(BudgetConfig(ratio=5.0, max_lead=0.0, start_at=100))
    budget.arrived(99)
    assert not budget.started
    assert budget.allowance(actor_alive=True) == 0
    budget.arrived(3)
    assert budget.allowance(actor_alive=True) == 10


def test_a_learner_that_cannot_keep_up_forgives_and_says_so() -> None:
    budget = ReplayBudget(BudgetConfig(ratio=10.0, max_lead=0.0, start_at=0, max_owed=50.0))
    budget.arrived(20)
    assert budget.allowance(actor_alive=True) == 50
    assert budget.report()["forgiven_updates"] == 150


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20))
def test_counters_survive_a_checkpoint(history: list[tuple[int, int]]) -> None:
    config = BudgetConfig(ratio=3.0, start_at=20)
    budget = ReplayBudget(config)
    for arrived, spent in history:
        budget.arrived(arrived)
        budget.spend(min(spent, budget.allowance(actor_alive=True)))
    again = ReplayBudget(config)
    again.load_state_dict(budget.state_dict())
    assert again.state_dict() == budget.state_dict()
    assert again.report() == budget.report()
    assert again.allowance(actor_alive=True) == budget.allowance(actor_alive=True)


def test_actors_are_held_from_the_limit_down_to_its_half_and_never_by_default() -> None:
    free = ReplayBudget(BudgetConfig(ratio=10.0, start_at=0))
    free.arrived(1000)
    assert not free.holds_actors
    budget = ReplayBudget(BudgetConfig(ratio=1.0, start_at=0, hold_actors_at=100.0))
    held = []
    for arrived, spent in ((100, 0), (1, 0), (0, 40), (0, 10), (0, 1), (40, 0), (20, 0)):
        budget.arrived(arrived)
        budget.spend(spent)
        held.append(budget.holds_actors)
    assert held == [False, True, True, True, False, False, True]


def test_a_head_start_waits_for_recorded_episodes_holds_actors_and_is_no_part_of_the_ratio() -> None:
    budget = ReplayBudget(BudgetConfig(ratio=2.0, max_lead=0.0, head_start=30, start_at=0))
    assert budget.allowance(actor_alive=True) == 0
    assert budget.holds_actors
    budget.recorded()
    assert budget.allowance(actor_alive=False) == 30
    budget.spend(20)
    again = ReplayBudget(budget.config)
    again.load_state_dict(budget.state_dict())
    again.recorded()
    assert again.allowance(actor_alive=True) == 10
    again.spend(10)
    assert not again.holds_actors
    assert again.allowance(actor_alive=True) == 0
    again.arrived(5)
    assert again.allowance(actor_alive=True) == 10
    again.spend(10)
    assert again.achieved_ratio == 2.0
    assert (again.updates, again.before_practice, again.in_practice) == (40, 30, 10)


def test_a_run_that_goes_on_gets_the_head_start_that_it_is_told_now() -> None:
    first = ReplayBudget(BudgetConfig(head_start=30))
    first.recorded()
    first.spend(30)
    for told, left in ((30, 0), (50, 20), (10, 0)):
        again = ReplayBudget(BudgetConfig(head_start=told))
        again.load_state_dict(first.state_dict())
        again.recorded()
        assert again.ahead is (left > 0)
        assert again.allowance(actor_alive=False) == left


def test_a_run_whose_schedules_moved_on_with_its_head_start_keeps_what_they_have_come_to() -> None:
    first = ReplayBudget(BudgetConfig(ratio=2.0, head_start=30, start_at=0))
    first.recorded()
    first.arrived(5)
    first.spend(40)
    before = first.state_dict()
    before.pop("before_practice", None)
    again = ReplayBudget(BudgetConfig(ratio=2.0, head_start=50, start_at=0))
    again.load_state_dict(before)
    assert (again.in_practice, again.before_practice, again.achieved_ratio) == (40, 0, 2.0)
    again.spend(25)
    assert (again.in_practice, again.before_practice) == (45, 20), (
        "what is made ahead from now on is not counted"
    )


@pytest.mark.parametrize("lead", [0.0, 64.0, math.inf])
def test_a_run_that_goes_on_with_a_shorter_lead_has_that_one_and_not_the_longer_to_earn(lead: float) -> None:
    fast = ReplayBudget(BudgetConfig(ratio=8.0, max_lead=math.inf, start_at=0))
    fast.spend(500_000)
    again = ReplayBudget(BudgetConfig(ratio=8.0, max_lead=lead, start_at=0))
    again.load_state_dict(fast.state_dict())
    assert again.updates == 500_000
    again.arrived(10)
    assert again.allowance(actor_alive=True) == (80 if lead < math.inf else sys.maxsize)


@pytest.mark.parametrize("limit", [50.0, 60.0, -1.0])
def test_a_limit_that_what_is_owed_never_reaches_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match="never be held") as caught:
        BudgetConfig(max_owed=50.0, hold_actors_at=limit)
    assert all((caught.value.seen, caught.value.allowed, caught.value.remedy))


def test_a_ratio_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="ratio=0"):
        BudgetConfig(ratio=0.0)
