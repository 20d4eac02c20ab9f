"""The adapter of the general reward model: what it asks, in which order, and what it makes of the replies."""

from dataclasses import replace

import numpy as np
import pytest

from roborl.clock import FakeClock
from roborl.errors import ConfigError, ShapeError
from roborl.rewards.calibrated import CalibratedModel
from roborl.rewards.calibration import Calibration
from roborl.rewards.dopamine import DopamineConfig, DopamineModel, StartReference
from roborl.rewards.dopamine_question import CONTRACT
from roborl.rewards.fusion import FusionConfig, FusionRule, Perspective, hop_between
from roborl.rewards.hop_replies import hop_of, read_hop, write_hop
from roborl.rewards.judges.queries import Token, VlmReply
from roborl.rewards.model import score_episode
from roborl.rewards.pool import SessionPool
from roborl.rewards.prompts import own_prompt
from roborl.rewards.verdicts import DoneRule
from roborl.testing import check_reward_model as conformance
from roborl.testing.vlms import NoisyVlm, ScriptedVlm, query_key
from roborl.types import Frame, Lane, Observation

reward_model_check = conformance.reward_model_check
INCREMENTAL, FORWARD, BACKWARD = Perspective
THREE = {"front": "high", "left_wrist": "left", "right_wrist": "right"}
HIGH, LEFT, RIGHT, GOAL, DEMO = 0, 1, 2, 3, 4


def picture(kind, index=0):
    """A picture that says what it is: red for the camera, green for the frame."""
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = kind, index
    return rgb


def grey(level):
    return np.full((8, 8, 3), round(255 * level), np.uint8)


def observe(index, **pictures):
    frames = {name: Frame(rgb=rgb, camera=name, stamp_ns=index, id=index) for name, rgb in pictures.items()}
    return Observation(frames=frames, state=np.zeros(6, np.float32), stamp_ns=index)


def three(index):
    return observe(index, high=picture(HIGH, index), left=picture(LEFT, index), right=picture(RIGHT, index))


REFERENCES = {
    "goal/high": picture(GOAL),
    "demo/high": np.stack([picture(DEMO, index) for index in range(5)]),
}


def model_of(judge=None, *, perspectives=tuple(Perspective), fusion=None, **settings):
    fusion = fusion or FusionConfig(perspectives=perspectives)
    config = DopamineConfig(**({"use_probabilities": False, "fusion": fusion, "hop_s": 0.0} | settings))
    return DopamineModel(judge=judge or ScriptedVlm(by_key), config=config, prompt=own_prompt(CONTRACT))


def by_key(query):
    """Any hop, a function of the question alone."""
    draw = np.random.default_rng(list(query_key(query))).uniform(-1, 1)
    return write_hop(draw)


def true_hop(query):
    """The hop between two grey levels, of the front pictures."""
    before, after = (query.pictures[place].mean() / 255 for place in (2, 5))
    return write_hop(float(hop_between(before, after)))


def shown(query):
    """What each of the eight pictures is: (kind, frame)."""
    return [(int(rgb[0, 0, 0]), int(rgb[0, 0, 1])) for rgb in query.pictures]


def asked_about(model, frames, references=REFERENCES):
    fold = model.start("fold the towel", references)
    return [fold.queries(three(index)) for index in frames]


# What is asked


@pytest.mark.parametrize(
    ("perspective", "before"),
    [
        (INCREMENTAL, [(HIGH, 6), (LEFT, 6), (RIGHT, 6)]),
        (FORWARD, [(HIGH, 0), (LEFT, 0), (RIGHT, 0)]),
        (BACKWARD, [(GOAL, 0), (GOAL, 0), (GOAL, 0)]),
    ],
)
def test_the_eight_pictures_stand_in_their_order(perspective, before):
    model = model_of(perspectives=(perspective,), **THREE)
    *_, (query,) = asked_about(model, [0, 3, 6, 9])
    after = [(HIGH, 9), (LEFT, 9), (RIGHT, 9)]
    assert shown(query) == [(HIGH, 0), (GOAL, 0), *before, *after]


def test_the_perspectives_are_asked_in_the_order_of_the_settings():
    model = model_of(perspectives=(BACKWARD, FORWARD), **THREE)
    *_, queries = asked_about(model, [0, 1])
    assert [shown(query)[2] for query in queries] == [(GOAL, 0), (HIGH, 0)]


@pytest.mark.parametrize(
    ("views", "kinds"),
    [
        ({"front": "high"}, [HIGH, HIGH, HIGH]),
        ({"front": "high", "left_wrist": "left"}, [HIGH, LEFT, HIGH]),
        ({"front": "high", "right_wrist": "right"}, [HIGH, HIGH, RIGHT]),
        ({"front": "left", "right_wrist": "high"}, [LEFT, LEFT, HIGH]),
    ],
)
def test_the_front_picture_stands_for_a_wrist_that_is_not_there(views, kinds):
    model = model_of(perspectives=(FORWARD,), **views)
    references = {f"goal/{views['front']}": picture(GOAL)}
    *_, (query,) = asked_about(model, [0, 4], references)
    assert shown(query) == [
        (kinds[0], 0),
        (GOAL, 0),
        *((kind, 0) for kind in kinds),
        *((kind, 4) for kind in kinds),
    ]


def test_nine_segments_of_words_stand_around_the_pictures_with_the_task_in_two_of_them():
    *_, (query, *_) = asked_about(model_of(**THREE), [0, 1])
    words = query.parts[::2]
    assert len(query.parts) == 17
    assert all(isinstance(part, str) for part in words)
    assert all(isinstance(part, np.ndarray) for part in query.parts[1::2])
    assert [segment.count("fold the towel") for segment in words] == [1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert query.stop == ("</score>",)
    assert query.system == ""


def test_a_task_is_taken_as_it_is():
    fold = model_of(**THREE).start("put {task} at 50 % into {0}", REFERENCES)
    fold.queries(three(0))
    words = fold.queries(three(1))[0].parts[::2]
    assert "put {task} at 50 % into {0}" in words[0]
    assert "put {task} at 50 % into {0}" in words[-1]


@pytest.mark.parametrize(("perspective", "constant"), [(INCREMENTAL, 2), (FORWARD, 5), (BACKWARD, 5)])
def test_the_prefix_holds_the_pictures_that_stay_and_no_other(perspective, constant):
    asked = asked_about(model_of(perspectives=(perspective,), **THREE), [0, 1, 2, 3])
    queries = [query for (query,) in asked[1:]]
    for query in queries:
        head = query.parts[: query.prefix]
        assert sum(isinstance(part, np.ndarray) for part in head) == constant
        assert all(one is other for one, other in zip(head, queries[0].parts, strict=False))
    first_changing = [shown(query)[constant] for query in queries]
    assert len(set(first_changing)) == len(queries)


def test_with_a_demonstrations_start_the_backward_prefix_is_the_same_for_all_episodes():
    model = model_of(perspectives=(BACKWARD,), start_reference=StartReference.DEMO, **THREE)
    (one,), (other,) = (asked_about(model, [first, 9])[1] for first in (0, 5))
    assert shown(one)[:5] == shown(other)[:5] == [(DEMO, 0), *[(GOAL, 0)] * 4]


def test_hops_span_at_least_so_many_frames():
    asked = asked_about(model_of(perspectives=(INCREMENTAL,), hop_s=0.4, **THREE), range(11))
    assert [shown(query)[2][1] for (query,) in asked[1:]] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


# Goal and start


@pytest.mark.parametrize(
    ("given", "start", "end"),
    [
        ({"goal/high"}, (HIGH, 0), (GOAL, 0)),
        ({"demo/high"}, (HIGH, 0), (DEMO, 4)),
        ({"goal/high", "demo/high"}, (HIGH, 0), (GOAL, 0)),
    ],
)
def test_the_goal_is_a_picture_or_the_end_of_a_demonstration(given, start, end):
    references = {name: REFERENCES[name] for name in given}
    *_, (query,) = asked_about(model_of(perspectives=(FORWARD,), **THREE), [0, 1], references)
    assert shown(query)[:2] == [start, end]


@pytest.mark.parametrize(
    ("references", "settings", "words"),
    [
        ({}, {}, "lacks a reference"),
        ({"goal/front": picture(GOAL)}, {}, "lacks a reference"),  # of another camera
        ({"goal/high": picture(GOAL)}, {"start_reference": StartReference.DEMO}, "lacks a reference"),
        ({"goal/high": picture(GOAL)[None]}, {}, "wrong form"),
        ({"goal/high": picture(GOAL).astype(float)}, {}, "wrong form"),
        ({"goal/high": "goal.png"}, {}, "wrong form"),
        ({"demo/high": picture(DEMO)}, {}, "wrong form"),
        ({"demo/high": np.zeros((0, 8, 8, 3), np.uint8)}, {}, "wrong form"),
    ],
)
def test_without_a_goal_no_episode_starts(references, settings, words):
    with pytest.raises(ConfigError, match=words):
        model_of(**THREE, **settings).start("t", references)


def test_without_a_goal_by_choice_the_end_is_grey_and_never_the_episodes_own():
    model = model_of(perspectives=(INCREMENTAL, FORWARD), goal=False, **THREE)
    *_, queries = asked_about(model, [0, 1], {})
    for query in queries:
        assert query.pictures[1].shape == (224, 224, 3)
        assert set(np.unique(query.pictures[1])) == {128}


def test_references_of_the_model_stand_in_where_a_session_brings_none():
    bare = model_of(perspectives=(FORWARD,), **THREE)
    model = replace(bare, references=REFERENCES)

    def end(references):
        *_, (query,) = asked_about(model, [0, 1], references)
        return shown(query)[1]

    assert end({}) == end({"goal/left": picture(LEFT)}) == (GOAL, 0)
    assert end({"goal/high": picture(RIGHT)}) == (RIGHT, 0)
    assert end({"demo/high": REFERENCES["demo/high"]}) == (
        DEMO,
        4,
    )  # a goal of the model's does not mix with it
    others = [replace(bare, references={name: REFERENCES[name]}) for name in REFERENCES]
    assert len({m.info.version for m in (bare, model, *others)}) == 4


# What is made of the replies


@pytest.mark.parametrize(
    "settings",
    [
        THREE,
        {"front": "front"},
        {"front": "front", "right_wrist": "wrist", "hop_s": 0.3},
        *({"perspectives": (perspective,)} for perspective in Perspective),
        {"perspectives": (INCREMENTAL, FORWARD), "goal": False},
        {"fusion": FusionConfig(rule=FusionRule.CONSISTENCY), "start_reference": StartReference.DEMO},
    ],
)
def test_it_conforms(reward_model_check, settings):
    model = model_of(**settings)
    rng = np.random.default_rng(0)
    demo = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    reward_model_check(model, references={f"demo/{model.config.front}": demo})


def brightening(levels):
    return [observe(index, front=grey(level)) for index, level in enumerate(levels)]


WHITE = {"goal/front": grey(1.0)}


@pytest.mark.parametrize("rule", FusionRule)
def test_true_replies_give_the_true_curve(rule):
    levels = np.array([0.0, 0.2, 0.4, 0.2, 0.6, 0.8, 1.0])
    model = model_of(ScriptedVlm(true_hop), fusion=FusionConfig(rule=rule))
    scores = score_episode(model, "t", brightening(levels), references=WHITE)
    assert [score.progress for score in scores] == pytest.approx(levels, abs=0.01)
    assert all(score.valid and score.version == model.info.version for score in scores)
    assert max(score.spread for score in scores) < 0.01


@pytest.mark.parametrize("rate_hz", [10, 30])
def test_whole_percent_add_up_at_any_rate(rate_hz):
    """A task of 40 s, of which one observation is less than half a percent."""
    last = 40 * rate_hz

    def judge(query):
        before, after = (frame * 256 + rest for frame, rest in (shown(query)[place] for place in (2, 5)))
        return f"<score>{round(100 * (after - before) / (last - before)):+d}%</score>"

    config = DopamineConfig(fusion=FusionConfig(perspectives=(INCREMENTAL,)), observation_hz=float(rate_hz))
    model = DopamineModel(judge=ScriptedVlm(judge), config=config, prompt=own_prompt(CONTRACT))
    film = [observe(i, front=picture(*divmod(i, 256))) for i in range(last + 1)]
    scores = score_episode(model, "t", film, references=WHITE)
    assert all(score.valid for score in scores)
    assert scores[last // 2].progress == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("bias", [0.0, 0.05])
def test_perspectives_average_noise_out_and_bias_not(bias):
    """A judge off by a noise of 0.1 and a bias, in units of a hop, on levels far from both ends."""

    def share(query):
        before, after = (query.pictures[place].mean() / 255 for place in (2, 5))
        return (1 + float(hop_between(before, after))) / 2

    def errors(*perspectives):
        judge = NoisyVlm(share, lambda value: write_hop(2 * value - 1), noise=0.05, bias=bias)
        model = model_of(judge, perspectives=perspectives)
        scores = score_episode(model, "t", episode, references=WHITE)
        return np.array([score.progress for score in scores[1:]]) - levels

    grains = np.random.default_rng(0).integers(90, 166, (600, 8, 8, 3), np.uint8)
    levels = grains.mean(axis=(1, 2, 3)) / 255
    episode = [observe(index, front=rgb) for index, rgb in enumerate([grey(0.0), *grains])]
    one, both = errors(FORWARD), errors(FORWARD, BACKWARD)
    assert one.std() == pytest.approx(0.10, rel=0.15)
    assert both.std() == pytest.approx(0.10 / np.sqrt(2), rel=0.15)
    assert (one.mean(), both.mean()) == pytest.approx((2 * bias, 2 * bias), abs=0.015)


def test_the_first_observation_has_no_progress_and_costs_nothing():
    judge = ScriptedVlm(true_hop)
    (score,) = score_episode(model_of(judge), "t", brightening([0.5]), references=WHITE)
    assert (score.progress, score.valid, score.done) == (0.0, True, None)
    assert judge.asked == []


def test_done_comes_after_enough_readings():
    model = model_of(ScriptedVlm(true_hop), done=DoneRule(progress=0.95, readings=2))
    scores = score_episode(model, "t", brightening([0, 0.98, 0.5, 0.98, 1.0, 1.0]), references=WHITE)
    assert [score.done for score in scores] == [None, None, False, None, True, True]


@pytest.mark.parametrize("mapped", [False, True])
def test_an_observation_that_cannot_be_asked_about_starts_the_count_of_done_anew(mapped):
    model = model_of(ScriptedVlm(true_hop), left_wrist="wrist", done=DoneRule(progress=0.9, readings=2))
    if mapped:
        model = CalibratedModel(model, Calibration(raw=(0.0, 1.0), calibrated=(0.0, 1.0)))
    pool = SessionPool({"m": model}, clock=FakeClock())
    pool.open("s", model="m", task="t", cameras=("front", "wrist"), references=WHITE)
    for index, level in enumerate([0.0, 1.0, 1.0, 1.0, 1.0]):
        views = {"front": grey(level)} if index == 2 else {"front": grey(level), "wrist": grey(level)}
        pool.push("s", observe(index, **views))
    while pool.step("m"):
        pass
    scores = [outcome.score for outcome in pool.collect()]
    assert [score.valid for score in scores] == [True, True, False, True, True]
    assert [score.done for score in scores] == [None, None, None, None, True]


@pytest.mark.parametrize("reply", [None, "", "I cannot tell.", "<score>+40%", "<score>+140%</score>"])
def test_a_reply_that_is_lost_makes_its_score_missing_and_no_other(reply):
    def judge(query):
        lost = query.pictures[5].mean() == grey(0.4).mean() and query.prefix == 5
        return reply if lost else true_hop(query)

    levels = [0.0, 0.2, 0.4, 0.6]
    scores = score_episode(model_of(ScriptedVlm(judge)), "t", brightening(levels), references=WHITE)
    assert [score.valid for score in scores] == [True, True, False, True]
    assert scores[2].reply.startswith("incremental: no ")
    assert scores[3].progress == pytest.approx(0.6, abs=0.01)


def test_a_camera_that_drops_out_makes_scores_missing_until_it_is_back():
    pool = SessionPool({"m": model_of(**THREE)}, clock=FakeClock())
    pool.open("s", model="m", task="t", cameras=["high", "left", "right"], references=REFERENCES)
    for index in range(5):
        seen = three(index)
        frames = {name: frame for name, frame in seen.frames.items() if index != 2 or name != "left"}
        pool.push("s", replace(seen, frames=frames))
    while pool.step("m"):
        pass
    scores = [outcome.score for outcome in pool.collect()]
    assert [score.valid for score in scores] == [True, True, False, True, True]
    with pytest.raises(ShapeError, match="left"):
        model_of(**THREE).start("t", REFERENCES).queries(observe(0, high=picture(HIGH)))


def test_the_live_lane_compares_with_what_it_scored_before():
    judge = ScriptedVlm(by_key)
    pool = SessionPool({"m": model_of(judge, perspectives=(INCREMENTAL,), **THREE)}, clock=FakeClock())
    cameras = ["high", "left", "right"]
    pool.open("s", model="m", task="t", cameras=cameras, references=REFERENCES, lane=Lane.LIVE)
    for index in range(9):
        pool.push("s", three(index))
        if index % 4 == 3:
            while pool.step("m"):
                pass
    assert [(shown(query)[2][1], shown(query)[5][1]) for query in judge.asked] == [(0, 3), (3, 7)]


def digits(text, **doubts):
    """A reply written character by character, with another character likely at some places."""
    tokens = []
    for place, character in enumerate(text):
        other, probability = doubts.get(f"at{place}", ("", 0.0))
        alternatives = ((character, 1.0 - probability), (other, probability))
        tokens.append(Token(text=character, alternatives=alternatives[: 1 + bool(other)]))
    return VlmReply(text=text, tokens=tuple(tokens))


def test_probabilities_give_an_expected_hop_and_its_doubt():
    sure = hop_of(digits("<score>+40%</score>"))
    assert (sure.value, sure.spread) == pytest.approx((0.40, 0.0))
    sign = hop_of(digits("<score>+40%</score>", at7=("-", 0.25)))
    assert (sign.value, sign.spread) == pytest.approx((0.20, 0.8 * np.sqrt(0.25 * 0.75)))
    both = hop_of(digits("<score>+40%</score>", at8=("6", 0.5), at9=("5", 0.5)))
    values, weights = np.array([0.60, 0.45, 0.40]), np.array([0.5, 0.25, 0.25])
    assert both.value == pytest.approx(values @ weights)
    assert both.spread == pytest.approx(np.sqrt((values - both.value) ** 2 @ weights))


def test_what_is_no_number_leaves_the_mean_alone_and_counts_as_doubt():
    odd = hop_of(digits("<score>+40%</score>", at8=("x", 0.4)))
    assert (odd.value, odd.spread) == pytest.approx((0.40, np.sqrt(0.4 * (1 / 3 + 0.4**2))))
    no_sign = hop_of(digits("<score>0.0%</score>", at7=("+", 0.48)))
    assert (no_sign.value, no_sign.spread) == pytest.approx((0.0, np.sqrt(0.48 / 3)))
    torn = replace(digits("<score>+40%</score>"), text="<score>+60%</score>")
    assert hop_of(torn).value == 0.60  # the text is what was said
    assert hop_of(digits("<score>+4x%</score>", at9=("0", 0.4))) is None


@pytest.mark.parametrize(
    ("text", "torn", "other"),
    [
        ("<score>+5.0%</score>", {"at9": ("0", 0.48)}, 0.50),
        ("<score>+40.0%</score>", {"at7": ("0", 0.48)}, 0.0),
        ("<score>+33.3%</score>", {"at10": ("%", 0.48)}, 0.33),
    ],
)
def test_another_number_may_be_shorter_or_longer_than_the_one_written(text, torn, other):
    hop, written = hop_of(digits(text, **torn)), read_hop(text)
    assert hop.value == pytest.approx(0.52 * written + 0.48 * other)
    assert hop.spread == pytest.approx(np.sqrt(0.52 * 0.48) * abs(other - written))


def test_a_version_knows_judge_words_views_and_settings():
    config = DopamineConfig()
    judge = ScriptedVlm(by_key)
    settings = [
        {"front": "high"},
        {"right_wrist": "wrist"},
        {"left_wrist": "wrist"},
        {"start_reference": StartReference.DEMO},
        {"fusion": FusionConfig(rule=FusionRule.CONSISTENCY)},
        {"fusion": FusionConfig(perspectives=(FORWARD,))},
        {"fusion": FusionConfig(perspectives=(FORWARD,)), "goal": False},
        {"hop_s": 0.2},
        {"observation_hz": 30.0},
        {"done": DoneRule(readings=4)},
        {"use_probabilities": False},
        {"max_tokens": 32},
    ]
    versions = [
        DopamineModel(judge=judge, config=replace(config, **change), prompt=own_prompt(CONTRACT)).info.version
        for change in [{}, {}, *settings]
    ]
    other_words = replace(own_prompt(CONTRACT), template=CONTRACT.own + "\n")
    versions.append(DopamineModel(judge=judge, config=config, prompt=other_words).info.version)
    other_judge = ScriptedVlm(by_key, identity="another")
    versions.append(DopamineModel(judge=other_judge, config=config, prompt=own_prompt(CONTRACT)).info.version)
    assert versions[0] == versions[1]
    assert len(set(versions)) == len(versions) - 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"front": ""}, "cameras"),
        ({"left_wrist": "front"}, "cameras"),
        ({"left_wrist": "w", "right_wrist": "w"}, "cameras"),
        ({"goal": False}, "backward"),
        ({"hop_s": -0.1}, "hop_s"),
        ({"hop_s": float("nan")}, "hop_s"),
        ({"observation_hz": 0.0}, "observation_hz"),
        ({"max_tokens": 4}, "max_tokens"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        DopamineConfig(**settings)
