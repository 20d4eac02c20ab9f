"""Which weights of a judge's network learn, how fast each, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.adaptation.config import AdaptationTraining, LoraSettings, Method
from roborl.rewards.judges.weights import quiet

_VISION = re.compile(r"\b(visual|vision_tower)\.(?!.*merger)")


class LearningWeights:
    """The weights that learn.

    Args:
        model: The network; all its weights, or those added to it, are made to learn.
        training: Which, and how fast.

    Attributes:
        named: The weights, by name.
    """

    def __init__(self, model: Any, training: AdaptationTraining) -> None:
        self.model = model
        self._saved_dtype: torch.dtype = model.dtype
        self._training = training
        self._peft: Any = None
        if training.method is Method.LORA:
            self._peft = _with_lora(model, training.lora)
        else:
            model.float().requires_grad_(True)
            if not training.vision_share:
                for name, parameter in model.named_parameters():
                    parameter.requires_grad_(not _VISION.search(name))
        if training.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.named: dict[str, Any] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.named:
            raise ConfigError(
                "Nothing of the network would learn",
                seen=f"targets {training.lora.targets}",
                remedy="Name layers that its language network has: --training.lora.targets",
            )

    @property
    def count(self) -> int:
        """How many numbers learn."""
        return sum(parameter.numel() for parameter in self.named.values())

    def groups(self) -> list[dict[str, Any]]:
        """Return the weights for an optimiser: each group with its share of the learning rate, and its decay."""
        found: dict[tuple[float, float], list[Any]] = {}
        for name, parameter in self.named.items():
            share = self._training.vision_share if _VISION.search(name) else 1.0
            decay = self._training.weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((share, decay), []).append(parameter)
        return [{"params": p, "share": share, "weight_decay": d} for (share, d), p in found.items()]

    def load(self, tensors: Mapping[str, Any]) -> None:
        """Put saved weights in their places."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(tensors[name])

    def settle(self) -> None:
        """Return to judging: nothing learns any more, and numbers have the format they were read in."""
        if self._training.checkpointing:
            self.model.gradient_checkpointing_disable()
        self.model.eval().requires_grad_(False)
        if self._peft is None:
            self.model.to(self._saved_dtype)

    def write(self, folder: Path) -> None:
        """Write what was learnt: the adapter alone, or the whole network."""
        own = self.model.generation_config
        # The library writes no settings of sampling that contradict each other, as those of a checkpoint may; no judge
        # samples by them.
        self.model.generation_config = GenerationConfig(
            eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id, bos_token_id=own.bos_token_id
        )
        with quiet():
            (self._peft or self.model).save_pretrained(folder, safe_serialization=True)
        (folder / "README.md").unlink(missing_ok=True)


def _with_lora(model: Any, settings: LoraSettings) -> Any:
    if find_spec("peft") is None:
        raise ModelLoadError(
            "A LoRA adapter cannot be trained here",
            seen="no peft",
            allowed="peft ≥ 0.18",
            remedy="Install it with: pip install 'roborl[vlm]', or train all weights: --training.method full",
        )
    from peft import LoraConfig, get_peft_model

    names = "|".join(re.escape(name) for name in settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf".*language_model\..*\.({names})",
        bias="none",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(
            "The network has no layers of these names",
            seen=settings.targets,
            allowed="last parts of names in its language network, such as q_proj",
            remedy="Set --training.lora.targets",
        ) from error
