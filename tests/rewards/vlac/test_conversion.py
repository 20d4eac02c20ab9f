"""A converted checkpoint is the published network: computed in numpy from the published tensors, and compared."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, AutoTokenizer, InternVLConfig, InternVLForConditionalGeneration

from roborl.errors import ModelLoadError
from roborl.rewards.vlac.conversion import convert_checkpoint, is_published, native_config, native_weights
from roborl.rewards.vlac.tokenizer import convert_tokenizer, read_vocabulary
from roborl.testing.tiny_vlac import (
    IMAGE_PX,
    published_config,
    published_weights,
    sentencepiece_model,
    vocabulary,
    write_published_vlac,
)

TOLERANCE = 1e-3
"""Of logits in float32 against float64; the logits themselves reach 20, and a wrong split is off by more than 1."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlac")
    write_published_vlac(folder / "published", answers=False)
    convert_checkpoint(folder / "published", folder / "native")
    return folder / "published", folder / "native"


@pytest.fixture(scope="module")
def native(folders):
    torch.set_num_threads(1)
    model, report = InternVLForConditionalGeneration.from_pretrained(folders[1], output_loading_info=True)
    assert not any(report.values())
    return model.eval()


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders[0], tmp_path / "published")


def config_of(described):
    return native_config(described, image_token_id=5, end_token_id=6)


def edit(folder, **changes):
    """Change fields of a config.json; those of a part are named part__field."""
    described = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        *part, field = name.split("__")
        target = described[part[0]] if part else described
        target[field] = value
        if value is None:
            del target[field]
    (folder / "config.json").write_text(json.dumps(described))


@torch.inference_mode()
def test_the_logits_are_those_of_the_published_tensors(folders, native):
    published = PublishedNetwork(published_weights(answers=False), published_config())
    tokenizer = AutoTokenizer.from_pretrained(folders[1])
    rng = np.random.default_rng(0)
    ids = rng.integers(3, len(tokenizer) - 20, 23)
    expected = published.logits(ids)
    got = native(input_ids=torch.from_numpy(ids)[None]).logits[0].numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)

    image = tokenizer.context_image_token_id
    ids[3:7] = ids[11:15] = image
    pixels = rng.normal(size=(2, 3, IMAGE_PX, IMAGE_PX)).astype(np.float32)
    expected_seen = published.logits(ids, pixels, image)
    seen = (
        native(input_ids=torch.from_numpy(ids)[None], pixel_values=torch.from_numpy(pixels)).logits[0].numpy()
    )
    np.testing.assert_allclose(seen, expected_seen, atol=TOLERANCE)
    assert np.abs(expected_seen - expected)[7:].max() > 0.1


@torch.inference_mode()
def test_with_the_fused_rows_split_otherwise_they_would_not_be(native):
    """The comparison above would notice queries, keys and values simply stacked."""
    weights = published_weights(answers=False)
    published = PublishedNetwork(weights, published_config())
    ids = np.arange(40, 60)
    right = published.logits(ids)
    for name in [n for n in weights if n.endswith("wqkv.weight")]:
        rows = published.w[name].reshape(2, 4, 16, 64)
        stacked = np.concatenate(
            [rows[:, :2].reshape(64, 64), rows[:, 2].reshape(32, 64), rows[:, 3].reshape(32, 64)]
        )
        published.w[name] = stacked
    assert np.abs(published.logits(ids) - right).max() > 1


@torch.inference_mode()
def test_the_output_layer_is_never_tied_to_the_embedding(folders, native, tmp_path):
    """Left to its default, the native description ties them whatever the language model's own says: silent nonsense."""
    ids = torch.arange(40, 60)[None]
    right = native(input_ids=ids).logits
    assert native.lm_head.weight.data_ptr() != native.get_input_embeddings().weight.data_ptr()
    native.save_pretrained(tmp_path / "again")
    again = InternVLForConditionalGeneration.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(again(input_ids=ids).logits, right)

    described = json.loads((folders[1] / "config.json").read_text())
    assert described.pop("tie_word_embeddings") is False
    assert described["text_config"].get("tie_word_embeddings", False) is False
    trap = InternVLForConditionalGeneration(InternVLConfig(**described))
    trap.load_state_dict(load_file(folders[1] / "model.safetensors"))
    assert trap.lm_head.weight.data_ptr() == trap.get_input_embeddings().weight.data_ptr()
    assert (trap.eval()(input_ids=ids).logits - right).abs().max() > 1


def test_the_conversion_is_one_to_one(native):
    weights = published_weights(answers=False)
    converted = native.state_dict()
    assert sum(t.numel() for t in weights.values()) == sum(t.numel() for t in converted.values())
    every = torch.cat([t.flatten() for t in weights.values()]).sort().values
    torch.testing.assert_close(torch.cat([t.flatten() for t in converted.values()]).sort().values, every)


def test_the_two_billion_have_the_published_size():
    described = published_config()
    described["vision_config"] |= {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "image_size": 448,
        "patch_size": 14,
    }
    described["llm_config"] |= {
        "vocab_size": 92553,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
    }
    config = native_config(described, image_token_id=92546, end_token_id=92542)
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == 2_205_754_368
    assert config.image_seq_length == 256
    assert config.text_config.head_dim == 128


def test_a_missing_or_surplus_or_misshapen_tensor_is_named():
    config = config_of(published_config())
    whole = published_weights()
    lost = dict(whole)
    del lost["mlp1.3.bias"]
    with pytest.raises(ModelLoadError, match=r"1 missing.*multi_modal_projector.linear_2.bias"):
        native_weights(lost, config)
    with pytest.raises(ModelLoadError, match=r"1 surplus.*language_model.lora"):
        native_weights(whole | {"language_model.lora.weight": torch.zeros(1)}, config)
    extra = {"language_model.model.layers.7.attention_norm.weight": torch.ones(64)}
    with pytest.raises(ModelLoadError, match=r"1 surplus.*layers\.7\.input_layernorm"):
        native_weights(whole | extra, config)
    with pytest.raises(ModelLoadError, match=r"of another shape \['lm_head"):
        native_weights(whole | {"language_model.output.weight": torch.zeros(3, 64)}, config)
    for name, tensor in (
        ("language_model.model.layers.0.attention.wqkv.weight", torch.zeros(100, 64)),
        ("vision_model.encoder.layers.0.attn.qkv.bias", torch.zeros(95)),
    ):
        with pytest.raises(ModelLoadError, match="cannot be split"):
            native_weights(whole | {name: tensor}, config)
    poisoned = whole | {"mlp1.0.weight": torch.full((128,), torch.nan)}
    with pytest.raises(ModelLoadError, match="not finite"):
        native_weights(poisoned, config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ps_version": "v1"}, "ps_version"),
        ({"select_layer": -4}, "select_layer"),
        ({"llm_config__model_type": "llama"}, "llm_config.model_type"),
        ({"llm_config__bias": True}, "llm_config.bias"),
        ({"vision_config__qk_normalization": True}, "qk_normalization"),
        ({"llm_config__rope_theta": None}, "no rope_theta"),
        ({"llm_config__vocab_size": 470}, "of another shape"),
        ({"llm_config__num_key_value_heads": 4}, "cannot be split"),
    ],
)
def test_a_description_that_would_load_into_nonsense_is_refused(copy, tmp_path, changes, words):
    edit(copy, **changes)
    with pytest.raises(ModelLoadError, match=words):
        convert_checkpoint(copy, tmp_path / "native")
    assert not (tmp_path / "native" / "model.safetensors").exists()


def test_no_format_that_could_run_code_is_opened(copy, tmp_path):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="no safetensors"):
        convert_checkpoint(copy, tmp_path / "native")
    (copy / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        convert_checkpoint(copy, tmp_path / "native")


def test_weights_in_several_files_are_read_together(copy, folders, tmp_path):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    save_file({n: weights[n] for n in names[:20]}, copy / "model-00001-of-00002.safetensors")
    save_file({n: weights[n] for n in names[20:]}, copy / "model-00002-of-00002.safetensors")
    convert_checkpoint(copy, tmp_path / "native")
    one, other = (load_file(f / "model.safetensors") for f in (folders[1], tmp_path / "native"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_of_another_kind_is_refused(folders, tmp_path):
    assert is_published(folders[0])
    assert not is_published(folders[1])
    assert not is_published(tmp_path)
    with pytest.raises(ModelLoadError, match="published layout"):
        convert_checkpoint(folders[1], tmp_path / "native")


def test_a_native_folder_holds_no_code(folders):
    named = [path.name for path in folders[1].iterdir()]
    assert "model.safetensors" in named
    assert not [name for name in named if name.endswith((".py", ".bin", ".pt", ".part"))]
    assert "auto_map" not in (folders[1] / "config.json").read_text()
    assert InternVLConfig.from_pretrained(folders[1]).eos_token_id == 454


def test_ids_of_the_chat_model_take_the_place_of_unused_ones(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders[1])
    assert tokenizer.convert_tokens_to_ids(["<s>", "<|im_end|>", "<|im_start|>"]) == [1, 454, 455]
    assert tokenizer.convert_tokens_to_ids(["<img>", "</img>", "<IMG_CONTEXT>"]) == [456, 457, 458]
    assert tokenizer.eos_token_id == 454
    assert tokenizer.convert_ids_to_tokens(454) == "<|im_end|>"


@pytest.mark.parametrize(
    "text", ["+60", "-15", "0", " the task: é漢\n\n<score>", "a  b ", "<task> go </task>"]
)
def test_texts_survive_the_tokenizer(folders, text):
    tokenizer = AutoTokenizer.from_pretrained(folders[1])
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_words_are_put_together_by_score_and_numbers_are_single_tokens(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders[1])
    cut = tokenizer.convert_ids_to_tokens(tokenizer(" there 60", add_special_tokens=False).input_ids)
    assert cut == ["▁the", "re", "▁", "60"]


def test_the_question_is_framed_as_the_network_was_trained(folders):
    processor = AutoProcessor.from_pretrained(folders[1])
    turns = [
        {"role": "system", "content": "S"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a "}, {"type": "image"}, {"type": "text", "text": "\nb"}],
        },
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    picture = np.zeros((IMAGE_PX, IMAGE_PX, 3), np.uint8)
    inputs = processor(images=[picture], text=text, add_special_tokens=False, return_tensors="pt")
    assert inputs.pixel_values.shape == (1, 3, IMAGE_PX, IMAGE_PX)
    # Two line ends follow the picture: one of the template, one of the question.
    assert processor.tokenizer.decode(inputs.input_ids[0]) == (
        "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\na <img>" + 4 * "<IMG_CONTEXT>" + "</img>\n\nb"
        "<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_vocabulary_that_puts_a_space_first_is_followed(copy):
    (copy / "tokenizer.model").write_bytes(sentencepiece_model(vocabulary(), prefix_space=True))
    tokenizer = convert_tokenizer(copy)
    assert tokenizer.convert_ids_to_tokens(tokenizer("the", add_special_tokens=False).input_ids) == ["▁the"]
    assert tokenizer.decode(tokenizer("the", add_special_tokens=False).input_ids) == "the"


def test_a_vocabulary_is_read_whole_or_not_at_all():
    data = sentencepiece_model(vocabulary())
    read = read_vocabulary(data)
    assert [(t, k) for t, _, k in read.pieces] == [(t, k) for t, _, k in vocabulary()]
    assert not read.prefix_space
    for torn in (data[:-1], data[: len(data) // 2], b"", b"\xff" * 30, b"\x0b\x01"):
        with pytest.raises(ModelLoadError, match="vocabulary"):
            read_vocabulary(torn)
    unigram = data.replace(b"\x18\x02\x20", b"\x18\x01\x20")
    assert unigram != data
    with pytest.raises(ModelLoadError, match="another kind"):
        read_vocabulary(unigram)


def test_a_vocabulary_without_the_networks_tokens_is_refused(copy):
    (copy / "added_tokens.json").write_text(json.dumps({"<img>": 456}))
    with pytest.raises(ModelLoadError, match=r"lacks tokens.*IMG_CONTEXT"):
        convert_tokenizer(copy)
    (copy / "added_tokens.json").write_text(json.dumps({"<img>": 990}))
    with pytest.raises(ModelLoadError, match="gap"):
        convert_tokenizer(copy)
    (copy / "added_tokens.json").write_text("{")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        convert_tokenizer(copy)
    (copy / "added_tokens.json").unlink()
    (copy / "tokenizer.model").unlink()
    with pytest.raises(ModelLoadError, match="no vocabulary"):
        convert_tokenizer(copy)


class PublishedNetwork:
    """InternVL2 with InternLM2, float64, one question at a time, no cache."""

    def __init__(self, weights, config):
        self.w = {name: np.asarray(tensor, np.float64) for name, tensor in weights.items()}
        self.vision, self.text = config["vision_config"], config["llm_config"]
        self.config = config

    def logits(self, ids, pixels=None, image_token=None):
        """Return logits (n, vocab) of token ids (n,), with pictures (k, 3, px, px) at the image tokens."""
        x = self.w["language_model.model.tok_embeddings.weight"][ids]
        if pixels is not None:
            x[np.asarray(ids) == image_token] = np.concatenate([self.picture(p) for p in pixels])
        for layer in range(self.text["num_hidden_layers"]):
            name = f"language_model.model.layers.{layer}."
            x = x + self.text_attention(self.rms(x, f"{name}attention_norm"), f"{name}attention.")
            y = self.rms(x, f"{name}ffn_norm")
            gate = y @ self.w[f"{name}feed_forward.w1.weight"].T
            up = y @ self.w[f"{name}feed_forward.w3.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.w[f"{name}feed_forward.w2.weight"].T
        return self.rms(x, "language_model.model.norm") @ self.w["language_model.output.weight"].T

    def text_attention(self, x, name):
        heads, kv = self.text["num_attention_heads"], self.text["num_key_value_heads"]
        size = self.text["hidden_size"] // heads
        # Each key-value head carries its own query heads first, then its key, then its value.
        fused = (x @ self.w[f"{name}wqkv.weight"].T).reshape(len(x), kv, heads // kv + 2, size)
        attended = np.zeros((len(x), kv, heads // kv, size))
        future = np.triu(np.full((len(x), len(x)), -np.inf), 1)
        for group in range(kv):
            key, value = self.rotated(fused[:, group, -2]), fused[:, group, -1]
            for place in range(heads // kv):
                query = self.rotated(fused[:, group, place])
                attended[:, group, place] = softmax(query @ key.T / math.sqrt(size) + future) @ value
        return attended.reshape(len(x), heads * size) @ self.w[f"{name}wo.weight"].T

    def rotated(self, x):
        half = x.shape[1] // 2
        speeds = self.text["rope_theta"] ** (-np.arange(half) / half)
        angles = np.arange(len(x))[:, None] * speeds
        first, second = x[:, :half], x[:, half:]
        return np.concatenate(
            [
                first * np.cos(angles) - second * np.sin(angles),
                second * np.cos(angles) + first * np.sin(angles),
            ],
            axis=1,
        )

    def picture(self, pixels):
        """Return the tokens of one picture (3, px, px)."""
        name, size, step = "vision_model.embeddings.", self.vision["hidden_size"], self.vision["patch_size"]
        side = self.vision["image_size"] // step
        kernel = self.w[f"{name}patch_embedding.weight"].reshape(size, -1)
        patches = np.array(
            [
                pixels[:, r * step : (r + 1) * step, c * step : (c + 1) * step].reshape(-1)
                for r in range(side)
                for c in range(side)
            ]
        )
        x = np.concatenate(
            [
                self.w[f"{name}class_embedding"][0],
                patches @ kernel.T + self.w[f"{name}patch_embedding.bias"],
            ]
        )
        x = x + self.w[f"{name}position_embedding"][0]
        for layer in range(self.vision["num_hidden_layers"]):
            name = f"vision_model.encoder.layers.{layer}."
            x = x + self.w[f"{name}ls1"] * self.vision_attention(
                self.layer_norm(x, f"{name}norm1", 1e-6), name
            )
            y = gelu(self.linear(self.layer_norm(x, f"{name}norm2", 1e-6), f"{name}mlp.fc1"))
            x = x + self.w[f"{name}ls2"] * self.linear(y, f"{name}mlp.fc2")
        grid = x[1:].reshape(side, side, size)
        # Four neighbours become one token, row by row.
        merged = np.array(
            [
                np.concatenate(
                    [grid[r, c], grid[r, c + 1], grid[r + 1, c], grid[r + 1, c + 1]],
                )
                for r in range(0, side, 2)
                for c in range(0, side, 2)
            ]
        )
        return self.linear(gelu(self.linear(self.layer_norm(merged, "mlp1.0", 1e-5), "mlp1.1")), "mlp1.3")

    def vision_attention(self, x, name):
        heads, size = self.vision["num_attention_heads"], self.vision["hidden_size"]
        query, key, value = np.split(self.linear(x, f"{name}attn.qkv"), 3, axis=1)
        each = size // heads
        parts = []
        for head in range(heads):
            own = slice(head * each, (head + 1) * each)
            weights = softmax(query[:, own] @ key[:, own].T / math.sqrt(each))
            parts.append(weights @ value[:, own])
        return self.linear(np.concatenate(parts, axis=1), f"{name}attn.proj")

    def rms(self, x, name):
        root = np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.text["rms_norm_eps"])
        return x / root * self.w[f"{name}.weight"]

    def layer_norm(self, x, name, eps):
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + eps)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
