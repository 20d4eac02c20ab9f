"""A CLIP network as a judge: pictures and words become unit vectors in one space."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.judges.caches import RecentCache
from roborl.rewards.judges.checkpoints import find_checkpoint
from roborl.rewards.judges.queries import picture_key
from roborl.rewards.judges.weights import digest_file, misfits, quiet, weight_files
from roborl.rewards.model import Judge
from roborl.types import Image

type Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ClipQuery:
    """Pictures to turn into vectors.

    Attributes:
        pictures: One per view, uint8 (h, w, 3) each.
    """

    pictures: tuple[Image, ...]


class VectorJudge(Judge[ClipQuery, Vectors], Protocol):
    """A judge that turns pictures, and on the side words, into unit vectors."""

    @property
    def identity(self) -> str:
        """Hash of weights and of every setting that bears on a vector."""
        ...

    def answer(self, queries: Sequence[ClipQuery]) -> list[Vectors]:
        """Return the vectors of each query's pictures, float32 (n, d) of unit length."""
        ...

    def read(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, float32 (n, d) of unit length.

        Raises:
            ConfigError: If a text is longer than the network reads.
        """
        ...


class ClipNetwork:
    """A CLIP checkpoint of the transformers library, whose vectors are given as the projections make them.

    Args:
        model: The network, in evaluation mode.
        processor: Its processor.
        identity: Hash of its files.

    Attributes:
        dim: Size of the vectors.
        device: Where it runs.
    """

    def __init__(self, model: Any, processor: Any, identity: str) -> None:
        self._model = model
        self._processor = processor
        self.identity = identity
        self.dim = int(model.config.projection_dim)
        self.device: torch.device = model.device

    @classmethod
    def load(cls, checkpoint: str, *, device: str = "auto") -> ClipNetwork:
        """Read a checkpoint from a folder, or from the hub's cache by its name.

        Raises:
            ModelLoadError: If it is missing, no CLIP network, or its weights are not those of its settings.
        """
        from transformers import CLIPModel, CLIPProcessor

        folder = find_checkpoint(checkpoint)
        files = weight_files(folder)
        try:
            processor: Any = CLIPProcessor
            network: Any = CLIPModel
            with quiet():
                processor = processor.from_pretrained(folder, local_files_only=True)
                model, report = network.from_pretrained(
                    folder, output_loading_info=True, local_files_only=True, use_safetensors=True
                )
        except (
            Exception
        ) as error:  # a checkpoint is a foreign file: whatever its readers raise, it cannot be used
            raise ModelLoadError(
                "A CLIP checkpoint cannot be read", seen=f"{folder}: {type(error).__name__}: {error}"
            ) from error
        wrong = {name: keys[:3] for name, keys in misfits(report).items()}
        if wrong or model.config.model_type != "clip":
            raise ModelLoadError(
                "The weights of a CLIP checkpoint are not those of its network",
                seen=wrong or model.config.model_type,
                allowed="exactly the weights that its config.json describes",
                remedy=f"Copy or download {folder} again",
            )
        digest = hashlib.sha256()
        for path in [*files, *sorted(folder.glob("*.json")), *sorted(folder.glob("*.txt"))]:
            digest_file(digest, path)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.eval().requires_grad_(False).to(device)
        return cls(model, processor, f"clip-{digest.hexdigest()[:16]}")

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Image]) -> torch.Tensor:
        """Return the projected vectors of pictures, uint8 (h, w, 3) each, as float32 (n, d)."""
        # The processor may write into what it is given, and pictures are shared.
        copies = [np.array(picture) for picture in pictures]
        pixels = self._processor.image_processor(images=copies, return_tensors="pt")["pixel_values"]
        made = self._model.get_image_features(pixel_values=pixels.to(self._model.device))
        vectors: torch.Tensor = made.pooler_output.float()
        return vectors

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the projected vectors of texts, float32 (n, d).

        Raises:
            ConfigError: If a text is longer than the network reads.
        """
        tokenizer = self._processor.tokenizer
        longest = int(self._model.config.text_config.max_position_embeddings)
        lengths = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
        if max(lengths) > longest:
            raise ConfigError(
                "A text is longer than the CLIP network reads",
                seen=f"{max(lengths)} tokens: {texts[lengths.index(max(lengths))][:80]!r}",
                allowed=f"{longest} tokens",
                remedy="Say it in fewer words",
            )
        inputs = tokenizer(list(texts), padding=True, return_tensors="pt").to(self._model.device)
        vectors: torch.Tensor = self._model.get_text_features(**inputs).pooler_output.float()
        return vectors


class ClipJudge(Judge[ClipQuery, Vectors]):
    """Encodes with a CLIP network, every different picture once. Any thread may ask: an episode starts beside the judging.

    Args:
        network: The network.
        cache_mb: Vectors of pictures seen before that are kept, MB.
    """

    def __init__(self, network: ClipNetwork, *, cache_mb: int = 64) -> None:
        self._network = network
        self._seen: RecentCache[bytes, Vectors] = RecentCache(cache_mb << 20)
        self._seen_lock = threading.Lock()

    @classmethod
    def load(cls, checkpoint: str, *, device: str = "auto") -> ClipJudge:
        """Read a checkpoint from a folder, or from the hub's cache by its name.

        Raises:
            ModelLoadError: If it is missing, no CLIP network, or its weights are not those of its settings.
        """
        return cls(ClipNetwork.load(checkpoint, device=device))

    @property
    def identity(self) -> str:
        """Hash of the checkpoint's files."""
        return self._network.identity

    def answer(self, queries: Sequence[ClipQuery]) -> list[Vectors]:
        """Return the vectors of each query's pictures."""
        keys = [[picture_key(picture) for picture in query.pictures] for query in queries]
        asked = {
            key: picture
            for query, own in zip(queries, keys, strict=True)
            for key, picture in zip(own, query.pictures, strict=True)
        }
        with self._seen_lock:
            found = {key: vector for key in asked if (vector := self._seen.get(key)) is not None}
        fresh = [key for key in asked if key not in found]
        if fresh:
            made = self._network.pictures([asked[key] for key in fresh])
            found |= zip(fresh, _unit(made), strict=True)
            with self._seen_lock:
                for key in fresh:
                    self._seen.put(key, found[key])
        return [np.stack([found[key] for key in own]) for own in keys]

    def read(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts.

        Raises:
            ConfigError: If a text is longer than the network reads.
        """
        return _unit(self._network.texts(texts))


def _unit(made: torch.Tensor) -> Vectors:
    vectors: Vectors = (made / made.norm(dim=1, keepdim=True)).cpu().numpy()
    return vectors
