"""What a reward model is worth before anybody trains on it: figures of one model on episodes with known outcomes.

What has to be fitted is fitted on validation episodes alone, and every figure is of test episodes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError
from roborl.rewards.calibration import Calibration, fit_calibration
from roborl.rewards.grades import Grade, GradeReport, grade, level_of
from roborl.rewards.metrics import (
    calibration_error,
    mean_absolute_error,
    voc_f1,
    wilson_interval,
)
from roborl.rewards.model import RewardModel
from roborl.rewards.subjects import Subject
from roborl.rewards.time_only import Clock, TimeOnlyModel
from roborl.rewards.training.episodes import as_video
from roborl.rewards.verdicts import Outcome, outcome_of
from roborl.rewards.viewing import Curve, Viewer

FIGURES: Mapping[str, str] = {
    "voc": "value order, successes (1 is best)",
    "voc_rewound": "value order, wound back (1 is best)",
    "voc_f1": "F1 of the two",
    "negative_rate": "steps that fall or cannot be read",
    "delta_error": "error of the change over the lag",
    "accuracy": "outcomes told right",
    "accuracy_low": "  lower bound",
    "success_rate": "successes called success",
    "false_success_rate": "failures called success",
    "false_success_high": "  upper bound",
    "false_done_rate": "failures it called done",
    "calibration_before": "calibration error, raw",
    "calibration_after": "calibration error, calibrated",
    "progress_error_before": "error of the progress, raw",
    "progress_error_after": "error of the progress, calibrated",
    "grade_mae": "error of given grades, by progress",
    "grade_mae_low": "  lower bound",
    "grade_mae_high": "  upper bound",
    "written_grade_mae": "error of given grades, as written",
    "grade_unreadable": "given grades: no readable answer",
    "grade_false_five": "given grades below 5 graded 5",
    "grade_false_five_high": "  upper bound",
    "derived_grade_mae": "error of derived grades, 1 to 5",
    "derived_grade_mae_low": "  lower bound",
    "derived_grade_mae_high": "  upper bound",
    "derived_clip_mae": "error of derived grades, clips",
    "unreadable": "scores that could not be read",
    "text_only_voc": "no pictures: value order",
    "text_only_success_rate": "no pictures: called success",
    "text_only_change": "no pictures: progress moved by",
    "video_only_voc": "other words: value order",
    "video_only_success_rate": "other words: called success",
    "video_only_change": "other words: progress moved by",
    "query_ms": "judge's call, median, ms",
    "query_p95_ms": "judge's call, 95th percentile, ms",
    "batch": "queries per call",
    "score_ms": "ms per score",
}
"""Names of the figures, which bars speak of, and what they are."""

CLIPS = {1: 0.1, 2: 0.3, 3: 0.5, 4: 0.7}
"""Share of a successful video that a clip of each level shows. The levels are proposals: no one has verified them.

Source: the files of RoboReward (arXiv 2601.00675), in which clips have these lengths.
"""
_GREY = 128
_REASONS = 5


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """How models are measured."""

    # Observations between two decisions of the policy, its chunk: changes of progress are compared over so many.
    lag: int = 8
    # Distance between scored observations; where a clip to be graded ends off these, the video is shown
    # again with that one besides.
    stride: int = 1
    # Most queries per call of the judge.
    max_batch: int = 16
    # Whether to show the videos again without pictures, and under other words.
    probes: bool = True

    def __post_init__(self) -> None:
        if min(self.lag, self.stride, self.max_batch) < 1:
            raise ConfigError(
                "Models cannot be measured in this way",
                seen=f"lag {self.lag}, stride {self.stride}, max_batch {self.max_batch}",
                allowed="1 or more each",
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """What was found about one model.

    Attributes:
        version: Of the model.
        figures: By the names of :data:`FIGURES`; NaN where the episodes do not allow one.
        calibration: The map fitted on validation episodes, None where their progress is not known.
        reliability: Pairs of progress and truth of all test frames with both, raw and calibrated, (3, n).
        derived: Grades of whole videos against those derived from success and progress.
        derived_clips: The same of clips, by their length.
        given: Grades of other videos against those that people gave; None where there are none.
        given_written: The same by the levels that the judge wrote; None where it writes none.
        curves: Progress on each test episode, in their order.
        faults: Failed calls of the judge by name of the fault.
        reasons: The commonest reasons why scores could not be read, and how many for each.
    """

    version: str
    figures: dict[str, float]
    calibration: Calibration | None
    reliability: NDArray[np.float64]
    derived: GradeReport | None
    derived_clips: GradeReport | None
    given: GradeReport | None = None
    given_written: GradeReport | None = None
    curves: tuple[Curve, ...]
    faults: dict[str, int]
    reasons: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, without the curves."""
        return {
            "version": self.version,
            "figures": self.figures,
            "calibration": None if self.calibration is None else self.calibration.as_dict(),
            "derived_grades": None if self.derived is None else asdict(self.derived),
            "derived_clip_grades": None if self.derived_clips is None else asdict(self.derived_clips),
            "given_grades": None if self.given is None else asdict(self.given),
            "given_grades_written": None if self.given_written is None else asdict(self.given_written),
            "faults": self.faults,
            "reasons": self.reasons,
        }


def measure(
    model: RewardModel[Any, Any],
    validation: Sequence[Subject],
    test: Sequence[Subject],
    settings: BenchmarkSettings,
    *,
    on_video: Callable[[int, int], None] = lambda done, of: None,
) -> Measurement:
    """Measure a model.

    Each success is shown from first to last frame and, within the same video, back to the first: what a model makes of
    the way back is its value order when wound back, which is fair to models whose progress starts at 0 by definition.

    Args:
        model: The model.
        validation: Episodes that the calibration is fitted on.
        test: Episodes that every figure is of.
        settings: How.
        on_video: Told how many videos are done, and of how many.

    Raises:
        RoborlError: If the model refuses every single episode: a view or a reference is missing.
    """
    viewer = Viewer(model, max_batch=settings.max_batch)
    videos = len(validation) + len(test) * (3 if settings.probes else 1)
    done = 0

    def show(subject: Subject, **changes: Any) -> Curve:
        nonlocal done
        curve = _show(viewer, subject, settings.stride, **changes)
        done += 1
        on_video(done, videos)
        return curve

    calibration = _calibrate(validation, [show(subject) for subject in validation])
    clipped, forward, rewound = [], [], []
    for subject in test:
        last, success = subject.episode.frames - 1, subject.episode.success
        whole = show(subject, back=success)
        forward.append(whole.part(0, last))
        if success:
            rewound.append(whole.part(last, 2 * last))
            off = set(_clip_ends(last).values()) - {*forward[-1].scored.tolist()}
            # In a showing of its own: what a fold makes of a place may hang on the places it was asked about before.
            clipped.append(_show(viewer, subject, settings.stride, also=off) if off else forward[-1])
    if viewer.videos and len(viewer.refusals) == viewer.videos:
        raise viewer.refusals[0]
    figures = dict.fromkeys(FIGURES, float("nan"))
    figures |= _order(test, forward, rewound) | _outcomes(test, forward)
    figures["delta_error"] = _mean(
        [error for s, curve in zip(test, forward, strict=True) for error in _deltas(s, curve, settings.lag)]
    )
    raw, truth = _pairs(test, forward)
    calibrated = raw if calibration is None else calibration(raw)
    # A map to a constant has no calibration error; the error of the progress shows that it says nothing.
    for name, values in (("before", raw), ("after", calibrated)):
        if raw.size and (name == "before" or calibration is not None):
            figures[f"calibration_{name}"] = calibration_error(values, truth)
            figures[f"progress_error_{name}"] = mean_absolute_error(values, truth)
    derived, clips = _grade_videos(test, forward), _grade_clips(test, clipped)
    if derived is not None:
        bounds = zip(("derived_grade_mae_low", "derived_grade_mae_high"), derived.interval, strict=True)
        figures |= {"derived_grade_mae": derived.mae, **dict(bounds)}
    figures["derived_clip_mae"] = float("nan") if clips is None else clips.mae
    figures["unreadable"] = _mean([float(np.isnan(curve.progress).mean()) for curve in forward])
    figures |= viewer.latency()
    if settings.probes:
        figures |= _probe("text_only", test, forward, [show(s, blank=True) for s in test])
        figures |= _probe("video_only", test, forward, [show(s, task=s.other_task) for s in test])
    return Measurement(
        version=model.info.version,
        figures=figures,
        calibration=calibration,
        reliability=np.stack([raw, calibrated, truth]),
        derived=derived,
        derived_clips=clips,
        curves=tuple(forward),
        faults=viewer.faults,
        reasons=dict(viewer.reasons.most_common(_REASONS)),
    )


def time_only_model(validation: Sequence[Subject]) -> TimeOnlyModel:
    """Return the model of time alone that the successes among the validation episodes teach.

    Raises:
        DatasetError: If there is none whose progress is known.
    """
    return TimeOnlyModel(Clock([(s.episode.task, s.truth) for s in validation if s.episode.success]))


def _show(
    viewer: Viewer,
    subject: Subject,
    stride: int,
    *,
    back: bool = False,
    also: Iterable[int] = (),
    blank: bool = False,
    task: str | None = None,
) -> Curve:
    episode, last = subject.episode.read(), subject.episode.frames - 1
    if blank:
        grey = {name: np.full_like(rgb, _GREY) for name, rgb in episode.images.items()}
        episode = replace(episode, images=grey)
    order = [*range(last + 1), *(range(last - 1, -1, -1) if back else ())]
    scored = {*range(0, last + 1, stride), last}
    scored |= {2 * last - place for place in scored} if back else set()
    scored.update(also)
    words = subject.episode.task if task is None else task
    return viewer.show(words, as_video(episode, order), scored, subject.references)


def _calibrate(validation: Sequence[Subject], curves: Sequence[Curve]) -> Calibration | None:
    raw, truth = _pairs(validation, curves)
    return fit_calibration(raw, truth) if raw.size else None


def _pairs(
    subjects: Sequence[Subject], curves: Sequence[Curve]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Progress and truth of all frames that have both."""
    both = [
        np.stack([curve.progress, s.truth[curve.scored]]) for s, curve in zip(subjects, curves, strict=True)
    ]
    pairs = np.concatenate(both, axis=1) if both else np.zeros((2, 0))
    raw, truth = pairs[:, ~np.isnan(pairs).any(axis=0)]
    return raw, truth


def _order(test: Sequence[Subject], forward: Sequence[Curve], rewound: Sequence[Curve]) -> dict[str, float]:
    there = [curve for s, curve in zip(test, forward, strict=True) if s.episode.success]
    voc = _mean([curve.order for curve in there])
    # Both are good near +1: on the way back progress has to fall.
    back = _mean([0.0 - curve.order for curve in rewound])
    return {
        "voc": voc,
        "voc_rewound": back,
        "voc_f1": voc_f1(voc, back) if there else float("nan"),
        "negative_rate": _mean([curve.falling for curve in there]),
    }


def _called_success(curve: Curve) -> bool | None:
    """Return the verdict on what a learner would hold at the scored places; None where the last one is unreadable."""
    if curve.last is None:
        return None
    return outcome_of(curve.held()[curve.scored].tolist()) is Outcome.SUCCESS


def _outcomes(test: Sequence[Subject], forward: Sequence[Curve]) -> dict[str, float]:
    """Compare verdicts; an episode whose last score is unreadable is judged wrongly, and is called no success."""
    called = [(s.episode.success, _called_success(curve)) for s, curve in zip(test, forward, strict=True)]
    of_successes = [verdict is True for success, verdict in called if success]
    of_failures = [verdict is True for success, verdict in called if not success]
    right = sum(verdict is success for success, verdict in called)
    says = [
        c.done for s, c in zip(test, forward, strict=True) if not s.episode.success and c.done is not None
    ]
    figures = {
        "accuracy": right / len(called) if called else float("nan"),
        "success_rate": _mean(of_successes),
        "false_success_rate": _mean(of_failures),
        "false_done_rate": _mean(says),
    }
    if called:
        figures["accuracy_low"] = wilson_interval(right, len(called))[0]
    if of_failures:
        figures["false_success_high"] = wilson_interval(sum(of_failures), len(of_failures))[1]
    return figures


def _deltas(subject: Subject, curve: Curve, lag: int) -> list[float]:
    """Errors of the change of progress over ``lag`` frames, as a learner that holds late scores is fed."""
    held = curve.held()
    errors = np.abs((held[lag:] - held[:-lag]) - (subject.truth[lag:] - subject.truth[:-lag]))
    return [float(error) for error in errors if not np.isnan(error)]


def _grade_videos(test: Sequence[Subject], forward: Sequence[Curve]) -> GradeReport | None:
    return grade(
        [
            Grade(group=s.group, video=s.episode.video, truth=s.level, answer=_answer(curve.last))
            for s, curve in zip(test, forward, strict=True)
            if s.level is not None
        ]
    )


def _clip_ends(last: int) -> dict[int, int]:
    """Return the last frame of the clip of each level, of a video that ends with frame ``last``."""
    return {level: round(share * last) for level, share in CLIPS.items()}


def _grade_clips(test: Sequence[Subject], clipped: Sequence[Curve]) -> GradeReport | None:
    grades = []
    for s, curve in zip((s for s in test if s.episode.success), clipped, strict=True):
        for level, end in _clip_ends(curve.frames - 1).items():
            # The score of a frame is that of the video that ends with it.
            answer = _answer(curve.part(0, end).last)
            grades.append(Grade(group=s.group, video=s.episode.video, truth=level, answer=answer))
    return grade(grades)


def _answer(progress: float | None) -> int | None:
    return None if progress is None else level_of(progress)


def _probe(
    name: str, test: Sequence[Subject], forward: Sequence[Curve], probed: Sequence[Curve]
) -> dict[str, float]:
    """Figures of a probe; a model that looks at what was taken away changes its mind."""
    moved = [np.abs(one.progress - two.progress) for one, two in zip(forward, probed, strict=True)]
    successes = [curve for s, curve in zip(test, probed, strict=True) if s.episode.success]
    return {
        f"{name}_voc": _mean([curve.order for curve in successes]),
        f"{name}_success_rate": _mean([_called_success(curve) is True for curve in successes]),
        f"{name}_change": _mean([float(np.nanmean(d)) for d in moved if not np.isnan(d).all()]),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
