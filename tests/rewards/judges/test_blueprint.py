"""Networks without weights, held against the same networks with them: bytes are equal, estimates are near."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from roborl.errors import ModelLoadError
from roborl.rewards.adaptation.config import AdaptationTraining, LoraSettings, Method
from roborl.rewards.adaptation.weights import LearningWeights
from roborl.rewards.judges.blueprint import Blueprint, read_blueprint
from roborl.rewards.judges.footprint import Kept, Learning
from roborl.rewards.judges.queries import VlmQuery
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.rewards.vlac.conversion import convert_checkpoint
from roborl.testing.tiny_vlac import write_published_vlac
from roborl.testing.tiny_vlms import TINY_KINDS, build_tiny_vlm

JudgeOf = Callable[..., TransformersJudge]


def picture(seed: int) -> Any:
    image = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
    image.flags.writeable = False
    return image


class Peak(TorchDispatchMode):
    """Sums what tensors that operations make take while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.live:
                    self.live[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


@pytest.mark.parametrize("kind", TINY_KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_planned_weights_are_those_of_the_loaded_network(tmp_path: Path, kind: str, tied: bool) -> None:
    from transformers import AutoModelForImageTextToText

    folder = build_tiny_vlm(tmp_path, kind, tied=tied)
    blueprint, saved = read_blueprint(str(folder))
    for dtype, kept in ((torch.float32, Kept.FP32), (torch.bfloat16, Kept.BF16)):
        loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        real = sum(t.nbytes for t in (*loaded.parameters(), *loaded.buffers()))
        assert blueprint.weight_bytes(kept) == real
    assert saved.kept is Kept.FP32
    assert saved.numbers == sum(p.numel() for p in loaded.parameters())


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_planned_keys_and_values_are_those_of_a_batch_that_was_read(
    tiny: dict[str, Path], judge_of: JudgeOf, kind: str
) -> None:
    judge = judge_of(kind)
    queries = [
        VlmQuery(parts=("start", picture(i), "how far?", picture(9), "is it done"), prefix=2)
        for i in range(3)
    ]
    turns = [judge.turns.write(q, seen) for q, seen in zip(queries, judge.eyes.look(queries), strict=True)]
    with torch.inference_mode():
        reading = judge.reader.read(turns)
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in reading.cache.layers)
    blueprint, saved = read_blueprint(str(tiny[kind]))
    (shape,) = {judge.reader.shape(turn) for turn in turns}
    assert blueprint.decoder.cache_bytes(sum(shape), 3, saved.kept.number_bytes) == real


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_planned_pictures_are_those_that_were_seen(
    tiny: dict[str, Path], judge_of: JudgeOf, kind: str
) -> None:
    limits = {} if kind == "internvl" else {"min_pixels": 32 * 32, "max_pixels": 64 * 64}
    judge = judge_of(kind, **limits)
    ((seen,),) = judge.eyes.look([VlmQuery(parts=(picture(1),))])
    blueprint, saved = read_blueprint(str(tiny[kind]))
    tokens = blueprint.visual_tokens(
        60, 80, min_pixels=limits.get("min_pixels", 0), max_pixels=limits.get("max_pixels", 0)
    )
    (sight,) = seen.sights
    assert tokens == len(sight.embeds)
    assert blueprint.sight_bytes(tokens, saved.kept) == sight.nbytes


def test_packed_weights_are_those_of_linear_layers_but_for_the_output(tiny: dict[str, Path]) -> None:
    from transformers import AutoModelForImageTextToText

    folder = tiny["qwen3_vl"]
    blueprint, _ = read_blueprint(str(folder))
    loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    packed = {
        f"{name}.weight"
        for name, module in loaded.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    assert len(packed) == 2 * 7 + 2 * 4 + 2 * 2
    int8 = nf4 = sum(buffer.nbytes for buffer in loaded.buffers())
    for name, weight in loaded.named_parameters():
        whole = name not in packed
        int8 += weight.nbytes if whole else weight.numel() + 4 * len(weight)
        nf4 += weight.nbytes if whole else weight.numel() // 2 + weight.numel() // 64 * 4
    assert blueprint.weight_bytes(Kept.INT8) == int8
    assert blueprint.weight_bytes(Kept.NF4) == nf4


def test_a_planned_adapter_is_as_large_as_the_one_that_learns(
    tiny: dict[str, Path], judge_of: JudgeOf
) -> None:
    lora = LoraSettings(rank=3, targets=("q_proj", "down_proj"))
    learning = LearningWeights(
        judge_of("qwen3_vl").network.model, AdaptationTraining(method=Method.LORA, lora=lora)
    )
    blueprint, _ = read_blueprint(str(tiny["qwen3_vl"]))
    assert blueprint.lora_parameters(lora.rank, lora.targets) == learning.count


def wide(**text: int) -> tuple[Any, Blueprint]:
    """A network of a shape that a published one might have, random and in half precision."""
    from transformers import AutoModelForImageTextToText, Qwen3VLConfig

    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_interleaved": True,
        "mrope_section": [12, 10, 10],
    }
    settings = {
        "model_type": "qwen3_vl",
        "text_config": {"vocab_size": 64, "head_dim": 64, "rope_parameters": rope, **text},
        "vision_config": {
            "depth": 2,
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_heads": 4,
            "out_hidden_size": text["hidden_size"],
            "deepstack_visual_indexes": [0],
        },
    }
    config = Qwen3VLConfig.from_dict({k: v for k, v in settings.items() if k != "model_type"})
    return AutoModelForImageTextToText.from_config(config).to(torch.bfloat16), Blueprint(settings)


SHAPES = [
    {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 2},
    {"hidden_size": 384, "intermediate_size": 512, "num_attention_heads": 16, "num_key_value_heads": 4},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_reading_takes_no_more_than_estimated_and_not_far_less(shape: dict[str, int]) -> None:
    from transformers.cache_utils import DynamicCache

    model, blueprint = wide(**shape, num_hidden_layers=3)
    questions, tokens = 2, 128
    embeds = torch.randn(questions, tokens, shape["hidden_size"], dtype=torch.bfloat16)
    mask = torch.ones(questions, tokens, dtype=torch.long)
    mask[0, :5] = 0
    watch = Peak()
    with torch.inference_mode(), watch:
        model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=torch.arange(tokens).expand(3, questions, tokens),
            past_key_values=DynamicCache(),
            use_cache=True,
        )
    cache = blueprint.decoder.cache_bytes(tokens, questions)
    real = watch.peak - cache + embeds.nbytes
    planned = blueprint.decoder.reading_bytes(tokens, questions)
    assert 0.6 * planned < real <= planned


def test_seeing_takes_about_what_is_estimated() -> None:
    model, blueprint = wide(**SHAPES[0], num_hidden_layers=1)
    pictures, side = 2, 128
    patches = (side // 16) ** 2
    pixels = torch.randn(pictures * patches, 3 * 2 * 16 * 16)
    grid = torch.tensor([[1, side // 16, side // 16]] * pictures)
    watch = Peak()
    with torch.inference_mode(), watch:
        model.model.get_image_features(pixels, grid, return_dict=True)
    tokens = blueprint.visual_tokens(side, side, min_pixels=0, max_pixels=side * side)
    assert tokens == patches // 4
    real = watch.peak + pixels.nbytes
    assert 0.8 * blueprint.seeing_bytes(tokens, pictures, Kept.BF16) < real
    assert real <= blueprint.seeing_bytes(tokens, pictures, Kept.BF16)


def saved_for_backward(model: Any, hidden: int, tokens: int) -> int:
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters and tensor.ndim > 2:
            kept[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.model.language_model(
            inputs_embeds=torch.randn(1, tokens, hidden, dtype=torch.bfloat16),
            position_ids=torch.arange(tokens).expand(3, 1, tokens),
            attention_mask=torch.ones(1, tokens, dtype=torch.long).index_fill(1, torch.arange(5), 0),
            use_cache=False,
        )
    assert out.last_hidden_state.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("learning", [Learning.FULL, Learning.LORA])
def test_what_waits_for_the_backward_pass_is_as_estimated(shape: dict[str, int], learning: Learning) -> None:
    tokens, real, planned = 128, [], []
    for layers in (1, 3):
        model, blueprint = wide(**shape, num_hidden_layers=layers)
        if learning is Learning.LORA:
            LearningWeights(model, AdaptationTraining(method=Method.LORA))
        real.append(saved_for_backward(model.train(), shape["hidden_size"], tokens))
        planned.append(blueprint.decoder.saved_bytes(tokens, 1, learning))
    # What lies before and behind the layers is not part of the estimate.
    assert planned[1] - planned[0] == pytest.approx(real[1] - real[0], rel=0.02)
    again = blueprint.decoder.saved_bytes(tokens, 1, learning, checkpointing=True)
    assert planned[0] < again < planned[1]


def test_a_checkpoint_in_its_published_layout_is_counted_as_the_native_one(tmp_path: Path) -> None:
    published = write_published_vlac(tmp_path / "published")
    convert_checkpoint(published, tmp_path / "native")
    one, saved = read_blueprint(str(published))
    other, _ = read_blueprint(str(tmp_path / "native"))
    assert one.parameters == other.parameters == saved.numbers
    assert one.decoder == other.decoder


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = build_tiny_vlm(tmp_path, "qwen3_vl")
    tensors = load_file(folder / "model.safetensors")
    lost = tensors.pop(next(iter(sorted(tensors))))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="do not hold the network") as caught:
        read_blueprint(str(folder))
    assert f"{sum(t.numel() for t in tensors.values()):,}" in str(caught.value)
    assert lost.numel() > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_type": "llama"}, "of a kind"),
        ({"model_type": "qwen3_vl", "text_config": 3}, "make no network"),
    ],
)
def test_settings_of_no_network_that_is_run_here_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        Blueprint(settings)
