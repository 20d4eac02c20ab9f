from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from roborl.errors import TrainingError
from roborl.rewards.training.pace import Pace
from roborl.rewards.training.run import Learner, TrainingRun


class Slope(Learner):
    """One number that goes down a slope; the loss of some steps is multiplied by something."""

    def __init__(self, faults: Mapping[int, float] | None = None) -> None:
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.faults, self.moves = faults or {}, list[int]()
        super().__init__(torch.optim.AdamW([self.weight], weight_decay=0.0), {"weight": self.weight})

    def losses(self, step: int) -> Iterator[Tensor]:
        for part in (0.25, 0.75):
            yield part * (self.weight * self.faults.get(step, 1.0)).sum()

    def moved(self, step: int) -> None:
        self.moves.append(step)

    def measured(self, step: int, last: bool) -> dict[str, float] | None:
        return {"weight": self.weight.item()} if step % 2 == 0 else None


def run(
    learner: Learner, folder: Path | None = None, *, steps: int = 4, rate: float = 0.1, most: int = 1
) -> TrainingRun:
    return TrainingRun(
        learner,
        Pace(steps=steps, learning_rate=rate, warm_up=0.0),
        identity={"training.steps": steps},
        workspace=folder,
        save_every_s=0.0,
        most_broken=most,
    )


def test_every_step_is_told_about_in_its_time_and_taken_once(tmp_path: Path) -> None:
    learner, told = Slope(), list[Mapping[str, float]]()
    whole = run(learner, tmp_path, steps=5)
    whole.optimise(told.append)
    assert learner.moves == [0, 1, 2, 3, 4]
    assert [figures["step"] for figures in told] == [2, 4, 5]
    assert told[-1].keys() == {"step", "planned", "seconds", "loss", "rate", "gradient", "skipped"}
    assert told[0]["weight"] == pytest.approx(1.0 - 0.1 - 0.1 * 0.91, abs=2e-3)
    assert told[0]["loss"] == pytest.approx((1.0 + 0.9) / 2)
    again = run(Slope(), tmp_path, steps=5)
    assert (again.step, again.losses, again.seconds) == (5, whole.losses, whole.seconds)
    assert torch.equal(again._learner.named["weight"], learner.weight)
    again.optimise()
    assert again.session_s == 0.0


def test_a_step_that_is_not_finite_moves_nothing_and_too_many_in_a_row_end_the_run() -> None:
    learner = Slope({1: math.nan, 2: math.inf, 4: math.nan})
    found = run(learner, steps=6, most=3)
    found.optimise()
    assert (learner.moves, found.skipped, found.step) == ([0, 3, 5], 3, 6)
    assert [math.isnan(loss) for loss in found.losses] == [False, True, True, False, True, False]
    assert math.isfinite(found.recent_loss)
    seen = r"loss nan, gradient nan in step 3 of 6, at a learning rate of 0\.07\d*\. Lower --training\.learning_rate, 0\.1 at"
    with pytest.raises(TrainingError, match=seen):
        run(Slope({1: math.nan, 2: math.nan}), steps=6, most=2).optimise()


def test_a_gradient_that_is_not_finite_moves_nothing_though_the_loss_is() -> None:
    class Steep(Slope):
        def losses(self, step: int) -> Iterator[Tensor]:
            yield (self.weight - 1.0).abs().sqrt().sum()  # 0, whose slope is infinite

    with pytest.raises(TrainingError, match=r"loss 0\.0, gradient nan in step 1"):
        run(Steep()).optimise()


def test_a_run_ends_on_steps_that_were_left_out_only_if_its_weights_give_a_loss(tmp_path: Path) -> None:
    run(Slope({2: math.nan, 3: math.nan}), tmp_path / "good", most=3).optimise()
    assert run(Slope(), tmp_path / "good").step == 4
    lost = Slope(dict.fromkeys(range(2, 99), math.nan))
    with pytest.raises(TrainingError, match="loss nan in step 4 of 4"):
        run(lost, tmp_path / "lost", most=10).optimise()
    assert lost.moves == [0, 1]
    # Only what was before the first of them is gone on from.
    assert run(Slope(), tmp_path / "lost").step == 2


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    class Leap(Slope):
        def moved(self, step: int) -> None:
            self.weight.data += math.inf

    for folder in (None, tmp_path):
        with pytest.raises(TrainingError, match=r"1 tensors, such as network\.weight in step 1 of 4"):
            run(Leap(), folder).optimise()
    assert not list(tmp_path.iterdir())


def test_a_run_within_a_budget_slows_down_as_it_is_used_up() -> None:
    pace = Pace(steps=100, learning_rate=2.0, warm_up=0.1, budget_s=10.0)
    assert pace.rate(0, 0.0) == pytest.approx(0.04)
    assert pace.rate(55, 1.0) == pace.rate(3, 5.5) == pytest.approx(1.02)
    assert pace.rate(10, 0.0) == pytest.approx(2.0)
    ends = [pace.over(99, 9.9), pace.over(100, 0.0), pace.over(1, 10.0)]
    assert ends == [False, True, True]
    assert Pace(steps=0, learning_rate=1.0, warm_up=0.1).over(0, 0.0)
