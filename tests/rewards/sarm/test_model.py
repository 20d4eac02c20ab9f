from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from roborl.errors import ShapeError
from roborl.rewards.calibrated import CalibratedModel
from roborl.rewards.calibration import Calibration
from roborl.rewards.model import score_episode
from roborl.rewards.sarm.model import SarmModel, SarmQuery, SarmReply
from roborl.rewards.training.episodes import TrainingEpisode, as_video
from roborl.rewards.training.evaluation import (
    format_reports,
    held_out_report,
    leak,
    splice,
    time_only,
    watcher,
)
from roborl.types import Observation, Score

type World = Callable[[str, int], TrainingEpisode]
type Show = Callable[[TrainingEpisode], list[Observation]]


@pytest.fixture(scope="module")
def unseen(world: World) -> list[TrainingEpisode]:
    return [world("success", 1000 + i) for i in range(6)] + [
        world(kind, 2000 + i) for kind in ("miss", "drop", "undo") for i in range(4)
    ]


def test_it_learns_what_progress_is(trained: SarmModel, unseen: list[TrainingEpisode]) -> None:
    report = held_out_report(watcher(trained), unseen, trained.plan)
    assert report.forward > 0.95
    assert report.backward < -0.7
    assert report.frozen < 0.05
    assert report.undone > 0.8
    assert report.error < 0.15
    assert report.spliced > 0.9
    assert report.spliced_error < 0.15
    progress, truth = report.curves["spliced"]
    assert len(progress) == len(truth) == len(splice(unseen[0].frames))
    assert report.curves["backwards"][1][0] == 1.0
    failures = {failure.kind: failure for failure in report.failures}
    assert failures["miss"].final < 0.2
    assert failures["drop"].final < 0.45
    assert failures["undo"].final < report.final - 0.1
    assert "miss (4): highest progress" in format_reports({"ours": report})


def test_a_model_that_only_knows_the_time_loses_on_failures(
    trained: SarmModel, world: World, unseen: list[TrainingEpisode]
) -> None:
    clock = time_only([world("success", seed) for seed in range(20)], trained.plan)
    ours, by_time = (held_out_report(w, unseen, trained.plan) for w in (watcher(trained), clock))
    assert by_time.forward > 0.95  # on successes the clock is hard to beat
    assert by_time.backward > 0.9
    assert ours.spliced > by_time.spliced
    assert ours.spliced_error < by_time.spliced_error
    for mine, its in zip(ours.failures, by_time.failures, strict=True):
        assert mine.kind == its.kind
        assert mine.error < its.error


def test_nothing_later_leaks_into_a_score(trained: SarmModel, world: World) -> None:
    episode = world("success", 1003)
    assert all(leak(watcher(trained), episode, at) < 1e-5 for at in range(0, episode.frames, 4))


def test_a_foreign_instruction_is_no_progress(
    trained: SarmModel, world: World, as_observations: Show
) -> None:
    shown = as_observations(world("success", 1001))
    own = score_episode(trained, trained.tasks[0], shown)
    foreign = score_episode(trained, "fold the blue towel twice", shown)
    assert own[-1].progress > 0.7
    assert max(score.progress for score in foreign) < 0.2


def test_batching_over_sessions_changes_nothing_but_rounding(
    trained: SarmModel, world: World, as_observations: Show
) -> None:
    episodes = [as_observations(world(kind, 50)) for kind in ("success", "miss", "undo")]
    alone = [score_episode(trained, trained.tasks[0], shown, max_batch=1) for shown in episodes]
    folds = [trained.start(trained.tasks[0], {}) for _ in episodes]
    together: list[list[Score]] = [[] for _ in episodes]
    for t in range(max(map(len, episodes))):
        live = [i for i, shown in enumerate(episodes) if t < len(shown)]
        queries = [folds[i].queries(episodes[i][t])[0] for i in live]
        for i, reply in zip(live, trained.judge.answer(queries), strict=True):
            together[i].append(folds[i].fold(t, [reply]))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose([s.progress for s in a], [s.progress for s in b], atol=1e-5)


def test_queries_may_be_answered_late_and_in_any_order(
    trained: SarmModel, world: World, as_observations: Show
) -> None:
    shown = as_observations(world("success", 51))
    fold = trained.start(trained.tasks[0], {})
    queries = [fold.queries(observation)[0] for observation in shown]
    backwards = [trained.judge.answer([query])[0] for query in queries[::-1]][::-1]
    expected = [score.progress for score in score_episode(trained, trained.tasks[0], shown)]
    np.testing.assert_allclose([reply.progress for reply in backwards], expected, atol=1e-5)


def test_frames_that_are_skipped_are_still_seen(
    trained: SarmModel, world: World, as_observations: Show
) -> None:
    shown = as_observations(world("success", 52))
    every = {s.frame_id: s.progress for s in score_episode(trained, trained.tasks[0], shown)}
    third = score_episode(trained, trained.tasks[0], shown, stride=3)
    assert len(third) < len(every)
    for score in third:
        assert score.progress == pytest.approx(every[score.frame_id], abs=1e-5)


def test_a_frame_is_encoded_once(trained: SarmModel, world: World, as_observations: Show) -> None:
    shown = as_observations(world("success", 53))
    seen: list[int] = []
    encode = trained.network.encode

    def counting(frames: Sequence[object]) -> object:
        seen.append(len(frames[0]))  # type: ignore[arg-type]
        return encode(frames)  # type: ignore[arg-type]

    trained.network.encode = counting  # type: ignore[method-assign, assignment]
    try:
        score_episode(trained, trained.tasks[0], shown, max_batch=5)
    finally:
        del trained.network.encode
    assert sum(seen) == len(shown)


def test_the_memory_of_a_session_is_bounded(trained: SarmModel, world: World, as_observations: Show) -> None:
    fold = trained.start(trained.tasks[0], {})
    episode = world("success", 54)
    for observation in as_video(episode, [i % episode.frames for i in range(300)]):
        fold.queries(observation)
    assert len(fold._seen.kept) <= trained.config.window.reach + 3


def _reply(progress: float) -> SarmReply:
    return SarmReply(progress=progress, spread=0.1, stages=(0.0, 1.0), within=(1.0,))


def test_done_needs_several_finished_frames_in_a_row(trained: SarmModel) -> None:
    fold = trained.start("x", {})
    replies = [_reply(0.99), _reply(0.5), _reply(0.99), None, _reply(0.99), _reply(0.2)]
    scores = [fold.fold(i, [reply]) for i, reply in enumerate(replies)]
    assert [score.done for score in scores] == [None, False, None, None, True, False]
    assert [score.valid for score in scores] == [True, True, True, False, True, True]


def test_done_of_a_calibrated_model_is_read_off_the_calibrated_progress(trained: SarmModel) -> None:
    model = CalibratedModel(trained, Calibration(raw=(0.0, 0.8, 1.0), calibrated=(0.0, 0.95, 1.0)))
    fold = model.start("x", {})
    replies = [_reply(0.7), _reply(0.8), _reply(0.7), _reply(0.8), None, _reply(0.8)]
    done = [fold.fold(i, [reply]).done for i, reply in enumerate(replies)]
    assert done == [False, None, False, None, None, True]


def test_a_reply_that_is_not_finite_is_missing(trained: SarmModel) -> None:
    score = trained.start("x", {}).fold(3, [_reply(float("nan"))])
    assert not score.valid
    assert score.frame_id == 3


def test_a_missing_view_is_named_and_leaves_the_fold_as_it_was(
    trained: SarmModel, world: World, as_observations: Show
) -> None:
    shown = as_observations(world("success", 55))
    fold, whole = trained.start(trained.tasks[0], {}), trained.start(trained.tasks[0], {})
    frames = {"front": shown[2].frames["front"]}
    blind = Observation(frames=frames, state=shown[2].state, stamp_ns=2)
    for t in (0, 1, 2, 3):
        if t == 2:
            with pytest.raises(ShapeError, match="wrist"):
                fold.queries(blind)
        a, b = fold.queries(shown[t]), whole.queries(shown[t])
    answers = trained.judge.answer([*a, *b])
    assert answers[0].progress == pytest.approx(answers[1].progress, abs=1e-5)


def test_larger_pictures_are_averaged_down(trained: SarmModel, world: World) -> None:
    episode = world("success", 56)
    large = TrainingEpisode(
        images={n: v.repeat(3, axis=1).repeat(3, axis=2) for n, v in episode.images.items()},
        state=episode.state,
        task=episode.task,
        success=True,
    )
    order = range(episode.frames)
    np.testing.assert_allclose(watcher(trained)(large, order), watcher(trained)(episode, order), atol=1e-5)


def test_the_judge_answers_nothing_to_nothing(trained: SarmModel) -> None:
    empty: list[SarmQuery] = []
    assert trained.judge.answer(empty) == []
