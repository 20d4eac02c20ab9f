from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from roborl.errors import ModelLoadError
from roborl.rewards.sarm.checkpoint import freeze_sarm, load_sarm, save_sarm
from roborl.rewards.sarm.config import SarmConfig, SarmTraining
from roborl.rewards.sarm.model import SarmModel
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.sarm.training import train_sarm
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.training.evaluation import watcher
from roborl.rewards.training.labels import StagePlan


@pytest.fixture(scope="module")
def trained(toy_config: SarmConfig, world: Callable[[str, int], TrainingEpisode]) -> SarmModel:
    """A model that has learnt little: what is kept of it need not be good."""
    episodes = [world(kind, seed) for kind in ("success", "miss") for seed in range(2)]
    return train_sarm(episodes, toy_config, SarmTraining(steps=10, budget_s=3600.0)).model


@pytest.fixture
def folder(trained: SarmModel, tmp_path: Path) -> Path:
    save_sarm(trained, tmp_path / "model")
    return tmp_path / "model"


def test_a_model_comes_back_as_it_was(
    trained: SarmModel, folder: Path, world: Callable[[str, int], TrainingEpisode]
) -> None:
    again = load_sarm(folder)
    assert again.info.version == trained.info.version
    assert (again.info.cameras, again.plan, again.tasks) == (
        trained.info.cameras,
        trained.plan,
        trained.tasks,
    )
    episode = world("undo", 60)
    order = range(episode.frames)
    np.testing.assert_array_equal(watcher(again)(episode, order), watcher(trained)(episode, order))


def test_a_full_disk_leaves_the_model_that_was_there(
    trained: SarmModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    with monkeypatch.context() as full:
        full.setattr("roborl.rewards.model_folder.save_file", no_room)
        with pytest.raises(OSError, match="No space left"):
            save_sarm(trained, folder)
    assert load_sarm(folder).info.version == trained.info.version


def test_the_version_is_a_hash_of_weights_and_settings() -> None:
    def build(config: SarmConfig, cameras: tuple[str, ...] = ("front",), nudge: float = 0.0) -> str:
        torch.manual_seed(0)
        plan = StagePlan(names=("a",), shares=(1.0,))
        network = SarmNetwork(config, plan, cameras, 2)
        network.slot.data[0, 0, 0] += nudge
        return freeze_sarm(network, plan, cameras=cameras, tasks=("t",), state_dim=2).info.version

    small = SarmConfig(image_px=16, frame_dim=8, dim=8, members=1)
    base = build(small)
    assert build(small) == base
    others = {
        build(small, nudge=1e-6),
        build(small, cameras=("wrist",)),
        build(SarmConfig(image_px=16, frame_dim=8, dim=8, members=1, done_progress=0.8)),
    }
    assert len(others | {base}) == 4


def test_the_rate_that_it_learnt_from_is_part_of_it_and_a_model_of_before_has_none(tmp_path: Path) -> None:
    plan = StagePlan(names=("a",), shares=(1.0,))
    network = SarmNetwork(SarmConfig(image_px=16, frame_dim=8, dim=8, members=1), plan, ("front",), 2)

    def build(trained_hz: float | None) -> SarmModel:
        return freeze_sarm(
            network, plan, cameras=("front",), tasks=("t",), state_dim=2, trained_hz=trained_hz
        )

    models = [build(rate) for rate in (None, 10, 30.0)]
    assert len({model.info.version for model in models}) == 3
    for index, model in enumerate(models):
        save_sarm(model, tmp_path / str(index))
        again = load_sarm(tmp_path / str(index))
        assert (again.info.trained_hz, again.info.version) == (model.info.trained_hz, model.info.version)
    assert "trained_hz" not in json.loads((tmp_path / "0" / "config.json").read_text())


def _edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def _edit_config(folder: Path, **changes: object) -> None:
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | changes))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda f: shutil.rmtree(f), "no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda f: _edit_weights(f, lambda s: s.pop("slot")), "missing .*slot"),
        (lambda f: _edit_weights(f, lambda s: s.update(extra=torch.ones(1))), "surplus .*extra"),
        (lambda f: _edit_weights(f, lambda s: s.update(slot=torch.ones(1))), "another shape .*slot"),
        (lambda f: _edit_weights(f, lambda s: s.update(slot=s["slot"].double())), "slot is of another kind"),
        (lambda f: _edit_weights(f, lambda s: s["slot"].fill_(float("nan"))), "not finite"),
        (lambda f: _edit_weights(f, lambda s: s["slot"].add_(1.0)), "do not belong together"),
        (lambda f: _edit_config(f, tasks=["another"]), "do not belong together"),
        (lambda f: _edit_config(f, trained_hz=30), "do not belong together"),
        (lambda f: _edit_config(f, trained_hz="often"), "cannot be read"),
        (lambda f: _edit_config(f, format="act"), "another kind"),
        (lambda f: _edit_config(f, model={"encoder": "cnn", "wings": 2}), "cannot be read"),
        (lambda f: _edit_config(f, plan={"names": ["a"]}), "cannot be read"),
        (lambda f: _edit_config(f, frozen_encoder="clip:1234"), "frozen encoder"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 40), "cannot be read"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(
    folder: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(folder)
    with pytest.raises(ModelLoadError, match=complaint):
        load_sarm(folder)


def test_every_truncation_of_the_weights_is_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for share in (0.0, 0.001, 0.3, 0.999):
        (folder / "model.safetensors").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ModelLoadError):
            load_sarm(folder)
