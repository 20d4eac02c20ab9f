"""Half a row that gives the score away is found out, and half a row that does not is not."""

from __future__ import annotations

import math

import numpy as np

from roborl.rewards.relabelling.probes import look_of, video_probe, words_probe

RNG = np.random.default_rng(3)
EPISODES = [f"e{place // 5}" for place in range(150)]
LEVELS = [1 + place % 5 for place in range(150)]
THINGS = ["cup", "bowl", "pan", "spoon", "lid", "box", "towel", "plate"]


def words(count: int) -> str:
    return "put " + " ".join(RNG.choice(THINGS, count))


def test_words_that_tell_the_score_are_found_out_and_so_is_their_number() -> None:
    by_word = words_probe([f"{words(3)} {THINGS[level]}-{level}" for level in LEVELS], LEVELS, EPISODES)
    assert by_word.accuracy > 0.95
    by_length = words_probe([words(3 * level) for level in LEVELS], LEVELS, EPISODES)
    assert by_length.accuracy > by_length.chance + 0.15
    assert by_length.low > by_length.chance


def test_words_of_other_scripts_that_tell_the_score_are_found_out() -> None:
    for things in ("杯碗锅勺盖盒", ["чашка", "миска", "ложка", "крышка", "полка", "тряпка"]):
        texts = [f"放 {things[level]}" for level in LEVELS]
        assert words_probe(texts, LEVELS, EPISODES).accuracy > 0.95


def test_spelling_that_tells_the_score_is_found_out() -> None:
    levels = [1 if place % 2 else 5 for place in range(150)]
    for spelt in (str.capitalize, lambda text: f"{text}.", lambda text: text.replace(" ", "_", 1), str.title):
        texts = [spelt(words(4)) if level == 5 else words(4) for level in levels]
        assert words_probe(texts, levels, EPISODES).accuracy > 0.95


def test_words_that_do_not_tell_it_are_worth_a_guess_however_many_rows_a_score_has() -> None:
    levels = [5 if RNG.random() < 0.7 else int(RNG.integers(1, 5)) for _ in EPISODES]
    probe = words_probe([words(4) for _ in levels], levels, EPISODES)
    assert probe.chance == 0.2
    assert probe.low < 0.25 < 0.35 > probe.accuracy
    assert probe.rows == 150


def test_a_video_gives_itself_away_where_whole_and_cut_ones_have_scores_of_their_own() -> None:
    grey = [np.full((24, 32, 3), 40 * level, np.uint8) for level in range(6)]
    looks = [look_of(grey[0], grey[level], 10) for level in LEVELS]
    assert video_probe(looks, LEVELS, EPISODES).accuracy > 0.95
    same = [look_of(grey[0], grey[5], 10)] * len(LEVELS)
    assert abs(video_probe(same, LEVELS, EPISODES).accuracy - 0.2) < 1e-9


def test_too_little_to_measure_is_no_figure() -> None:
    for some in (words_probe([], [], []), words_probe(["a", "b"], [5, 5], ["x", "y"])):
        assert math.isnan(some.accuracy)
    assert math.isnan(words_probe(["a", "b"], [1, 5], ["x", "x"]).high)
    assert math.isnan(video_probe([], [], []).accuracy)
