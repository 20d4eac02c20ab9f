"""Endpoints as one judge, against servers of this machine that answer, fail, dawdle and talk nonsense."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata

from roborl.errors import ConfigError, ShapeError
from roborl.rewards.dopamine import DopamineConfig, DopamineModel
from roborl.rewards.dopamine_question import CONTRACT as HOPS
from roborl.rewards.fusion import FusionConfig, Hop, Perspective
from roborl.rewards.hop_replies import hop_of, write_hop
from roborl.rewards.judges.config import JudgeConfig, JudgeKind
from roborl.rewards.judges.openai_judge import OpenAiJudge
from roborl.rewards.judges.opening import open_judge
from roborl.rewards.judges.queries import Clip, VlmQuery
from roborl.rewards.model import JudgeDown, JudgeSilent, score_episode
from roborl.rewards.prompts import own_prompt
from roborl.rewards.roboreward import CONTRACT, RoboRewardModel, open_roboreward
from roborl.rewards.roboreward_config import RoboRewardConfig
from roborl.rewards.vlac.replies import read_change
from roborl.testing.check_reward_model import check_reward_model, random_observations
from roborl.testing.endpoint import (
    StubEndpoint,
    answer,
    by_brightness,
    counting,
    pictures_of,
    place,
    trimming,
)
from roborl.testing.tiny_vlms import build_tiny_vlm

DIGITS = ("1", "2", "3", "4", "5")


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    stubs = []

    def make(say=by_brightness, port=0):
        stubs.append(StubEndpoint(say, port))
        return stubs[-1]

    yield make
    for made in stubs:
        made.close()


@pytest.fixture
def judge_at():
    judges = []

    def make(*places, **options):
        options = {"backoff_s": 0.01, "deadline_s": 5.0, "timeout_s": 2.0} | options
        urls = tuple(place if isinstance(place, str) else place.url for place in places)
        judges.append(OpenAiJudge(JudgeConfig(kind=JudgeKind.OPENAI, endpoints=urls, **options)))
        return judges[-1]

    yield make
    for judge in judges:
        judge.close()


def grey(level, px=16):
    return np.full((px, px, 3), level, np.uint8)


def ask(level, **options):
    options = {"choices": DIGITS, "reply_start": "ANSWER: ", "max_tokens": 1} | options
    return VlmQuery(parts=("how far?", grey(level)), **options)


def with_logprob(value):
    place = {"token": "4", "top_logprobs": [{"token": "4", "logprob": value}]}
    return {"choices": [{"message": {"content": "4"}, "logprobs": {"content": [place]}}]}


def test_a_question_goes_out_whole_and_its_answer_comes_back(stub, judge_at):
    endpoint = stub()
    judge = judge_at(endpoint)
    assert judge.model == "toy"
    picture = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    query = VlmQuery(
        parts=("before", picture, "after", grey(255)),
        system="be brief",
        reply_start="ANSWER: ",
        choices=DIGITS,
        max_tokens=1,
        stop=("</score>",),
        temperature=0.5,
        seed=7,
    )
    (reply,) = judge.answer([query])
    (body,) = endpoint.asked
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant"]
    assert body["messages"][2]["content"] == "ANSWER:"
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert [part["type"] for part in body["messages"][1]["content"]] == ["text", "image_url"] * 2
    assert (pictures_of(body)[0] == picture).all(), "a picture is changed on the way"
    assert (body["temperature"], body["seed"], body["max_tokens"], body["stop"]) == (0.5, 7, 2, ["</score>"])
    # What is left open, vLLM fills from the checkpoint's generation_config.json.
    neutral = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
    assert body | neutral | {"presence_penalty": 0, "frequency_penalty": 0} == body
    assert reply.text == "ANSWER: 5"
    assert reply.probabilities == pytest.approx([0.02 / 0.98] * 4 + [0.9 / 0.98])
    assert reply.mass == pytest.approx(0.98)
    assert (reply.prompt_tokens, reply.reused_tokens, reply.ended) == (77, 40, True)
    assert judge.cells(query) is None


def test_spaces_before_a_choice_count_and_other_words_do_not(stub, judge_at):
    chances = {" 4": 0.3, "4": 0.2, "44": 0.2, "5": 0.1, "four": 0.2}
    (reply,) = judge_at(stub(lambda body: answer("4", chances=chances))).answer([ask(0)])
    assert reply.text == "ANSWER:4"
    assert reply.probabilities == pytest.approx([0, 0, 0, 5 / 6, 1 / 6])
    assert reply.mass == pytest.approx(0.6)
    (none,) = judge_at(stub(lambda body: answer("so", chances={"so": 1.0}))).answer([ask(0)])
    assert (none.probabilities, none.mass) == (None, 0.0)
    (silent,) = judge_at(stub(lambda body: answer("4"))).answer([ask(0)])
    assert silent.probabilities is None


def test_spaces_that_the_network_writes_itself_are_passed_over(stub, judge_at):
    space = place(" ", {" ": 0.9, "\n": 0.1})
    said = answer(" 4", chances={"4": 0.5, "5": 0.25, "so": 0.25}, before=[space])
    (reply,) = judge_at(stub(lambda body: said)).answer([ask(0)])
    assert reply.text == "ANSWER: 4"
    assert reply.probabilities == pytest.approx([0, 0, 0, 2 / 3, 1 / 3])
    assert reply.mass == pytest.approx(0.9 * 0.75)


def test_a_choice_instead_of_the_space_counts_beside_those_behind_it(stub, judge_at):
    space = place(" ", {" ": 0.9, "4": 0.02, "\n": 0.08})
    said = answer(" 4", chances={"4": 0.8, "5": 0.2}, before=[space])
    judge = judge_at(stub(lambda body: said))
    (reply,) = judge.answer([ask(0)])
    assert reply.mass == pytest.approx(0.02 + 0.9)
    assert reply.probabilities == pytest.approx([0, 0, 0, 0.74 / 0.92, 0.18 / 0.92])
    model = RoboRewardModel(judge, own_prompt(CONTRACT), RoboRewardConfig())
    (score,) = score_episode(model, "t", random_observations(model, count=1))
    assert score.valid


def test_a_token_that_ends_a_reply_and_is_no_part_of_it_is_left_out(stub, judge_at):
    status, said = answer("60")
    spelt_out = [place("60", {"60": 0.75, "40": 0.25}), place("<|im_end|>", {"<|im_end|>": 1.0})]
    said["choices"][0]["logprobs"] = {"content": spelt_out}
    (reply,) = judge_at(stub(lambda body: (status, said))).answer(
        [VlmQuery(parts=("how far?",), alternatives=2)]
    )
    assert [token.text for token in reply.tokens] == ["60"]
    assert read_change(reply, probabilities=True).mean == pytest.approx(0.55)


def test_an_endpoint_that_starts_anew_gives_no_score(stub, judge_at):
    """One that cannot be made to start a reply with given words, and says them itself."""
    said = answer("ANSWER: 4", chances={"ANSWER": 0.99, "4": 0.01})
    judge = judge_at(stub(lambda body: said))
    (reply,) = judge.answer([ask(0)])
    assert reply.mass == pytest.approx(0.01)
    model = RoboRewardModel(judge, own_prompt(CONTRACT), RoboRewardConfig())
    (score,) = score_episode(model, "t", random_observations(model, count=1))
    assert not score.valid
    assert "something else" in score.reply


def test_alternatives_and_the_limit_are_reported(stub, judge_at):
    endpoint = stub(lambda body: answer("4", chances={"4": 0.6, "5": 0.4}, finish="length"))
    (reply,) = judge_at(endpoint).answer([ask(0, choices=(), alternatives=2)])
    assert endpoint.asked[0]["top_logprobs"] == 2
    assert [text for text, _ in reply.tokens[0].alternatives] == ["4", "5"]
    assert not reply.ended


def test_clips_go_out_as_videos_with_the_instants_of_their_frames(stub, judge_at):
    endpoint = stub(lambda body: answer("3"))
    clip = Clip(frames=(grey(0), grey(255), grey(128)), stamps_s=(0.0, 0.5, 1.3))
    judge_at(endpoint).answer([VlmQuery(parts=("watch", clip))])
    (body,) = endpoint.asked
    words, video = body["messages"][0]["content"]
    assert (words["type"], video["type"]) == ("text", "video_url")
    assert video["video_url"]["url"].startswith("data:video/jpeg;base64,")
    assert [picture.mean() for picture in pictures_of(body)] == [0, 255, 128]
    assert body["media_io_kwargs"] == {
        "video": {"fps": 1000, "frames_indices": [0, 500, 1300], "num_frames": 3, "total_num_frames": 1950}
    }
    assert body["mm_processor_kwargs"] == {"do_sample_frames": False}
    other = Clip(frames=clip.frames, stamps_s=(0.0, 1.0, 2.0))
    with pytest.raises(ShapeError, match="several clips"):
        judge_at(endpoint).answer([VlmQuery(parts=(clip, other))])


def test_the_first_frame_shown_twice_is_a_video_that_vllm_takes(stub, judge_at):
    endpoint = stub(lambda body: answer("3"))
    judge_at(endpoint).answer(
        [VlmQuery(parts=(Clip(frames=(grey(0),) * 2, stamps_s=(at, at)),)) for at in (0.0, 2.5)]
    )
    times = sorted((b["media_io_kwargs"]["video"] for b in endpoint.asked), key=lambda t: t["frames_indices"])
    assert [(t["frames_indices"], t["total_num_frames"]) for t in times] == [
        ([0, 0], 2),
        ([2500, 2500], 2501),
    ]


def test_clips_as_pictures_are_a_choice_with_a_warning(stub, judge_at, caplog):
    endpoint = stub(lambda body: answer("3"))
    clip = Clip(frames=(grey(0), grey(255)), stamps_s=(0.0, 1.5))
    judge = judge_at(endpoint, clips="pictures")
    assert "single pictures" not in caplog.text, "a model may have no clips at all"
    judge.answer([VlmQuery(parts=("watch", clip))] * 2)
    content = endpoint.asked[0]["messages"][0]["content"]
    assert [p.get("text", "picture") for p in content] == [
        "watch",
        "<0.0 seconds>",
        "picture",
        "<1.5 seconds>",
        "picture",
    ]
    assert not {"media_io_kwargs", "mm_processor_kwargs"} & endpoint.asked[0].keys()
    assert caplog.text.count("single pictures") == 1
    assert judge.identity != judge_at(endpoint).identity


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl"])
def test_vllm_makes_of_a_clip_what_the_network_in_this_process_reads(stub, judge_of, tiny, kind):
    """By the network's own processor, called with what vLLM reads from the request."""
    frames = tuple(np.random.default_rng(i).integers(0, 256, (90, 150, 3), np.uint8) for i in range(3))
    query = VlmQuery(parts=(Clip(frames=frames, stamps_s=(0.0, 0.6, 1.2)), "how far?"), max_tokens=1)
    endpoint = stub(lambda body: answer("3"))
    config = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(endpoint.url,))
    judge = open_judge(config, str(tiny[kind]), max_pixels=76_800)
    judge.answer([query])
    body = endpoint.asked[-1]
    times = body["media_io_kwargs"]["video"]
    assert times.pop("num_frames") == len(frames)
    processor = AutoProcessor.from_pretrained(tiny[kind])
    content = [{"type": "video"}, {"type": "text", "text": "how far?"}]
    made = processor(
        text=processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        ),
        videos=[[np.stack(pictures_of(body))]],
        video_metadata=[[VideoMetadata(**times)]],
        return_tensors="pt",
        **body["mm_processor_kwargs"],
    )
    here = judge_of(kind, max_pixels=76_800)
    instants, rows, columns = made["video_grid_thw"][0].tolist()
    ((_, *cells),) = here.cells(query)
    assert [instants, rows // 2, columns // 2] == [2, *cells]
    assert made["input_ids"].shape[1] == here.answer([query])[0].prompt_tokens
    if kind == "qwen3_vl":
        assert "<0.3 seconds>" in (spelt := processor.tokenizer.decode(made["input_ids"][0]))
        assert "<1.2 seconds>" in spelt
    else:
        assert made["second_per_grid_ts"] == pytest.approx([1.2])


def test_many_questions_are_under_way_at_once_but_not_too_many(stub, judge_at):
    def slowly(body):
        time.sleep(0.05)
        return by_brightness(body)

    endpoints = [stub(slowly), stub(slowly)]
    judge = judge_at(*endpoints, concurrency=3)
    levels = list(range(0, 240, 20))
    replies = judge.answer([ask(level) for level in levels])
    assert [reply.text for reply in replies] == [f"ANSWER: {1 + round(4 * v / 255)}" for v in levels]
    assert [endpoint.most for endpoint in endpoints] == [3, 3]
    assert abs(len(endpoints[0].asked) - len(endpoints[1].asked)) <= 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_endpoint_that_fails_is_asked_again_later(stub, judge_at, status):
    left = [2]

    def recovering(body):
        left[0] -= 1
        return (status, {"error": "busy"}) if left[0] >= 0 else by_brightness(body)

    judge = judge_at(stub(recovering))
    (reply,) = judge.answer([ask(255)])
    assert reply.text == "ANSWER: 5"
    assert judge.faults[f"status {status}"] == 2


def test_the_others_answer_for_an_endpoint_that_is_away(stub, judge_at):
    judge = judge_at("http://127.0.0.1:9/v1", stub(), served_model="toy")
    began = time.monotonic()
    replies = judge.answer([ask(level) for level in range(0, 200, 10)])
    assert all(reply is not None for reply in replies)
    assert time.monotonic() - began < 5.0
    assert 0 < judge.faults["unreachable"] <= 20


def test_a_question_that_is_refused_has_no_reply_and_is_not_repeated(stub, judge_at):
    def choosy(body):
        return (400, {"error": "too many pictures"}) if len(pictures_of(body)) > 1 else by_brightness(body)

    endpoint = stub(choosy)
    judge = judge_at(endpoint)
    crowded = VlmQuery(parts=(grey(0), grey(1)))
    replies = judge.answer([ask(0), crowded, ask(255)])
    assert [reply and reply.text for reply in replies] == ["ANSWER: 1", None, "ANSWER: 5"]
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"<html>bad gateway</html>",
        b"\xff\xfe",
        {"choices": []},
        {"choices": [{"message": {"content": 4}}]},
        {"choices": [{}]},
        [],
        None,
        {
            "choices": [
                {"message": {"content": "4"}, "logprobs": {"content": [{"token": "4", "top_logprobs": 3}]}}
            ]
        },
        {"choices": [{"message": {"content": "4"}, "logprobs": [1]}]},
        {"choices": [{"message": {"content": "4"}, "logprobs": {"content": [1]}}]},
        {"choices": [{"message": {"content": "4"}, "logprobs": {"content": {"a": 1}}}]},
        {"choices": [{"message": ["4"]}]},
        {"choices": ["4"]},
        {"choices": {"first": 1}},
        {"choices": 4},
        {"choices": [{"message": {"content": "4"}}], "usage": [3]},
        {"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": "many"}},
        {"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens_details": "none"}},
        with_logprob(1000.0),
        with_logprob(3.0),
        with_logprob(math.nan),
        with_logprob(math.inf),
        with_logprob("likely"),
        with_logprob([0.0]),
        b'{"usage": {"prompt_tokens": 1e999}, "choices": [{"message": {"content": "4"}}]}',
        b"[" * 200_000,
    ],
    ids=lambda nonsense: str(nonsense)[:60],
)
def test_nonsense_is_no_reply_and_costs_no_other(stub, judge_at, nonsense):
    def sometimes(body):
        return (200, nonsense) if pictures_of(body)[0].mean() == 0 else by_brightness(body)

    judge = judge_at(stub(sometimes), attempts=2)
    replies = judge.answer([ask(255), ask(0), ask(128)])
    assert [reply and reply.text for reply in replies] == ["ANSWER: 5", None, "ANSWER: 3"]
    assert judge.faults["unreadable"] == 2


def test_pictures_are_sent_within_the_limits_in_whole_cells_and_are_left_so(stub, caplog):
    endpoint = stub(counting(lambda body: answer("3"), cell_px=32, min_pixels=65_536))
    config = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(endpoint.url,), cell_px=32)
    judge = open_judge(config, "somebody/checkpoint", max_pixels=76_800)
    assert not caplog.text
    large = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    query = VlmQuery(parts=(large, Clip(frames=(large,) * 3, stamps_s=(0.0, 1.0, 2.0)), grey(7, 64)))
    (reply,) = judge.answer([query])
    body = endpoint.asked[-1]
    assert [picture.shape[:2] for picture in pictures_of(body)] == [(224, 320)] * 4 + [(64, 64)]
    assert pictures_of(body)[0].mean() == pytest.approx(large.mean(), abs=1.0)
    assert body["mm_processor_kwargs"] == {"do_resize": False, "do_sample_frames": False}
    assert reply.sent == ((1, 224, 320), (3, 224, 320), (1, 64, 64))
    assert judge.cells(query) == ((1, 7, 10), (2, 7, 10), (1, 2, 2))
    assert reply.cells == ()
    others = [
        open_judge(config, "somebody/checkpoint", max_pixels=most, min_pixels=least)
        for most, least in ((76_800, 0), (76_800, 4_096), (4_096, 0))
    ]
    assert len({other.identity for other in others}) == 3
    assert others[0].identity == judge.identity


@pytest.mark.parametrize(
    ("limits", "deaf"),
    [
        ({"max_pixels": 76_800}, {"min_pixels": 65_536, "obeys": False}),
        ({"max_pixels": 4_096}, {"min_pixels": 65_536, "obeys": False}),
        ({"min_pixels": 12_544, "max_pixels": 76_800}, {"min_pixels": 65_536, "obeys": False}),
    ],
)
def test_an_endpoint_that_sees_pictures_in_another_size_is_found_out(stub, limits, deaf, caplog):
    honest = stub(counting(lambda body: answer("3"), cell_px=32))
    config = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(honest.url,), cell_px=32)
    query = VlmQuery(parts=(grey(7, 64),))
    assert open_judge(config, "", **limits).cells(query) is not None
    assert not caplog.text
    other = stub(counting(lambda body: answer("3"), cell_px=32, **deaf))
    judge = open_judge(replace(config, endpoints=(honest.url, other.url)), "", **limits)
    assert judge.cells(query) is None
    assert f"{other.url} sees pictures in another size" in caplog.text
    assert honest.url not in caplog.text


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (
            lambda body: (400, {"error": "unknown field min_p"}),
            "unknown field min_p.*judge.extensions: false",
        ),
        (lambda body: (200, {"choices": []}), "usage"),
        (lambda body: (200, {"usage": {"prompt_tokens": 0}}), "does not tell"),
    ],
)
def test_an_endpoint_that_does_not_tell_lengths_is_believed_with_a_warning(stub, say, why, caplog):
    config = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(stub(say).url,), cell_px=32)
    judge = open_judge(config, "", max_pixels=76_800)
    assert judge.cells(VlmQuery(parts=(grey(7, 64),))) == ((1, 2, 2),)
    assert re.search(f"is not known.*{why}", caplog.text)


def test_frames_of_a_video_are_sent_within_the_limits(stub):
    endpoint = stub(lambda body: answer("3"))
    config = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(endpoint.url,), cell_px=32)
    judge = open_judge(config, "", max_pixels=76_800)
    judge.answer([VlmQuery(parts=(Clip(frames=(grey(9, 480),) * 2, stamps_s=(0.0, 1.0)),))])
    assert [frame.shape for frame in pictures_of(endpoint.asked[-1])] == [(256, 256, 3)] * 2


def test_an_endpoint_of_openais_protocol_alone_is_sent_nothing_else(stub, judge_at):
    endpoint = stub(lambda body: spelt("ANSW", "ER", ":", " ", "4"))
    judge = judge_at(endpoint, extensions=False, cell_px=32)
    clip = Clip(frames=(grey(0), grey(255)), stamps_s=(0.0, 1.0))
    (reply,) = judge.answer([replace(ask(0), parts=(clip, "how far?"), stop=("</score>",))])
    body = endpoint.asked[-1]
    known = {"model", "messages", "max_tokens", "temperature", "seed", "top_p", "logprobs"}
    assert body.keys() == known | {"presence_penalty", "frequency_penalty", "top_logprobs"}
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert {part["type"] for part in body["messages"][0]["content"]} == {"text", "image_url"}
    assert reply.probabilities == pytest.approx([0, 0, 0, 0.9, 0.1])
    assert judge.identity != judge_at(endpoint, cell_px=32, prefill=False, clips="pictures").identity


@pytest.mark.parametrize(("kind", "cell_px"), [("qwen3_vl", 32), ("qwen2_5_vl", 28), ("internvl", 0)])
def test_the_size_of_a_cell_is_read_from_a_checkpoint_that_lies_here(stub, tiny, kind, cell_px, caplog):
    endpoint = stub(counting(by_brightness, cell_px=cell_px or 28))
    config = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(endpoint.url,))
    judge = open_judge(config, str(tiny[kind]), max_pixels=76_800)
    cells = judge.cells(VlmQuery(parts=(grey(0, 224),)))
    assert cells == (((1, 224 // cell_px, 224 // cell_px),) if cell_px else None)
    assert ("judge.cell_px is not set" in caplog.text) is not bool(cell_px)


@pytest.fixture
def in_the_cache(tiny, tmp_path, monkeypatch):
    """A checkpoint in the hub's cache, with a card that has a wording: its name there, and its folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--somebody--RoboToy"
    shutil.copytree(tiny["qwen3_vl"], folder := place / "snapshots" / "c0ffee")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("c0ffee")
    (folder / "README.md").write_text("```\nOther words: {task} ANSWER:\n```\n")
    return "somebody/RoboToy", folder


def test_words_and_cells_of_a_checkpoint_in_the_hubs_cache_are_found(stub, in_the_cache):
    endpoint = stub(counting(by_brightness, cell_px=32))
    config = RoboRewardConfig(
        checkpoint=in_the_cache[0], judge=JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(endpoint.url,))
    )
    model = open_roboreward(config)
    assert model.prompt.template == "Other words: {task} ANSWER:"
    assert model.check_cells(192, 320) == (8, 6, 10)
    away = open_roboreward(replace(config, checkpoint="somebody/AnotherToy"))
    assert away.prompt.origin == "own"
    assert away.check_cells(192, 320) is None


def test_the_same_weights_elsewhere_are_the_same_judge_and_others_are_another(stub, in_the_cache, tmp_path):
    config = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(stub().url,), cell_px=32)
    name, folder = in_the_cache
    moved = shutil.copytree(folder, tmp_path / "moved")
    other = build_tiny_vlm(tmp_path / "other", "qwen3_vl", seed=1)
    assert (other / "config.json").read_text() == (folder / "config.json").read_text()
    here, there, else_, named = (
        open_judge(config, str(place)).identity for place in (folder, moved, other, name)
    )
    assert here == there
    assert len({here, else_, named}) == 3
    shutil.rmtree(folder)
    assert open_judge(config, name).identity == named, "a copy on this computer changes a judge elsewhere"


def test_a_grid_that_is_too_small_is_refused_behind_endpoints_as_in_this_process(stub, tiny):
    endpoint = stub(counting(by_brightness, cell_px=32))
    config = RoboRewardConfig(
        checkpoint=str(tiny["qwen3_vl"]), judge=JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(endpoint.url,))
    )
    assert open_roboreward(config).check_cells(192, 320) == (8, 6, 10)
    with pytest.raises(ConfigError, match=r"too little of each frame.*8 x 3 x 4"):
        open_roboreward(replace(config, max_pixels=16_384))


def test_what_was_sent_stands_with_the_score(stub, tiny):
    judge = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(stub().url,), cell_px=32)
    model = open_roboreward(RoboRewardConfig(judge=judge))
    (score,) = score_episode(model, "t", random_observations(model, count=1))
    assert "sent 2 x 64 x 64 px" in score.reply
    assert "saw" not in score.reply


def spelt(*texts):
    """An answer whose tokens these are, the last of them the choice."""
    status, said = answer("".join(texts), chances={"4": 0.9, "5": 0.1})
    *words, choice = texts
    content = [place(word, {word: 1.0}) for word in words] + [place(choice, {"4": 0.9, "5": 0.1})]
    said["choices"][0]["logprobs"]["content"] = content
    return status, said


def test_an_endpoint_that_cannot_be_given_a_start_writes_it_itself(stub, judge_at):
    endpoint = stub(lambda body: spelt("ANSW", "ER", ":", " ", "4"))
    judge = judge_at(endpoint, prefill=False)
    (reply,) = judge.answer([ask(0)])
    (body,) = endpoint.asked
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert body["max_tokens"] == 1 + len("ANSWER: ")
    assert reply.text == "ANSWER: 4"
    assert reply.probabilities == pytest.approx([0, 0, 0, 0.9, 0.1])
    model = RoboRewardModel(judge, own_prompt(CONTRACT), RoboRewardConfig())
    (score,) = score_episode(model, "t", random_observations(model, count=1))
    assert (score.valid, score.raw) == (True, pytest.approx(4.1))


@pytest.mark.parametrize("prefill", [True, False])
def test_an_endpoint_that_tells_no_probabilities_is_read_by_what_it_writes(stub, judge_at, prefill):
    judge = judge_at(stub(lambda body: answer(" 4" if prefill else "ANSWER: 4")), prefill=prefill)
    model = RoboRewardModel(judge, own_prompt(CONTRACT), RoboRewardConfig())
    (score,) = score_episode(model, "t", random_observations(model, count=1))
    assert (score.valid, score.raw, score.spread) == (True, 4.0, 0.0)
    assert score.reply.startswith("ANSWER: 4; no probabilities")


def test_words_other_than_the_start_have_no_probabilities(stub, judge_at):
    judge = judge_at(stub(lambda body: spelt("I ", "say ", "4")), prefill=False)
    (reply,) = judge.answer([ask(0)])
    assert (reply.text, reply.probabilities, reply.mass) == ("I say 4", None, 0.0)


def hop_at(stub, judge_at, say):
    judge = judge_at(stub(say))
    (reply,) = judge.answer([VlmQuery(parts=("how far?", grey(0)), stop=("</score>",), alternatives=3)])
    return hop_of(reply)


@pytest.mark.parametrize(
    "endpoint",
    [
        {"kept_by": "include_stop_str_in_output", "reason": "stop_reason"},
        {"kept_by": "no_stop_trim"},
        {"reason": "stop_reason"},
        {"reason": "matched_stop"},
    ],
)
def test_a_reply_keeps_the_stop_that_ended_it(stub, judge_at, endpoint):
    """By asking vLLM and SGLang in their own words, and where that does not help by what they say ended it."""
    say = trimming(lambda body: answer("<score>+33.3%</score> and more"), **endpoint)
    assert hop_at(stub, judge_at, say) == Hop(value=0.333)


def test_a_stop_that_nobody_names_is_not_made_up(stub, judge_at):
    silent = trimming(lambda body: answer("<score>+33.3%</score>"), reason="")
    assert hop_at(stub, judge_at, silent) is None

    def by_token(body):
        status, said = answer("<score>+33.3%")
        said["choices"][0]["stop_reason"] = 151645
        return status, said

    assert hop_at(stub, judge_at, by_token) is None


@pytest.mark.parametrize(("more", "finish"), [("", "stop"), (" and more", "stop"), ("</s", "length")])
def test_an_endpoint_that_would_not_name_the_stop_is_asked_without_one(stub, judge_at, more, finish):
    """Such as one that takes OpenAI's own fields alone; a reply that goes on ends at the stop all the same."""
    said = answer(f"<score>+33.3%</score>{more}", finish=finish)
    judge = judge_at(stub(trimming(lambda body: said, reason="")), extensions=False)
    (reply,) = judge.answer([VlmQuery(parts=("how far?", grey(0)), stop=("</score>",), alternatives=3)])
    assert (reply.text, reply.ended) == ("<score>+33.3%</score>", True)
    assert hop_of(reply) == Hop(value=0.333)


def test_a_model_of_hops_scores_behind_an_endpoint_that_cuts_at_stops(stub, judge_at):
    judge = judge_at(stub(trimming(lambda body: answer(write_hop(0.1)))))
    fusion = FusionConfig(perspectives=(Perspective.INCREMENTAL,))
    config = DopamineConfig(goal=False, hop_s=0.0, fusion=fusion)
    model = DopamineModel(judge=judge, config=config, prompt=own_prompt(HOPS))
    scores = score_episode(model, "t", random_observations(model, count=4))
    assert [score.progress for score in scores] == pytest.approx([0.0, 0.1, 0.19, 0.271])
    assert scores[1].reply == "incremental <score>+10.0%</score>; sent 224 x 224, 64 x 64 px"


def test_a_slow_endpoint_costs_no_more_than_the_deadline(stub, judge_at):
    release = threading.Event()

    def dawdling(body):
        release.wait(20.0)
        return by_brightness(body)

    judge = judge_at(stub(dawdling), deadline_s=0.5, timeout_s=0.2)
    began = time.monotonic()
    with pytest.raises(JudgeSilent, match=r"in time.*judge\.deadline_s.*--judge_deadline_s"):
        judge.answer([ask(0), ask(1)])
    assert time.monotonic() - began < 5.0
    assert judge.faults["timeout"] >= 2
    release.set()


def test_a_judge_whose_endpoints_are_all_away_is_down_and_comes_back(stub, judge_at):
    endpoint = stub()
    url = endpoint.url
    judge = judge_at(url, attempts=2)
    endpoint.close()
    with pytest.raises(JudgeDown, match="vllm serve") as down:
        judge.answer([ask(0)])
    assert not isinstance(down.value, JudgeSilent)
    with pytest.raises(JudgeDown, match="served_model"):
        judge_at(url)
    stub(port=endpoint.server.server_port)
    assert judge.answer([ask(0)])[0].text == "ANSWER: 1"


def test_half_a_character_in_a_reply_is_no_harm(stub, judge_at):
    said = b'{"choices": [{"message": {"content": "It is done \\ud83d"}, "finish_reason": "stop"}]}'
    (reply,) = judge_at(stub(lambda body: (200, said))).answer([ask(0, choices=())])
    assert reply.text.endswith("It is done ?")


@pytest.mark.parametrize("away_for", [3, 10**6], ids=["moment", "long"])
def test_an_endpoint_that_goes_away_in_the_middle_of_a_batch_leaves_no_question_unanswered(
    stub, judge_at, away_for
):
    """As behind a proxy, which tells with 503 that nobody is there."""
    count = [0]

    def going(body):
        count[0] += 1
        return (503, {}) if 4 < count[0] <= 4 + away_for else by_brightness(body)

    judge = judge_at(stub(going), attempts=2, concurrency=1)
    questions = [ask(0)] * 8
    if away_for > 8:
        with pytest.raises(JudgeDown) as down:
            judge.answer(questions)
        assert not isinstance(down.value, JudgeSilent)
        count[0] = -100
    assert [reply.text for reply in judge.answer(questions)] == ["ANSWER: 1"] * 8


def test_one_question_that_is_not_answered_in_time_costs_the_others_nothing(stub, judge_at):
    release = threading.Event()

    def say(body):
        if float(pictures_of(body)[0].mean()) > 100:
            release.wait(5.0)
        return by_brightness(body)

    judge = judge_at(stub(say), deadline_s=1.0, timeout_s=0.2, attempts=2)
    first, none, last = judge.answer([ask(0), ask(255), ask(0)])
    release.set()
    assert (first.text, none, last.text) == ("ANSWER: 1", None, "ANSWER: 1")


def test_the_model_is_the_only_one_served_or_has_to_be_named(stub, judge_at):
    endpoint = stub()
    endpoint.models = ["one", "two"]
    with pytest.raises(ConfigError, match=r"one.*two"):
        judge_at(endpoint)
    judge = judge_at(endpoint, served_model="two")
    judge.answer([ask(0)])
    assert endpoint.asked[0]["model"] == "two"


def test_the_key_is_sent_and_never_told(stub, judge_at, monkeypatch):
    monkeypatch.setenv("TOY_KEY", "a-secret")
    endpoint = stub()
    judge = judge_at(endpoint, key_variable="TOY_KEY")
    judge.answer([ask(0)])
    assert endpoint.headers[0]["Authorization"] == "Bearer a-secret"
    monkeypatch.delenv("TOY_KEY")
    with pytest.raises(ConfigError, match="TOY_KEY"):
        judge_at(endpoint, key_variable="TOY_KEY")


def test_a_reward_model_conforms_over_an_endpoint(stub):
    config = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(stub().url,))
    judge = open_judge(config, "somebody/checkpoint")
    model = RoboRewardModel(judge, own_prompt(CONTRACT), RoboRewardConfig(camera="front"))
    shown = random_observations(model, count=6)
    check_reward_model(model, observations=shown)
    assert all(score.valid and score.spread > 0 for score in score_episode(model, "t", shown))
    judge.close()


def test_questions_that_nobody_waits_for_come_back_one_by_one(stub, judge_at):
    held = threading.Event()

    def say(body):
        if float(pictures_of(body)[0].mean()) > 100:
            held.wait(5)
        return by_brightness(body)

    endpoint = stub(say)
    judge = judge_at(endpoint, backoff_s=0.0, attempts=1)
    slow, quick = judge.submit(ask(255)), judge.submit(ask(0))
    assert quick.result(5).text == "ANSWER: 1"
    assert not slow.done()
    held.set()
    assert slow.result(5).text == "ANSWER: 5"
    endpoint.close()
    with pytest.raises(JudgeDown, match="No endpoint"):
        judge.submit(ask(0)).result(5)


def test_a_question_that_has_to_queue_is_answered_all_the_same(stub, judge_at):
    """Eight rounds of 0.1 s, and 0.4 s for each question: no longer than that from when it is sent."""

    def slowly(body):
        time.sleep(0.1)
        return by_brightness(body)

    judge = judge_at(stub(slowly), concurrency=1, deadline_s=0.4, timeout_s=0.3)
    assert [reply.text for reply in judge.answer([ask(255)] * 8)] == ["ANSWER: 5"] * 8


@pytest.mark.parametrize("status", [401, 403, 404, 418, 500])
def test_an_endpoint_that_gives_errors_is_silent_alone_and_harmless_beside_a_good_one(stub, judge_at, status):
    broken = stub(lambda body: (status, {"error": "out of order"}))
    with pytest.raises(JudgeSilent, match=f"status {status}: .*out of order"):
        judge_at(broken).answer([ask(0)] * 3)
    judge = judge_at(broken, stub(), served_model="toy")
    assert [reply.text for reply in judge.answer([ask(255)] * 6)] == ["ANSWER: 5"] * 6


def test_an_endpoint_that_breaks_in_the_middle_of_a_batch_leaves_no_question_unanswered(stub, judge_at):
    count = [0]

    def breaking(body):
        count[0] += 1
        return (500, {}) if count[0] > 3 else by_brightness(body)

    judge = judge_at(stub(breaking), attempts=2, concurrency=1)
    with pytest.raises(JudgeSilent):
        judge.answer([ask(0)] * 6)
    count[0] = -100
    assert [reply.text for reply in judge.answer([ask(0)] * 6)] == ["ANSWER: 1"] * 6


def test_a_question_that_an_endpoint_chokes_on_is_alone_without_a_reply(stub, judge_at):
    judge = judge_at(
        stub(lambda b: (500, {}) if float(pictures_of(b)[0].mean()) > 100 else by_brightness(b)), attempts=2
    )
    assert [reply and reply.text for reply in judge.answer([ask(0), ask(255)])] == ["ANSWER: 1", None]


def test_an_answer_that_drips_is_cut_off_as_one_that_does_not_come(drip, judge_at):
    judge = judge_at(drip(b" "), served_model="toy", attempts=1, timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(JudgeSilent, match="in time"):
        judge.answer([ask(0)])
    assert time.monotonic() - began < 5.0
    assert judge.faults["timeout"] == 1


def test_an_answer_without_end_is_no_reply(drip, judge_at):
    judge = judge_at(drip(b" " * (1 << 20)), served_model="toy", attempts=1)
    assert judge.answer([ask(0)]) == [None]
    assert judge.faults["unreadable"] == 1


@pytest.fixture
def drip():
    """Endpoints whose answers begin well and never end: the same bytes follow, twenty times a second."""
    servers = []

    def make(part):
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    for _ in range(100):
                        self.wfile.write(part)
                        self.wfile.flush()
                        time.sleep(0.05)

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()
