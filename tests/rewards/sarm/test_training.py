from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roborl.errors import ConfigError, DatasetError, ModelLoadError
from roborl.rewards.sarm.config import SarmConfig, SarmTraining
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.sarm.training import train_sarm
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.training.evaluation import watcher
from roborl.rewards.training.labels import plan_stages

type World = Callable[[str, int], TrainingEpisode]

TINY = SarmConfig(image_px=16, frame_dim=8, dim=8, attention_heads=2, members=2)
SHORT = SarmTraining(steps=6, budget_s=60.0, episodes_per_step=3, windows_per_episode=4)


@pytest.fixture(scope="module")
def few(world: World) -> list[TrainingEpisode]:
    return [world(kind, seed) for seed, kind in enumerate(["success"] * 4 + ["miss", "drop"])]


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("steps", -5), ("windows_per_episode", -1), ("episodes_per_step", 0), ("budget_s", 0.0)],
)
def test_training_on_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be positive. Found: {value}. Allowed: "):
        replace(SHORT, **{name: value})  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_model(few: list[TrainingEpisode]) -> None:
    versions = {train_sarm(few, TINY, SHORT).model.info.version for _ in range(2)}
    assert len(versions) == 1
    assert train_sarm(few, TINY, replace(SHORT, seed=1)).model.info.version not in versions


def test_every_member_learns_from_a_lone_demonstration(few: list[TrainingEpisode]) -> None:
    many = replace(TINY, members=30)  # so many that chance leaves some of them out
    torch.manual_seed(SHORT.seed)
    before = SarmNetwork(many, plan_stages([few[0].subtasks]), ("front", "wrist"), few[0].state.shape[1])
    after = train_sarm(few[:1], many, SHORT).model.network
    moved = [
        float((new.stage.bias - old.stage.bias).detach().abs().max())
        for old, new in zip(before.members, after.members, strict=True)
    ]
    # Decay of the weights alone moves one that learns nothing by a hundred times less.
    assert min(moved) > 1e-4


def test_privileged_progress_plays_no_part(few: list[TrainingEpisode]) -> None:
    without = [replace(episode, benchmark=None) for episode in few]
    assert (
        train_sarm(few, TINY, SHORT).model.info.version == train_sarm(without, TINY, SHORT).model.info.version
    )


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(few: list[TrainingEpisode], tmp_path: Path) -> None:
    whole = train_sarm(few, TINY, SHORT)

    class Cut(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roborl.rewards.training.run._LOG_EVERY_S", -1.0)
        saving = replace(SHORT, save_every_s=0.0)
        calls = []

        def cut_at_third(figures: object) -> None:
            calls.append(figures)
            if len(calls) == 4:
                raise Cut

        with pytest.raises(Cut):
            train_sarm(few, TINY, saving, workspace=tmp_path, log=cut_at_third)
    resumed = train_sarm(few, TINY, saving, workspace=tmp_path)
    assert resumed.steps == whole.steps == 6
    for name, weight in whole.model.network.state_dict().items():
        torch.testing.assert_close(resumed.model.network.state_dict()[name], weight)


def test_a_resume_point_of_another_run_is_refused(few: list[TrainingEpisode], tmp_path: Path) -> None:
    train_sarm(few, TINY, SHORT, workspace=tmp_path)
    with pytest.raises(ModelLoadError, match=r"other settings.*, training\.steps 6 and not 7\."):
        train_sarm(few, TINY, replace(SHORT, steps=7), workspace=tmp_path)
    drop = replace(SHORT.windows, drop=0.5)
    with pytest.raises(ModelLoadError, match=r", training\.windows\.drop 0\.2 and not 0\.5\."):
        train_sarm(few, TINY, replace(SHORT, windows=drop), workspace=tmp_path)
    brighter = replace(few[0], images={name: rgb // 2 for name, rgb in few[0].images.items()})
    with pytest.raises(ModelLoadError, match=r"another dataset.*, episodes [0-9a-f]+ and not [0-9a-f]+\."):
        train_sarm([brighter, *few[1:]], TINY, SHORT, workspace=tmp_path)


@pytest.mark.parametrize("change", [{"save_every_s": 1.0}, {"threads": 0}, {"held_out": 0.5}])
def test_what_bears_on_no_weight_may_change_before_a_run_goes_on(
    few: list[TrainingEpisode], tmp_path: Path, change: dict[str, Any]
) -> None:
    before = train_sarm(few, TINY, SHORT, workspace=tmp_path)
    after = train_sarm(few, TINY, replace(SHORT, **change), workspace=tmp_path)
    assert after.model.info.version == before.model.info.version


def test_the_budget_ends_a_run(few: list[TrainingEpisode]) -> None:
    trained = train_sarm(few, TINY, replace(SHORT, steps=10**6, budget_s=0.5))
    assert 0.4 < trained.seconds < 10.0
    assert trained.steps < 10**5


def test_without_annotations_there_is_one_stage_and_it_trains(world: World) -> None:
    bare = [replace(world("success", seed), subtasks=None) for seed in range(4)]
    bare += [replace(world("miss", seed), subtasks=None) for seed in range(2)]
    model = train_sarm(bare, TINY, SHORT).model
    assert model.plan.names == ("task",)
    assert np.isfinite(watcher(model)(bare[0], range(bare[0].frames))).all()


def test_the_state_is_looked_at_only_when_asked(few: list[TrainingEpisode]) -> None:
    for use_state in (False, True):
        model = train_sarm(few, replace(TINY, use_state=use_state), SHORT).model
        other = replace(few[0], state=few[0].state + 3.0)
        order = range(few[0].frames)
        same = np.array_equal(watcher(model)(few[0], order), watcher(model)(other, order))
        assert same is not use_state
        expected = np.concatenate([e.state for e in few]).mean(axis=0)
        np.testing.assert_allclose(model.network.state_mean.numpy(), expected, rtol=1e-5)


def test_there_must_be_a_success(world: World) -> None:
    with pytest.raises(DatasetError, match="at least one successful"):
        train_sarm([world("miss", 0)], TINY, SHORT)


def test_episodes_must_have_the_same_cameras(few: list[TrainingEpisode]) -> None:
    odd = replace(few[1], images={"front": few[1].images["front"]})
    with pytest.raises(DatasetError, match="same cameras"):
        train_sarm([few[0], odd], TINY, SHORT)


def test_an_episode_must_be_whole(few: list[TrainingEpisode]) -> None:
    with pytest.raises(DatasetError, match="one state and one picture"):
        replace(few[0], state=few[0].state[:-1])
