"""A vision-language network without its weights: its classes on the meta device, for counting what they would take.

Nothing is allocated: the largest network here is built in a tenth of a second and a few megabytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from roborl.errors import ModelLoadError
from roborl.rewards.judges.checkpoints import find_checkpoint
from roborl.rewards.judges.footprint import Decoder, Kept
from roborl.rewards.judges.weights import (
    MODEL_TYPES,
    opened,
    quiet,
    read_network_config,
    weight_files,
)

_NF4_BLOCK = 64  # weights that share a scale; bitsandbytes' own choice, and its scales are single precision


_SAVED = {"F32": Kept.FP32, "BF16": Kept.BF16, "F16": Kept.FP16}
_DIGITS = re.compile(r"^[A-Z]+([0-9]+)")
_FORMATS = {"float32": Kept.FP32, "bfloat16": Kept.BF16, "float16": Kept.FP16}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What the files of a checkpoint say.

    Attributes:
        numbers: Weights in all files, each once.
        nbytes: What they take as they are saved.
        kept: The number format that they are loaded in: the one that config.json names, else that of the first.
        sizes: Weights of each tensor by its name.
    """

    numbers: int
    nbytes: int
    kept: Kept
    sizes: Mapping[str, int]


class Blueprint:
    """A network on the meta device.

    Args:
        settings: Contents of a ``config.json`` of one of :data:`~roborl.rewards.judges.weights.MODEL_TYPES`.

    Attributes:
        model: The network; its tensors have shapes and nothing else.
        decoder: The shape of its language network.

    Raises:
        ModelLoadError: If it is of another kind, or the settings make no network.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from transformers import AutoModelForImageTextToText
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        fields = dict(settings)
        kind = fields.pop("model_type", None)
        if kind not in MODEL_TYPES:
            raise ModelLoadError(
                "A network is of a kind that is not run here", seen=kind, allowed=MODEL_TYPES
            )
        try:
            with quiet(), torch.device("meta"):
                config = CONFIG_MAPPING[kind].from_dict(fields)
                self.model: Any = AutoModelForImageTextToText.from_config(config)
        except Exception as error:  # settings are a foreign file: whatever the library makes of them
            raise ModelLoadError(
                "The settings of a checkpoint make no network", seen=f"{type(error).__name__}: {error}"
            ) from error
        text = config.text_config
        self.decoder = Decoder(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        )
        self._vision = config.vision_config
        self._kind = kind

    @property
    def parameters(self) -> int:
        """How many numbers it has, shared ones once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def buffer_bytes(self) -> int:
        """What its constants take."""
        return sum(b.numel() * b.element_size() for b in self.model.buffers())

    def weight_bytes(self, kept: Kept) -> int:
        """Return what weights and constants take.

        Quantised, every linear layer but the output is: one byte per weight and a scale per row, or half a byte and a
        scale per block of 64.

        Source: Dettmers et al., LLM.int8() (NeurIPS 2022) and QLoRA (NeurIPS 2023), without its second quantisation;
            bitsandbytes keeps scales as float32.
        """
        plain = self.parameters * kept.number_bytes + self.buffer_bytes
        if not kept.quantised:
            return plain
        weights = self._packed()
        before = sum(w.numel() for w in weights) * kept.number_bytes
        if kept is Kept.INT8:
            return plain - before + sum(w.numel() + 4 * w.shape[0] for w in weights)
        return plain - before + sum(-(-w.numel() // 2) + 4 * -(-w.numel() // _NF4_BLOCK) for w in weights)

    def unpacked_bytes(self, kept: Kept) -> int:
        """Return what the largest packed weight takes while it is used, 0 where none are packed."""
        return max(w.numel() for w in self._packed()) * kept.number_bytes if kept.quantised else 0

    def _packed(self) -> list[torch.Tensor]:
        """Return the weights that bitsandbytes packs."""
        output = self.model.get_output_embeddings()
        return [m.weight for m in self.model.modules() if type(m) is torch.nn.Linear and m is not output]

    def lora_parameters(self, rank: int, targets: tuple[str, ...]) -> int:
        """Return how many numbers an adapter on these layers of the language network has."""
        names = "|".join(map(re.escape, targets))
        wanted = re.compile(rf".*language_model\..*\.({names})")
        return sum(
            rank * (module.in_features + module.out_features)
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear) and wanted.fullmatch(name)
        )

    def visual_tokens(self, height_px: int, width_px: int, *, min_pixels: int, max_pixels: int) -> int:
        """Return how many tokens a picture becomes, by the library's own rule; InternVL sees all in one size.

        Args:
            height_px: Of the picture as it comes.
            width_px: Likewise.
            min_pixels: Least that the network sees; 0 for no such limit.
            max_pixels: Most; 0 likewise.
        """
        if self._kind == "internvl":
            return int(self.model.config.image_seq_length)
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        side = self._vision.patch_size * self._vision.spatial_merge_size
        most = max_pixels or max(height_px * width_px, side * side)
        rows, columns = smart_resize(height_px, width_px, side, min(min_pixels, most) or side * side, most)
        return int(rows // side) * int(columns // side)

    def sight_bytes(self, tokens: int, kept: Kept) -> int:
        """Return what the visual tokens of a picture take once seen; exact. Qwen3-VL adds some to several layers."""
        layers = 1 + len(getattr(self._vision, "deepstack_visual_indexes", ()))
        return tokens * layers * self.decoder.hidden * kept.number_bytes

    def seeing_bytes(self, tokens: int, pictures: int, kept: Kept) -> int:
        """Return the most that seeing so many pictures of so many tokens at once takes beside the weights.

        Twenty hidden states of the vision network per patch, as counted for Qwen3-VL in the way that
        :mod:`roborl.rewards.judges.footprint` says, its pixels in both number formats, and what comes out.
        """
        vision = self._vision
        patch = vision.patch_size[0] if isinstance(vision.patch_size, list | tuple) else vision.patch_size
        merge = getattr(vision, "spatial_merge_size", 2)
        pixels = 3 * getattr(vision, "temporal_patch_size", 1) * patch * patch * (4 + kept.number_bytes)
        per_patch = 20 * vision.hidden_size * kept.number_bytes + pixels
        each: int = tokens * merge * merge * per_patch + self.sight_bytes(tokens, kept)
        return pictures * each


def read_blueprint(checkpoint: str) -> tuple[Blueprint, Saved]:
    """Read settings and file headers of a checkpoint, and check that they speak of the same network; no weights are read.

    Args:
        checkpoint: A folder, or a name in the hub's cache.

    Raises:
        ModelLoadError: If there is none, or the two disagree.
    """
    folder = find_checkpoint(checkpoint)
    settings = read_network_config(folder)
    if settings.get("model_type") == "internvl_chat":
        from roborl.rewards.vlac.conversion import native_config

        settings = native_config(settings, image_token_id=0, end_token_id=0).to_dict()
    blueprint = Blueprint(settings)
    saved = read_saved(folder, tied=blueprint.model.config.tie_word_embeddings)
    if saved.numbers != blueprint.parameters:
        raise ModelLoadError(
            "The files of a checkpoint do not hold the network that its config.json describes",
            seen=f"{saved.numbers:,} weights in {folder}",
            allowed=f"{blueprint.parameters:,}",
            remedy="Copy or download the whole folder again",
        )
    named = str(settings.get("dtype") or settings.get("torch_dtype")).removeprefix("torch.")
    return blueprint, replace(saved, kept=_FORMATS.get(named, saved.kept))


def read_saved(folder: Path, *, tied: bool = False) -> Saved:
    """Sum the headers of a folder's safetensors files, without their weights.

    Args:
        folder: Where they stand.
        tied: Whether an output layer that is saved beside the embedding is the same as that.

    Raises:
        ModelLoadError: If there are none, or one cannot be read.
    """
    sizes: dict[str, int] = {}
    nbytes, first = 0, ""
    for path in weight_files(folder):
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                if tied and name.endswith("lm_head.weight"):
                    continue
                tensor = file.get_slice(name)
                sizes[name], written = math.prod(tensor.get_shape()), tensor.get_dtype()
                nbytes += sizes[name] * _bits(written) // 8
                first = first or (written if written in _SAVED else "")
    if not first:
        raise ModelLoadError(
            "A checkpoint holds no weights in a number format that is planned with",
            seen=folder,
            allowed=sorted(_SAVED),
        )
    return Saved(numbers=sum(sizes.values()), nbytes=nbytes, kept=_SAVED[first], sizes=sizes)


def _bits(written: str) -> int:
    """Return the size of a number by the name of its format, such as BF16 or F8_E4M3."""
    match = _DIGITS.match(written)
    return int(match[1]) if match else 8
