"""Small random reward models of LeRobot, built offline: the real classes, saved as LeRobot saves them. All look at ``front``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from roborl.testing.tiny_vlms import build_tiny_vlm

IMAGE_KEY = "observation.images.front"
PICTURE_MEAN, PICTURE_STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def build_tiny_robometer(folder: Path | str, backbone: Path | str, *, seed: int = 0, **fields: Any) -> Path:
    """Write a small random Robometer.

    Args:
        folder: Where it goes; made if it is not there.
        backbone: Where the network goes that it is built on, and whose tokeniser it needs.
        seed: Of the weights.
        fields: Fields of LeRobot's ``RobometerConfig`` that are to be otherwise.

    Returns:
        The folder.
    """
    from lerobot.rewards.robometer.configuration_robometer import ROBOMETER_SPECIAL_TOKENS, RobometerConfig
    from lerobot.rewards.robometer.modeling_robometer import RobometerRewardModel
    from transformers import AutoConfig, AutoTokenizer

    build_tiny_vlm(backbone, "qwen3_vl")
    described = AutoConfig.from_pretrained(backbone).to_dict()
    described["text_config"]["vocab_size"] = len(AutoTokenizer.from_pretrained(backbone)) + len(
        ROBOMETER_SPECIAL_TOKENS
    )
    settings = {"base_model_id": str(backbone), "pretrained_path": str(folder), "vlm_config": described}
    settings |= {"torch_dtype": "float32", "max_frames": 4, "image_key": IMAGE_KEY, "device": "cpu"}
    with _seeded(seed):
        model = RobometerRewardModel(RobometerConfig(**(settings | fields)))
        _enlarge(model)
        model.save_pretrained(folder)
    return Path(folder)


def stand_in_for_qwen_vl_utils() -> ModuleType:
    """Return what Robometer needs of a package of that name, which may not be installed: it fits pictures to patches."""

    def process_vision_info(
        conversations: Any, *, image_patch_size: int, **_: Any
    ) -> tuple[Any, None, dict[str, Any]]:
        side = 2 * image_patch_size
        parts = [part for talk in conversations for turn in talk for part in turn["content"]]
        images = [part["image"] for part in parts if part["type"] == "image"]
        return [i.resize(tuple(max(1, round(s / side)) * side for s in i.size)) for i in images], None, {}

    module = ModuleType("qwen_vl_utils")
    module.__spec__ = ModuleSpec("qwen_vl_utils", None)
    vars(module)["process_vision_info"] = process_vision_info
    return module


def build_tiny_topreward(folder: Path | str, backbone: Path | str, **fields: Any) -> Path:
    """Write the settings of a TOPReward, and the small random network that it asks; arguments as above."""
    from lerobot.rewards.topreward.configuration_topreward import TOPRewardConfig

    build_tiny_vlm(backbone, "qwen3_vl")
    settings = {"vlm_name": str(backbone), "max_frames": 4, "image_key": IMAGE_KEY, "device": "cpu"}
    TOPRewardConfig(**(settings | fields)).save_pretrained(folder)
    return Path(folder)


def build_tiny_classifier(
    folder: Path | str, backbone: Path | str, *, seed: int = 0, statistics: bool = True, **fields: Any
) -> Path:
    """Write a small random image classifier of two views, ``front`` and ``wrist``; arguments as above.

    Args:
        folder: Where it goes.
        backbone: Where the network goes that it is built on.
        seed: Of the weights.
        statistics: Whether the pre-processor is saved beside the weights.
        fields: Fields of LeRobot's ``RewardClassifierConfig`` that are to be otherwise.
    """
    import torch
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.rewards.classifier.configuration_classifier import RewardClassifierConfig
    from lerobot.rewards.classifier.modeling_classifier import Classifier
    from lerobot.rewards.classifier.processor_classifier import make_classifier_processor
    from transformers import ResNetConfig, ResNetModel

    views = (IMAGE_KEY, "observation.images.wrist")
    settings = {
        "input_features": {key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, 128, 128)) for key in views},
        "model_name": str(backbone),
        "hidden_dim": 16,
        "latent_dim": 16,
        "image_embedding_pooling_dim": 2,
    }
    with _seeded(seed):
        sizes = {"embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4, "layer_type": "basic"}
        ResNetModel(ResNetConfig(**sizes)).save_pretrained(backbone)
        config = RewardClassifierConfig(**(settings | fields))
        model = Classifier(config)
        _enlarge(model)
        model.save_pretrained(folder)
    if statistics:
        stats = {
            key: {
                "mean": torch.tensor(PICTURE_MEAN).view(3, 1, 1),
                "std": torch.tensor(PICTURE_STD).view(3, 1, 1),
            }
            for key in views
        }
        make_classifier_processor(config, stats)[0].save_pretrained(folder)
    return Path(folder)


def _enlarge(model: Any) -> None:
    """Make the weights larger than usual, so that different pictures do not look alike."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 1.0 if "embed_tokens" in name else 1.5 / parameter[0].numel() ** 0.5)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    import torch

    before = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(before)
