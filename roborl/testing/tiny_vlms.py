"""Small random vision-language checkpoints: the real classes, processors and chat templates, built offline in seconds.

They know nothing, but everything around the weights is as in a published checkpoint, so a test with one covers the
whole way from frames to scores.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = build_tiny_vlm(folder, "qwen3_vl")
    ...     sorted(p.name for p in path.iterdir())[:2]
    ['chat_template.jinja', 'config.json']
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roborl.errors import ConfigError

TINY_KINDS = ("qwen2_5_vl", "qwen3_vl", "internvl")

_WORDS = """
the robot arm moves its gripper to the red cube and puts it into the bowl on the table
front wrist left right camera picture before after start end goal task progress score answer
how far has the task come give one number from one to five percent is it done yes no
ANSWER: 1 ANSWER: 2 ANSWER: 3 ANSWER: 4 ANSWER: 5 <score>+25%</score> <score>-10%</score> 0 seconds
"""

_CHATML_TURN = """\
{%- macro spell(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' -%}@IMAGE@{%- elif part.type == 'video' -%}@VIDEO@{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}
@START@
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' }}{{ spell(message.content) }}{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
_QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_INTERN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<video>",
)
_DEFAULT_SYSTEM = "{%- if messages[0].role != 'system' -%}{{ '<|im_start|>system\\nYou answer questions.<|im_end|>\\n' }}{%- endif -%}"


def build_tiny_vlm(
    folder: Path | str,
    kind: str,
    *,
    seed: int = 0,
    tied: bool = False,
    width: int = 32,
    layers: int = 2,
    pixels: int = 0,
    words: Sequence[str] = (),
    vision_width: int = 32,
    patch_px: int = 16,
) -> Path:
    """Write a small random checkpoint; blocks for a second or two.

    Args:
        folder: Where it goes; made if it is not there.
        kind: ``qwen2_5_vl``, ``qwen3_vl`` or ``internvl``, as ``config.model_type`` names them.
        seed: Of the weights.
        tied: Whether input and output embeddings are the same tensor.
        width: Size of hidden states, a multiple of 32.
        layers: Number of layers of the language network.
        pixels: Most pixels of a picture as the Qwen networks see it, 0 for 64 x 64; InternVL sees 56 x 56.
        words: Text whose words the tokeniser should know besides.
        vision_width: Size of the hidden states of Qwen3-VL's vision network, a multiple of 32.
        patch_px: Side of the patches that it sees; four of them make one visual token.

    Returns:
        The folder.

    Raises:
        ConfigError: If there is no such kind.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    if kind not in TINY_KINDS:
        raise ConfigError("There is no such tiny network", seen=kind, allowed=TINY_KINDS)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    special = _INTERN_SPECIAL if kind == "internvl" else _QWEN_SPECIAL
    tokenizer = _tokenizer(special, "\n".join([_WORDS, *words]))
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    before = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        builders: dict[str, Any] = {"qwen2_5_vl": _qwen2_5, "qwen3_vl": _qwen3, "internvl": _internvl}
        build = builders[kind]
        options = {"vision_width": vision_width, "patch_px": patch_px} if kind == "qwen3_vl" else {}
        model, processor = build(tokenizer, width, layers, tied, pixels or 64 * 64, **options)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # Larger than usual for a first state: otherwise all pictures and words look alike to so small a network.
                if parameter.ndim > 1:
                    parameter.normal_(
                        0.0, 1.0 if "embed_tokens" in name else 1.5 / parameter[0].numel() ** 0.5
                    )
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
        model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    finally:
        torch.random.set_rng_state(before)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
    return folder


def _tokenizer(special: tuple[str, ...], text: str) -> Any:
    """Train a byte-level BPE with Qwen's way of cutting words, on a few lines."""
    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    plain = Qwen2Tokenizer(vocab={"<|endoftext|>": 0}, merges=[])
    backend = plain.backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(text.splitlines(), trainer)
    learnt = json.loads(backend.to_str())["model"]
    names = {}
    if "<IMG_CONTEXT>" in special:
        names = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
    vocab = {token: i for i, token in enumerate(sorted(learnt["vocab"], key=learnt["vocab"].__getitem__))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(merge) for merge in learnt["merges"]],
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        **({"extra_special_tokens": names} if names else {}),
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _template(image: str, video: str, start: str = "") -> str:
    return (
        _CHATML_TURN.replace("@IMAGE@", image)
        .replace("@VIDEO@", video)
        .replace("@START@\n", start and start + "\n")
    )


def _text_config(tokenizer: Any, width: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "bos_token_id": None,
    }


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    return {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }


_QWEN_IMAGE, _QWEN_VIDEO = (
    "<|vision_start|><|image_pad|><|vision_end|>",
    "<|vision_start|><|video_pad|><|vision_end|>",
)


def _qwen3(
    tokenizer: Any, width: int, layers: int, tied: bool, pixels: int, *, vision_width: int, patch_px: int
) -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    head = width // 4
    text = _text_config(tokenizer, width, layers) | {
        "head_dim": head,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_interleaved": True,
            "mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6],
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": vision_width,
        "intermediate_size": 2 * vision_width,
        "num_heads": 2,
        "patch_size": patch_px,
        "out_hidden_size": width,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tied, **_qwen_ids(tokenizer)
    )
    size = {"shortest_edge": 32 * 32, "longest_edge": pixels}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=patch_px, size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(
            patch_size=patch_px, size={"shortest_edge": 32 * 32, "longest_edge": 64 * pixels}
        ),
        chat_template=_template(_QWEN_IMAGE, _QWEN_VIDEO),
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _qwen2_5(tokenizer: Any, width: int, layers: int, tied: bool, pixels: int) -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    half = width // 8
    text = _text_config(tokenizer, width, layers) | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
        }
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": width,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tied, **_qwen_ids(tokenizer)
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": pixels}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=_template(_QWEN_IMAGE, _QWEN_VIDEO, _DEFAULT_SYSTEM),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _internvl(tokenizer: Any, width: int, layers: int, tied: bool, pixels: int) -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        LlamaConfig,
    )

    text = LlamaConfig(**_text_config(tokenizer, width, layers), tie_word_embeddings=tied)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "attention_bias": True,
        "image_size": (56, 56),
    }
    config = InternVLConfig(
        text_config=text.to_dict(),
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=tied,
    )
    size = {"height": 56, "width": 56}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=_template("{{ '<IMG_CONTEXT>\\n' }}", "{{ '<video>\\n' }}"),
    )
    return InternVLForConditionalGeneration(config), processor
