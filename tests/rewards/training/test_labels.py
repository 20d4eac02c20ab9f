from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import DatasetError
from roborl.rewards.training.labels import UNKNOWN, StagePlan, label_frames, plan_stages

PLAN = StagePlan(names=("reach", "carry", "place"), shares=(0.5, 0.3, 0.2))


def test_shares_are_the_mean_of_ratios_not_the_ratio_of_sums() -> None:
    quick, slow = [("a", 0, 2), ("b", 2, 4)], [("a", 0, 90), ("b", 90, 100)]
    assert plan_stages([quick, slow]).shares == pytest.approx((0.7, 0.3))
    assert plan_stages([quick, slow]).shares != pytest.approx((92 / 104, 12 / 104))


def test_without_annotations_there_is_one_stage() -> None:
    plan = plan_stages([None, None])
    labels = label_frames(plan, 11, None, success=True, failure_ceiling=0.6)
    np.testing.assert_allclose(labels.progress, np.linspace(0, 1, 11), atol=1e-6)


@pytest.mark.parametrize(
    "successes",
    [
        [[("a", 0, 2), ("b", 2, 4)], [("b", 0, 2), ("a", 2, 4)]],
        [[("a", 0, 2), ("b", 2, 4)], [("a", 0, 4)]],
        [[("a", 0, 2), ("b", 2, 4), ("a", 4, 5)]],
    ],
)
def test_successes_must_agree_on_the_stages(successes: list[list[tuple[str, int, int]]]) -> None:
    with pytest.raises(DatasetError, match="same order"):
        plan_stages(successes)


def test_a_success_with_a_second_attempt_teaches_but_does_not_vote() -> None:
    straight = [("reach", 0, 5), ("carry", 5, 8), ("place", 8, 10)]
    retried = [("reach", 0, 5), ("carry", 5, 8), ("reach", 8, 12), ("carry", 12, 16), ("place", 16, 18)]
    assert plan_stages([straight, retried]).shares == pytest.approx((0.5, 0.3, 0.2))
    labels = label_frames(PLAN, 19, retried, success=True, failure_ceiling=0.6)
    assert labels.stage[8:12].tolist() == [0] * 4
    assert np.isnan(labels.within[5:8]).all()
    assert np.isfinite(labels.within[12:]).all()
    assert labels.progress[18] == 1.0


@given(
    lengths=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    lead=st.integers(0, 4),
    tail=st.integers(0, 4),
)
def test_a_success_rises_from_nothing_to_one(lengths: list[int], lead: int, tail: int) -> None:
    at, spans = lead, []
    for name, length in zip(PLAN.names, lengths, strict=True):
        spans.append((name, at, at + length))
        at += length
    labels = label_frames(PLAN, at + 1 + tail, spans, success=True, failure_ceiling=0.6)
    assert labels.progress[0] == 0.0
    assert (np.diff(labels.progress) >= -1e-6).all()
    np.testing.assert_allclose(labels.progress[at:], 1.0)
    assert (labels.stage[at:] == 3).all()
    assert (labels.ceiling == 1.0).all()
    for k, (_, start, end) in enumerate(spans):  # label(frame) == label from the annotation, for every frame
        for t in range(start, end):
            assert labels.stage[t] == k
            assert labels.within[t] == pytest.approx((t - start) / (end - start))


def test_undone_work_falls_and_an_unfinished_span_has_a_stage_only() -> None:
    spans = [("reach", 0, 5), ("carry", 5, 8), ("reach", 8, 14)]
    labels = label_frames(PLAN, 15, spans, success=False, failure_ceiling=0.6)
    assert labels.stage[:5].tolist() == [0] * 5
    assert np.isfinite(labels.within[:5]).all()  # carry followed: completed
    assert labels.stage[5:8].tolist() == [1] * 3
    assert np.isnan(labels.within[5:8]).all()  # reach followed: dropped, nobody knows how far it had come
    assert labels.stage[8:].tolist() == [0] * 7
    assert np.isnan(labels.progress[8:]).all()


def test_what_follows_the_last_span_of_a_failure_must_not_pass_what_was_achieved() -> None:
    labels = label_frames(PLAN, 20, [("reach", 0, 5), ("carry", 5, 8)], success=False, failure_ceiling=0.9)
    assert (labels.stage[9:] == UNKNOWN).all()
    np.testing.assert_allclose(labels.ceiling[9:], 0.5)


def test_between_the_spans_of_a_failure_nothing_passes_where_the_next_begins() -> None:
    spans = [("reach", 3, 6), ("place", 10, 13)]
    labels = label_frames(PLAN, 20, spans, success=False, failure_ceiling=1.0)
    np.testing.assert_allclose(labels.ceiling[:3], 0.0)
    np.testing.assert_allclose(labels.ceiling[3:7], 1.0)
    np.testing.assert_allclose(labels.ceiling[7:10], 0.8)
    np.testing.assert_allclose(labels.ceiling[14:], 0.8)
    bounded = label_frames(PLAN, 20, spans, success=False, failure_ceiling=0.6)
    np.testing.assert_allclose(bounded.ceiling[7:10], 0.6)


def test_an_unannotated_failure_is_only_bounded() -> None:
    labels = label_frames(PLAN, 7, None, success=False, failure_ceiling=0.6)
    assert (labels.stage == UNKNOWN).all()
    np.testing.assert_allclose(labels.ceiling, 0.6)


@pytest.mark.parametrize("spans", [[("reach", 5, 5)], [("reach", 3, 9), ("carry", 8, 12)], [("fly", 0, 4)]])
def test_a_broken_annotation_is_refused(spans: list[tuple[str, int, int]]) -> None:
    with pytest.raises(DatasetError):
        label_frames(PLAN, 20, spans, success=False, failure_ceiling=0.6)
