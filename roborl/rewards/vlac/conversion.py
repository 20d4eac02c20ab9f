"""The published VLAC checkpoints as native transformers models: a renaming of tensors, and nothing foreign is run.

VLAC is an InternVL2 chat model (InternViT, a projector, InternLM2), published with code of its own that recent
transformers cannot run and that we would not run. The same graph is in transformers as InternVL with a Llama
language model; the tensors differ in name, and in that the published ones keep queries, keys and values fused:

* vision: ``qkv`` is (3 · hidden, ·), queries above keys above values;
* language: ``wqkv`` is (kv_heads, q_per_kv + 2, head_dim, ·): each key-value head is preceded by its own query heads.

Conversion is exact and complete: a tensor that is missing, surplus, of another shape or not finite is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration

from roborl.errors import ModelLoadError
from roborl.pretrained import disk_faults
from roborl.rewards.tensors import check_tensors
from roborl.rewards.vlac.tokenizer import CONTEXT_TOKEN, END_OF_TURN, convert_tokenizer
from roborl.whole_files import whole_file

_VISION_LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
_TEXT_LAYER = r"language_model\.model\.layers\.(\d+)\."
_TO_VISION_LAYER = r"model.vision_tower.encoder.layer.\1."
_TO_TEXT_LAYER = r"model.language_model.layers.\1."

_NAMES = (
    (r"vision_model\.embeddings\.class_embedding", "model.vision_tower.embeddings.cls_token"),
    (r"vision_model\.embeddings\.position_embedding", "model.vision_tower.embeddings.position_embeddings"),
    (
        r"vision_model\.embeddings\.patch_embedding\.(weight|bias)",
        r"model.vision_tower.embeddings.patch_embeddings.projection.\1",
    ),
    (_VISION_LAYER + r"attn\.proj\.(weight|bias)", _TO_VISION_LAYER + r"attention.projection_layer.\2"),
    (_VISION_LAYER + r"norm1\.(weight|bias)", _TO_VISION_LAYER + r"layernorm_before.\2"),
    (_VISION_LAYER + r"norm2\.(weight|bias)", _TO_VISION_LAYER + r"layernorm_after.\2"),
    (_VISION_LAYER + r"ls([12])", _TO_VISION_LAYER + r"lambda_\2"),
    (_VISION_LAYER + r"mlp\.(fc[12])\.(weight|bias)", _TO_VISION_LAYER + r"mlp.\2.\3"),
    (r"mlp1\.0\.(weight|bias)", r"model.multi_modal_projector.layer_norm.\1"),
    (r"mlp1\.1\.(weight|bias)", r"model.multi_modal_projector.linear_1.\1"),
    (r"mlp1\.3\.(weight|bias)", r"model.multi_modal_projector.linear_2.\1"),
    (r"language_model\.model\.tok_embeddings\.weight", "model.language_model.embed_tokens.weight"),
    (r"language_model\.model\.norm\.weight", "model.language_model.norm.weight"),
    (r"language_model\.output\.weight", "lm_head.weight"),
    (_TEXT_LAYER + r"attention_norm\.weight", _TO_TEXT_LAYER + "input_layernorm.weight"),
    (_TEXT_LAYER + r"ffn_norm\.weight", _TO_TEXT_LAYER + "post_attention_layernorm.weight"),
    (_TEXT_LAYER + r"attention\.wo\.weight", _TO_TEXT_LAYER + "self_attn.o_proj.weight"),
    (_TEXT_LAYER + r"feed_forward\.w1\.weight", _TO_TEXT_LAYER + "mlp.gate_proj.weight"),
    (_TEXT_LAYER + r"feed_forward\.w2\.weight", _TO_TEXT_LAYER + "mlp.down_proj.weight"),
    (_TEXT_LAYER + r"feed_forward\.w3\.weight", _TO_TEXT_LAYER + "mlp.up_proj.weight"),
)
_RENAMES = tuple((re.compile(published), native) for published, native in _NAMES)
_VISION_QKV = re.compile(_VISION_LAYER + r"attn\.qkv\.(weight|bias)")
_TEXT_QKV = re.compile(_TEXT_LAYER + r"attention\.wqkv\.weight")

# What the native graph assumes: a checkpoint that says otherwise would load, and answer nonsense.
_ASSUMED: dict[str, dict[str, Any]] = {
    "": {"model_type": "internvl_chat", "ps_version": "v2", "select_layer": -1, "use_backbone_lora": 0},
    "vision_config": {"qk_normalization": False, "hidden_act": "gelu"},
    "llm_config": {"model_type": "internlm2", "bias": False, "hidden_act": "silu"},
}


def is_published(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint in the published layout."""
    try:
        described = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(described, dict) and described.get("model_type") == "internvl_chat"


def native_config(published: Mapping[str, Any], *, image_token_id: int, end_token_id: int) -> InternVLConfig:
    """Return the native description of a published one.

    The dynamic scaling of rotary positions that the published description may name begins beyond
    ``max_position_embeddings``, far above the longest question, and is left out.

    Args:
        published: Contents of the published ``config.json``.
        image_token_id: Id of the token that stands for a piece of a picture.
        end_token_id: Id of the token that ends a turn.

    Raises:
        ModelLoadError: If a field is missing, or asks for a graph that the native classes do not have.
    """
    for part, wanted in _ASSUMED.items():
        fields = published.get(part, {}) if part else published
        for name, value in wanted.items():
            if fields.get(name, value) != value:
                raise ModelLoadError(
                    f"The checkpoint's {part + '.' if part else ''}{name} is not one that can be converted",
                    seen=fields[name],
                    allowed=value,
                )
    try:
        vision, text = published["vision_config"], published["llm_config"]
        patches = vision["image_size"] // vision["patch_size"]
        ratio = published["downsample_ratio"]
        native = {
            "vision_config": {
                "hidden_size": vision["hidden_size"],
                "num_hidden_layers": vision["num_hidden_layers"],
                "num_attention_heads": vision["num_attention_heads"],
                "intermediate_size": vision["intermediate_size"],
                "attention_bias": vision.get("qkv_bias", True),
                "norm_type": vision.get("norm_type", "layer_norm"),
                "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
            },
            "text_config": {
                "model_type": "llama",
                "vocab_size": text["vocab_size"],
                "hidden_size": text["hidden_size"],
                "intermediate_size": text["intermediate_size"],
                "num_hidden_layers": text["num_hidden_layers"],
                "num_attention_heads": text["num_attention_heads"],
                "num_key_value_heads": text["num_key_value_heads"],
                "rms_norm_eps": text["rms_norm_eps"],
                "max_position_embeddings": text["max_position_embeddings"],
                "rope_parameters": {"rope_type": "default", "rope_theta": text["rope_theta"]},
                "bos_token_id": text.get("bos_token_id", 1),
                "eos_token_id": end_token_id,
                "pad_token_id": text.get("pad_token_id", 2),
                "tie_word_embeddings": False,
            },
            "image_token_id": image_token_id,
            "image_seq_length": int((patches * ratio) ** 2),
            "downsample_ratio": ratio,
            # The default ties the output layer to the embedding, whatever the language model says: silent nonsense.
            "tie_word_embeddings": False,
            "eos_token_id": end_token_id,
            "dtype": published.get("torch_dtype") or "float32",
            "architectures": ["InternVLForConditionalGeneration"],
        }
    except KeyError as error:
        raise ModelLoadError(
            "The config.json of a published checkpoint lacks a field", seen=f"no {error.args[0]}"
        ) from error
    config: InternVLConfig = InternVLConfig.from_dict(native)
    return config


def native_weights(published: Mapping[str, Tensor], config: InternVLConfig) -> dict[str, Tensor]:
    """Return the tensors under their native names, fused ones split; views of the given ones where possible.

    Args:
        published: Every tensor of the published checkpoint.
        config: The native description.

    Raises:
        ModelLoadError: If a tensor is missing, surplus, of another shape, or not finite.
    """
    native: dict[str, Tensor] = {}
    foreign: list[str] = []
    for name, tensor in published.items():
        parts = dict(_renamed(name, tensor, config))
        native |= parts
        if not parts:
            foreign.append(name)
    with torch.device("meta"):
        wanted = InternVLForConditionalGeneration(config).state_dict()
    check_tensors(
        native,
        {name: tuple(tensor.shape) for name, tensor in wanted.items()},
        what="a VLAC checkpoint",
        remedy="Download the checkpoint again, whole",
        foreign=foreign,
    )
    return native


def convert_checkpoint(source: Path, target: Path) -> None:
    """Write a published checkpoint as a folder that transformers loads natively; the weights appear last and at once.

    Args:
        source: The published folder: ``config.json``, ``*.safetensors`` and the tokenizer's files.
        target: Where to write; made if need be.

    Raises:
        ModelLoadError: If the checkpoint is incomplete, foreign, or kept in a format that could run code.
    """
    if not is_published(source):
        raise ModelLoadError(
            "This is no checkpoint in the published layout",
            seen=str(source),
            allowed="a folder whose config.json has the model_type internvl_chat",
        )
    target.mkdir(parents=True, exist_ok=True)
    described = json.loads((source / "config.json").read_text())
    image_px = int(described.get("force_image_size") or described["vision_config"]["image_size"])
    tokenizer: Any = convert_tokenizer(source)
    config = native_config(
        described,
        image_token_id=tokenizer.convert_tokens_to_ids(CONTEXT_TOKEN),
        end_token_id=tokenizer.convert_tokens_to_ids(END_OF_TURN),
    )
    weights = native_weights(_read_weights(source), config)
    config.save_pretrained(target)
    _write_processor(tokenizer, target, image_px=image_px, image_tokens=config.image_seq_length)
    with whole_file(target / "model.safetensors") as draft, disk_faults():
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, draft, {"format": "pt"})


def _renamed(name: str, tensor: Tensor, config: InternVLConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the native tensors that a published one becomes; none where its name is foreign."""
    if match := _VISION_QKV.fullmatch(name):
        if tensor.shape[0] % 3:
            raise ModelLoadError(
                f"{name} cannot be split", seen=tuple(tensor.shape), allowed="rows in thirds"
            )
        for part, rows in zip("qkv", tensor.chunk(3), strict=True):
            yield match.expand(_TO_VISION_LAYER + rf"attention.{part}_proj.\2"), rows
    elif match := _TEXT_QKV.fullmatch(name):
        text: Any = config.text_config
        shared = text.num_attention_heads // text.num_key_value_heads
        size = text.hidden_size // text.num_attention_heads
        if tensor.ndim != 2 or tensor.shape[0] != text.num_key_value_heads * (shared + 2) * size:
            raise ModelLoadError(
                f"{name} cannot be split",
                seen=tuple(tensor.shape),
                allowed=f"{text.num_key_value_heads} groups of {shared} + 2 heads of {size} rows",
            )
        grouped = tensor.view(text.num_key_value_heads, shared + 2, size, tensor.shape[1])
        parts = {"q": grouped[:, :shared], "k": grouped[:, shared], "v": grouped[:, shared + 1]}
        for part, rows in parts.items():
            yield match.expand(_TO_TEXT_LAYER + f"self_attn.{part}_proj.weight"), rows.flatten(0, -2)
    else:
        for pattern, native in _RENAMES:
            if match := pattern.fullmatch(name):
                yield match.expand(native), tensor


def _read_weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelLoadError(
            "There are no safetensors in the folder of the checkpoint",
            seen=sorted(path.name for path in folder.iterdir()),
            allowed="*.safetensors; other formats can run code and are not opened",
        )
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelLoadError(f"{path.name} cannot be read", seen=str(error)) from error
    return tensors


def _write_processor(tokenizer: Any, target: Path, *, image_px: int, image_tokens: int) -> None:
    tokenizer.save_pretrained(target)
    side = {"height": image_px, "width": image_px}
    pictures = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": False,
        "do_resize": True,
        "size": side,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_convert_rgb": True,
    }
    (target / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2) + "\n")
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": image_tokens}
    (target / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
