"""A small random CLIP checkpoint: the real classes, processor and tokenizer, built offline in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LETTERS = [chr(code) for code in range(33, 127)]


def build_tiny_clip(folder: Path | str, *, seed: int = 0, pixels: int = 32, longest: int = 64) -> Path:
    """Write a small random checkpoint.

    Args:
        folder: Where it goes; made if it is not there.
        seed: Of the weights.
        pixels: Side of the square that the network sees.
        longest: Tokens that it reads of a text.

    Returns:
        The folder.
    """
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<|startoftext|>", "<|endoftext|>"]
    words = [*_LETTERS, *(letter + "</w>" for letter in _LETTERS), "th", "the</w>", *special]
    vocab = {word: place for place, word in enumerate(words)}
    make: Any = CLIPTokenizer
    tokenizer = make(vocab=vocab, merges=[("t", "h"), ("th", "e</w>")])
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config: Any = CLIPConfig.from_dict(
        {
            "projection_dim": 16,
            "text_config": sizes
            | {
                "vocab_size": len(words),
                "max_position_embeddings": longest,
                "bos_token_id": vocab[special[0]],
                "eos_token_id": vocab[special[1]],
                "pad_token_id": vocab[special[1]],
            },
            "vision_config": sizes | {"image_size": pixels, "patch_size": pixels // 4},
        }
    )
    before = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        network: Any = CLIPModel(config)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:  # larger than usual, so that different pictures do not look alike
                    parameter.normal_(0.0, 1.5 / parameter[0].numel() ** 0.5)
        network.save_pretrained(folder)
    finally:
        torch.random.set_rng_state(before)
    tokenizer.save_pretrained(folder)
    processor: Any = CLIPImageProcessor
    side = {"height": pixels, "width": pixels}
    processor(size={"shortest_edge": pixels}, crop_size=side).save_pretrained(folder)
    described = {"processor_class": "CLIPProcessor"}
    if not (folder / "processor_config.json").exists():
        (folder / "processor_config.json").write_text(json.dumps(described))
    return folder
