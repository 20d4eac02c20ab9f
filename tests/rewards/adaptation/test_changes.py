"""Lessons for the pair critic: both ways round, standing still, another task, and whether it is done."""

from collections import Counter

import numpy as np
import pytest

from roborl.rewards.adaptation.changes import ChangeConfig, ChangeLessons
from roborl.rewards.adaptation.lessons import Album, TimeGuess
from roborl.rewards.judges.queries import VlmReply
from roborl.rewards.recurrences import Change, Recurrence, Value, advance_with_doubt
from roborl.rewards.vlac.config import DoneQuestion, VlacConfig
from roborl.rewards.vlac.model import VlacModel
from roborl.testing.vlms import ScriptedVlm, query_key

from .conftest import PX, TASK, film, observe


def lessons_of(pairs=None, **settings):
    config = VlacConfig(
        **({"image_px": PX, "reference_frames": 3, "hop_s": 0.0, "done": DoneQuestion.OFF} | settings)
    )
    model = VlacModel(judge=ScriptedVlm(lambda query: None), config=config)
    return ChangeLessons(model, pairs or ChangeConfig(groups=40, still=0.0))


def drawn(lessons, episodes, seed=0):
    return lessons.samples(episodes, TimeGuess.of(episodes), seed)


def pair(sample):
    return tuple(sample.spots[place][2] for place in sample.compared)


def test_groups_of_four_say_one_number_with_both_signs():
    """The published label: the share of the way that was left at the earlier of the two, minus it the other way."""
    samples = drawn(lessons_of(ChangeConfig(groups=40, step_frames=2, still=0.0)), [film(101)])
    assert len(samples) == 160
    for start in range(0, 160, 4):
        near, back, far, home = samples[start : start + 4]
        (i, j), (k, m) = pair(near), pair(far)
        assert k == i < j <= i + 2
        assert i < m <= 100
        assert (pair(back), pair(home)) == ((j, i), (m, i))
        for ahead, behind, end in ((near, back, j), (far, home, m)):
            change = min((end - i) / (100 - i), 0.99)
            assert ahead.value == pytest.approx(change)
            assert ahead.answer == (f"{round(100 * change):+d}" if round(100 * change) else "0")
            assert behind.answer == ahead.answer.replace("+", "-")


def test_its_labels_are_undone_by_the_recurrence():
    samples = drawn(lessons_of(), [film(101)])
    # From the last hundredth of the way the recurrence does not come back: there it takes what remains for a hundredth.
    pairs = [(t, b) for t, b in zip(samples[2::4], samples[3::4], strict=True) if pair(t)[1] < 100]
    assert len(pairs) > 30
    for there, back in pairs:
        value = Value(mean=pair(there)[0] / 100)
        for sample in (there, back):
            change = Change(mean=sample.value)
            value = advance_with_doubt(value, change, Recurrence.INVERSE, floor=-1.0)
        assert value.mean == pytest.approx(pair(there)[0] / 100, abs=1e-6)


def test_pictures_that_look_the_same_show_no_change():
    """A bar of 32 columns over 1000 frames: most short steps change nothing that can be seen."""
    lessons = lessons_of(ChangeConfig(groups=30, still=0.01, step_frames=2))
    episodes = [film(1001)]
    samples = drawn(lessons, episodes)
    album = Album(episodes, samples)
    taught = [(s, lessons.relabelled(s, album.pictures(s))) for s in samples]
    bar = episodes[0].footage
    for sample, relabelled in taught:
        i, j = pair(sample)
        differ = np.mean(bar.picture(i) != bar.picture(j))
        assert (relabelled.answer == "0") == (differ < 0.01 or sample.answer == "0")
        assert relabelled.value == (0.0 if differ < 0.01 else sample.value)
    assert sum(r.value == 0.0 and s.value != 0.0 for s, r in taught) > 30


def test_another_tasks_instruction_counts_as_no_change():
    pairs = ChangeConfig(groups=50, wrong_task=0.5, still=0.0)
    episodes = [film(101, 0), film(101, 1, task="drain the bar")]
    lessons = lessons_of(pairs)
    samples = drawn(lessons, episodes)
    album = Album(episodes, samples)
    wrong = 0
    for sample in samples:
        words = "".join(part for part in sample.ask(album.pictures(sample)).parts if isinstance(part, str))
        own = episodes[sample.spots[-1][0]].tasks[0]
        if own not in words:
            wrong += 1
            assert sample.answer == "0"
        else:
            assert sample.value != 0.0
    assert 0.4 < wrong / len(samples) < 0.6
    assert {s.answer for s in drawn(lessons, episodes[:1]) if s.value == 0.0} == set()


@pytest.mark.parametrize(("done", "pictures"), [(DoneQuestion.TASK, 1), (DoneQuestion.GOAL, 2)])
def test_done_is_asked_of_early_and_late_pictures_and_of_failures(done, pictures):
    episodes = [film(101, 0), film(60, 1, kind="miss")]
    samples = [s for s in drawn(lessons_of(done=done), episodes) if s.compared is None]
    assert all(len(s.spots) == pictures for s in samples)
    asked = [(s.spots[-1][0], s.spots[-1][2], s.answer) for s in samples]
    assert Counter(answer for place, _, answer in asked if place == 0) == {"1": 4, "0": 4}
    assert all((index >= 95) == (answer == "1") for place, index, answer in asked if place == 0)
    assert all(index < 80 for place, index, answer in asked if place == 0 and answer == "0")
    assert [row for row in asked if row[0] == 1] == [(1, 59, "0")]


@pytest.mark.parametrize("reference_frames", [0, 3])
def test_the_questions_are_those_that_watching_asks(reference_frames):
    lessons = lessons_of(
        ChangeConfig(groups=400, step_frames=2, still=0.0, done=40),
        done=DoneQuestion.GOAL if reference_frames else DoneQuestion.TASK,
        reference_frames=reference_frames,
    )
    (episode,) = episodes = [film(13)]
    samples = drawn(lessons, episodes)
    album = Album(episodes, samples)
    keys = {}
    for sample in samples:
        name = sample.spots[-1][2] if sample.compared is None else pair(sample)
        keys[name] = query_key(sample.ask(album.pictures(sample)))
    demo = np.stack([episode.footage.picture(i) for i in range(13)])
    fold = lessons.model.start(TASK, {"demo/front": demo})
    assert fold.queries(observe(episode, [0])[0]) == []
    fold.queries(observe(episode, [4])[0])
    asked = [query_key(query) for query in fold.queries(observe(episode, [12])[0])]
    assert asked == [keys[4, 12], keys[12, 4], keys[12]]


def test_replies_are_read_as_in_watching():
    lessons = lessons_of()
    assert lessons.read(VlmReply(text="-15")) == -0.15
    assert lessons.read(VlmReply(text="perhaps")) is None
    assert lessons.read(VlmReply(text="1", probabilities=(0.75, 0.25), mass=0.9)) == 0.75
    assert lessons.read(VlmReply(text="1", probabilities=(0.75, 0.25), mass=0.1)) is None
