"""Small random policies of LeRobot's real classes, saved as LeRobot saves them, built offline in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

type Statistics = Mapping[str, Mapping[str, Any]]

_SMALL: dict[str, dict[str, Any]] = {
    "act": {
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 64,
        "n_encoder_layers": 1,
        "use_vae": False,
        "pretrained_backbone_weights": None,
        "chunk_size": 4,
        "n_action_steps": 4,
    },
    "vqbet": {
        "pretrained_backbone_weights": None,
        "crop_shape": None,
        "n_obs_steps": 2,
        "n_action_pred_token": 1,
        "action_chunk_size": 2,
        "vqvae_n_embed": 4,
        "vqvae_embedding_dim": 16,
        "vqvae_enc_hidden_dim": 16,
        "gpt_n_layer": 1,
        "gpt_n_head": 2,
        "gpt_hidden_dim": 32,
        "gpt_input_dim": 32,
        "gpt_output_dim": 32,
    },
    "smolvla": {
        "num_vlm_layers": 2,
        "num_expert_layers": 2,
        "chunk_size": 6,
        "n_action_steps": 4,
        "max_state_dim": 16,
        "max_action_dim": 8,
        "resize_imgs_with_padding": (64, 64),
        "tokenizer_max_length": 8,
        "num_steps": 2,
    },
}
_WORDS = "move the gripper to red cube target put it into bowl on table pick place reach touch marker"


def build_tiny_policy(
    folder: Path | str,
    kind: str = "act",
    *,
    cameras: Mapping[str, tuple[int, int]],
    state_dim: int,
    action_dim: int,
    statistics: Statistics | None = None,
    backbone: Path | str = "",
    seed: int = 0,
    **fields: Any,
) -> Path:
    """Write a policy with its processors; blocks for some seconds.

    Args:
        folder: Where it goes; made if it is not there.
        kind: ``act``, ``vqbet``, which looks through one camera only, or ``smolvla``, which needs ``backbone``.
        cameras: Height and width by camera name.
        state_dim: Size of the state.
        action_dim: Size of an action.
        statistics: Of the training data by feature, as LeRobot keeps them; made up unless given.
        backbone: Where SmolVLA's description and tokeniser go. The policy names that folder, so it must stay.
        seed: Of the weights.
        fields: Fields of LeRobot's settings that are to be otherwise.

    Returns:
        The folder.
    """
    import torch
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    folder = Path(folder)
    images = {f"observation.images.{name}": (3, *size) for name, size in cameras.items()}
    settings = _SMALL[kind] | fields
    if kind == "smolvla":
        settings = {"vlm_model_name": str(_backbone(Path(backbone)))} | settings
    config = make_policy_config(
        kind,
        device="cpu",
        push_to_hub=False,
        input_features={
            **{key: PolicyFeature(type=FeatureType.VISUAL, shape=shape) for key, shape in images.items()},
            "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(state_dim,)),
        },
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(action_dim,))},
        **settings,
    )
    given = statistics or {
        **{key: _made_up((3, 1, 1)) for key in images},
        "observation.state": _made_up((state_dim,)),
        "action": _made_up((action_dim,)),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        get_policy_class(kind)(config).save_pretrained(folder)
    for pipeline in make_pre_post_processors(config, dataset_stats=given):
        pipeline.save_pretrained(folder)
    return folder


def _made_up(shape: tuple[int, ...]) -> dict[str, np.ndarray[Any, Any]]:
    values = {"mean": 0.1, "std": 0.5, "min": -1.0, "max": 1.0}
    return {name: np.full(shape, value, np.float32) for name, value in values.items()}


def _backbone(folder: Path) -> Path:
    """Write the description, the tokeniser and the processor of a small SmolVLM without weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    special = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
        "video_token": "<video>",
    }
    words = ["<pad>", "<unk>", "<s>", "</s>", *special.values(), *dict.fromkeys(_WORDS.split())]
    bare = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=special,
    )
    SmolVLMProcessor(
        SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=4
    ).save_pretrained(folder)
    SmolVLMConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
        scale_factor=2,
        image_token_id=words.index("<image>"),
        pad_token_id=0,
    ).save_pretrained(folder)
    return folder
