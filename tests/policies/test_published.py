"""The sizes of LeRobot's policies, counted again on its own classes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from roborl.policies.published import POLICIES


def count(*modules: Any) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("name", ["pi0", "pi05"])
def test_pi0s_are_as_large_as_their_classes(name: str) -> None:
    if name == "pi0":
        from lerobot.policies.pi0.configuration_pi0 import PI0Config as Config
        from lerobot.policies.pi0.modeling_pi0 import PI0Pytorch as Network
    else:
        from lerobot.policies.pi05.configuration_pi05 import PI05Config as Config
        from lerobot.policies.pi05.modeling_pi05 import PI05Pytorch as Network
    known = POLICIES[name]
    with torch.device("meta"):
        network = Network(Config(device="cpu"))
    network.paligemma_with_expert.paligemma.tie_weights()
    assert count(network) == known.parameters
    text = network.paligemma_with_expert.paligemma.config.text_config
    shape = known.decoder
    assert (text.num_hidden_layers, text.hidden_size, text.num_key_value_heads, text.head_dim) == (
        shape.layers,
        shape.hidden,
        shape.kv_heads,
        shape.head_dim,
    )
    assert Config(device="cpu").tokenizer_max_length == known.other_tokens


def test_act_is_as_large_as_its_class() -> None:
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACT

    features = {
        "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
        "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 480, 640)),
    }
    config = ACTConfig(
        pretrained_backbone_weights=None,
        device="cpu",
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )
    with torch.device("meta"):
        assert count(ACT(config)) == POLICIES["act"].parameters


def test_smolvla_is_as_large_as_its_parts() -> None:
    """Its own class asks the hub for a tokeniser; this puts the same parts together."""
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.smolvlm_with_expert import get_intermediate_size
    from torch.nn import Linear
    from transformers import AutoModel, SmolVLMConfig, SmolVLMForConditionalGeneration

    known, settings = POLICIES["smolvla"], SmolVLAConfig(device="cpu")
    width = known.decoder.hidden
    # HuggingFaceTB/SmolVLM2-500M-Video-Instruct.
    config = SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": known.decoder.intermediate,
            "num_hidden_layers": 32,
            "num_attention_heads": known.decoder.heads,
            "num_key_value_heads": known.decoder.kv_heads,
            "head_dim": known.decoder.head_dim,
            "vocab_size": 49_280,
        },
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        scale_factor=4,
        tie_word_embeddings=False,
    )
    narrow, keys = (
        int(width * settings.expert_width_multiplier),
        known.decoder.kv_heads * known.decoder.head_dim,
    )
    with torch.device("meta"):
        seer = SmolVLMForConditionalGeneration(config)
        assert round(count(seer) / 1e6) == 507  # published as one of 500 million
        seer.model.text_model.layers = seer.model.text_model.layers[: settings.num_vlm_layers]
        small = copy.deepcopy(config.text_config)
        small.hidden_size, small.intermediate_size = narrow, get_intermediate_size(narrow)
        small.num_hidden_layers = settings.num_vlm_layers
        expert = AutoModel.from_config(small)
        expert.embed_tokens = None
        for i, layer in enumerate(expert.layers):
            if i % settings.self_attn_every_n_layers:
                layer.self_attn.k_proj = Linear(keys, keys, bias=False)
                layer.self_attn.v_proj = Linear(keys, keys, bias=False)
        ends = [
            Linear(settings.max_state_dim, width),
            Linear(settings.max_action_dim, narrow),
            Linear(narrow, settings.max_action_dim),
            Linear(2 * narrow, narrow),
            Linear(narrow, narrow),
        ]
    assert known.decoder.layers == settings.num_vlm_layers
    assert count(seer, expert, *ends) == known.parameters
    assert count(expert, *ends) == known.learns
