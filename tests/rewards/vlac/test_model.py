"""The critic's fold: what it asks, in which order, and what it makes of the replies."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import ConfigError, ShapeError
from roborl.rewards.judges.queries import Token, VlmReply
from roborl.rewards.metrics import value_order_correlation
from roborl.rewards.model import score_episode
from roborl.rewards.recurrences import Recurrence, accumulate
from roborl.rewards.verdicts import DoneVotes
from roborl.rewards.vlac.config import DoneQuestion, VlacConfig
from roborl.rewards.vlac.model import VlacModel
from roborl.rewards.vlac.replies import write_percent
from roborl.rewards.vlac.wording import OUR_WORDING
from roborl.testing import check_reward_model as conformance
from roborl.testing.vlms import NoisyVlm, ScriptedVlm, query_key
from roborl.types import Frame, Observation

reward_model_check = conformance.reward_model_check
PX = 8
FRONT, WRIST, DEMO, GOAL = 0, 50, 100, 150


def picture(kind, index=0):
    """A picture that says what it is: red for the kind, green for the frame."""
    rgb = np.zeros((PX, PX, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = kind, index
    return rgb


def observe(index, **pictures):
    frames = {name: Frame(rgb=rgb, camera=name, stamp_ns=index, id=index) for name, rgb in pictures.items()}
    return Observation(frames=frames, state=np.zeros(6, np.float32), stamp_ns=index)


def both(index):
    return observe(index, front=picture(FRONT, index), wrist=picture(WRIST, index))


def shown(query):
    """What each picture of a question is: (kind, frame)."""
    return [(int(rgb[0, 0, 0]), int(rgb[0, 0, 1])) for rgb in query.pictures]


REFERENCES = {
    "demo/front": np.stack([picture(DEMO, i) for i in range(11)]),
    "demo/wrist": np.stack([picture(DEMO + WRIST, i) for i in range(5)]),
    "goal/front": picture(GOAL),
}


def plain(query):
    """Plus for the right order, minus for the other; done where the picture is late."""
    earlier, later = (frame for _, frame in shown(query)[-2:]) if not query.choices else (0, 0)
    if query.choices:
        return "1" if shown(query)[-1][1] >= 8 else "0"
    return write_percent(np.sign(later - earlier) * 0.2)


def model_of(reply=plain, **settings):
    config = VlacConfig(
        **({"image_px": PX, "reference_frames": 0, "done": DoneQuestion.OFF, "hop_s": 0.0} | settings)
    )
    return VlacModel(judge=ScriptedVlm(reply), config=config)


def scores_of(model, frames=range(6), references=REFERENCES, **options):
    return score_episode(model, "fold the towel", [both(i) for i in frames], references=references, **options)


def asked_by(model, frames, references=REFERENCES):
    fold = model.start("fold the towel", references)
    return [fold.queries(both(index)) for index in frames]


def words(query):
    return "".join(part if isinstance(part, str) else "<image>" for part in query.parts)


# What is asked


def test_a_pair_is_asked_about_both_ways_round():
    first, second, third = asked_by(model_of(), [0, 3, 6])
    assert first == []
    assert [shown(q) for q in second] == [[(FRONT, 0), (FRONT, 3)], [(FRONT, 3), (FRONT, 0)]]
    assert [shown(q) for q in third] == [[(FRONT, 3), (FRONT, 6)], [(FRONT, 6), (FRONT, 3)]]
    (one,) = asked_by(model_of(two_sided=False), [0, 3])[1]
    assert shown(one) == [(FRONT, 0), (FRONT, 3)]


def test_without_a_reference_the_question_holds_labels_task_and_open_tag():
    query = asked_by(model_of(), [0, 3])[1][0]
    text = words(query)
    assert text.startswith("Image-1: <image>\nImage-2: <image>\n")
    assert text.endswith("<task> fold the towel </task> <score>")
    assert "trajectory" not in text
    assert query.system == OUR_WORDING.system
    assert query.temperature == 0.0


def test_with_a_reference_its_pictures_and_the_start_stand_before_the_pair():
    model = model_of(reference_frames=6)
    _, second, third = asked_by(model, [2, 5, 7])
    trajectory = [(DEMO, index) for index in (0, 2, 4, 6, 8, 10)]
    assert shown(third[0]) == [*trajectory, (FRONT, 2), (FRONT, 5), (FRONT, 7)]
    assert shown(third[1]) == [*trajectory, (FRONT, 2), (FRONT, 7), (FRONT, 5)]
    text = words(second[0])
    assert text.startswith(
        "<trajectory> <task> fold the towel </task>: 0% <image>\n 20% <image>\n 40% <image>\n"
    )
    assert " 80% <image>\n 100% <image>\n</trajectory>0% <image>\n" in text
    assert text.endswith("<task> fold the towel </task> <score>")


@pytest.mark.parametrize(
    ("count", "shares"), [(9, [0, 12, 25, 37, 50, 62, 75, 87, 100]), (2, [0, 100]), (1, [100])]
)
def test_the_shares_of_a_reference_are_whole_percent(count, shares):
    text = words(asked_by(model_of(reference_frames=count), [0, 1])[1][0])
    assert [f" {share}% <image>\n" in text for share in shares] == [True] * len(shares)
    assert text.count("% <image>") == len(shares) + 1


def test_what_stands_before_the_pair_is_a_prefix_that_never_changes():
    model = model_of(reference_frames=4)
    _, *asked = asked_by(model, [0, 3, 6, 9])
    flat = [query for queries in asked for query in queries]
    (length,) = {query.prefix for query in flat}
    prefixes = {
        query_key(dataclasses.replace(query, parts=query.parts[:length], prefix=length)) for query in flat
    }
    assert len(prefixes) == 1
    assert sum(not isinstance(part, str) for part in flat[0].parts[:length]) == 5
    assert isinstance(flat[0].parts[length], np.ndarray)


def test_the_anchor_moves_on_only_after_enough_frames():
    model = model_of(hop_s=0.3, two_sided=False)
    asked = asked_by(model, range(8))
    assert [shown(queries[0])[0][1] for queries in asked[1:]] == [0, 0, 0, 3, 3, 3, 6]


def test_pairs_of_a_strided_episode_are_disjoint_windows():
    model = model_of(two_sided=False)
    scores_of(model, range(12), stride=5)
    pairs = [tuple(frame for _, frame in shown(query)) for query in model.judge.asked]
    assert pairs == [(0, 5), (5, 10), (10, 11)]


def test_an_episode_begins_with_its_first_observation_even_if_that_is_not_scored():
    model = model_of(reference_frames=2)
    fold = model.start("fold", REFERENCES)
    fold.skip(both(0))
    fold.skip(both(1))
    query = fold.queries(both(2))[0]
    assert shown(query)[2:] == [(FRONT, 0), (FRONT, 0), (FRONT, 2)]


def test_several_views_are_each_asked_with_their_own_reference():
    model = model_of(cameras=("front", "wrist"), reference_frames=2)
    queries = asked_by(model, [0, 3])[1]
    assert [shown(q)[0] for q in queries] == [(DEMO, 0)] * 2 + [(DEMO + WRIST, 0)] * 2
    assert [shown(q)[-2:] for q in queries[2:]] == [[(WRIST, 0), (WRIST, 3)], [(WRIST, 3), (WRIST, 0)]]


def test_done_is_asked_of_the_present_picture_with_yes_and_no_to_choose_from():
    query = asked_by(model_of(done=DoneQuestion.TASK), [0, 3])[1][-1]
    assert shown(query) == [(FRONT, 3)]
    assert query.choices == ("1", "0")
    assert isinstance(query.parts[0], np.ndarray), "the picture stands before all words"
    assert words(query).endswith("<task> fold the towel </task> <done>")


@pytest.mark.parametrize(
    ("references", "goal"),
    [(REFERENCES, (GOAL, 0)), ({"demo/front": REFERENCES["demo/front"]}, (DEMO, 10))],
)
def test_done_beside_a_goal_shows_the_given_one_or_the_end_of_the_demonstration(references, goal):
    model = model_of(done=DoneQuestion.GOAL, reference_frames=3)
    query = asked_by(model, [0, 3], references)[1][-1]
    assert shown(query) == [goal, (FRONT, 3)]
    text = words(query)
    assert text.startswith("<goal> <task> fold the towel </task>: <image>\n<goal>\n<image>\n")
    assert text.endswith("<done>")
    assert query.prefix == 3


def test_pictures_are_squeezed_to_the_size_of_training():
    model = VlacModel(judge=ScriptedVlm(plain), config=VlacConfig(image_px=16, reference_frames=3))
    rng = np.random.default_rng(0)
    demo = rng.integers(0, 256, (7, 30, 40, 3), np.uint8)
    fold = model.start("fold", {"demo/front": demo})
    wide = [observe(i, front=rng.integers(0, 256, (48, 64, 3), np.uint8)) for i in range(2)]
    fold.queries(wide[0])
    assert {rgb.shape for query in fold.queries(wide[1]) for rgb in query.pictures} == {(16, 16, 3)}
    flat = np.full((48, 64, 3), 77, np.uint8)
    assert (model.squeeze(flat) == 77).all()
    square = picture(FRONT)
    assert model_of().squeeze(square) is square


# What is made of the replies


@pytest.mark.parametrize("rule", Recurrence)
def test_progress_is_the_recurrence_of_the_changes(rule):
    changes = [0.2, 0.2, -0.2, 0.5, -0.5]

    def reply(query):
        earlier, later = (frame for _, frame in shown(query))
        return write_percent(changes[later - 1] if later > earlier else -changes[earlier - 1])

    scores = scores_of(model_of(reply, recurrence=rule))
    expected = accumulate(changes, rule)
    assert [s.raw for s in scores] == pytest.approx(expected.tolist())
    assert [s.progress for s in scores] == pytest.approx(expected.clip(0, 1).tolist())
    assert all(s.valid and s.spread == 0.0 for s in scores)


def test_two_sides_that_disagree_give_a_spread_and_cancel_a_bias():
    def biased(query):
        earlier, later = (frame for _, frame in shown(query))
        return write_percent(0.1 + (0.3 if later > earlier else -0.3))

    two, one = scores_of(model_of(biased), range(2)), scores_of(model_of(biased, two_sided=False), range(2))
    assert two[1].progress == pytest.approx(0.3)
    assert two[1].spread == pytest.approx(0.1)
    assert one[1].progress == pytest.approx(0.4)
    assert one[1].spread == 0.0


def test_views_are_averaged_and_their_disagreement_is_doubt():
    def reply(query):
        (kind, earlier), (_, later) = shown(query)[-2:]
        size = 0.4 if kind == FRONT else 0.2
        return write_percent(size if later > earlier else -size)

    score = scores_of(model_of(reply, cameras=("front", "wrist")), range(2))[1]
    assert score.progress == pytest.approx(0.3)
    assert score.spread == pytest.approx(0.1)


def test_the_probabilities_of_tokens_refine_the_change_and_its_spread():
    def reply(query):
        earlier, later = (frame for _, frame in shown(query))
        sign, other = "+-" if later > earlier else "-+"
        places = (
            Token(text=sign, alternatives=((sign, 0.75), (other, 0.25))),
            Token(text="40", alternatives=(("40", 1.0),)),
        )
        return VlmReply(text=f"{sign}40", tokens=places if query.alternatives else ())

    score = scores_of(model_of(reply), range(2))[1]
    assert score.progress == pytest.approx(0.2)
    assert score.spread == pytest.approx(0.8 * np.sqrt(0.75 * 0.25))
    written = scores_of(model_of(reply, use_probabilities=False), range(2))[1]
    assert (written.progress, written.spread) == (pytest.approx(0.4), 0.0)


@pytest.mark.parametrize("garbage", ["", "about 20", "1.02.0", "+60 -15", "500", None])
@pytest.mark.parametrize("two_sided", [True, False])
def test_an_unreadable_reply_is_a_missing_score_and_a_hop_of_none(garbage, two_sided):
    def reply(query):
        return garbage if shown(query)[-1][1] == 2 else plain(query)

    scores = scores_of(model_of(reply, two_sided=two_sided, recurrence=Recurrence.LINEAR))
    # Of frame 3 the second question ends with the picture of frame 2, so that one is lost as well.
    lost = [2, 3] if two_sided else [2]
    assert [s.frame_id for s in scores if not s.valid] == lost
    hops = [0 if i in lost or i == 0 else 0.2 for i in range(6)]
    assert scores[-1].raw == pytest.approx(accumulate(hops)[-1])
    assert "no number" in scores[2].reply


def test_looks_that_contradict_each_other_are_not_believed():
    scores = scores_of(model_of(lambda query: "+80"), range(3))
    assert [s.valid for s in scores] == [True, False, False]
    assert "contradict" in scores[1].reply
    believed = scores_of(model_of(lambda query: "+80", contradiction=1.0), range(3))
    assert [s.valid for s in believed] == [True] * 3
    assert believed[2].progress == 0.0
    assert believed[2].spread == 0.5


def test_a_critic_that_says_nothing_but_zero_abstains():
    scores = scores_of(model_of(lambda query: "0", abstain_pairs=3), range(6))
    assert [s.valid for s in scores] == [True, True, True, False, False, False]
    assert "abstains" in scores[-1].reply

    def wakes(query):
        return "0" if shown(query)[-1][1] < 5 and shown(query)[-2][1] < 5 else plain(query)

    scores = scores_of(model_of(wakes, abstain_pairs=3), range(7))
    assert [s.valid for s in scores] == [True, True, True, False, False, True, True]
    assert scores[5].progress == pytest.approx(0.2)


def test_a_critic_that_writes_nothing_but_zero_abstains_however_likely_other_numbers_were():
    def unsure(query):
        place = Token(text="0", alternatives=(("0", 0.9), ("+10", 0.1)))
        return VlmReply(text="0", tokens=(place,) if query.alternatives else ())

    model = model_of(unsure, abstain_pairs=3, two_sided=False)
    scores = scores_of(model, range(6))
    assert [s.valid for s in scores] == [True, True, True, False, False, False]
    assert scores[2].progress > 0.0


def test_small_changes_can_be_kept_quiet():
    def reply(query):
        earlier, later = (frame for _, frame in shown(query))
        return write_percent(0.03 if later > earlier else -0.03)

    assert scores_of(model_of(reply, quiet_rise=0.05))[-1].progress == 0.0
    assert scores_of(model_of(reply, quiet_fall=0.05))[-1].progress > 0.1


def test_the_floor_lets_an_absurd_reply_be_made_good_again():
    def reply(query):
        earlier, later = (frame for _, frame in shown(query))
        size = -1.0 if max(earlier, later) == 1 else 0.5
        return write_percent(size if later > earlier else -size)

    deep = scores_of(model_of(reply, floor=-np.inf))
    held = scores_of(model_of(reply))
    assert deep[1].raw == pytest.approx(-99.0)
    assert held[1].raw == -1.0
    assert deep[-1].progress == 0.0
    assert held[-1].progress > 0.8


def test_useless_wiggles_leave_no_trace():
    """Back and forth a hundred times: the value is where it was, so shaping cannot be farmed."""

    def reply(query):
        earlier, later = (frame % 2 for _, frame in shown(query))
        return write_percent((later - earlier) * 0.2)

    scores = scores_of(model_of(reply), range(201))
    assert scores[-1].raw == pytest.approx(0.0, abs=1e-9)
    drifting = scores_of(model_of(reply, recurrence=Recurrence.LINEAR), range(201))
    assert drifting[-1].raw > 0.5


def test_done_needs_several_frames_and_unreadable_ones_change_nothing():
    def reply(query):
        if query.choices:
            return {9: "maybe", 11: None}.get(shown(query)[-1][1], plain(query))
        return plain(query)

    votes = DoneVotes(votes=2, window=3)
    scores = scores_of(model_of(reply, done=DoneQuestion.TASK, done_votes=votes), range(13))
    assert [s.frame_id for s in scores if s.done] == [10, 11, 12]
    assert all(s.valid for s in scores)
    assert {s.done for s in scores_of(model_of())} == {None}


def test_a_doubtful_yes_is_no_answer():
    def reply(query):
        if query.choices:
            return VlmReply(text="+54", probabilities=(0.99, 0.01), mass=0.01)
        return plain(query)

    scores = scores_of(model_of(reply, done=DoneQuestion.TASK))
    assert not any(s.done for s in scores)
    trusting = scores_of(model_of(reply, done=DoneQuestion.TASK, done_mass=0.0))
    assert trusting[-1].done


def label_of(truth):
    """Reply with the share of the remaining way, of a video whose progress in percent is known."""

    def reply(query):
        earlier, later = (truth[frame] / 100 for _, frame in shown(query))
        left = 1 - min(earlier, later)
        return write_percent((later - earlier) / left)

    return reply


def test_a_video_with_a_segment_undone_is_followed():
    truth = [0, 10, 20, 30, 40, 50, 40, 30, 20, 30, 40, 50, 60, 70, 80, 90]
    scores = scores_of(model_of(label_of(truth)), range(len(truth)))
    np.testing.assert_allclose([s.progress for s in scores], np.array(truth) / 100, atol=0.03)


@pytest.mark.parametrize("rate_hz", [10, 30])
def test_a_perfect_critic_of_whole_percent_is_heard_at_any_rate(rate_hz):
    """A task of 40 s, of which one observation is less than half a percent."""
    last = 40 * rate_hz

    def reply(query):
        earlier, later = (int(rgb[0, 0, 0]) * 256 + int(rgb[0, 0, 1]) for rgb in query.pictures)
        return write_percent((later - earlier) / (last - min(earlier, later)))

    config = VlacConfig(image_px=PX, reference_frames=0, done=DoneQuestion.OFF, observation_hz=float(rate_hz))
    film = [observe(i, front=picture(*divmod(i, 256))) for i in range(last + 1)]
    scores = score_episode(VlacModel(judge=ScriptedVlm(reply), config=config), "fold the towel", film)
    assert all(score.valid for score in scores)
    assert scores[last // 2].progress == pytest.approx(0.5, abs=0.03)
    assert scores[last].progress > 0.95


def test_order_correlation_forward_and_backward():
    truth = list(range(0, 91, 10))
    forward = scores_of(model_of(label_of(truth)), range(10))
    backward = scores_of(model_of(label_of(truth[::-1]), floor=-np.inf), range(10))
    assert value_order_correlation([s.progress for s in forward]) == pytest.approx(1.0)
    assert value_order_correlation([s.raw for s in backward]) == pytest.approx(-1.0)
    assert {s.progress for s in backward} == {0.0}, "below its start a task has no progress"


@given(st.integers(0, 1000), st.sampled_from(list(Recurrence)), st.booleans())
def test_any_replies_keep_scores_in_bounds_and_causal(seed, rule, two_sided):
    def reply(query):
        draw = np.random.default_rng([seed, *query_key(query)])
        return "?" if draw.random() < 0.2 else write_percent(draw.uniform(-1, 1))

    settings = {"recurrence": rule, "two_sided": two_sided, "hop_s": 0.2, "contradiction": 1.0}
    whole = scores_of(model_of(reply, **settings), range(10))
    part = scores_of(model_of(reply, **settings), range(5))
    assert [s.progress for s in part] == [s.progress for s in whole[:5]]
    for score in whole:
        if score.valid:
            assert 0.0 <= score.progress <= 1.0
            assert -1.0 <= score.raw <= 1.0
            assert 0.0 <= score.spread <= 0.5


# The contract


def any_reply(query):
    draw = np.random.default_rng(list(query_key(query)))
    return "01"[draw.integers(2)] if query.choices else write_percent(draw.uniform(-0.5, 0.5))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"two_sided": False, "recurrence": Recurrence.LINEAR},
        {"reference_frames": 3, "done": DoneQuestion.GOAL, "recurrence": Recurrence.MIXED},
        {"cameras": ("front", "wrist"), "reference_frames": 2, "done": DoneQuestion.TASK, "hop_s": 0.2},
    ],
)
def test_the_critic_conforms(reward_model_check, settings):
    reward_model_check(model_of(any_reply, contradiction=1.0, **settings), references=REFERENCES)


def test_a_judge_of_known_noise_conforms_and_spread_tells_of_it():
    def truth(query):
        earlier, later = (rgb[..., 1].mean() / 255 for rgb in query.pictures)
        return 0.5 + (later - earlier) / 2

    judge = NoisyVlm(truth, lambda value: write_percent(2 * value - 1), noise=0.05)
    config = VlacConfig(image_px=PX, reference_frames=0, done=DoneQuestion.OFF)
    scores = scores_of(VlacModel(judge=judge, config=config), range(0, 240, 20))
    quiet = NoisyVlm(truth, lambda value: write_percent(2 * value - 1))
    clean = scores_of(VlacModel(judge=quiet, config=config), range(0, 240, 20))
    assert max(s.spread for s in clean) < 1e-9
    assert scores[-1].spread > 0.02


@pytest.mark.parametrize(
    "change",
    [
        {"cameras": ("wrist",)},
        {"reference_frames": 5},
        {"two_sided": False},
        {"recurrence": Recurrence.MIXED},
        {"done": DoneQuestion.TASK},
        {"done_votes": DoneVotes(votes=1)},
        {"image_px": 9},
        {"contradiction": 0.4},
        {"hop_s": 0.2},
        {"observation_hz": 30.0},
    ],
)
def test_every_setting_is_part_of_the_version(change):
    assert model_of(**change).info.version != model_of().info.version


def test_network_and_texts_are_part_of_the_version():
    ours = model_of()
    assert ours.info.version == model_of().info.version
    assert (
        VlacModel(judge=ScriptedVlm(plain, identity="other"), config=ours.config).info.version
        != ours.info.version
    )
    texts = dataclasses.replace(OUR_WORDING, system=OUR_WORDING.system + " ")
    assert dataclasses.replace(ours, wording=texts).info.version != ours.info.version


def test_a_missing_view_is_refused():
    fold = model_of().start("fold", {})
    with pytest.raises(ShapeError, match="a view that is missing"):
        fold.queries(observe(0, wrist=picture(WRIST)))
    assert fold.queries(both(0)) == []


@pytest.mark.parametrize(
    ("settings", "references", "words"),
    [
        ({"reference_frames": 3}, {}, "lacks a reference.*demo/front"),
        (
            {"reference_frames": 3, "cameras": ("front", "wrist")},
            {"demo/front": REFERENCES["demo/front"]},
            "demo/wrist",
        ),
        ({"reference_frames": 3}, {"demo/front": picture(DEMO)}, "wrong form"),
        ({"reference_frames": 3}, {"demo/front": np.zeros((0, 8, 8, 3), np.uint8)}, "wrong form"),
        ({"reference_frames": 3}, {"demo/front": np.zeros((2, 8, 8, 3))}, "wrong form"),
        ({"reference_frames": 3}, {"demo/front": "video.mp4"}, "wrong form"),
        ({"done": DoneQuestion.GOAL}, {}, "goal/front"),
    ],
)
def test_a_reference_that_is_needed_must_be_there(settings, references, words):
    with pytest.raises(ConfigError, match=words):
        model_of(**settings).start("fold", references)


@pytest.mark.parametrize(
    "settings",
    [
        {"cameras": ()},
        {"cameras": ("front", "front")},
        {"cameras": ("",)},
        {"image_px": 0},
        {"hop_s": -0.1},
        {"hop_s": float("inf")},
        {"observation_hz": 0.0},
        {"reference_frames": -1},
        {"abstain_pairs": -1},
        {"contradiction": 1.5},
        {"quiet_rise": -0.1},
        {"done_mass": 2.0},
        {"floor": 0.1},
        {"floor": float("nan")},
        {"max_tokens": 1},
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings):
    with pytest.raises(ConfigError, match="cannot be used"):
        VlacConfig(**settings)
