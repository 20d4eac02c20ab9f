"""RoboReward: its formulas, what it asks and when, what it makes of every kind of answer, and the way over a socket."""

import contextlib
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roborl.clock import FakeClock
from roborl.errors import ConfigError, ModelLoadError, ShapeError
from roborl.rewards.calibrated import CalibratedModel
from roborl.rewards.calibration import Calibration
from roborl.rewards.frame_grid import FrameGrid
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.queries import Clip, VlmQuery, VlmReply
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.rewards.model import score_episode
from roborl.rewards.pool import SessionPool
from roborl.rewards.pool_config import PoolConfig
from roborl.rewards.prompts import own_prompt
from roborl.rewards.registry import find_loader, load_reward_model
from roborl.rewards.roboreward import CONTRACT, RoboRewardModel, open_roboreward
from roborl.rewards.roboreward_config import RoboRewardConfig, ScoreReadout
from roborl.rewards.transforms import RewardTransform
from roborl.rewards.verdicts import DoneCounter
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import Scored, SessionRefused
from roborl.testing.check_reward_model import check_reward_model, random_observations
from roborl.testing.vlms import NoisyVlm, ScriptedVlm, brightness_of_last
from roborl.types import Frame, Observation

TASK = "put the cube into the bowl"


def observation(index, level, views=("front",), px=32):
    image = np.full((px, px, 3), level, np.uint8)
    frames = {name: Frame(rgb=image, camera=name, stamp_ns=0, id=index) for name in views}
    return Observation(frames=frames, state=np.zeros(1, np.float32), stamp_ns=0)


def episode(count, views=("front",)):
    return [observation(i, 255 * i // max(1, count - 1), views) for i in range(count)]


def answer_of(value):
    return f"ANSWER: {round(1 + 4 * value)}"


def model_of(judge, **options):
    return RoboRewardModel(judge, own_prompt(CONTRACT), RoboRewardConfig(**options))


def one_score(reply, **options):
    (score,) = score_episode(model_of(ScriptedVlm(lambda q: reply), **options), TASK, episode(1))
    return score


def fixed(*probabilities, mass=1.0, cells=()):
    return VlmReply(text="ANSWER: 3", probabilities=probabilities, mass=mass, cells=cells)


# --- the score


@given(st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5).filter(lambda p: sum(p) > 0.01))
def test_progress_and_spread_are_mean_and_deviation_of_the_digits(weights):
    p = np.array(weights) / sum(weights)
    score = one_score(fixed(*p))
    expected = sum(k * p_k for k, p_k in zip(range(1, 6), p, strict=True))
    variance = sum((k - expected) ** 2 * p_k for k, p_k in zip(range(1, 6), p, strict=True))
    assert score.raw == pytest.approx(expected)
    assert score.progress == pytest.approx((expected - 1) / 4)
    assert score.progress == pytest.approx(expected / 4 - 0.25)
    assert score.spread == pytest.approx(math.sqrt(variance) / 4, abs=1e-6)
    assert score.done is None


@pytest.mark.parametrize("level", range(1, 6))
def test_a_written_score_is_certain(level):
    score = one_score(VlmReply(text=f"ANSWER: {level}"), reading=ScoreReadout.TEXT)
    assert (score.raw, score.progress, score.spread) == (level, (level - 1) / 4, 0.0)


VOTING = {"temperature": 0.7, "reading": ScoreReadout.TEXT}


def test_votes_are_averaged_and_lost_ones_left_out():
    votes = ["ANSWER: 2", "ANSWER: 5", "ANSWER: 3"]
    judge = ScriptedVlm(lambda q: votes[q.seed])
    (score,) = score_episode(model_of(judge, votes=3, **VOTING), TASK, episode(1))
    assert score.raw == pytest.approx(10 / 3)
    assert score.spread == pytest.approx(float(np.std([2, 5, 3])) / 4)
    assert "3 votes" in score.reply
    lost = ScriptedVlm(lambda q: [None, "It went well.", "ANSWER: 3"][q.seed])
    (score,) = score_episode(model_of(lost, votes=3, **VOTING), TASK, episode(1))
    assert (score.valid, score.raw) == (True, 3.0)


@pytest.mark.parametrize(
    ("reply", "settings", "level"),
    [
        # The expected score is 3.3, and a greedy judge writes 4.
        (fixed(0.3, 0, 0, 0.6, 0.1), {}, 4),
        ("ANSWER: 2", {"reading": ScoreReadout.TEXT}, 2),
        ("It went well.", {"reading": ScoreReadout.TEXT}, None),
        # No score for a learner, and an answer by the rule of RoboRewardBench.
        ("**ANSWER: 4**", {"reading": ScoreReadout.TEXT}, 4),
        ("4 out of 5", {"reading": ScoreReadout.TEXT}, 4),
        (VlmReply(text="ANSWER: 4.5. The cube", ended=False), {"reading": ScoreReadout.TEXT}, 4.5),
        (VlmReply(text="ANSWER: 4", cells=((1, 2, 2),)), {"reading": ScoreReadout.TEXT}, None),
        (fixed(0.2, 0.2, 0.2, 0.2, 0.2, mass=0.1), {}, None),
        (None, {}, None),
    ],
)
def test_the_level_that_is_written_is_kept_beside_the_expected_score(reply, settings, level):
    fold = model_of(ScriptedVlm(lambda q: reply), **settings).start(TASK, {})
    assert fold.written is None
    (query,) = fold.queries(observation(0, 9))
    fold.fold(0, ScriptedVlm(lambda q: reply).answer([query]))
    assert fold.written == level


def errors_of_votes(votes, bias, count=150):
    """The errors of many scores, each of so many votes of a judge with known noise and bias; the truth is 0.4."""
    judge = NoisyVlm(lambda q: 0.4, answer_of, noise=0.15, bias=bias)
    model = model_of(judge, votes=votes, **VOTING)
    scores = [score_episode(model, f"{TASK} {i}", [observation(0, 9)])[0].progress for i in range(count)]
    return np.array(scores) - 0.4


def rms(errors):
    return float(np.sqrt(np.mean(errors**2)))


def test_error_falls_with_the_root_of_the_votes():
    """The judge is biased to the middle level, about which its rounding to levels is even."""
    one = rms(errors_of_votes(1, bias=0.1) - 0.1)
    for votes in (4, 16, 64):
        assert rms(errors_of_votes(votes, bias=0.1) - 0.1) == pytest.approx(one / np.sqrt(votes), rel=0.3)


def test_error_floors_at_the_bias_however_many_vote():
    few, many, most = (errors_of_votes(votes, bias=0.2) for votes in (1, 16, 64))
    assert [errors.mean() for errors in (few, many, most)] == pytest.approx([0.2] * 3, abs=0.03)
    assert rms(most) == pytest.approx(0.2, abs=0.03)
    assert rms(few) > rms(many) > rms(most) - 0.01
    assert rms(many) == pytest.approx(float(np.hypot(few.std() / 4, 0.2)), abs=0.03)


@pytest.mark.parametrize(
    ("reply", "options", "words"),
    [
        (None, {}, "no reply"),
        (fixed(0.2, 0.2, 0.2, 0.2, 0.2, mass=0.49), {}, "something else"),
        (VlmReply(text="ANSWER: so"), {}, "cannot be read: ANSWER: so"),
        (VlmReply(text="ANSWER: 3 or 4"), {}, "cannot be read"),
        (VlmReply(text="It went well."), {"reading": ScoreReadout.TEXT}, "cannot be read: It went well"),
        (VlmReply(text="ANSWER: 3", ended=False), {"reading": ScoreReadout.TEXT}, "cut short: ANSWER: 3"),
        (VlmReply(text="ANSWER: 2 ANSWER: 4"), {"reading": ScoreReadout.TEXT}, "cannot be read"),
        (fixed(0, 0, 1, 0, 0, cells=((8, 2, 4),)), {}, "too little of the frames: 8 x 2 x 4"),
    ],
)
def test_an_answer_that_says_nothing_is_missing(reply, options, words):
    score = one_score(reply, **options)
    assert not score.valid
    assert words in score.reply


def test_without_probabilities_the_score_is_the_one_written_and_says_so(caplog):
    judge = ScriptedVlm(lambda query: "ANSWER: 4")
    scores = score_episode(model_of(judge), TASK, episode(3))
    assert [(s.valid, s.raw, s.progress, s.spread) for s in scores] == [(True, 4.0, 0.75, 0.0)] * 3
    assert {s.reply for s in scores} == {"ANSWER: 4; no probabilities"}
    assert caplog.text.count("gives no probabilities") == 1
    caplog.clear()
    score_episode(model_of(judge, reading=ScoreReadout.TEXT), TASK, episode(3))
    assert "no probabilities" not in caplog.text


def test_what_the_network_saw_stands_with_the_score():
    assert "saw 8 x 6 x 10" in one_score(fixed(0, 0, 1, 0, 0, cells=((8, 6, 10),))).reply


def test_done_is_said_only_where_a_score_for_it_is_set():
    judge = NoisyVlm(brightness_of_last, answer_of)
    scores = score_episode(model_of(judge, done_score=4.5, done_frames=2), TASK, episode(12))
    reached = [s.raw >= 4.5 for s in scores]
    assert [s.done for s in scores] == [(a or None) if b else False for a, b in pairwise([False, *reached])]


def test_done_of_a_calibrated_model_is_read_off_the_calibrated_progress():
    model = model_of(NoisyVlm(brightness_of_last, answer_of), done_score=4.5, done_frames=1)
    low, high = (Calibration(raw=(0.0, 1.0), calibrated=(0.0, most)) for most in (0.8, 0.9))
    done = [[s.done for s in score_episode(CalibratedModel(model, c), TASK, episode(2))] for c in (low, high)]
    assert done == [[False, False], [False, True]]


@pytest.mark.parametrize("levels", [(1.0, 2.6, 4.7), (1.2, 3.4, 5.0)])
@pytest.mark.parametrize("done_score", [1.2, 2.6, 3.4, 4.7, 5.0])
def test_a_score_that_is_just_reached_is_done(levels, done_score):
    rule = RoboRewardConfig(done_score=done_score, done_frames=1, reading=ScoreReadout.TEXT).done_rule
    for level in levels:
        assert DoneCounter(rule).read((level - 1) / 4) == (level >= done_score)


@pytest.mark.parametrize("done_score", [-1.0, 1.0, 5.1, math.nan])
def test_a_score_that_always_or_never_means_done_is_refused(done_score):
    with pytest.raises(ConfigError, match=r"always does, or never.*Found: done_score.*Allowed: above 1"):
        RoboRewardConfig(done_score=done_score)


def test_a_score_that_a_mean_of_probabilities_does_not_reach_is_refused_and_one_near_5_named():
    for done_score in (4.91, 5.0):
        with pytest.raises(ConfigError, match=r"ever count as done.*Found: .*Allowed: 4\.9.*text.*4\.5"):
            RoboRewardConfig(done_score=done_score)
    assert RoboRewardConfig(done_score=4.9).done_rule.progress == pytest.approx(3.9 / 4)
    assert RoboRewardConfig(done_score=5.0, reading=ScoreReadout.TEXT).done_rule.progress == 1.0


# --- the questions


@given(most=st.integers(2, 20), stride=st.integers(1, 12), count=st.integers(1, 200), first=st.integers(0, 5))
def test_frames_are_even_few_and_end_with_the_newest(most, stride, count, first):
    grid = FrameGrid(most=most, stride=stride)
    for index in range(first, first + count):
        grid.add(index, np.full((1, 1, 3), index % 256, np.uint8))
        indices, frames = grid.video()
        assert indices[-1] == index
        assert indices[0] == first
        assert 2 <= len(indices) <= most
        assert len(grid._frames) <= most
        assert [int(frame[0, 0, 0]) for frame in frames] == [i % 256 for i in indices]
        spacing = stride
        while math.ceil((index - first) / spacing) + 1 > most:
            spacing *= 2
        assert set(indices) == {*range(first, index + 1, spacing), index}
        gaps = np.diff(indices)
        if index > first:
            assert len(set(gaps[:-1].tolist())) <= 1
            assert 0 < gaps[-1] <= max(gaps[0], stride)


@pytest.mark.parametrize("step", [7, 11, 13, 16])
def test_frames_that_never_come_leave_the_video_as_full_as_the_others_allow(step):
    grid = FrameGrid(most=16, stride=5)
    for index in range(3, 303, step):
        grid.add(index, np.full((1, 1, 3), index % 256, np.uint8))
        indices, frames = grid.video()
        assert (indices[0], indices[-1]) == (3, index)
        assert list(indices[1:]) == sorted(set(indices[1:]))
        assert [int(frame[0, 0, 0]) for frame in frames] == [i % 256 for i in indices]
        assert min(len(range(3, index + 1, step)), 8) <= len(indices) <= 16
    assert len(indices) >= 15
    assert max(np.diff(indices)) <= 2 * 20


def test_a_question_is_words_then_the_video_so_far():
    judge = NoisyVlm(brightness_of_last, answer_of)
    model = model_of(judge, frames=4, observation_hz=10.0, frame_hz=5.0)
    score_episode(model, TASK, episode(12))
    words, clip = judge.asked[5].parts
    assert TASK in words
    assert judge.asked[5].prefix == 1
    assert clip.stamps_s == (0.0, 0.2, 0.4, 0.5)
    assert all(isinstance(q.parts[1], Clip) and len(q.parts[1].frames) <= 4 for q in judge.asked)
    assert (judge.asked[0].parts[1].frames[0] == judge.asked[0].parts[1].frames[1]).all()
    assert judge.asked[0].choices == ("1", "2", "3", "4", "5")
    assert judge.asked[0].reply_start == "ANSWER: "
    turned = NoisyVlm(brightness_of_last, answer_of)
    score_episode(model_of(turned, words_first=False), TASK, episode(2))
    assert isinstance(turned.asked[0].parts[0], Clip)
    assert turned.asked[0].prefix == 0


def test_frames_that_are_not_scored_are_part_of_the_video():
    judge = NoisyVlm(brightness_of_last, answer_of)
    model = model_of(judge, observation_hz=2.0)
    score_episode(model, TASK, episode(40))
    whole = {q.parts[1].stamps_s[-1]: q.parts[1].stamps_s for q in judge.asked}
    judge.asked.clear()
    score_episode(model, TASK, episode(40), stride=4)
    assert len(judge.asked) == 11
    assert all(whole[q.parts[1].stamps_s[-1]] == q.parts[1].stamps_s for q in judge.asked)


def test_one_view_is_looked_at_and_it_must_be_there():
    judge = NoisyVlm(brightness_of_last, answer_of)
    with pytest.raises(ShapeError, match="several"):
        score_episode(model_of(judge), TASK, episode(2, ("front", "wrist")))
    assert len(score_episode(model_of(judge, camera="wrist"), TASK, episode(2, ("front", "wrist")))) == 2
    with pytest.raises(ShapeError, match="missing: 'wrist'"):
        score_episode(model_of(judge, camera="wrist"), TASK, episode(2))
    fold = model_of(judge).start(TASK, {})
    fold.queries(observation(0, 1))
    with pytest.raises(ShapeError, match="missing: 'front'"):
        fold.queries(observation(1, 1, ("wrist",)))


def test_a_session_of_several_views_is_refused_while_none_is_named():
    judge = NoisyVlm(brightness_of_last, answer_of)
    line = Calibration(raw=(0.0, 1.0), calibrated=(0.0, 0.9))
    either = model_of(judge)
    models = {
        "either": either,
        "mapped": CalibratedModel(either, line),
        "one": model_of(judge, camera="wrist"),
    }
    pool = SessionPool(models, clock=FakeClock())
    for name in ("either", "mapped"):
        with pytest.raises(
            ConfigError, match=r"which view.*Found: \['front', 'wrist'\].*Allowed: 1 .*as camera"
        ):
            pool.open("a", model=name, task=TASK, cameras=("front", "wrist"))
        pool.open("a", model=name, task=TASK, cameras=("front",))
    pool.open("a", model="one", task=TASK, cameras=("front", "wrist"))


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 1},
        {"votes": 0},
        {"votes": 2, "reading": ScoreReadout.TEXT},
        {"votes": 2, "temperature": 0.7},
        {"frame_hz": 20.0},
        {"min_mass": 1.5},
        {"max_tokens": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        RoboRewardConfig(**options)


def test_the_version_tells_every_setting_that_bears_on_a_score():
    judge, base = ScriptedVlm(lambda q: None), {"camera": "front"}
    versions = {model_of(judge, **base).info.version}
    others = [
        {"frames": 8},
        {"frame_hz": 1.0},
        {"reading": ScoreReadout.TEXT},
        {"words_first": False},
        {"camera": "wrist"},
        {"temperature": 0.5},
    ]
    versions |= {model_of(judge, **(base | other)).info.version for other in others}
    versions.add(model_of(ScriptedVlm(lambda q: None, identity="other"), **base).info.version)
    other_words = replace(own_prompt(CONTRACT), template="other words: {task} answer:")
    versions.add(RoboRewardModel(judge, other_words, RoboRewardConfig(**base)).info.version)
    assert len(versions) == len(others) + 3
    assert all(version.startswith("roboreward-own-") for version in versions)


# --- rewards


def test_rewards_by_name():
    scores = [1.0, 2.0, 1.5, 4.0, 5.0]
    share = (np.array(scores) - 1) / 4
    by = {t: t.rewards(scores, discount=0.9) for t in RewardTransform if t != "absolute"}
    assert by["terminal01"].tolist() == [0, 0, 0, 1]
    assert by["delta"] == pytest.approx(np.diff(share))
    assert by["potential"] == pytest.approx([*(0.9 * share[1:4] - share[:3]), -share[3]])
    going_on = RewardTransform.POTENTIAL.rewards(scores, discount=0.9, terminated=False)
    assert going_on == pytest.approx(0.9 * share[1:] - share[:-1])
    # With the potential zeroed at a true end, what is paid adds up to −Φ of the start: no policy is preferred by it.
    assert sum(0.9**i * r for i, r in enumerate(by["potential"])) == pytest.approx(-share[0])


def test_absolute_scores_at_every_step_have_to_be_forced():
    with pytest.raises(ConfigError, match="going on"):
        RewardTransform.ABSOLUTE.rewards([1, 3])
    assert RewardTransform.ABSOLUTE.rewards([1, 3, 5], forced=True).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("scores", [[3], [0.5, 2], [1, 6], [1, math.nan]])
def test_scores_that_are_none_make_no_rewards(scores):
    with pytest.raises(ShapeError):
        RewardTransform.TERMINAL01.rewards(scores)


# --- what the network sees


IMAGES = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
"""Limits of Qwen3-VL's published checkpoints for a picture."""
CLIPS = {"shortest_edge": 4_096, "longest_edge": 25_165_824}
"""Likewise for a clip, all frames together."""
CLASS_CLIPS = {"shortest_edge": 131_072, "longest_edge": 786_432}
"""Limits of the library's class for a clip, where a checkpoint brings none."""


@pytest.fixture(scope="module")
def limited(tiny, tmp_path_factory):
    """A judge with a network whose processors have these limits."""

    def make(clips, kind="qwen3_vl", images=IMAGES, **limits):
        folder = shutil.copytree(tiny[kind], tmp_path_factory.mktemp("limited") / kind)
        file = folder / "processor_config.json"
        described = json.loads(file.read_text())
        described["image_processor"]["size"] = images
        described["video_processor"]["size"] = clips
        file.write_text(json.dumps(described))
        return TransformersJudge.load(JudgeConfig(device="cpu"), str(folder), **limits)

    return make


def film(frames, height, width):
    pictures = (np.zeros((height, width, 3), np.uint8),) * frames
    return VlmQuery(parts=(Clip(frames=pictures, stamps_s=tuple(map(float, range(frames)))),))


@pytest.mark.parametrize(
    ("frames", "collapsed", "tokens", "hub_tokens"),
    [
        (8, (6, 10), 240, 240),
        (16, (5, 8), 320, 480),
        (32, (3, 6), 288, 960),
        (62, (2, 4), 248, 1860),
        (310, (1, 2), 310, 9300),
    ],
)
def test_the_known_collapse_of_the_grid_and_the_pin_against_it(
    limited, frames, collapsed, tokens, hub_tokens
):
    """Visual tokens of a clip of 320 x 192 pictures: the class's own limit, the hub's, and ours per frame."""
    clip = film(frames, 192, 320)
    assert limited(CLASS_CLIPS).cells(clip) == ((frames // 2, *collapsed),)
    assert frames // 2 * math.prod(collapsed) == tokens
    ((instants, rows, columns),) = limited(CLIPS).cells(clip)
    assert instants * rows * columns == hub_tokens
    for clips in (CLIPS, CLASS_CLIPS):
        assert limited(clips, max_pixels=76_800).cells(clip) == ((frames // 2, 6, 10),)


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [(192, 320, (6, 10)), (224, 224, (7, 7)), (240, 320, (7, 10)), (480, 640, (7, 10)), (96, 96, (3, 3))],
)
def test_a_clip_is_never_enlarged_to_the_least_size_of_a_picture(limited, height, width, grid):
    """Every grid has at most the 76,800 pixels that were set, of 32 x 32 each."""
    assert math.prod(grid) * 32 * 32 <= 76_800
    assert limited(CLIPS, max_pixels=76_800).cells(film(16, height, width)) == ((8, *grid),)


def test_limits_that_are_set_hold_for_pictures_and_for_clips_and_the_others_are_the_checkpoints(limited):
    def picture(judge, px):
        ((_, rows, columns),) = judge.cells(VlmQuery(parts=(np.zeros((px, px, 3), np.uint8),)))
        return rows, columns

    assert picture(limited(CLIPS), 64) == (8, 8)
    assert picture(limited(CLIPS, min_pixels=9_216), 64) == (3, 3)
    assert picture(limited(CLIPS, max_pixels=9_216), 64) == (3, 3), "the checkpoint's least gives way"
    assert limited(CLIPS, min_pixels=9_216).cells(film(16, 64, 64)) == ((8, 3, 3),)
    older = {"shortest_edge": 3_136, "longest_edge": 12_845_056}
    of_each = limited(older, kind="qwen2_5_vl", images=older, max_pixels=76_800)
    assert of_each.cells(film(16, 480, 640)) == ((8, 8, 11),)


def test_a_collapsed_grid_is_refused_when_the_model_is_loaded(tiny):
    config = RoboRewardConfig(checkpoint=str(tiny["qwen3_vl"]), judge=JudgeConfig(device="cpu"))
    assert open_roboreward(config).check_cells(192, 320) == (8, 6, 10)
    with pytest.raises(ConfigError, match=r"too little of each frame.*8 x 3 x 4.*max_pixels"):
        open_roboreward(replace(config, max_pixels=16_384))
    assert open_roboreward(config).check_cells(192, 192) == (8, 6, 6)
    with pytest.raises(ConfigError, match=r"8 x 2 x 2 for 16 frames of 64 x 64"):
        open_roboreward(config).check_cells(64, 64)
    assert open_roboreward(replace(config, min_pixels=65_536)).check_cells(64, 64) == (8, 8, 8)


def test_a_network_that_is_shown_no_videos_is_refused(tiny):
    with pytest.raises(ShapeError, match="never clips"):
        open_roboreward(RoboRewardConfig(checkpoint=str(tiny["internvl"]), judge=JudgeConfig(device="cpu")))


# --- the whole way


@pytest.mark.parametrize(
    "options",
    [{}, {"reading": ScoreReadout.TEXT}, {"votes": 3, "temperature": 1.0, "reading": ScoreReadout.TEXT}],
)
def test_the_model_conforms_with_a_fake_judge(options):
    judge = NoisyVlm(brightness_of_last, answer_of, noise=0.1, width=0.1)
    check_reward_model(model_of(judge, camera="front", **options))
    check_reward_model(model_of(judge, **options))


def tiny_config(tiny, kind="qwen3_vl", **options):
    return RoboRewardConfig(
        checkpoint=str(tiny[kind]),
        judge=JudgeConfig(device="cpu"),
        max_pixels=4096,
        min_cells=1,
        min_mass=0.0,
        frames=6,
        **options,
    )


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl"])
def test_the_model_conforms_with_a_tiny_network(tiny, kind):
    model = open_roboreward(tiny_config(tiny, kind, camera="front", observation_hz=4.0))
    check_reward_model(model, observations=random_observations(model, count=10))
    scores = score_episode(model, TASK, random_observations(model, count=10))
    assert len({score.progress for score in scores}) > 8
    assert all(0 < score.spread < 0.5 and "saw" in score.reply for score in scores)


def test_a_network_that_runs_out_of_memory_is_asked_in_halves(tiny, monkeypatch):
    model = open_roboreward(tiny_config(tiny))
    shown = random_observations(model, count=8)
    expected = score_episode(model, TASK, shown)
    read, sizes = model.judge.reader.read, []

    def tight(turns):
        sizes.append(len(turns))
        if len(turns) > 2:
            raise torch.OutOfMemoryError("no room")
        return read(turns)

    monkeypatch.setattr(model.judge.reader, "read", tight)
    pool = SessionPool({"m": model}, PoolConfig(max_batch=8), clock=FakeClock())
    pool.open("s", model="m", task=TASK, cameras=["front"])
    for observation_ in shown:
        pool.push("s", observation_)
    while pool.step("m"):
        pass
    scores = [outcome.score for outcome in pool.collect()]
    assert [s.progress for s in scores] == pytest.approx([s.progress for s in expected], abs=1e-4)
    assert max(sizes[1:]) <= 4
    assert pool.statistics()["models"]["m"]["max_batch"] == 2


def test_a_camera_that_drops_out_costs_its_scores_and_no_more():
    judge = NoisyVlm(brightness_of_last, answer_of)
    pool = SessionPool({"m": model_of(judge, camera="front")}, clock=FakeClock())
    pool.open("s", model="m", task=TASK, cameras=["front", "wrist"])
    for i in range(6):
        pool.push("s", observation(i, 40 * i, ("wrist",) if i == 3 else ("front", "wrist")))
    while pool.step("m"):
        pass
    valid = [outcome.score.valid for outcome in pool.collect()]
    assert valid == [True, True, True, False, True, True]


@pytest.mark.parametrize("odd", [3, 5])  # beside the grid and on it
def test_a_frame_of_another_size_costs_its_score_and_no_more(odd):
    judge = NoisyVlm(brightness_of_last, answer_of)
    shown = [observation(i, 20 * i, px=16 if i == odd else 32) for i in range(12)]
    pool = SessionPool({"m": model_of(judge)}, clock=FakeClock())
    pool.open("s", model="m", task=TASK, cameras=["front"])
    for one in shown:
        pool.push("s", one)
    while pool.step("m"):
        pass
    assert [outcome.score.valid for outcome in pool.collect()] == [i != odd for i in range(12)]
    fold = model_of(judge).start(TASK, {})
    for one in shown:
        if one is shown[odd]:
            with pytest.raises(ShapeError, match="differ in size"):
                fold.skip(one)
        else:
            fold.skip(one)


def test_weights_that_are_not_finite_give_missing_scores_and_the_run_goes_on(tiny):
    model = open_roboreward(tiny_config(tiny))
    with torch.no_grad():
        model.judge.network.model.lm_head.weight[0] = float("nan")
    scores = score_episode(model, TASK, random_observations(model, count=4))
    assert [score.valid for score in scores] == [False] * 4
    assert {score.reply for score in scores} == {"no reply"}


def settings_file(tiny, tmp_path):
    path = tmp_path / "roboreward.yaml"
    path.write_text(
        f"checkpoint: {tiny['qwen3_vl']}\nmax_pixels: 4096\nmin_cells: 1\n"
        "min_mass: 0.0\nframes: 6\njudge:\n  device: cpu\n"
    )
    return path


def test_a_spec_names_a_checkpoint_or_its_settings(tiny, tmp_path):
    by_settings = load_reward_model(f"roboreward:{settings_file(tiny, tmp_path)}")
    assert by_settings.info.version == open_roboreward(tiny_config(tiny)).info.version
    whole = load_reward_model(f"roboreward:{tiny['qwen3_vl']}")
    assert whole.info.version != by_settings.info.version
    with pytest.raises(ModelLoadError, match="no such checkpoint"):
        load_reward_model("roboreward:/nowhere/at/all")
    with pytest.raises(ModelLoadError, match="roboreward"):
        find_loader("somebody:else")


def test_the_words_of_the_card_are_asked_and_stand_in_the_version(tiny, tmp_path):
    folder = shutil.copytree(tiny["qwen3_vl"], tmp_path / "with_card")
    (folder / "README.md").write_text(
        "# Card\n```text\nRate it. ANSWER: <score>\nIt: <INSERT TASK HERE>\n```\n"
    )
    model = open_roboreward(replace(tiny_config(tiny), checkpoint=str(folder)))
    assert model.info.version.startswith("roboreward-found-")
    (query,) = model.start(TASK, {}).queries(observation(0, 9))
    assert query.parts[0] == f"Rate it. ANSWER: <score>\nIt: {TASK}"


@contextlib.contextmanager
def served(place):
    """A reward server of its own process, at some address; its statistics stand in the list once it has ended."""
    run = "import sys; from roborl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", run, "serve", place, "--endpoint", "tcp://127.0.0.1:*"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    statistics = []
    try:
        endpoint = next(line.rsplit(" ", 1)[1].strip() for line in process.stderr if " on tcp://" in line)
        yield endpoint, statistics
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
        statistics += [json.loads(line) for line in out.splitlines()[-1:]]


def test_frames_go_in_and_scores_come_out_of_a_served_checkpoint(tiny, tmp_path):
    with served(f"roboreward:{settings_file(tiny, tmp_path)}") as (endpoint, statistics):
        shown = random_observations(open_roboreward(tiny_config(tiny)), count=6)
        scores = watched(endpoint, [o.images for o in shown])
        expected = score_episode(open_roboreward(tiny_config(tiny)), TASK, shown)
        assert [s.frame_id for s in scores] == list(range(6))
        for one, other in zip(scores, expected, strict=True):
            assert one.version == other.version
            assert one.progress == pytest.approx(other.progress, abs=1e-4)
        assert all(s.timings_ms["server"] >= s.timings_ms["reading"] > 0 for s in scores)
    assert statistics[0]["models"]["roboreward.yaml"]["scored"] == {"label": 6}


def test_a_fake_judge_can_be_served_without_any_checkpoint(tmp_path):
    path = tmp_path / "fake.yaml"
    path.write_text("judge:\n  kind: fake\n  reply: 'ANSWER: 4'\n")
    with served(f"roboreward:{path}") as (endpoint, _):
        scores = watched(endpoint, [o.images for o in episode(3)])
    assert [(s.valid, s.progress) for s in scores] == [(True, 0.75)] * 3


def watched(endpoint, images):
    client = ScoreClient(endpoint, name="test")
    try:
        session, scores, sent = client.open_session(TASK, ["front"]), [], 0
        deadline = time.monotonic() + 20
        while len(scores) < len(images):
            assert time.monotonic() < deadline, scores
            while sent < len(images) and client.push_frame(session, sent, images[sent], score=True):
                sent += 1
            for event in client.poll(0.02):
                if isinstance(event, Scored):
                    scores.append(event.score)
                assert not isinstance(event, SessionRefused), event
        return scores
    finally:
        client.close()
