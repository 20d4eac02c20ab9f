"""The local judge on tiny checkpoints: equal to the library's own way, in batches as alone, with and without caches."""

import numpy as np
import pytest
import torch

from roborl.rewards.batching import BatchAsker
from roborl.rewards.judges.config import JudgeConfig, Quantisation
from roborl.rewards.judges.queries import Clip, VlmQuery
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.testing.tiny_vlms import TINY_KINDS, build_tiny_vlm

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
    images = [p.copy() for p in query.parts if isinstance(p, np.ndarray)]
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


@pytest.mark.parametrize("kind", QWENS)
@pytest.mark.parametrize("limits", [{}, {"max_pixels": 2400}])
def test_clips_of_any_length_and_size_are_seen_together_as_alone(judge_of, kind, limits):
    judge, alone = judge_of(kind, **limits), judge_of(kind, prefix_cache_mb=0, vision_cache_mb=0, **limits)
    tall = Clip(frames=tuple(picture(i, 90, 50) for i in range(2)), stamps_s=(0.0, 0.5))
    shown = [(clip(1, 2), clip(2, 5)), (clip(3, 2),), (tall, clip(1, 2)), (clip(4, 6), picture(3)), (tall,)]
    queries = [
        VlmQuery(parts=("watch", *parts, "how far?"), reply_start="ANSWER: ", choices=DIGITS, max_tokens=3)
        for parts in shown
    ]
    flat = VlmQuery(parts=(Clip(frames=(np.zeros((1, 500, 3), np.uint8),) * 2, stamps_s=(0.0, 0.5)),))
    *together, impossible = judge.answer([*queries, flat])
    assert impossible is None
    for query, reply in zip(queries, together, strict=True):
        close(reply, alone.answer([query])[0])
        assert reply.cells == judge.cells(query)


@pytest.mark.parametrize("kind", TINY_KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"prefix_cache_mb": 0}, {"pad_to": 1}, {"pad_to": 500}, {"vision_cache_mb": 0}]
)
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


@pytest.mark.parametrize("kind", TINY_KINDS)
@pytest.mark.parametrize("options", [{}, {"prefix_cache_mb": 0}])
def test_company_and_cache_change_no_reply_in_half_precision_either(tmp_path, kind, options):
    """Without padding each question by itself alone, probabilities differ by a hundredth here."""
    place = str(build_tiny_vlm(tmp_path, kind, width=128, layers=4))

    def judge():
        return TransformersJudge.load(JudgeConfig(device="cpu", dtype="bfloat16", **options), place)

    queries = [ask(seed) for seed in range(8)]
    alone = [judge().answer([query])[0].probabilities for query in queries]
    busy = judge()
    for company in (queries, queries[::-1], queries[2:5]):
        replies = busy.answer(company)
        for query, reply in zip(company, replies, strict=True):
            assert reply.probabilities == alone[queries.index(query)]


def test_every_different_picture_is_seen_once(judge_of):
    judge = judge_of("qwen3_vl")
    judge.answer([ask(seed) for seed in range(4)])
    assert judge.eyes.looked == 6
    judge.answer([ask(seed) for seed in range(5)])
    assert judge.eyes.looked == 7
    forgetful = judge_of("qwen3_vl", vision_cache_mb=0)
    forgetful.answer([ask(0), ask(1)])
    forgetful.answer([ask(0)])
    assert forgetful.eyes.looked == 4 + 3


def test_a_growing_clip_is_seen_where_it_has_grown(judge_of):
    judge = judge_of("qwen3_vl")
    for count in (2, 4, 6, 8):
        judge.answer([VlmQuery(parts=(clip(1, count),), max_tokens=1)])
    assert judge.eyes.looked == 4


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_a_prefix_is_read_once(judge_of, kind):
    judge = judge_of(kind)
    first, second = judge.answer([ask(0)]) + judge.answer([ask(0)])
    assert first.reused_tokens == 0 < second.reused_tokens < second.prompt_tokens
    close(second, first)
    (other,) = judge.answer([ask(0, system="be short")])
    assert other.reused_tokens == 0
    assert judge.prefixes.nbytes <= judge.prefixes.max_bytes


def test_the_same_words_about_other_pictures_are_another_prefix(judge_of):
    judge = judge_of("qwen3_vl")

    def about(seed):
        return VlmQuery(parts=(picture(seed), "goal", picture(9)), prefix=2, max_tokens=0, choices=DIGITS)

    replies = judge.answer([about(0), about(1), about(0)]) + judge.answer([about(1)])
    assert replies[0].probabilities == pytest.approx(replies[2].probabilities, abs=1e-6)
    assert replies[1].probabilities == pytest.approx(replies[3].probabilities, abs=2e-5)
    assert replies[0].probabilities != pytest.approx(replies[1].probabilities, abs=1e-3)
    assert replies[3].reused_tokens > 0


@pytest.mark.parametrize("kind", QWENS)
def test_the_same_clip_at_another_pace_is_another_prefix(judge_of, kind):
    judge, alone = judge_of(kind), judge_of(kind, prefix_cache_mb=0)

    def lasting(seconds):
        frames = tuple(picture(i) for i in range(4))
        shown = Clip(frames=frames, stamps_s=tuple(i * seconds / 3 for i in range(4)))
        return VlmQuery(parts=("start", shown, "goal"), prefix=2, max_tokens=0, choices=DIGITS)

    quick, slow = lasting(1.5), lasting(15.0)
    for reply, other in zip(judge.answer([quick, slow]), alone.answer([quick, slow]), strict=True):
        close(reply, other)


def round_together(layer, args):
    """Round what a layer reads as LLM.int8() does, only more: but for columns in which any row of the batch is large."""
    (read,) = args
    rows = read.flatten(0, -2)
    spared = rows.abs().amax(dim=0) > 2.0
    step = rows.masked_fill(spared, 0.0).abs().amax(dim=1, keepdim=True).clamp_min(1e-6) / 15
    return (torch.where(spared, rows, (rows / step).round() * step).view_as(read),)


def alone_and_in_company(judge):
    """Ask questions one by one of a judge that has seen nothing, all together, and once more of what it keeps."""
    queries = [ask(seed) for seed in range(4)]
    alone = []
    for query in queries:
        judge.sights.clear()
        judge.prefixes.clear()
        alone += judge.answer([query])
    judge.sights.clear()
    judge.prefixes.clear()
    together, again = judge.answer(queries), judge.answer(queries[::-1])[::-1]
    assert again[0].reused_tokens > 0
    return [[(r.text, r.probabilities, r.mass) for r in replies] for replies in (alone, together, again)]


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_int8_reads_each_picture_and_question_by_itself(judge_of, monkeypatch, kind):
    monkeypatch.setattr("roborl.rewards.judges.weights._quantised", lambda how: {})

    def rounding(how):
        judge = judge_of(kind, quantisation=how)
        for layer in judge.network.model.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.register_forward_pre_hook(round_together)
        return judge

    alone, together, again = alone_and_in_company(rounding(Quantisation.INT8))
    assert alone == together == again
    alone, together, _ = alone_and_in_company(rounding(Quantisation.INT4))
    assert alone != together, "such rounding is seen where questions are read together"


@pytest.mark.parametrize(("how", "most"), [(Quantisation.INT8, 1), (Quantisation.INT4, 32)])
def test_a_judge_that_reads_one_question_at_a_time_is_asked_one_a_call(judge_of, monkeypatch, how, most):
    monkeypatch.setattr("roborl.rewards.judges.weights._quantised", lambda how: {})
    assert BatchAsker(judge_of("qwen3_vl", quantisation=how), 32).max_batch == most


@pytest.mark.parametrize("how", [Quantisation.INT8, Quantisation.INT4])
def test_weights_of_a_few_bits_answer_alone_as_in_company(tmp_path, how):
    pytest.importorskip("bitsandbytes")
    base = build_tiny_vlm(tmp_path, "qwen3_vl", width=128, vision_width=64)
    config = JudgeConfig(device="cpu", dtype="bfloat16", quantisation=how)
    alone, together, again = alone_and_in_company(TransformersJudge.load(config, str(base)))
    assert alone == together == again


def test_what_is_kept_is_bounded(judge_of):
    judge = judge_of("qwen3_vl", vision_cache_mb=1, prefix_cache_mb=1)
    for seed in range(60):
        judge.answer([VlmQuery(parts=("x " * 300, picture(seed)), prefix=2, max_tokens=1)])
    for cache in (judge.sights, judge.prefixes):
        assert 0 < cache.nbytes <= 1 << 20
    assert judge.prefixes.nbytes > 1 << 19


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_numbers_that_are_not_finite_are_no_reply_and_hurt_nobody_else(judge_of, kind):
    sound, judge = judge_of(kind), judge_of(kind)
    broken = judge.network.processor.tokenizer("the cube")["input_ids"][-1]
    with torch.no_grad():
        judge.network.model.get_input_embeddings().weight[broken] = float("nan")
    queries = [ask(0), VlmQuery(parts=("the cube", picture(0)), max_tokens=4), ask(1)]
    first, none, last = judge.answer(queries)
    assert none is None
    expected = sound.answer([queries[0], queries[2]])
    assert first.probabilities == pytest.approx(expected[0].probabilities, abs=2e-5)
    assert last.probabilities == pytest.approx(expected[1].probabilities, abs=2e-5)


def test_what_cannot_be_asked_is_no_reply_and_hurts_nobody_else(judge_of):
    judge = judge_of("qwen3_vl")
    replies = judge.answer(
        [
            ask(0),
            VlmQuery(parts=("put it <|image_pad|> there", picture(0))),
            VlmQuery(parts=("a", np.zeros((1, 500, 3), np.uint8))),
            VlmQuery(parts=("which",), choices=("one of them", "another"), max_tokens=1),
            ask(1),
        ]
    )
    assert [reply is None for reply in replies] == [False, True, True, True, False]
    (reply,) = judge_of("internvl").answer([VlmQuery(parts=(clip(0, 2), "what?"))])
    assert reply is None


def test_sampling_depends_on_the_seed_alone(judge_of):
    judge = judge_of("qwen3_vl")

    def sample(seed, words="say"):
        return VlmQuery(parts=(words, picture(0)), temperature=1.0, seed=seed, max_tokens=12)

    together = [r.text for r in judge.answer([sample(s) for s in range(6)])]
    assert together == [judge.answer([sample(s)])[0].text for s in range(6)]
    assert len(set(together)) > 3
    cold = judge.answer([sample(0), VlmQuery(parts=("say", picture(0)), max_tokens=12)])[1].text
    assert cold == judge.answer([VlmQuery(parts=("say", picture(0)), max_tokens=12)])[0].text


def test_a_reply_ends_at_its_stop_at_its_end_or_at_the_limit(judge_of):
    judge = judge_of("qwen3_vl")
    free = judge.answer([ask(0, max_tokens=12)])[0]
    assert not free.ended
    stop = free.text[len("ANSWER: ") + 1]
    (stopped,) = judge.answer([ask(0, max_tokens=12, stop=(stop,))])
    assert stopped.ended
    assert stop in stopped.text[len("ANSWER: ") :]
    assert free.text.startswith(stopped.text)
    assert len(stopped.text) < len(free.text)
    third = judge.network.processor.tokenizer(free.text)["input_ids"][5]
    judge.network.model.generation_config.eos_token_id = [third]
    (ended,) = TransformersJudge(judge.network, JudgeConfig()).answer([ask(0, max_tokens=12)])
    assert ended.ended
    assert free.text.startswith(ended.text)
    assert len(ended.text) < len(free.text)


def test_alternatives_are_those_of_each_place(judge_of):
    judge = judge_of("qwen3_vl")
    (reply,) = judge.answer([ask(0, alternatives=5, max_tokens=4)])
    assert len(reply.tokens) == 4
    for token in reply.tokens:
        chances = [p for _, p in token.alternatives]
        assert len(chances) == 5
        assert chances == sorted(chances, reverse=True)
        assert token.alternatives[0][0] == token.text
    whole = judge.answer([ask(0, alternatives=10_000, max_tokens=1)])[0].tokens[0]
    named = dict(whole.alternatives)
    for digit, p in zip(DIGITS, reply.probabilities, strict=True):
        assert named[digit] == pytest.approx(p * reply.mass, rel=1e-4)


def test_the_pixels_are_those_that_are_set(judge_of):
    query = VlmQuery(parts=(picture(0, 240, 320), clip(0, 4)), max_tokens=1)
    assert judge_of("qwen3_vl").cells(query)[0] == (1, 1, 2)
    wide = judge_of("qwen3_vl", min_pixels=12_544, max_pixels=76_800)
    assert wide.cells(query)[0] == (1, 7, 10)
    large = np.zeros((480, 640, 3), np.uint8)
    for count in range(2, 8):  # a clip of an odd number of frames is no larger than one of a frame more
        film = Clip(frames=(large,) * count, stamps_s=tuple(map(float, range(count))))
        assert wide.cells(VlmQuery(parts=(film,))) == (((count + 1) // 2, 7, 10),)
    assert wide.answer([query])[0].cells == wide.cells(query)
    assert wide.identity != judge_of("qwen3_vl").identity


def test_out_of_memory_lets_go_of_everything_kept(judge_of, monkeypatch):
    judge = judge_of("qwen3_vl")
    judge.answer([ask(0)])
    assert judge.sights.nbytes > 0 < judge.prefixes.nbytes

    def fail(turns):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(judge.reader, "read", fail)
    with pytest.raises(torch.OutOfMemoryError):
        judge.answer([ask(1)])
    assert judge.sights.nbytes == judge.prefixes.nbytes == 0
