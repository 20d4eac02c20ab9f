"""A small random VLAC checkpoint in the *published* layout, built offline in a second.

Names, fused tensors, description, added tokens and the SentencePiece vocabulary are formed as in the released
checkpoints; sizes are those of a toy. Its answers mean nothing, but they are answers: a sign, a number of at most two digits
and the end, or a single digit where one is asked for, so that the whole path from pictures to a score is walked.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

IMAGE_PX, PATCH_PX = 28, 7
HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 64, 2, 4, 2, 96
VISION_HIDDEN, VISION_HEADS, VISION_FFN = 32, 2, 48

_ADDED = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
_TURNS = ("<|im_end|>", "<|im_start|>")
_NUMBERS = tuple(str(number) for number in range(10, 100))
_READY, _SIGNED, _SAID = 0, 1, 2  # directions of the residual stream that remember what the last token was


def vocabulary() -> list[tuple[str, float, int]]:
    """Return pieces, scores and kinds in the order of their ids, without the added tokens beyond their end."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    merged = ["re", "er", "in", "th", "▁t", "▁th", "▁the", "Im", "as", "ask", *_NUMBERS]
    pieces += [(text, -float(rank), 1) for rank, text in enumerate(merged)]
    letters = ["▁", *(chr(code) for code in range(33, 127))]
    pieces += [(letter, -1000.0 - rank, 1) for rank, letter in enumerate(letters)]
    # The real vocabulary too has places that the chat model's own tokens take over.
    pieces += [("[UNUSED_TOKEN_0]", 0.0, 4), ("[UNUSED_TOKEN_1]", 0.0, 4)]
    return pieces


def sentencepiece_model(pieces: list[tuple[str, float, int]], *, prefix_space: bool = False) -> bytes:
    """Return a SentencePiece model file of the BPE kind."""
    data = b""
    for text, score, kind in pieces:
        piece = _chunk(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        data += _chunk(1, piece + (_number(3, kind) if kind != 1 else b""))
    data += _chunk(2, _number(3, 2) + _number(4, len(pieces)))
    return data + _chunk(3, _chunk(1, b"identity") + _number(3, int(prefix_space)) + _number(4, 0))


def published_config() -> dict[str, object]:
    """Return the contents of ``config.json``."""
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": IMAGE_PX,
        "max_dynamic_patch": 12,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internlm2-chat",
        "torch_dtype": "float32",
        "use_backbone_lora": 0,
        "vision_config": {
            "model_type": "intern_vit_6b",
            "hidden_size": VISION_HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": VISION_HEADS,
            "intermediate_size": VISION_FFN,
            "image_size": IMAGE_PX,
            "patch_size": PATCH_PX,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "norm_type": "layer_norm",
            "qk_normalization": False,
            "qkv_bias": True,
        },
        "llm_config": {
            "model_type": "internlm2",
            "architectures": ["InternLM2ForCausalLM"],
            "vocab_size": len(vocabulary()) + len(_ADDED),
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "intermediate_size": FFN,
            "hidden_act": "silu",
            "bias": False,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000000,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "max_position_embeddings": 32768,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            "tie_word_embeddings": False,
        },
    }


def published_weights(seed: int = 3, *, answers: bool = True) -> dict[str, Tensor]:
    """Return random tensors under their published names, float32.

    Args:
        seed: Of the numbers; with the default the replies differ from picture to picture.
        answers: Whether the output layer is arranged so that the replies are numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int, scale: float | None = None) -> Tensor:
        return torch.randn(*shape, generator=generator) * (scale or shape[-1] ** -0.5)

    names = _token_names()
    tokens, head = len(names), HIDDEN // HEADS
    patches = (IMAGE_PX // PATCH_PX) ** 2
    weights = {
        "vision_model.embeddings.class_embedding": noise(1, 1, VISION_HIDDEN, scale=1.0),
        "vision_model.embeddings.position_embedding": noise(1, patches + 1, VISION_HIDDEN, scale=1.0),
        "vision_model.embeddings.patch_embedding.weight": noise(
            VISION_HIDDEN, 3, PATCH_PX, PATCH_PX, scale=0.4
        ),
        "vision_model.embeddings.patch_embedding.bias": noise(VISION_HIDDEN),
        "mlp1.0.weight": 1 + noise(4 * VISION_HIDDEN),
        "mlp1.0.bias": noise(4 * VISION_HIDDEN),
        "mlp1.1.weight": noise(HIDDEN, 4 * VISION_HIDDEN),
        "mlp1.1.bias": noise(HIDDEN),
        "mlp1.3.weight": noise(HIDDEN, HIDDEN, scale=0.5),
        "mlp1.3.bias": noise(HIDDEN),
        "language_model.model.tok_embeddings.weight": noise(tokens, HIDDEN, scale=0.3),
        "language_model.model.norm.weight": 1 + noise(HIDDEN),
        "language_model.output.weight": noise(tokens, HIDDEN, scale=1.0),
    }
    for layer in range(LAYERS):
        vision = f"vision_model.encoder.layers.{layer}."
        weights |= {
            f"{vision}attn.qkv.weight": noise(3 * VISION_HIDDEN, VISION_HIDDEN),
            f"{vision}attn.qkv.bias": noise(3 * VISION_HIDDEN),
            f"{vision}attn.proj.weight": noise(VISION_HIDDEN, VISION_HIDDEN),
            f"{vision}attn.proj.bias": noise(VISION_HIDDEN),
            f"{vision}norm1.weight": 1 + noise(VISION_HIDDEN),
            f"{vision}norm1.bias": noise(VISION_HIDDEN),
            f"{vision}norm2.weight": 1 + noise(VISION_HIDDEN),
            f"{vision}norm2.bias": noise(VISION_HIDDEN),
            f"{vision}ls1": 1 + noise(VISION_HIDDEN),
            f"{vision}ls2": 1 + noise(VISION_HIDDEN),
            f"{vision}mlp.fc1.weight": noise(VISION_FFN, VISION_HIDDEN),
            f"{vision}mlp.fc1.bias": noise(VISION_FFN),
            f"{vision}mlp.fc2.weight": noise(VISION_HIDDEN, VISION_FFN),
            f"{vision}mlp.fc2.bias": noise(VISION_HIDDEN),
        }
        text = f"language_model.model.layers.{layer}."
        weights |= {
            f"{text}attention.wqkv.weight": noise((HEADS + 2 * KV_HEADS) * head, HIDDEN, scale=0.5),
            f"{text}attention.wo.weight": noise(HIDDEN, HIDDEN, scale=1.0),
            f"{text}attention_norm.weight": 1 + noise(HIDDEN),
            f"{text}ffn_norm.weight": 1 + noise(HIDDEN),
            f"{text}feed_forward.w1.weight": noise(FFN, HIDDEN),
            f"{text}feed_forward.w2.weight": noise(HIDDEN, FFN),
            f"{text}feed_forward.w3.weight": noise(FFN, HIDDEN),
        }
    if answers:
        _teach_to_answer(weights, names)
    return weights


def write_published_vlac(folder: Path, seed: int = 3, *, answers: bool = True) -> Path:
    """Write a whole checkpoint in the published layout, and return its folder.

    Args:
        folder: Where; made if need be.
        seed: Of the weights.
        answers: As in :func:`published_weights`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = vocabulary()
    (folder / "config.json").write_text(json.dumps(published_config()))
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    (folder / "added_tokens.json").write_text(
        json.dumps({text: len(pieces) + place for place, text in enumerate(_ADDED)})
    )
    turns = {str(len(pieces) - len(_TURNS) + place): {"content": text} for place, text in enumerate(_TURNS)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": turns}))
    save_file(published_weights(seed, answers=answers), folder / "model.safetensors", {"format": "pt"})
    return folder


def _token_names() -> list[str]:
    names = [text for text, _, _ in vocabulary()]
    return [*names[: -len(_TURNS)], *_TURNS, *_ADDED]


def _teach_to_answer(weights: dict[str, Tensor], names: list[str]) -> None:
    """Let three directions of the residual stream carry what the last token was, and the output layer act on it."""
    embedding = weights["language_model.model.tok_embeddings.weight"]
    output = weights["language_model.output.weight"]
    signs = [names.index(sign) for sign in "+-"]
    digits = [names.index(str(digit)) for digit in range(10)]
    numbers = [*digits, *(names.index(number) for number in _NUMBERS)]
    directions = [_READY, _SIGNED, _SAID]
    for name in ("attention.wo.weight", "feed_forward.w2.weight"):
        for layer in range(LAYERS):
            weights[f"language_model.model.layers.{layer}.{name}"][directions] = 0.0
    weights["language_model.model.norm.weight"][directions] = 8.0
    embedding[:, directions] = 0.0
    embedding[:, _READY] = 12.0
    embedding[signs] = 0.1 * embedding[signs]
    embedding[signs, _READY], embedding[signs, _SIGNED] = 0.0, 12.0
    embedding[numbers, _READY], embedding[numbers, _SAID] = 0.0, 12.0
    answering = [*signs, *numbers, names.index(_TURNS[0])]
    output[[token for token in range(len(names)) if token not in answering]] = 0.0
    output[:, directions] = -15.0
    output[signs, _READY] = 15.0
    output[numbers, _SIGNED] = 15.0
    output[answering[-1], _SAID] = 15.0


def _chunk(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
