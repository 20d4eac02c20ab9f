"""Questions and answers of vision-language judges, and the judges without a network."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import ShapeError
from roborl.rewards.judges.queries import Clip, VlmQuery, VlmReply, expected_value, picture_key
from roborl.testing.vlms import NoisyVlm, ScriptedVlm, brightness_of_last, query_key


def grey(level, px=8):
    return np.full((px, px, 3), level, np.uint8)


def query(*parts, **options):
    return VlmQuery(parts=parts or ("how far?", grey(128)), **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: query(grey(1).astype(np.float32)),
        lambda: query(np.zeros((4, 4), np.uint8)),
        lambda: query(np.zeros((0, 4, 3), np.uint8)),
        lambda: query(prefix=3),
        lambda: query(max_tokens=-1),
        lambda: query(max_tokens=0),
        lambda: query(choices=("1", "1")),
        lambda: query(choices=("",)),
        lambda: query(temperature=float("nan")),
        lambda: Clip(frames=(), stamps_s=()),
        lambda: Clip(frames=(grey(1),), stamps_s=(0.0, 1.0)),
        lambda: Clip(frames=(grey(1), grey(1, px=4)), stamps_s=(0.0, 1.0)),
        lambda: expected_value([1, 2], [0.0, 0.0]),
        lambda: expected_value([1, 2], [0.5, float("nan")]),
        lambda: expected_value([1, 2], [0.5]),
    ],
)
def test_what_cannot_be_asked_is_refused(make):
    with pytest.raises(ShapeError):
        make()


def test_pictures_come_in_order_those_of_clips_among_them():
    clip = Clip(frames=(grey(2), grey(3)), stamps_s=(0.0, 1.0))
    assert [int(p[0, 0, 0]) for p in query("a", grey(1), clip, "b", grey(4)).pictures] == [1, 2, 3, 4]


@given(st.lists(st.floats(0.001, 1.0), min_size=2, max_size=9))
def test_an_expected_value_is_that_of_the_formula(weights):
    p = np.array(weights) / sum(weights)
    k = np.arange(1, len(weights) + 1)
    mean, variance = expected_value(k.tolist(), weights)
    assert mean == pytest.approx((k * p).sum())
    assert variance == pytest.approx(((k - mean) ** 2 * p).sum(), abs=1e-12)


def test_keys_tell_what_differs_and_nothing_else():
    base = query("a", grey(1), choices=("1", "2"))
    assert query_key(base) == query_key(query("a", grey(1), choices=("1", "2")))
    others = [
        query("b", grey(1), choices=("1", "2")),
        query("a", grey(2), choices=("1", "2")),
        query("a", grey(1), choices=("2", "1")),
        query("a", grey(1), choices=("1", "2"), seed=1),
        query("a", Clip(frames=(grey(1),), stamps_s=(0.0,)), choices=("1", "2")),
    ]
    assert len({query_key(q) for q in [base, *others]}) == len(others) + 1
    assert picture_key(np.zeros((2, 8, 3), np.uint8)) != picture_key(np.zeros((8, 2, 3), np.uint8))
    turned = np.arange(48, dtype=np.uint8).reshape(4, 4, 3).transpose(1, 0, 2)
    assert picture_key(turned) == picture_key(turned.copy())


def test_a_script_answers_and_remembers():
    judge = ScriptedVlm(lambda q: None if q.seed else f"{q.max_tokens}")
    assert judge.answer([query(max_tokens=3), query(seed=1)]) == [VlmReply(text="3"), None]
    assert len(judge.asked) == 2


def test_noise_belongs_to_the_question_and_not_to_its_company():
    judge = NoisyVlm(brightness_of_last, "{:.3f}".format, noise=0.2, seed=3)
    queries = [query("a", grey(level)) for level in range(0, 250, 10)]
    together = judge.answer(queries)
    assert together == [judge.answer([q])[0] for q in reversed(queries)][::-1]
    assert together != NoisyVlm(brightness_of_last, "{:.3f}".format, noise=0.2, seed=4).answer(queries)


def test_votes_shed_the_noise_and_keep_the_bias():
    judge = NoisyVlm(lambda q: 0.5, "{:.6f}".format, noise=0.1, bias=0.15)
    votes = [float(judge.answer([query(seed=s)])[0].text) for s in range(400)]
    for n in (4, 16, 64):
        means = np.array(votes[: 400 // n * n]).reshape(-1, n).mean(axis=1)
        assert np.std(means) == pytest.approx(0.1 / np.sqrt(n), rel=0.45)
    assert np.mean(votes) == pytest.approx(0.65, abs=0.02)


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_the_choices_of_a_noisy_judge_add_up(width):
    judge = NoisyVlm(lambda q: 0.75, "{}".format, width=width)
    (reply,) = judge.answer([query(choices=("1", "2", "3", "4", "5"))])
    assert sum(reply.probabilities) == pytest.approx(1.0)
    assert int(np.argmax(reply.probabilities)) == 3
    assert reply.mass == 1.0
