"""Checkpoints as releases 4 of the library left them, which is how the published ones lie on the hub, answer alike."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.queries import Clip, VlmQuery
from roborl.rewards.judges.transformers_judge import TransformersJudge


def older(source, folder):
    """Write a Qwen checkpoint anew in the older layout, its weights in two files and with settings of sampling."""
    folder.mkdir()
    read = {path.stem: json.loads(path.read_text()) for path in source.glob("*.json")}
    config, text = read["config"], read["config"]["text_config"]
    processor = read["processor_config"]
    image, video = processor["image_processor"], processor["video_processor"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    weights = load_file(source / "model.safetensors")
    written = {}
    if config["model_type"] == "qwen2_5_vl":
        text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        del (
            text["layer_types"],
            text["model_type"],
            config["text_config"],
            config["vision_config"]["model_type"],
        )
        config |= text | {"sliding_window": 32768, "use_sliding_window": False}
        size = image.pop("size")
        image |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        weights = {name.replace("model.visual.", "visual."): tensor for name, tensor in weights.items()}
    else:
        text["rope_scaling"] = {**rope, "rope_type": "default"}
        text["dtype"] = config.pop("dtype")
        image["image_processor_type"] = "Qwen2VLImageProcessorFast"
        written["video_preprocessor_config"] = video
    written |= {
        "config": config,
        "preprocessor_config": image | {"processor_class": processor["processor_class"]},
        "chat_template": {"chat_template": (source / "chat_template.jinja").read_text()},
        "tokenizer_config": {
            name: read["tokenizer_config"][name] for name in ("eos_token", "pad_token", "tokenizer_class")
        },
        "generation_config": {
            "do_sample": True,
            "temperature": 0.7,
            "repetition_penalty": 1.5,
            "eos_token_id": [read["generation_config"][name] for name in ("eos_token_id", "pad_token_id")],
        },
    }
    shutil.copy(source / "tokenizer.json", folder)
    names = sorted(weights)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: weights[name] for name in names if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    written["model.safetensors.index"] = {"metadata": {}, "weight_map": files}
    for name, values in written.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(autouse=True)
def sizes_of_the_library(monkeypatch):
    """The library writes the limits of an older layout into the defaults of its classes; other tests shall not see that."""
    for processor in (Qwen2VLImageProcessor, Qwen2VLVideoProcessor):
        monkeypatch.setattr(processor, "size", dict(processor.size))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("limits", [{}, {"min_pixels": 2000, "max_pixels": 9000}])
def test_an_older_layout_is_the_same_network_and_its_settings_of_sampling_play_no_part(
    tiny, tmp_path, kind, limits
):
    rng = np.random.default_rng(0)
    pictures = tuple(rng.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(3))
    clip = Clip(frames=pictures, stamps_s=(0.0, 0.5, 1.0))
    queries = [
        VlmQuery(parts=("start", pictures[0], "goal", pictures[1]), prefix=2, max_tokens=6),
        VlmQuery(parts=("how far", clip), reply_start="ANSWER: ", choices=("1", "2", "3"), max_tokens=1),
    ]
    places = tiny[kind], older(tiny[kind], tmp_path / "older")
    judges = [TransformersJudge.load(JudgeConfig(device="cpu"), str(p), **limits) for p in places]
    for new, old in zip(*(judge.answer(queries) for judge in judges), strict=True):
        assert (new.text, new.cells, new.prompt_tokens) == (old.text, old.cells, old.prompt_tokens)
        assert new.probabilities == pytest.approx(old.probabilities, abs=1e-6)
    assert judges[0].ends < judges[1].ends
