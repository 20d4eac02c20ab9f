"""A perceptual model on disk, with the real encoder, comes back as it was or not at all."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from roborl.errors import ModelLoadError
from roborl.rewards.model import score_episode
from roborl.rewards.perceptual.checkpoint import freeze_perceptual, load_perceptual, save_perceptual
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.training import learn_perceptual
from roborl.rewards.registry import load_reward_model
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.testing import check_reward_model as conformance
from roborl.testing.check_reward_model import random_observations

reward_model_check = conformance.reward_model_check


def film(seed, frames=16):
    """A bright bar that crosses the picture."""
    rng = np.random.default_rng(seed)
    views = {}
    for name in ("front", "wrist"):
        pictures = rng.integers(0, 40, (frames, 32, 32, 3), np.uint8)
        for t in range(frames):
            pictures[t, :, 2 * t : 2 * t + 6] = (220, 60, 40)
        views[name] = pictures
    return TrainingEpisode(
        images=views, state=np.zeros((frames, 2), np.float32), task="cross", success=True, kind="success"
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("perceptual")
    model, _ = learn_perceptual([film(0), film(1)], PerceptualConfig(image_px=32), cache=folder / "vectors")
    save_perceptual(model, folder / "model")
    return model, folder / "model"


@pytest.fixture
def copy(saved, tmp_path):
    for path in saved[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_it_comes_back_as_it_was_and_conforms(saved, reward_model_check):
    model, folder = saved
    again = load_reward_model(str(folder))
    assert again.info.version == model.info.version
    assert again.info.cameras == ("front", "wrist")
    assert again.tasks == ("cross",)
    shown = random_observations(model, count=8)
    here, there = (score_episode(each, "cross", shown) for each in (model, again))
    assert [(s.progress, s.spread, s.stage) for s in there] == [(s.progress, s.spread, s.stage) for s in here]
    reward_model_check(again, observations=shown, tolerance=1e-3)


def test_the_rate_that_it_learnt_from_is_part_of_it_and_a_model_of_before_has_none(saved, tmp_path):
    model, folder = saved
    assert "trained_hz" not in json.loads((folder / "config.json").read_text())
    parts = (model.encoder, model.config, model.statistics)
    models = [
        freeze_perceptual(*parts, cameras=model.info.cameras, tasks=model.tasks, trained_hz=rate)
        for rate in (None, 10, 30.0)
    ]
    assert models[0].info.version == model.info.version
    assert len({each.info.version for each in models}) == 3
    assert all(each.info.looks_back for each in models)
    for index, each in enumerate(models):
        save_perceptual(each, tmp_path / str(index))
        assert load_perceptual(tmp_path / str(index)).info == each.info


def test_a_folder_that_is_not_whole_is_refused(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"cannot be read.*--model perceptual"):
        load_perceptual(copy)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_perceptual(copy / "nowhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frozen_encoder": "efficientnet-lite0@32:0"}, "frozen encoder is not"),
        ({"format": "roborl-perceptual-9"}, "another kind"),
        ({"cameras": ["wrist", "front"]}, "do not belong together"),
        ({"model": {"encoder": "efficientnet-lite0", "image_px": 32, "wings": 2}}, "cannot be read"),
        ({"model": {"encoder": "cnn", "image_px": 32}}, "frozen encoder is not"),
        ({"cameras": []}, "cannot be read"),
        ({"trained_hz": 30}, "do not belong together"),
        ({"trained_hz": "often"}, "cannot be read"),
    ],
)
def test_another_description_is_refused(copy, change, words):
    described = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(described | change))
    with pytest.raises(ModelLoadError, match=words):
        load_perceptual(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: n | {"far": n["far"] + 0.1}, "do not belong together"),
        (lambda n: n | {"far": n["far"] * np.nan}, "not finite"),
        (lambda n: n | {"index": n["index"].astype(np.int32)}, "another model"),
        (lambda n: n | {"index": n["index"] + 5120}, "cannot be read"),
        (lambda n: n | {"inside_std": -n["inside_std"]}, "cannot be read"),
        (lambda n: {name: array for name, array in n.items() if name != "doubt"}, "another model"),
    ],
)
def test_other_numbers_are_refused(copy, change, words):
    numbers = load_file(copy / "model.safetensors")
    save_file(change(numbers), copy / "model.safetensors")
    with pytest.raises(ModelLoadError, match=words):
        load_perceptual(copy)
