"""Models of known behaviour get the figures that they deserve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from roborl.errors import ConfigError, ShapeError
from roborl.loops.requirements import Requirement
from roborl.rewards.benchmark import FIGURES, BenchmarkSettings, measure, time_only_model
from roborl.rewards.fake import BrightnessJudge, BrightnessModel
from roborl.rewards.judges.queries import VlmJudge
from roborl.rewards.model import Fold, JudgeDown, JudgeSilent, missing
from roborl.rewards.prompts import PromptConfig, load_prompt
from roborl.rewards.roboreward import CONTRACT, RoboRewardModel
from roborl.rewards.roboreward_config import RoboRewardConfig, ScoreReadout
from roborl.rewards.subjects import Subject, stored
from roborl.rewards.time_only import mean_progress
from roborl.rewards.training.episodes import TrainingEpisode, as_video
from roborl.testing.vlms import ScriptedVlm, brightness_of_last
from roborl.types import Observation, Score

SETTINGS = BenchmarkSettings(lag=3)


def subject(
    number: int, levels: Sequence[float], *, success: bool = True, group: str = "a", known: bool = True
) -> Subject:
    """An episode whose pictures are as bright as its progress is high; the number makes it differ from others."""
    progress = np.asarray(levels, float)
    shade = np.round(255 * progress).astype(np.uint8)
    pictures = np.repeat(shade, 16 * 16 * 3).reshape(-1, 16, 16, 3)
    episode = TrainingEpisode(
        images={"front": pictures},
        state=np.full((len(shade), 2), number, np.float32),
        task="light the lamp",
        success=success,
        kind="success" if success else "miss",
    )
    return Subject(
        episode=replace(stored(episode, lambda: episode), video=str(number)),
        group=group,
        truth=shade / 255.0 if known else np.full(len(shade), np.nan),
        references={},
        other_task="put out the lamp",
    )


def rising(number: int, frames: int = 13) -> Subject:
    return subject(number, np.linspace(0.0, 1.0, frames))


def stuck(number: int, frames: int = 13, top: float = 0.3) -> Subject:
    return subject(number, np.linspace(0.0, top, frames), success=False, group="b")


COHORT = [rising(1), rising(2, 17), stuck(3), stuck(4, 15)]
VALIDATION = [rising(11), rising(12, 15), stuck(13)]


def roboreward(judge: VlmJudge) -> RoboRewardModel:
    return RoboRewardModel(
        judge, load_prompt(CONTRACT, PromptConfig()), RoboRewardConfig(reading=ScoreReadout.TEXT)
    )


def test_a_model_that_knows_the_progress_is_perfect() -> None:
    found = measure(BrightnessModel(), VALIDATION, COHORT, SETTINGS)
    figures = found.figures
    assert set(figures) == set(FIGURES)
    for name in ("voc", "voc_rewound", "voc_f1", "accuracy", "success_rate"):
        assert figures[name] == pytest.approx(1.0), name
    for name in ("negative_rate", "false_success_rate", "unreadable", "derived_grade_mae", "false_done_rate"):
        assert figures[name] == 0.0, name
    assert figures["delta_error"] < 1e-9
    assert figures["calibration_before"] < 1e-9
    # Without pictures it sees the same grey everywhere; the words never mattered to it.
    assert figures["text_only_voc"] == 0.0
    assert figures["text_only_success_rate"] == 0.0
    assert figures["text_only_change"] > 0.2
    assert figures["video_only_change"] == 0.0
    assert figures["video_only_success_rate"] == 1.0
    assert 0.0 <= figures["query_ms"] <= figures["query_p95_ms"]
    assert found.version == "brightness-all"


class Away(BrightnessJudge):
    """A judge that is away at some of its calls."""

    def __init__(self, error: JudgeDown, *calls: int) -> None:
        self.error, self.calls, self.number = error, calls, 0

    def answer(self, queries: Sequence[Any]) -> list[tuple[float, float]]:
        self.number += 1
        if self.number in self.calls:
            raise self.error
        return super().answer(queries)


def test_a_judge_that_is_away_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("roborl.rewards.viewing.time.sleep", pauses.append)
    away = BrightnessModel(judge=Away(JudgeDown("away"), 3, 4, 5))
    settings = replace(SETTINGS, max_batch=4)
    of_both = [measure(model, VALIDATION, COHORT, settings).figures for model in (away, BrightnessModel())]
    timed = ("query_ms", "query_p95_ms", "batch", "score_ms")
    ours, undisturbed = ({k: v for k, v in figures.items() if k not in timed} for figures in of_both)
    assert ours == pytest.approx(undisturbed, nan_ok=True)
    assert pauses == [1.0, 2.0, 4.0]


def test_a_judge_that_stays_away_says_nothing_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roborl.rewards.viewing.time.sleep", lambda pause_s: None)
    with pytest.raises(JudgeDown, match="away"):
        measure(BrightnessModel(judge=Away(JudgeDown("away"), *range(3, 99))), [], COHORT, SETTINGS)
    silent = measure(BrightnessModel(judge=Away(JudgeSilent("mute"), *range(3, 11))), [], COHORT, SETTINGS)
    assert 0.0 < silent.figures["unreadable"] < 1.0


def test_a_model_of_time_alone_fails_on_failures_and_on_the_way_back() -> None:
    figures = measure(
        time_only_model(VALIDATION), VALIDATION, COHORT, replace(SETTINGS, probes=False)
    ).figures
    assert figures["voc"] > 0.95
    assert figures["voc_rewound"] < 0.0
    assert figures["voc_f1"] == 0.0
    assert figures["false_success_rate"] == 1.0
    assert figures["false_success_high"] == pytest.approx(1.0)
    assert figures["accuracy"] == 0.5
    assert figures["derived_grade_mae"] > 0.5
    assert math.isnan(figures["text_only_voc"])


def of_task(task: str, subject: Subject) -> Subject:
    return replace(subject, episode=replace(subject.episode, task=task))


def test_time_alone_knows_how_long_each_task_takes() -> None:
    tasks = [of_task("short", rising(1, 9)), of_task("long", rising(2, 41))]
    figures = measure(time_only_model(tasks), tasks, tasks, replace(SETTINGS, probes=False)).figures
    assert figures["progress_error_before"] < 1e-9
    assert figures["accuracy"] == 1.0
    # Of a task that nobody showed it knows what all tasks have in common.
    other = time_only_model(tasks).start("other", {}).queries(as_video(tasks[0].episode.read(), [0] * 9)[8])
    assert time_only_model(tasks).judge.answer(other) == [pytest.approx(0.6, abs=0.01)]


def test_time_alone_is_the_mean_of_the_demonstrations() -> None:
    assert mean_progress([[0.0, np.nan, 1.0]]).tolist() == [0.0, 0.5, 1.0]


def test_replies_that_cannot_be_read_get_the_worst_error() -> None:
    found = measure(
        roboreward(ScriptedVlm(lambda query: "I would rather not say")), VALIDATION, COHORT, SETTINGS
    )
    figures = found.figures
    (reason,) = found.reasons
    assert "rather not say" in reason
    assert figures["unreadable"] == 1.0
    assert (
        figures["derived_grade_mae"] == figures["derived_grade_mae_low"] == figures["derived_clip_mae"] == 4.0
    )
    assert figures["voc"] == 0.0
    assert figures["accuracy"] == 0.0
    assert figures["false_success_rate"] == 0.0
    assert math.isnan(figures["calibration_before"])
    assert math.isnan(figures["text_only_change"])


def test_some_unreadable_replies_count_among_the_others() -> None:
    """Bright pictures are graded, dark ones leave it without words: the failures, and clips that end early."""

    def say(query: Any) -> str:
        value = brightness_of_last(query)
        return f"ANSWER: {1 + round(4 * value)}" if value > 0.4 else "no"

    found = measure(roboreward(ScriptedVlm(say)), VALIDATION, COHORT, replace(SETTINGS, probes=False))
    assert found.derived is not None
    assert found.derived.unparsable == 2
    assert found.derived.by_group == {"a": 0.0, "b": 4.0}
    assert found.figures["derived_grade_mae"] == 2.0
    assert found.derived_clips is not None
    assert found.derived_clips.unparsable == 4  # the clips of 10 and 30 % of both successes
    assert 0.0 < found.figures["unreadable"] < 1.0


def test_calibration_is_fitted_on_validation_and_improves_reliability() -> None:
    model = BrightnessModel(judge=_Root())
    found = measure(model, VALIDATION, COHORT, replace(SETTINGS, probes=False))
    assert found.calibration is not None
    assert found.figures["calibration_before"] > 0.1
    assert found.figures["calibration_after"] < 0.3 * found.figures["calibration_before"]
    assert found.figures["progress_error_after"] < 0.5 * found.figures["progress_error_before"]
    # What the test episodes look like has no part in it.
    other = measure(model, VALIDATION, [stuck(5, top=0.1), rising(6, 9)], replace(SETTINGS, probes=False))
    assert other.calibration == found.calibration


class _Root(BrightnessJudge):
    """Holds every picture to be worth the square root of its brightness."""

    def answer(self, queries: Sequence[Any]) -> list[tuple[float, float]]:
        return [(math.sqrt(now), change) for now, change in super().answer(queries)]


def test_a_calibration_that_says_nothing_is_told_by_the_error_of_the_progress() -> None:
    model = BrightnessModel(judge=_Contrary())
    figures = measure(model, [rising(11)], [rising(1)], replace(SETTINGS, probes=False)).figures
    assert figures["calibration_after"] < 0.01
    assert figures["progress_error_after"] == pytest.approx(0.27, abs=0.02)


def test_without_known_progress_what_needs_it_is_left_open() -> None:
    unknown = [
        rising(1),
        subject(2, np.linspace(0, 0.9, 9), success=False, known=False),
    ]
    found = measure(BrightnessModel(), VALIDATION, unknown, SETTINGS)
    assert found.derived is not None
    assert found.derived.questions == 1
    assert found.figures["false_success_rate"] == 1.0
    assert found.reliability.shape == (3, 13)
    alone = measure(BrightnessModel(), [], [unknown[1]], SETTINGS)
    assert alone.calibration is None
    assert math.isnan(alone.figures["voc"])
    assert math.isnan(alone.figures["derived_grade_mae"])


class Words(BrightnessModel):
    """Looks at the pictures only where the instruction is the one it knows."""

    def start(self, task: str, references: Any) -> Any:
        fold = super().start(task, references)
        return fold if task == "light the lamp" else _Dark(self.info.version)


class _Dark(Fold[Any, Any]):
    def __init__(self, version: str) -> None:
        self._version = version

    def queries(self, observation: Observation) -> list[Any]:
        return []

    def fold(self, observation_id: int, replies: Sequence[Any]) -> Score:
        return Score(frame_id=observation_id, progress=0.0, raw=0.0, version=self._version)


def test_other_words_change_the_mind_of_a_model_that_reads_them() -> None:
    figures = measure(Words(), VALIDATION, COHORT, SETTINGS).figures
    assert figures["success_rate"] == 1.0
    assert figures["video_only_success_rate"] == 0.0
    assert figures["video_only_voc"] == 0.0
    assert figures["video_only_change"] > 0.2


class _Contrary(BrightnessJudge):
    def answer(self, queries: Sequence[Any]) -> list[tuple[float, float]]:
        return [(1.0 - now, change) for now, change in super().answer(queries)]


def test_falling_steps_and_wrong_changes_are_seen() -> None:
    figures = measure(
        BrightnessModel(judge=_Contrary()), VALIDATION, [rising(1)], replace(SETTINGS, probes=False)
    ).figures
    assert figures["voc"] == pytest.approx(-1.0)
    assert figures["negative_rate"] == 1.0
    # Over three of twelve steps the truth gains a quarter, and this loses one.
    assert figures["delta_error"] == pytest.approx(0.5, abs=0.01)


def test_scores_between_strides_are_held_as_a_learner_holds_them() -> None:
    figures = measure(
        BrightnessModel(),
        VALIDATION,
        [subject(1, [0, 0.2, 0.4, 0.6, 0.8, 1.0])],
        BenchmarkSettings(lag=1, stride=2, probes=False),
    ).figures
    # Held curve 0 0 .4 .4 .8 1: changes 0 .4 0 .4 .2 against .2 each.
    assert figures["delta_error"] == pytest.approx(0.16, abs=0.01)
    assert figures["voc_f1"] == pytest.approx(1.0)


def test_clips_are_graded_at_their_ends_whatever_the_stride() -> None:
    long = [rising(1, 101), stuck(2, 101)]
    fine, coarse = (
        measure(BrightnessModel(), VALIDATION, long, BenchmarkSettings(lag=5, stride=stride, probes=False))
        for stride in (1, 32)
    )
    assert coarse.figures["derived_clip_mae"] == fine.figures["derived_clip_mae"]
    # Everything else is of what a learner would have asked for.
    assert [curve.scored.tolist() for curve in coarse.curves] == [[0, 32, 64, 96, 100]] * 2
    assert [curve.frames for curve in coarse.curves] == [101, 101]


class _Down(BrightnessJudge):
    def answer(self, queries: Sequence[Any]) -> list[tuple[float, float]]:
        raise RuntimeError("out of order")


def test_a_judge_that_fails_is_counted_and_a_view_that_is_missing_is_said() -> None:
    found = measure(BrightnessModel(judge=_Down()), VALIDATION, COHORT, replace(SETTINGS, probes=False))
    assert found.figures["unreadable"] == 1.0
    assert found.faults["RuntimeError"] > 0
    assert math.isnan(found.figures["query_ms"])
    with pytest.raises(ShapeError, match="view is missing"):
        measure(BrightnessModel(("wrist",)), VALIDATION, COHORT, SETTINGS)


@pytest.mark.parametrize("name", ["lag", "stride", "max_batch"])
def test_impossible_settings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="Allowed: 1 or more"):
        BenchmarkSettings(**{name: 0})


def test_progress_of_the_work_is_told() -> None:
    told: list[tuple[int, int]] = []
    note: Callable[[int, int], None] = lambda done, of: told.append((done, of))  # noqa: E731
    measure(BrightnessModel(), VALIDATION, COHORT, SETTINGS, on_video=note)
    assert told == [(i, 15) for i in range(1, 16)]


class Forgetful(BrightnessModel):
    """Loses its answers at some places."""

    def __init__(self, *lost: int) -> None:
        super().__init__()
        self.lost = lost

    def start(self, task: str, references: Any) -> Any:
        inner, lost = super().start(task, references), self.lost

        class Losing(Fold[Any, Any]):
            def queries(self, observation: Observation) -> list[Any]:
                return list(inner.queries(observation))

            def fold(self, observation_id: int, replies: Sequence[Any]) -> Score:
                score = inner.fold(observation_id, replies)
                return missing(observation_id, "lost", version="x") if observation_id in lost else score

        return Losing()


def test_a_missing_last_score_makes_no_grade_no_success_and_no_order() -> None:
    found = measure(Forgetful(12), VALIDATION, [rising(1)], replace(SETTINGS, probes=False))
    assert found.derived is not None
    assert found.derived.unparsable == 1
    figures = found.figures
    assert (figures["success_rate"], figures["accuracy"]) == (0.0, 0.0)
    assert figures["unreadable"] == pytest.approx(1 / 13)
    # The way back begins with the lost answer.
    assert figures["voc"] == figures["voc_rewound"] == figures["voc_f1"] == 0.0
    assert figures["negative_rate"] == pytest.approx(1 / 13)


def test_two_readable_scores_out_of_many_are_no_order() -> None:
    found = measure(
        Forgetful(*range(1, 25)), VALIDATION, [rising(1), rising(2)], replace(SETTINGS, probes=False)
    )
    figures = found.figures
    assert figures["unreadable"] == pytest.approx(12 / 13)
    assert figures["voc"] == figures["voc_rewound"] == 0.0
    assert figures["negative_rate"] == 1.0
    assert not Requirement.parse("voc>=0.8", FIGURES).holds(figures)


def test_a_failure_whose_last_scores_are_unreadable_is_not_judged_on_an_older_one() -> None:
    undone = subject(1, [*np.linspace(0, 1, 9), 0.1, 0.1, 0.1, 0.1], success=False)
    settings = replace(SETTINGS, probes=False)
    figures = measure(Forgetful(9, 10, 11, 12), VALIDATION, [undone], settings).figures
    assert (figures["accuracy"], figures["false_success_rate"]) == (0.0, 0.0)
    early = subject(1, np.linspace(0, 1, 13))
    assert measure(Forgetful(10), VALIDATION, [early], settings).figures["success_rate"] == 1.0


def test_an_episode_that_a_model_refuses_has_no_score_and_the_others_have() -> None:
    class Picky(BrightnessModel):
        def start(self, task: str, references: Any) -> Any:
            if task == "mend the lamp":
                raise ConfigError("No idea what that looks like")
            return super().start(task, references)

    odd = rising(7)
    odd = replace(odd, episode=replace(odd.episode, task="mend the lamp"))
    found = measure(Picky(), VALIDATION, [rising(1), odd], replace(SETTINGS, probes=False))
    assert found.figures["unreadable"] == 0.5
    assert found.figures["voc"] == pytest.approx(0.5)
    assert found.figures["derived_grade_mae"] == 2.0
    assert next(iter(found.reasons)).startswith("refused: No idea")
    with pytest.raises(ConfigError, match="No idea"):
        measure(Picky(), [], [odd], SETTINGS)
