"""SOLE-R1: what it is shown and when, which answers count, and the way from a spec to scores."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from roborl.clock import FakeClock
from roborl.errors import ConfigError, ShapeError
from roborl.rewards.model import score_episode
from roborl.rewards.pool import SessionPool
from roborl.rewards.prompts import own_prompt
from roborl.rewards.registry import load_reward_model
from roborl.rewards.sole import CONTRACT, SoleConfig, SoleModel, compose, parse_answer
from roborl.testing.check_reward_model import check_reward_model, random_observations
from roborl.testing.spelling import teach_to_spell
from roborl.testing.tiny_vlms import build_tiny_vlm
from roborl.testing.vlms import ScriptedVlm
from roborl.types import Frame, Observation

TASK = "close the drawer"


def observation(index, views=("front",), px=8):
    frames = {
        name: Frame(rgb=np.full((px, px, 3), 10 * index + k, np.uint8), camera=name, stamp_ns=0, id=index)
        for k, name in enumerate(views)
    }
    return Observation(frames=frames, state=np.zeros(1, np.float32), stamp_ns=0)


def model_of(reply, **options):
    return SoleModel(ScriptedVlm(reply), own_prompt(CONTRACT), SoleConfig(**options))


def shown(model, stride=1, count=6, views=("front",)):
    """The level of each cell of the pictures asked about."""
    model.judge.asked.clear()
    score_episode(model, TASK, [observation(i, views) for i in range(count)], stride=stride)
    return [query.pictures[0][196::392, 196::392, 0].tolist() for query in model.judge.asked]


def half(query):
    return "It is open half way. <answer>50%</answer>"


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        ("<think>a</think><answer>0%</answer>", 0.0),
        ("<answer>100%</answer>", 1.0),
        ("<think>was 20%</think><answer>35%</answer>\n", 0.35),
        ("<answer>101%</answer>", None),
        ("<think>it fell</think><answer>-5%</answer>", -0.05),
        ("<answer>-101%</answer>", None),
        ("<answer>35</answer>", None),
        ("<answer>about 35%</answer>", None),
        ("<answer>35%", None),
        ("35%", None),
        ("", None),
        ("<answer>35%</answer> or so", None),
        ("<answer>35%</answer><answer>40%</answer>", None),
        ("<answer>35%</answer><answer>35%</answer>", None),
    ],
)
def test_one_percentage_in_tags_at_the_end_counts_and_nothing_else(text, progress):
    assert parse_answer(text) == progress
    (score,) = score_episode(model_of(lambda q: text), TASK, [observation(0)])
    assert (score.valid, score.progress) == (progress is not None, max(progress or 0.0, 0.0))
    assert not score.valid or score.raw == pytest.approx(100 * progress)


def test_first_previous_and_current_frame_stand_side_by_side():
    assert shown(model_of(half), count=4) == [[[0, 0, 0]], [[0, 0, 10]], [[0, 10, 20]], [[0, 20, 30]]]
    assert shown(model_of(half, stride=2), count=5)[2:] == [[[0, 0, 20]], [[0, 10, 30]], [[0, 20, 40]]]


def test_the_previous_frame_is_as_far_back_however_few_are_scored():
    every, some = (shown(model_of(half, stride=2), stride=s, count=7) for s in (1, 3))
    assert some == every[::3]


@pytest.mark.parametrize(("stride", "previous"), [(1, 8), (2, 8), (3, 6), (4, 6), (7, 2), (9, 1), (20, 0)])
def test_where_some_frames_never_come_the_previous_one_is_at_least_as_far_back(stride, previous):
    fold = model_of(half, stride=stride).start(TASK, {})
    for index in (0, 1, 2, 4, 6, 8):
        fold.skip(observation(index))
    (query,) = fold.queries(observation(10))
    assert query.pictures[0][196, 196::392, 0].tolist() == [0, 10 * previous, 100]


def test_the_second_view_is_below_the_first_as_named():
    model = model_of(half, cameras=("wrist", "front"))
    assert shown(model, count=3, views=("front", "wrist"))[-1] == [[1, 11, 21], [0, 10, 20]]


def test_a_new_episode_begins_anew():
    model = model_of(half)
    assert shown(model) == shown(model)


def test_a_lost_answer_is_missing_and_the_next_one_counts():
    replies = iter([None, "<answer>40%</answer>"])
    lost, read = score_episode(model_of(lambda q: next(replies)), TASK, [observation(0), observation(1)])
    assert (lost.valid, read.valid, read.progress, read.raw) == (False, True, 0.4, 40.0)


def test_views_are_padded_to_squares_with_black_gaps_between_them():
    """384 px a square, 5 px a gap: 1162 px by 773, then stretched to multiples of 28 px, 1176 by 784."""
    rng = np.random.default_rng(0)
    wide, high = (rng.integers(0, 256, (3, *size, 3), np.uint8) for size in ((480, 640), (320, 160)))
    joined = np.zeros((773, 1162, 3), np.uint8)
    for left, view, other in zip((0, 389, 778), wide, high, strict=True):
        joined[48:336, left : left + 384] = cv2.resize(view, (384, 288), interpolation=cv2.INTER_AREA)
        joined[389:, left + 96 : left + 288] = cv2.resize(other, (192, 384), interpolation=cv2.INTER_AREA)
    bicubic = Image.Resampling.BICUBIC
    both = np.asarray(Image.fromarray(joined).resize((1176, 784), bicubic))
    assert (compose(list(zip(wide, high, strict=True))) == both).all()
    single = np.asarray(Image.fromarray(joined[:384]).resize((1176, 392), bicubic))
    assert (compose([(view,) for view in wide]) == single).all()


@pytest.mark.parametrize(("instants", "views"), [(2, 1), (4, 1), (3, 0), (3, 3)])
def test_a_wrong_number_of_pictures_is_refused(instants, views):
    with pytest.raises(ShapeError, match="cannot be shown"):
        compose([[np.zeros((8, 8, 3), np.uint8)] * views] * instants)


def test_unclear_and_missing_views_are_refused_and_leave_the_fold_as_it_was():
    fold = model_of(half).start(TASK, {})
    fold.queries(observation(0))
    with pytest.raises(ShapeError):
        fold.queries(observation(1, ("wrist",)))
    (query,) = fold.queries(observation(2))
    assert query.pictures[0][196, 196::392, 0].tolist() == [0, 0, 20]
    with pytest.raises(ShapeError, match="which of several"):
        model_of(half).start(TASK, {}).queries(observation(0, ("front", "wrist")))
    with pytest.raises(ConfigError, match="at most two"):
        SoleConfig(cameras=("a", "b", "c"))


def test_a_session_of_several_views_is_refused_while_none_is_named():
    both = ("front", "wrist")
    pool = SessionPool({"any": model_of(half), "both": model_of(half, cameras=both)}, clock=FakeClock())
    with pytest.raises(ConfigError, match=r"which view.*Found: .*wrist.*Allowed: 1 .*it is cameras"):
        pool.open("a", model="any", task=TASK, cameras=both)
    pool.open("a", model="any", task=TASK, cameras=("front",))
    pool.open("a", model="both", task=TASK, cameras=both)


def test_a_tiny_network_is_opened_by_its_spec_and_conforms(tmp_path):
    form = "It moved. <answer>{}%</answer>"
    network = build_tiny_vlm(tmp_path / "tiny", "qwen3_vl", width=64, words=[CONTRACT.own, form])
    path = tmp_path / "sole.yaml"
    path.write_text(
        f"checkpoint: {network}\ncameras: [front]\nmax_tokens: 24\nmax_pixels: 4096\njudge:\n  device: cpu\n"
    )
    model = load_reward_model(f"sole-r1:{path}")
    assert model.info.version.startswith("sole-r1-own-")
    assert load_reward_model(f"sole-r1:{network}").info.version != model.info.version
    seen = random_observations(model, count=4)
    babble = score_episode(model, TASK, seen)
    assert [score.valid for score in babble] == [False] * 4
    assert all(score.reply.startswith("cannot be read") for score in babble)

    fold = model.start(TASK, {})
    lessons = [
        query for shown in random_observations(model, count=9, seed=1) for query in fold.queries(shown)
    ]
    teach_to_spell(model.judge, [(query, form.format(10 * n - 20)) for n, query in enumerate(lessons)])
    scores = score_episode(model, TASK, seen)
    assert all(score.valid for score in scores), [score.reply for score in scores]
    assert len({score.raw for score in scores}) > 1, "it looks at the pictures"
    assert [100 * parse_answer(score.reply) for score in scores] == pytest.approx([s.raw for s in scores])
    check_reward_model(model, observations=seen)
    other = SoleModel(model.judge, model.prompt, replace(model.config, stride=2))
    assert other.info.version != model.info.version
