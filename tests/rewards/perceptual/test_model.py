"""The perceptual model on a drawn task whose steps are colours, through an encoder that can be seen through."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from roborl.errors import ConfigError, DatasetError, ShapeError
from roborl.rewards.metrics import value_order_correlation
from roborl.rewards.model import score_episode
from roborl.rewards.perceptual import training
from roborl.rewards.perceptual.checkpoint import freeze_perceptual
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.training import learn_perceptual
from roborl.rewards.training.encoders import FrameEncoder
from roborl.rewards.training.episodes import TrainingEpisode, as_video
from roborl.testing import check_reward_model as conformance

reward_model_check = conformance.reward_model_check
COLOURS = np.array([[40, 40, 40], [220, 40, 40], [220, 220, 40], [220, 220, 220]], float)
SMALL = PerceptualConfig(image_px=8, features=3, steps=3)


class MeanColours(FrameEncoder):
    """The mean colour of a picture, from 0 to 1."""

    dim, frozen, identity = 3, True, "mean colours"

    def forward(self, rgb):
        return rgb.to(torch.float32).mean(dim=(1, 2)) / 255


@pytest.fixture(autouse=True)
def seen_through(monkeypatch):
    monkeypatch.setattr(training, "build_frame_encoder", lambda name, *, px, dim: MeanColours())


def episode_of(colours, seed, *, cameras=("front",)):
    rng = np.random.default_rng(seed)

    def film():
        noise = rng.normal(0, 4, (len(colours), 8, 8, 3))
        return (np.asarray(colours)[:, None, None] + noise).clip(0, 255).astype(np.uint8)

    return TrainingEpisode(
        images={name: film() for name in cameras},
        state=np.zeros((len(colours), 2), np.float32),
        task="turn it white",
        success=True,
        kind="success",
    )


def demonstration(seed, **options):
    """From dark over red and yellow to white: at each it dwells, then goes on to the next."""
    rng = np.random.default_rng(seed)
    path = []
    for here, after in pairwise(COLOURS):
        share = np.r_[np.zeros(rng.integers(2, 4)), np.linspace(0, 1, rng.integers(6, 10))[:-1]]
        path += [here + s * (after - here) for s in share]
    return episode_of([*path, *[COLOURS[-1]] * 3], seed + 100, **options)


@pytest.fixture
def demonstrations():
    return [demonstration(seed) for seed in range(3)]


def progress_of(model, episode, order=None):
    order = range(episode.frames) if order is None else order
    return np.array(
        [s.progress for s in score_episode(model, "turn it white", as_video(episode, list(order)))]
    )


def test_progress_follows_a_demonstration_it_has_not_seen_both_ways(demonstrations):
    model, found = learn_perceptual(demonstrations, SMALL)
    assert found.steps == 3
    other = demonstration(9)
    forward = progress_of(model, other)
    assert value_order_correlation(forward) > 0.95
    assert forward[0] < 0.1
    assert forward[-1] > 0.9
    there_and_back = progress_of(model, other, [*range(other.frames), *range(other.frames - 2, -1, -1)])
    assert there_and_back[-1] < 0.1
    assert value_order_correlation(there_and_back[other.frames :]) < -0.95
    stages = [s.stage for s in score_episode(model, "", as_video(other, range(other.frames)))]
    assert stages == sorted(stages)
    assert set(stages) == {0, 1, 2}


def test_the_end_does_not_count_before_the_steps_to_it(demonstrations):
    model, _ = learn_perceptual(demonstrations, SMALL)
    dark, white = COLOURS[0], COLOURS[3]
    jump = progress_of(model, episode_of([dark, dark, white], 5))
    assert jump[-1] < 0.5
    by_turns = progress_of(model, episode_of([dark, dark, *COLOURS[1:].repeat(2, axis=0)], 5))
    assert by_turns[-1] > 0.9
    # But an episode may begin there.
    assert progress_of(model, episode_of([white, white], 5))[0] > 0.9


def test_a_picture_like_nothing_demonstrated_has_no_score_and_changes_nothing(demonstrations):
    model, _ = learn_perceptual(demonstrations, SMALL)
    blue, (dark, red) = np.array([20, 20, 250]), COLOURS[:2]
    with_it, without = [dark, dark, blue, blue, red], [dark, dark, red]
    scores = score_episode(model, "", as_video(episode_of(with_it, 5), range(5)))
    assert [s.valid for s in scores] == [True, True, False, False, True]
    plain = score_episode(model, "", as_video(episode_of(without, 5), range(3)))
    assert scores[-1].progress == pytest.approx(plain[-1].progress, abs=0.1)
    assert all(s.valid for s in score_episode(model, "", as_video(demonstration(9), range(12))))


def test_one_demonstration_is_enough_to_begin_with():
    model, _ = learn_perceptual([demonstration(0)], SMALL)
    assert value_order_correlation(progress_of(model, demonstration(9))) > 0.9


def test_doubt_is_greater_where_every_step_is_as_likely(demonstrations):
    model, _ = learn_perceptual(demonstrations, SMALL)
    scores = score_episode(model, "", as_video(demonstration(9), range(demonstration(9).frames)))
    assert all(score.spread > 0.0 for score in scores)
    torn = replace(model, config=replace(model.config, evidence=1e-6))
    torn_scores = score_episode(torn, "", as_video(demonstration(9), range(4)))
    assert torn_scores[0].spread > 2 * scores[0].spread


def test_a_lost_or_broken_reply_is_a_missing_score_and_changes_nothing_later(demonstrations):
    model, _ = learn_perceptual(demonstrations, SMALL)
    video = as_video(demonstration(9), range(12))
    fold, expected = model.start("", {}), model.start("", {})
    for index, observation in enumerate(video):
        replies = model.judge.answer(fold.queries(observation))
        if index == 4:
            assert not fold.fold(index, [None]).valid
            continue
        if index == 5:
            assert not fold.fold(index, [np.full(3, np.nan, np.float32)]).valid
            continue
        assert fold.fold(index, replies).progress == expected.fold(index, replies).progress


def test_annotations_are_not_looked_at(demonstrations):
    marked = [replace(e, subtasks=[("all", 0, e.frames - 1)]) for e in demonstrations]
    assert (
        learn_perceptual(marked, SMALL)[0].info.version
        == learn_perceptual(demonstrations, SMALL)[0].info.version
    )


@pytest.mark.parametrize("change", [{"undo": 0.2}, {"evidence": 2.0}, {"features": 2}, {"steps": 4}])
def test_settings_views_and_demonstrations_are_part_of_the_version(demonstrations, change):
    model, _ = learn_perceptual(demonstrations, SMALL)
    assert learn_perceptual(demonstrations, replace(SMALL, **change))[0].info.version != model.info.version
    assert learn_perceptual(demonstrations[:2], SMALL)[0].info.version != model.info.version
    renamed = freeze_perceptual(model.encoder, SMALL, model.statistics, cameras=("top",), tasks=model.tasks)
    assert renamed.info.version != model.info.version


@pytest.mark.parametrize("cameras", [("front",), ("front", "wrist")])
def test_the_model_conforms(reward_model_check, cameras):
    model, _ = learn_perceptual([demonstration(seed, cameras=cameras) for seed in range(2)], SMALL)
    assert model.info.cameras == cameras
    shown = demonstration(9, cameras=cameras)
    reward_model_check(model, observations=as_video(shown, range(shown.frames)))


def test_a_second_camera_shows_what_the_first_does_not():
    blind = [demonstration(seed, cameras=("front", "wrist")) for seed in range(3)]
    dark = [
        replace(e, images={"front": np.zeros_like(e.images["front"]), "wrist": e.images["wrist"]})
        for e in blind
    ]
    model, _ = learn_perceptual(dark[:2], SMALL)
    assert (model.statistics.looks.index >= 3).all()
    assert value_order_correlation(progress_of(model, dark[2])) > 0.9


def test_pictures_of_another_size_are_taken(demonstrations):
    model, _ = learn_perceptual(demonstrations, SMALL)
    other = demonstration(9)
    large = replace(other, images={"front": other.images["front"].repeat(4, axis=1).repeat(3, axis=2)})
    assert progress_of(model, large) == pytest.approx(progress_of(model, other), abs=1e-3)


def test_what_cannot_be_learnt_from_is_refused(demonstrations, monkeypatch):
    with pytest.raises(DatasetError, match="successful episodes"):
        learn_perceptual([], SMALL)
    with pytest.raises(DatasetError, match="1 successes of 2"):
        learn_perceptual([demonstrations[0], replace(demonstrations[1], success=False)], SMALL)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="has been trained"):
        learn_perceptual(demonstrations, replace(SMALL, encoder="cnn"))


def test_statistics_that_cannot_be_are_refused(demonstrations):
    model, _ = learn_perceptual(demonstrations, SMALL)
    statistics = model.statistics
    for change, words in [
        ({"starts": statistics.starts[::-1].copy()}, "impossible"),
        ({"doubt": -statistics.doubt}, "impossible"),
        ({"far": statistics.far[:2]}, "do not match"),
    ]:
        with pytest.raises(ShapeError, match=words):
            replace(statistics, **change)
    beyond = replace(statistics.looks, index=statistics.looks.index + 3)
    with pytest.raises(ShapeError, match="does not have"):
        replace(model, statistics=replace(statistics, looks=beyond))


@pytest.mark.parametrize(
    "settings", [{"steps": 1}, {"shortest": 1}, {"undo": 0.5}, {"features": 0}, {"evidence": 0.0}]
)
def test_settings_that_cannot_be_used_are_refused(settings):
    with pytest.raises(ConfigError, match="cannot be used"):
        PerceptualConfig(**settings)
