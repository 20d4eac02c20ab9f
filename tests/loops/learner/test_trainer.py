from __future__ import annotations

import errno
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from roborl.clock import NS, Deadline, FakeClock, MonotonicClock
from roborl.errors import ConfigError, ModelLoadError, TrainingError
from roborl.learning.budget import BudgetConfig
from roborl.learning.checkpoint import checkpoints, save_checkpoint
from roborl.learning.publish import PolicyPublisher, VersionShelf, Weights
from roborl.loops.learner import learn, learn_processes
from roborl.loops.learner.experience import EpisodeResult, Experience
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.learner.train import Trainer, TrainerConfig

IDENTITY = {"algorithm": "tiny", "state_dim": 3, "action_dim": 2}


class TinyAlgorithm:
    """Adam on one tensor: its whole history is in its state."""

    images = False

    def __init__(self, size: int = 2) -> None:
        self.bias = torch.zeros(size, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.bias], lr=0.01)
        self.poison = False
        self.loss = 0.0
        self.heard = -1
        self.updates = self.before_practice = 0

    @property
    def lookahead(self) -> float:
        return self.heard / 10

    def practised(self, successes: int, before_practice: int) -> None:
        self.heard, self.before_practice = successes, before_practice

    def update(self, batch: float) -> dict[str, float]:
        self.updates += 1
        self.optimiser.zero_grad()
        loss = (self.bias - batch).square().sum()
        loss.backward()
        self.optimiser.step()
        return {"loss": loss.item() + self.loss}

    def actor_weights(self) -> dict[str, NDArray[Any]]:
        weights = self.bias.detach().numpy().copy()
        return {"bias": weights * np.nan if self.poison else weights}

    def load_actor_weights(self, weights: Weights) -> None:
        with torch.no_grad():
            self.bias.copy_(torch.from_numpy(np.array(weights["bias"])))

    def state_dict(self) -> dict[str, Any]:
        return {"bias": self.bias.detach().clone(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.bias.copy_(state["bias"])
        self.optimiser.load_state_dict(state["optimiser"])


@dataclass
class Memory:
    """A replay memory whose batches are one number."""

    committed: int = 0
    sampleable: int = 0
    finished: list[EpisodeResult] = field(default_factory=list)
    empty: bool = False
    counted: int = 0
    unaided: int = 0
    successes: int = 0
    recorded: bool = False

    def state_dict(self) -> dict[str, Any]:
        return {"counted": self.counted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counted = state["counted"]

    def refresh(self) -> Experience:
        finished, self.finished = self.finished, []
        self.counted = max(self.counted, self.sampleable)
        return Experience(
            committed=self.committed,
            sampleable=self.counted,
            finished=finished,
            successes=self.successes,
            policy_version=1,
            held=0,
            held_draws=7,
            unaided=self.unaided,
            recorded=self.recorded,
        )

    def sample(self) -> float | None:
        return None if self.empty else 1.0

    def grow(self, transitions: int) -> None:
        self.committed += transitions
        self.sampleable += transitions


class Link:
    """Remembers what was sent."""

    def __init__(self) -> None:
        self.versions: list[int] = []

    def publish(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        self.versions.append(version)


class Bench:
    """A trainer on a fake clock and everything it touches."""

    def __init__(
        self,
        folder: Path,
        *,
        size: int = 2,
        identity: dict[str, Any] = IDENTITY,
        algorithm: TinyAlgorithm | None = None,
        **settings: Any,
    ) -> None:
        budget = BudgetConfig(ratio=2.0, max_lead=4.0, start_at=10, silence_s=5.0)
        self.clock = FakeClock()
        self.algorithm, self.memory, self.link = algorithm or TinyAlgorithm(size), Memory(), Link()
        self.lines: list[dict[str, Any]] = []
        self.beats = 0
        self.trainer = Trainer(
            algorithm=self.algorithm,
            source=self.memory,
            publisher=PolicyPublisher(self.link, VersionShelf(folder / "versions")),
            config=TrainerConfig(**({"budget": budget, "publish_every": 10, "burst": 1000} | settings)),
            folder=folder / "checkpoints",
            identity=identity,
            metrics=self.lines.append,
            beat=self._beat,
            clock=self.clock,
        )

    def _beat(self) -> None:
        self.beats += 1

    def turn(self, seconds: float = 0.2) -> int:
        self.clock.advance(seconds)
        return self.trainer.turn()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == kind]


def test_training_begins_at_the_minimum_and_keeps_to_the_ratio(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer.start(resume=False)
    bench.memory.grow(9)
    assert bench.turn() == 0
    bench.memory.grow(1)
    assert bench.turn() == 4  # the lead alone
    for _ in range(50):
        bench.memory.grow(3)
        assert bench.turn() == 6
    assert bench.turn() == 0


def test_a_learner_with_a_lead_without_end_trains_as_fast_as_it_can_and_stops_for_a_silent_actor(
    tmp_path: Path,
) -> None:
    budget = BudgetConfig(ratio=2.0, max_lead=math.inf, max_owed=math.inf, start_at=10, silence_s=5.0)
    bench = Bench(tmp_path, budget=budget, burst=16)
    bench.trainer.start(resume=False)
    bench.memory.grow(9)
    assert bench.turn() == 0
    bench.memory.grow(1)
    assert [bench.turn() for _ in range(10)] == [16] * 10
    assert bench.turn(6.0) == 0


def test_updates_wait_while_there_is_nothing_to_draw_and_hold_no_actor_back(tmp_path: Path) -> None:
    budget = BudgetConfig(ratio=2.0, max_lead=4.0, start_at=10, hold_actors_at=20.0)
    bench = Bench(tmp_path, budget=budget)
    bench.trainer.start(resume=False)
    bench.memory.grow(30)
    bench.memory.empty = True
    assert [bench.turn() for _ in range(3)] == [0, 0, 0]
    report = bench.trainer.report()
    assert (report["updates"], report["owed_updates"]) == (0, 40)
    assert (report["holds_actors"], report["nothing_to_draw"]) == (False, True)
    bench.memory.empty = False
    assert bench.turn() == 44
    assert not bench.trainer.report()["nothing_to_draw"]


def test_an_update_that_takes_long_shows_signs_of_life(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer.start(resume=False)
    bench.memory.grow(10)
    update = bench.algorithm.update

    def slowly(batch: float) -> dict[str, float]:
        time.sleep(1.3)
        assert bench.beats
        return update(batch)

    bench.algorithm.update = slowly  # type: ignore[method-assign]
    bench.trainer._config = replace(bench.trainer._config, burst=1)
    assert bench.turn() == 1


def test_a_silent_actor_stops_the_learner_when_it_has_nothing_new(tmp_path: Path) -> None:
    bench = Bench(tmp_path, budget=BudgetConfig(ratio=2.0, max_lead=4.0, start_at=10, silence_s=5.0), burst=3)
    bench.trainer.start(resume=False)
    bench.memory.grow(12)
    assert bench.turn() == 3
    assert bench.trainer.actor_alive
    made = [bench.turn(6.0)]
    assert not bench.trainer.actor_alive
    made += [bench.turn() for _ in range(5)]
    assert sum(made) == 1  # two transitions earned four; the lead of four is not touched
    bench.memory.grow(1)
    assert bench.turn() == 3
    assert bench.trainer.actor_alive


def test_the_first_policy_is_published_before_any_experience(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer.start(resume=False)
    assert bench.link.versions == [1]


def test_a_first_policy_that_must_not_act_ends_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.algorithm.poison = True
    with pytest.raises(ModelLoadError, match="must not drive an arm"):
        bench.trainer.start(resume=False)


def test_versions_follow_the_updates_and_bad_ones_are_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer.start(resume=False)
    bench.memory.grow(10 + 8)
    bench.turn()
    assert bench.link.versions == [1, 2]
    bench.algorithm.poison = True
    bench.memory.grow(20)
    bench.turn()
    assert bench.link.versions == [1, 2]
    assert "not finite" in bench.of("refused")[0]["reason"]
    bench.algorithm.poison = False
    bench.memory.grow(20)
    bench.turn()
    assert bench.link.versions == [1, 2, 3]


def test_a_diverged_learner_stops_and_leaves_its_checkpoints(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer.start(resume=False)
    bench.memory.grow(10)
    bench.turn()
    bench.trainer.save()
    bench.memory.grow(10)
    bench.algorithm.loss = math.nan
    with pytest.raises(TrainingError, match="diverged"):
        bench.turn()
    bench.algorithm.loss = 0.0
    bench.turn()
    with torch.no_grad():
        bench.algorithm.bias.fill_(math.inf)
    with pytest.raises(TrainingError, match="not finite"):
        bench.trainer.save()
    (kept,) = checkpoints(tmp_path / "checkpoints")

    second = Bench(tmp_path)
    second.memory.grow(30)
    second.trainer.start(resume=True)
    assert torch.isfinite(second.algorithm.bias).all()
    assert second.trainer.budget.updates == int(kept.name)


def test_resuming_goes_on_bit_for_bit(tmp_path: Path) -> None:
    straight, first = Bench(tmp_path / "straight"), Bench(tmp_path / "cut")
    for bench in (straight, first):
        bench.trainer.start(resume=False)
        bench.memory.grow(30)
        bench.turn()
    first.trainer.finish()

    second = Bench(tmp_path / "cut")
    second.memory.grow(30)
    second.trainer.start(resume=True)
    second.turn()
    assert second.trainer.budget.updates == straight.trainer.budget.updates
    for bench in (straight, second):
        bench.memory.grow(11)
        bench.turn()
    assert torch.equal(straight.algorithm.bias, second.algorithm.bias)
    assert straight.trainer.budget.state_dict() == second.trainer.budget.state_dict()
    # The numbers of versions go on, and a late joiner gets the last one at once.
    assert second.link.versions[0] == first.link.versions[-1]
    assert second.link.versions[1:] == [first.link.versions[-1] + 1]


def test_experience_that_comes_back_into_memory_after_a_resume_earns_nothing_again(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.trainer.start(resume=False)
    first.memory.grow(5_000)
    while first.turn():
        pass
    first.trainer.finish()
    second = Bench(tmp_path)
    second.trainer.start(resume=True)
    for _ in range(5):
        second.memory.grow(1_000)  # A replay memory that is filled anew from the recording.
        assert second.turn() == 0
    second.memory.grow(10)
    assert second.turn() == 20
    second.trainer.finish()
    told = second.of("train")[-1]
    assert (told["online_transitions"], told["held_transitions"], told["held_draws"]) == (5_010, 0, 7)


def test_checkpoints_that_are_never_due_are_written_at_the_end_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, checkpoint_every_s=math.inf)
    bench.trainer.start(resume=False)
    bench.memory.grow(20)
    assert bench.turn(1e6) > 0
    assert checkpoints(tmp_path / "checkpoints") == []
    bench.trainer.finish()
    assert len(checkpoints(tmp_path / "checkpoints")) == 1
    with pytest.raises(ConfigError, match="checkpoint_every_s=nan"):
        TrainerConfig(checkpoint_every_s=math.nan)


def test_a_full_disk_costs_a_checkpoint_and_not_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, checkpoint_every_s=60.0)
    bench.trainer.start(resume=False)
    bench.memory.grow(20)
    with monkeypatch.context() as full:

        def no_room(*_: Any) -> None:
            raise SafetensorError("No space left on device")

        full.setattr("roborl.learning.checkpoint.save_file", no_room)
        assert bench.turn(61.0) > 0
        assert checkpoints(tmp_path / "checkpoints") == []
    bench.turn(61.0)
    assert len(checkpoints(tmp_path / "checkpoints")) == 1


def test_a_full_disk_costs_a_version_and_not_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, publish_every=2)
    bench.trainer.start(resume=False)
    bench.memory.grow(20)

    def no_room(*_: Any, **__: Any) -> None:
        raise SafetensorError("No space left on device")

    before = bench.trainer.report()["version"]
    with monkeypatch.context() as full:
        full.setattr("roborl.learning.publish.save_file", no_room)
        assert bench.turn(1.0) > 0
        assert bench.trainer.report()["version"] == before
        assert "No space left" in bench.of("refused")[-1]["reason"]
    bench.memory.grow(20)
    bench.turn(1.0)
    assert bench.trainer.report()["version"] == before + 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"identity": IDENTITY | {"state_dim": 4}}, "state_dim"),
        ({"identity": IDENTITY | {"algorithm": "other"}}, "algorithm"),
        ({"size": 5}, r"algorithm\.bias"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_field(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    bench = Bench(tmp_path)
    bench.trainer.start(resume=False)
    bench.trainer.save()
    with pytest.raises(ModelLoadError, match=named) as caught:
        Bench(tmp_path, **change).trainer.start(resume=True)
    assert caught.value.seen is not None
    assert caught.value.allowed is not None
    assert caught.value.remedy


def test_checkpoints_come_with_time_and_only_when_something_was_learned(tmp_path: Path) -> None:
    bench = Bench(tmp_path, checkpoint_every_s=60.0)
    bench.trainer.start(resume=False)
    bench.memory.grow(20)
    bench.turn()
    assert checkpoints(tmp_path / "checkpoints") == []
    bench.turn(61.0)
    (path,) = checkpoints(tmp_path / "checkpoints")
    written = path.stat().st_mtime_ns
    bench.turn(61.0)
    assert path.stat().st_mtime_ns == written


def test_checkpoints_that_take_long_come_less_often_and_beat_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, checkpoint_every_s=20.0)
    bench.trainer.start(resume=False)
    saves: list[float] = []

    def slow(*args: Any, **kwargs: Any) -> None:
        patience = Deadline(10.0, MonotonicClock())
        while not bench.beats and not patience.passed:
            time.sleep(0.01)
        bench.clock.advance(12.0)
        saves.append(bench.clock.now_ns() / NS)
        save_checkpoint(*args, **kwargs)

    monkeypatch.setattr("roborl.loops.learner.train.save_checkpoint", slow)
    for _ in range(1000):
        bench.memory.grow(1)
        bench.turn(1.0)
    assert bench.beats, "or a long one would pass for a trainer that hangs"
    assert [round(later - before) for before, later in pairwise(saves)] == [120] * (len(saves) - 1)
    assert len(saves) > 5


def test_a_disk_that_does_not_take_an_older_version_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bench = Bench(tmp_path)
    bench.trainer.start(resume=False)
    bench.memory.grow(40)
    bench.turn()
    bench.trainer.finish()
    learned, version = bench.algorithm.bias.detach().clone(), bench.link.versions[-1]
    monkeypatch.setattr(VersionShelf, "put_again", full)
    run = RunFolder(tmp_path)
    learn.ask_rollback(run, 1)
    learn_processes._roll_back_if_asked(run, bench.trainer)
    assert not run.rollback.exists()
    assert torch.equal(bench.algorithm.bias, learned)
    assert bench.link.versions[-1] == version
    assert bench.of("rollback") == []
    again = Bench(tmp_path)
    again.trainer.start(resume=True, rollback=1)
    assert again.link.versions == [version]


def test_rolling_back_puts_older_weights_in_force_and_trains_on_from_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.trainer.start(resume=False)
    bench.memory.grow(40)
    bench.turn()
    learned = bench.algorithm.bias.detach().clone()
    assert bench.trainer.roll_back(1) == 3
    assert bench.link.versions == [1, 2, 3]
    assert torch.count_nonzero(learned) == 2
    assert torch.count_nonzero(bench.algorithm.bias) == 0
    with pytest.raises(ModelLoadError, match="no such version"):
        bench.trainer.roll_back(77)
    assert bench.of("rollback") == [{"kind": "rollback", "version": 3, "rolled_back_to": 1}]


def test_a_rollback_outlives_the_learner_that_made_it(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.trainer.start(resume=False)
    first.memory.grow(40)
    first.turn()
    first.trainer.finish()
    asked = Bench(tmp_path)
    asked.memory.grow(40)
    asked.trainer.start(resume=True, rollback=1)
    assert asked.link.versions == [3], "what is gone back from is not sent again"
    # It is killed here, before another update.
    later = Bench(tmp_path)
    later.memory.grow(40)
    later.trainer.start(resume=True)
    assert later.trainer.budget.updates == asked.trainer.budget.updates > 0
    assert torch.count_nonzero(later.algorithm.bias) == 0
    with pytest.raises(ModelLoadError, match="no such version"):
        Bench(tmp_path).trainer.start(resume=True, rollback=77)


def test_metrics_tell_ratio_speed_lag_and_episodes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, metrics_every_s=5.0)
    bench.trainer.start(resume=False)
    episode = EpisodeResult(
        key="left-0001-000000",
        steps=30,
        person=12,
        reward=1.0,
        success=True,
        end="success",
        policy_version=1,
    )
    bench.memory.finished.append(episode)
    bench.memory.successes = 1
    bench.memory.grow(30)
    bench.turn()
    bench.turn(5.0)
    (line,) = bench.of("train")
    assert line["updates"] == 44
    assert line["achieved_ratio"] == pytest.approx(44 / 20)
    assert line["requested_ratio"] == 2.0
    assert line["updates_per_s"] == pytest.approx(44 / 5.2)
    assert line["policy_version_lag"] == bench.link.versions[-1] - 1
    assert line["loss"] > 0
    assert bench.of("episode")[0]["success"] is True
    assert line["successes"] == 1


def test_the_algorithm_hears_of_the_successes_that_nobody_helped_with_and_says_how_far_it_looks(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, metrics_every_s=5.0)
    bench.trainer.start(resume=False)
    bench.memory.unaided = 2
    bench.memory.grow(150)
    bench.turn()
    assert bench.algorithm.heard == 2
    bench.turn(5.0)
    assert bench.of("train")[0]["lookahead"] == 0.2


def test_the_algorithm_knows_at_every_update_how_many_of_them_were_the_head_starts(tmp_path: Path) -> None:
    class Practised(TinyAlgorithm):
        def update(self, batch: float) -> dict[str, float]:
            counted.append(self.updates - self.before_practice)
            return super().update(batch)

    counted: list[int] = []
    budget = BudgetConfig(ratio=2.0, max_lead=0.0, start_at=0, head_start=5)
    bench = Bench(tmp_path, algorithm=Practised(), budget=budget)
    bench.trainer.start(resume=False)
    bench.memory.recorded = True
    assert bench.turn() == 5
    bench.memory.grow(2)
    assert bench.turn() == 4
    assert counted == [0, 0, 0, 0, 0, 0, 1, 2, 3]
    assert bench.trainer.budget.in_practice == 4
    bench.trainer.finish()
    again = Bench(tmp_path, budget=budget)
    again.trainer.start(resume=True)
    again.turn()
    assert (again.algorithm.before_practice, again.trainer.budget.in_practice) == (5, 4)


def test_an_algorithm_of_ones_own_need_not_hear_of_it(tmp_path: Path) -> None:
    class OnesOwn(TinyAlgorithm):
        practised = None  # type: ignore[assignment]

    bench = Bench(tmp_path, algorithm=OnesOwn())
    assert "lookahead" not in bench.trainer.report()
    bench.trainer.start(resume=False)
    bench.memory.grow(30)
    assert bench.turn() > 0


def test_a_torn_last_version_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.trainer.start(resume=False)
    first.memory.grow(40)
    first.turn()
    first.trainer.finish()
    newest = max((tmp_path / "versions").glob("*.safetensors"))
    newest.write_bytes(b"")
    second = Bench(tmp_path)
    second.trainer.start(resume=True)
    assert second.link.versions == [int(newest.stem) + 1]
    np.testing.assert_array_equal(
        VersionShelf(tmp_path / "versions").get(int(newest.stem) + 1)["bias"],
        first.algorithm.actor_weights()["bias"],
    )
