"""Lessons for the judge of videos: where they end, what they score, and that the question is the one asked in watching."""

from collections import Counter

import numpy as np
import pytest

from roborl.errors import ConfigError
from roborl.rewards.adaptation.lessons import Album, TimeGuess, other_task
from roborl.rewards.adaptation.scores import ScoreConfig, ScoreLessons, until_done
from roborl.rewards.judges.queries import VlmReply
from roborl.rewards.prompts import own_prompt
from roborl.rewards.roboreward import CONTRACT, RoboRewardModel
from roborl.rewards.roboreward_config import RoboRewardConfig, ScoreReadout
from roborl.testing.vlms import ScriptedVlm, query_key

from .conftest import TASK, film, observe


def lessons_of(videos=None, **settings):
    config = RoboRewardConfig(camera="front", frames=6, **settings)
    model = RoboRewardModel(ScriptedVlm(lambda query: None), own_prompt(CONTRACT), config)
    return ScoreLessons(model, "front", videos or ScoreConfig())


def drawn(lessons, episodes):
    return lessons.samples(episodes, TimeGuess.of(episodes), 0)


def test_videos_end_where_their_score_is_reached():
    """Progress and not time: the first sub-task is half of it and takes a fifth of the frames."""
    (episode,) = episodes = [film(101, keyframes=(0, 20, 100))]
    samples = drawn(lessons_of(ScoreConfig(videos=5, jitter=0.04)), episodes)
    assert Counter(s.answer for s in samples) == {f"ANSWER: {score}": 5 for score in range(1, 6)}
    for sample in samples:
        end = float(episode.progress(sample.spots[-1][2]))
        assert end == pytest.approx({1: 0.1, 2: 0.3, 3: 0.5, 4: 0.7, 5: 1.0}[sample.value], abs=0.06)
    assert {s.spots[-1][2] for s in samples if s.value == 3} <= set(range(18, 29))


def test_unmarked_episodes_are_done_where_the_settings_say():
    """Where the task is done at 70 %, a video of 70 % shows success; that of score 4 ends at 49 %."""
    episodes = [film(101), film(51, 1, keyframes=(0, 20, 50)), film(51, 2, kind="drop", reached=0.5)]
    told = until_done(episodes, 0.7)
    assert [e.keyframes for e in told] == [(0, 70), (0, 20, 50), ()]
    samples = drawn(lessons_of(ScoreConfig(videos=5, jitter=0.0)), told)
    ends = {s.value: s.spots[-1][2] for s in samples if s.spots[0][0] == 0}
    assert ends == {1: 7, 2: 21, 3: 35, 4: 49, 5: 100}


def test_episodes_that_are_cut_by_time_are_warned_of(caplog):
    marked, unmarked = film(51, keyframes=(0, 20, 50)), film(101)
    for episodes, onset in (([marked], 1.0), ([unmarked], 0.9), ([film(51, level=3)], 1.0)):
        until_done(episodes, onset)
    assert caplog.messages == []
    assert [e.keyframes for e in until_done([marked, unmarked], 1.0)] == [(0, 20, 50), (0, 100)]
    (said,) = caplog.messages
    assert said.startswith("1 of 2 episodes have no marked sub-tasks")
    assert "--samples.onset" in said


def test_failures_teach_what_they_reached_and_never_success():
    episodes = [
        film(61, 0),
        film(50, 1, kind="drop", reached=0.5),
        film(50, 2, kind="almost", reached=1.0),
        film(50, 3, kind="miss"),
    ]
    samples = [s for s in drawn(lessons_of(), episodes) if s.spots[0][0] > 0]
    assert [(s.spots[0][0], s.spots[-1][2], s.answer) for s in samples] == [
        (1, 49, "ANSWER: 3"),
        (2, 49, "ANSWER: 4"),
    ]


def test_a_success_at_another_task_scores_one():
    episodes = [film(61, 0), film(61, 1, task="drain the bar")]
    lessons = lessons_of(ScoreConfig(videos=1, wrong_task=2))
    samples = drawn(lessons, episodes)
    album = Album(episodes, samples)
    wrong = [s for s in samples if episodes[s.spots[0][0]].tasks[0] not in s.ask(album.pictures(s)).parts[0]]
    assert len(wrong) == 4
    assert all(s.answer == "ANSWER: 1" and s.spots[-1][2] == 60 for s in wrong)


@pytest.mark.parametrize("reading", list(ScoreReadout))
def test_the_question_is_the_one_that_watching_asks(reading):
    lessons = lessons_of(reading=reading)
    (episode,) = episodes = [film(61)]
    samples = drawn(lessons, episodes)
    album = Album(episodes, samples)
    fold = lessons.model.start(TASK, {})
    asked = {}
    for index, observation in enumerate(observe(episode, range(61))):
        asked[index] = query_key(fold.queries(observation)[0])
    assert len({s.spots[-1][2] for s in samples}) > 8
    for sample in samples:
        assert query_key(sample.ask(album.pictures(sample))) == asked[sample.spots[-1][2]]


def test_replies_are_read_as_in_watching():
    lessons = lessons_of()
    likely = VlmReply(text="ANSWER: ", probabilities=(0, 0, 0.5, 0.5, 0), mass=0.9)
    assert lessons.read(likely) == 3.5
    assert lessons.read(VlmReply(text="", probabilities=(0, 0, 1, 0, 0), mass=0.1)) is None
    assert lessons.read(VlmReply(text="ANSWER: 4")) == 4


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="cannot be drawn"):
        ScoreConfig(jitter=0.2)
    for onset in (0.0, 1.1):
        with pytest.raises(ConfigError, match=r"onset .*onset in \(0, 1\]"):
            ScoreConfig(onset=onset)


def test_another_spelling_of_the_task_is_no_other_task():
    own, variant = (film(9, task=words) for words in ("Put the cup in the sink", "put cup in sink."))
    rng = np.random.default_rng(0)
    assert other_task(own, [own, variant], rng) is None
    third = film(9, task="fold the towel")
    assert {other_task(own, [own, variant, third], rng) for _ in range(20)} == {"fold the towel"}
