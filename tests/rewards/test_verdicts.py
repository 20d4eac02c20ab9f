import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import ConfigError, ShapeError
from roborl.loops.learner.episode_labels import EpisodeLabels
from roborl.rewards.verdicts import (
    DoneCounter,
    DoneRule,
    DoneSignal,
    DoneVotes,
    InARow,
    Outcome,
    outcome_of,
)
from roborl.types import Score


def read(rule, progress):
    counter = DoneCounter(rule)
    return [counter.read(value) for value in progress]


def test_done_wants_readings_in_a_row_and_a_missing_one_starts_anew():
    rule = DoneRule(progress=0.95, readings=3)
    assert read(rule, [0.96] * 4) == [None, None, True, True]
    assert read(rule, [0.96, 0.94, 0.96, 0.96]) == [None, False, None, None]
    assert read(rule, [0.96, 0.96, None, 0.96, 0.96, 0.96]) == [None] * 5 + [True]


def test_done_of_a_judge_without_adaptation():
    """Five readings from 0.60 up within two points: the rule that a published monitor of such a judge used."""
    rule = DoneRule(progress=0.60, readings=5, band=0.02)
    assert read(rule, [0.60, 0.61, 0.61, 0.62, 0.60])[-1]
    assert not any(read(rule, [0.60, 0.63, 0.66, 0.69, 0.72]))
    assert not any(read(rule, [0.60, 0.61, 0.59, 0.61, 0.62]))


@given(st.lists(st.none() | st.floats(0.0, 1.0), max_size=30), st.integers(1, 5))
def test_done_is_a_matter_of_the_last_readings_alone(curve, readings):
    rule = DoneRule(progress=0.5, readings=readings)
    for at, done in enumerate(read(rule, curve)):
        window = curve[max(0, at + 1 - readings) : at + 1]
        assert (done is True) == (len(window) == readings and all(p is not None and p >= 0.5 for p in window))
        assert (done is False) == (curve[at] is not None and curve[at] < 0.5)


@pytest.mark.parametrize(
    "settings",
    [{"progress": 0.0}, {"progress": 1.1}, {"progress": math.nan}, {"readings": 0}, {"band": -0.1}],
)
def test_a_rule_that_cannot_be_used_is_refused(settings):
    with pytest.raises(ConfigError):
        DoneRule(**settings)


@pytest.mark.parametrize(
    ("curve", "outcome"),
    [
        (np.linspace(0, 1, 30), Outcome.SUCCESS),
        ([0.9], Outcome.SUCCESS),
        ([0.9] * 20 + [0.1] * 9 + [0.9], Outcome.PARTIAL),  # a last reading alone is no success
        (np.linspace(0, 0.8, 30), Outcome.PARTIAL),  # exactly 0.8 is not above it
        ([0.4] * 9, Outcome.PARTIAL),
        ([0.39] * 9, Outcome.FAILURE),
        ([0.8], Outcome.PARTIAL),
    ],
)
def test_outcomes(curve, outcome):
    assert outcome_of(curve) is outcome


@pytest.mark.parametrize("curve", [[], [0.1, math.nan], [[0.1]]])
def test_a_curve_with_gaps_has_no_outcome(curve):
    with pytest.raises(ShapeError):
        outcome_of(curve)


def test_done_needs_votes_and_is_taken_back_by_votes():
    signal = DoneSignal(DoneVotes(enter=0.9, leave=0.5, votes=2, window=3))
    said = [signal.see(p) for p in (0.95, 0.2, 0.9, None, 0.7, 0.4, None, 0.3, 0.9)]
    assert said == [None, False, True, True, True, True, True, False, None]


def test_the_published_debounce_of_done_is_one_of_the_rules():
    signal = DoneSignal(DoneVotes(enter=0.95, leave=0.95, votes=4, window=4))
    said = [signal.see(p) for p in (1.0, 0.95, 0.94, 0.96, 0.97, 0.95, 1.0, 1.0)]
    assert said == [None, None, False, None, None, None, True, True]


SEEMS_DONE = 0.98


def in_a_row(finished, reading):
    return finished.read(reading >= SEEMS_DONE)


@pytest.mark.parametrize(
    "rule",
    [
        lambda: DoneCounter(DoneRule()).read,
        lambda: partial(in_a_row, InARow(3)),
        lambda: DoneSignal(DoneVotes()).see,
    ],
)
@pytest.mark.parametrize("start", [[SEEMS_DONE], [0.0]])
def test_a_scene_that_looks_done_from_the_first_picture_on_is_never_called_unfinished(rule, start):
    """While its count fills up, a rule that wants several readings does not call the first of them unfinished."""
    labels, says = EpisodeLabels(stride=1), rule()
    for index, reading in enumerate([*start, *[SEEMS_DONE] * 7]):
        labels.send(index, score=True)
        labels.receive(Score(frame_id=index, progress=0.0, raw=0.0, done=says(reading)))
    labels.complete()
    assert labels.unfinished is (start == [0.0])
    assert labels.done_at == (3 if start == [0.0] else None)


@given(st.lists(st.floats(0, 1), max_size=30))
def test_done_is_causal_and_a_single_frame_never_decides(probabilities):
    signal = DoneSignal(DoneVotes(votes=2, window=3))
    said = [signal.see(p) for p in probabilities]
    again = DoneSignal(DoneVotes(votes=2, window=3))
    assert [again.see(p) for p in probabilities[:7]] == said[:7]
    raised = [i for i, now in enumerate(said) if now and not (i and said[i - 1])]
    assert all(sum(p >= 0.9 for p in probabilities[max(0, i - 2) : i + 1]) >= 2 for i in raised)


@pytest.mark.parametrize(
    "fields", [{"enter": 0.4}, {"votes": 5}, {"votes": 0}, {"enter": 1.2}, {"leave": -0.1}]
)
def test_a_rule_that_cannot_be_met_is_refused(fields):
    with pytest.raises(ConfigError, match="never be met"):
        DoneVotes(**fields)
