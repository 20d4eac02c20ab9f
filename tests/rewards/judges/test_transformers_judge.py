"""The local judge on tiny checkpoints: equal to the library's own way, in batches as alone, with and without caches."""

import numpy as np
import pytest
import torch

from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.queries import Clip, VlmQuery
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.testing.tiny_vlms import TINY_KINDS

QWENS = ("qwen2_5_vl", "qwen3_vl")
DIGITS = ("1", "2", "3", "4", "5")


def picture(seed, height=60, width=80):
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (6, 8, 3), np.uint8)
    image = np.kron(rough, np.ones((-(-height // 6), -(-width // 8), 1), np.uint8))[:height, :width]
    image.flags.writeable = False
    return image


def clip(seed, count):
    return Clip(
        frames=tuple(picture(100 * seed + i) for i in range(count)),
        stamps_s=tuple(0.5 * i for i in range(count)),
    )


def ask(seed, **options):
    options = {"max_tokens": 6, "choices": DIGITS, "reply_start": "ANSWER: "} | options
    words = "the robot arm " * (seed % 4 + 1)
    return VlmQuery(
        parts=("start", picture(0), "goal", picture(1), words, picture(10 + seed), "how far?"),
        prefix=4,
        **options,
    )


def close(one, other, tolerance=2e-5):
    assert one.text == other.text
    assert one.cells == other.cells
    assert one.probabilities == pytest.approx(other.probabilities, abs=tolerance)
    assert one.mass == pytest.approx(other.mass, abs=tolerance)


def by_the_library(judge, query, image_options=None):
    """What the library's own processor and generation make of the same question."""
    processor, model = judge.network.processor, judge.network.model
    content = [
        {"type": "text", "text": p}
        if isinstance(p, str)
        else {"type": "video" if isinstance(p, Clip) else "image"}
        for p in query.parts
    ]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    images = [p for p in query.parts if isinstance(p, np.ndarray)]
    clips = [p for p in query.parts if isinstance(p, Clip)]
    options = dict(image_options or {})
    if images:
        options["images"] = images
    if clips:
        options["videos"] = [torch.tensor(np.stack(c.frames)).permute(0, 3, 1, 2) for c in clips]
        options["do_sample_frames"] = False
        options["video_metadata"] = [
            {
                "fps": 2.0,
                "frames_indices": list(range(len(c.frames))),
                "total_num_frames": len(c.frames),
            }
            for c in clips
        ]
        if judge.network.model_type == "qwen2_5_vl":
            options["fps"] = 2.0
    inputs = processor(text=[text + query.reply_start], return_tensors="pt", **options)
    with torch.inference_mode():
        made = model.generate(
            **inputs,
            max_new_tokens=query.max_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    written = made.sequences[0, inputs["input_ids"].shape[1] :]
    reply = query.reply_start + processor.tokenizer.decode(written, skip_special_tokens=True)
    digits = processor.tokenizer.convert_tokens_to_ids(list(query.choices))
    logits = made.logits[0][0].double()
    return reply, logits[digits].softmax(0).tolist(), float(logits.softmax(0)[digits].sum()), inputs


@pytest.mark.parametrize("kind", TINY_KINDS)
@pytest.mark.parametrize("prefix_mb", [0, 64])
def test_a_reply_is_that_of_the_library(judge_of, kind, prefix_mb):
    judge = judge_of(kind, prefix_cache_mb=prefix_mb)
    query = ask(3, max_tokens=8)
    (reply,) = judge.answer([query])
    options = {"crop_to_patches": False} if kind == "internvl" else {}
    text, probabilities, mass, inputs = by_the_library(judge, query, options)
    assert reply.prompt_tokens == inputs["input_ids"].shape[1]
    assert reply.text == text
    assert reply.probabilities == pytest.approx(probabilities, abs=1e-5)
    assert reply.mass == pytest.approx(mass, abs=1e-6)
    assert sum(reply.probabilities) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", QWENS)
@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_clip_is_read_as_the_library_reads_it(judge_of, kind, count):
    judge = judge_of(kind)
    query = VlmQuery(
        parts=("watch", clip(1, count), picture(3), "how far?"),
        reply_start="ANSWER: ",
        choices=DIGITS,
        max_tokens=4,
    )
    (reply,) = judge.answer([query])
    text, probabilities, _, inputs = by_the_library(judge, query)
    assert reply.prompt_tokens == inputs["input_ids"].shape[1]
    assert reply.text == text
    assert reply.probabilities == pytest.approx(probabilities, abs=1e-5)
    assert reply.cells[0][0] == -(-count // 2)
    assert reply.cells == judge.cells(query)


@pytest.mark.parametrize("kind", TINY_KINDS)
@pytest.mark.parametrize("options", [{}, {"prefix_cache_mb": 0}, {"padding": False}, {"vision_cache_mb": 0}])
def test_a_batch_answers_as_single_questions_do(judge_of, kind, options):
    judge, alone = judge_of(kind, **options), judge_of(kind, prefix_cache_mb=0, vision_cache_mb=0)
    queries = [ask(seed) for seed in range(7)]
    queries.append(VlmQuery(parts=("no picture at all",), max_tokens=3))
    queries.append(VlmQuery(parts=("p",), choices=DIGITS, reply_start="ANSWER: ", max_tokens=0))
    singles = [alone.answer([query])[0] for query in queries]
    for _ in range(2):
        for one, other in zip(judge.answer(queries), singles, strict=True):
            close(one, other)
    assert len({single.probabilities for single in singles}) > 5, "the network is blind to its questions"
