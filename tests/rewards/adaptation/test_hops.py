"""Lessons in hops: the labels, the bins, the references, and that the question is the one asked in watching."""

from dataclasses import replace

import numpy as np
import pytest

from roborl.rewards.adaptation.hops import HopLessons
from roborl.rewards.adaptation.lessons import Album, TimeGuess
from roborl.rewards.dopamine import DopamineConfig, DopamineModel
from roborl.rewards.dopamine_question import CONTRACT
from roborl.rewards.fusion import FusionConfig, Perspective
from roborl.rewards.hop_pairs import PairConfig
from roborl.rewards.hop_replies import read_hop
from roborl.rewards.prompts import own_prompt
from roborl.testing.vlms import ScriptedVlm, query_key

from .conftest import TASK, film, observe

VIEWS = {"left_wrist": "left", "right_wrist": "right"}


def lessons_of(pairs=None, **settings):
    config = DopamineConfig(**settings)
    judge = ScriptedVlm(lambda query: None)
    model = DopamineModel(judge=judge, config=config, prompt=own_prompt(CONTRACT))
    return HopLessons(model, pairs or PairConfig(pairs=200))


def drawn(lessons, episodes, seed=0):
    return lessons.samples(episodes, TimeGuess.of(episodes), seed)


def moments(sample):
    """Before and after, as indices."""
    return sample.spots[2][2], sample.spots[5][2]


def test_answers_say_the_hop_between_their_two_moments():
    """Two sub-tasks of unequal length: 0 to 30 is the first half of the progress, 30 to 120 the second."""
    episode = film(121, keyframes=(0, 30, 120))
    samples = drawn(lessons_of(PairConfig(pairs=300, interval_frames=15)), [episode])
    progress = {0: 0, 7: 1 / 8, 15: 2 / 8, 22: 3 / 8, 30: 4 / 8, 52: 5 / 8, 75: 6 / 8, 97: 7 / 8, 120: 1}
    moving = [s for s in samples if s.answer != "<score>0.0%</score>"]
    assert len(moving) == 72  # every ordered pair of nine states
    for sample in moving:
        p, q = (progress[index] for index in moments(sample))
        hop = (q - p) / (1 - p) if q > p else (q - p) / p
        assert read_hop(sample.answer) == pytest.approx(hop, abs=5.1e-4)
        assert sample.value == pytest.approx(hop)


def test_hops_fill_25_bins_equally_and_a_twentieth_stands_still():
    (episode,) = episodes = [film(1301)]
    samples = drawn(lessons_of(PairConfig(pairs=1000)), episodes)
    assert len(samples) == 1000
    still = [s for s in samples if s.value == 0.0]
    assert len(still) == 50
    assert {s.answer for s in still} == {"<score>0.0%</score>"}
    # 65 states 20 frames apart: 0.075 of the 40 frames around each.
    assert {abs(b - a) for b, a in map(moments, still)} <= {1, 3}
    bins = np.bincount([min(int((s.value + 1) / 2 * 25), 24) for s in samples if s.value], minlength=25)
    assert bins.tolist() == [38] * 25
    assert all(a in range(episode.count) and b in range(episode.count) for a, b in map(moments, samples))


def test_references_come_from_other_episodes_of_the_task_and_no_other():
    episodes = [film(61, 0), film(81, 1), film(71, 2, task="another task")]
    samples = drawn(lessons_of(PairConfig(pairs=150, interval_frames=5)), episodes)
    pairs = [(s.spots[2][0], s.spots[0][0]) for s in samples]
    assert all(s.spots[0][2] == 0 and s.spots[1][2] == episodes[s.spots[1][0]].count - 1 for s in samples)
    assert {reference for own, reference in pairs if own < 2} == {0, 1}
    assert {reference for own, reference in pairs if own == 2} == {2}
    swapped = np.mean([own != reference for own, reference in pairs if own < 2])
    assert 0.25 < swapped < 0.5  # three quarters are drawn anew, half of which meet another


def test_a_failure_teaches_no_hops():
    episodes = [film(61, 0), film(40, 1, kind="miss")]
    assert {s.spots[2][0] for s in drawn(lessons_of(), episodes)} == {0}


@pytest.mark.parametrize("cameras", [{}, VIEWS])
def test_the_question_is_the_one_that_watching_asks(cameras):
    perspectives = (Perspective.INCREMENTAL, Perspective.FORWARD, Perspective.BACKWARD)
    pairs = PairConfig(pairs=400, interval_frames=4, swap_share=0.0)
    lessons = lessons_of(pairs, fusion=FusionConfig(perspectives=perspectives), **cameras)
    (episode,) = episodes = [film(41)]
    samples = drawn(lessons, episodes)
    album = Album(episodes, samples)
    taught = {moments(s): query_key(s.ask(album.pictures(s))) for s in samples}
    fold = lessons.model.start(TASK, {"goal/front": episode.footage.picture(40)})
    shown = observe(episode, [0, 20, 28], lessons.cameras)
    assert fold.queries(shown[0]) == []
    asked = [query_key(q) for observation in shown[1:] for q in fold.queries(observation)]
    #        incremental      forward          backward
    assert [taught[pair] for pair in [(0, 20), (0, 20)]] == asked[:2]
    assert [taught[pair] for pair in [(20, 28), (0, 28)]] == asked[3:5]
    assert taught.get((40, 20), asked[2]) == asked[2]
    assert taught.get((40, 28), asked[5]) == asked[5]
    assert {(40, 20), (40, 28)} & taught.keys()


def test_only_what_is_needed_is_read_and_the_same_seed_draws_the_same():
    lessons = lessons_of(PairConfig(pairs=20, zero_share=0.0, interval_frames=50))
    (episode,) = episodes = [film(201)]
    samples = drawn(lessons, episodes, seed=3)
    Album(episodes, samples)
    assert {index for _, index in episode.footage.asked} == {0, 50, 100, 150, 200}
    again = drawn(lessons, episodes, seed=3)
    assert [(s.spots, s.answer) for s in again] == [(s.spots, s.answer) for s in samples]
    assert [s.spots for s in drawn(lessons, episodes, seed=4)] != [s.spots for s in samples]


def test_a_time_only_guess_knows_the_average_pace():
    guess = TimeGuess.of([film(41), film(61), film(9, kind="miss")])
    assert guess.progress([0, 25, 50, 70]).tolist() == [0.0, 0.5, 1.0, 1.0]
    slow = replace(film(101), keyframes=(0, 100))
    sample = lessons_of(PairConfig(pairs=50, interval_frames=25)).samples([slow], guess, 0)[0]
    p, q = guess.progress(list(moments(sample)))
    room = 1 - p if q >= p else p
    assert sample.guess == pytest.approx((q - p) / room if room else 0.0)
