from __future__ import annotations

import numpy as np
import pytest

from roborl.errors import ShapeError
from roborl.rewards.grades import Grade, grade, level_of, stated_number
from roborl.rewards.metrics import wilson_interval


def of(group: str, video: str, truth: int, answer: float | None) -> Grade:
    return Grade(group=group, video=video, truth=truth, answer=answer)


def test_all_groups_weigh_the_same_and_no_answer_is_the_worst_error() -> None:
    report = grade([of("a", "1", 5, 5), of("a", "2", 3, 2), of("a", "3", 1, 1), of("b", "4", 3, None)])
    assert report is not None
    assert report.by_group == {"a": pytest.approx(1 / 3), "b": 4.0}
    assert report.mae == pytest.approx((1 / 3 + 4.0) / 2)
    assert (report.exact, report.within_one, report.unparsable) == (0.5, 0.75, 1)


def test_the_interval_knows_that_questions_about_one_video_are_one_draw() -> None:
    rng = np.random.default_rng(0)
    answers = rng.integers(1, 6, 40)
    apart = grade([of("a", str(i), 3, float(a)) for i, a in enumerate(answers)])
    repeated = grade([of("a", str(i), 3, float(a)) for i, a in enumerate(answers) for _ in range(9)])
    taken_apart = grade([of("a", f"{i}-{k}", 3, float(a)) for i, a in enumerate(answers) for k in range(9)])
    assert apart is not None
    assert repeated is not None
    assert taken_apart is not None
    assert apart.mae == pytest.approx(repeated.mae)
    assert apart.interval[0] < apart.mae < apart.interval[1]
    width = apart.interval[1] - apart.interval[0]
    assert repeated.interval[1] - repeated.interval[0] == pytest.approx(width, rel=0.05)
    assert taken_apart.interval[1] - taken_apart.interval[0] < 0.5 * width


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("ANSWER: 4", 4),
        ("answer :\n4", 4),
        ("**ANSWER: 4**", 4),
        ("ANSWER: 4\nBecause it is in.", 4),
        ("ANSWER: 4/5", 4),
        ("ANSWER: 4.5 of 5", 4.5),
        ("3 at first. ANSWER: 2 or ANSWER: 4", 2),
        ("ANSWER: 45", 45),
        ("ANSWER: -1", -1),
        (" 4 out of 5", 4),
        ("5. It is in. ANSWER: yes", 5),
        ("ANSWER: **4**", None),
        ("ANSWER: <4>", None),
        ("It is a 4", None),
        ("4th", None),
        ("", None),
        (f"ANSWER: {'9' * 400}", None),
    ],
)
def test_a_number_is_stated_by_the_published_rule(text: str, number: float | None) -> None:
    assert stated_number(text) == number


def test_levels_are_the_nearest_and_the_truth_is_one_of_them() -> None:
    assert [level_of(x) for x in (0.0, 0.12, 0.13, 0.5, 0.87, 0.88, 1.0)] == [1, 1, 2, 3, 4, 5, 5]
    assert grade([]) is None
    with pytest.raises(ShapeError, match="impossible truth"):
        of("a", "1", 6, 5)


def test_a_false_five_is_told_with_a_bound_and_the_confusion_with_every_count() -> None:
    report = grade(
        [
            *(of("a", str(i), 2, 1) for i in range(6)),
            of("a", "6", 4, 5),
            of("a", "7", 1, None),
            of("b", "8", 5, 4),
            of("b", "9", 5, 5),
        ]
    )
    assert report is not None
    assert report.false_five == pytest.approx(1 / 8)
    assert report.false_five_high == wilson_interval(1, 8)[1]
    assert report.confusion == (
        (0, 0, 0, 0, 0),
        (6, 0, 0, 0, 0),
        (0, 0, 0, 0, 0),
        (0, 0, 0, 0, 1),
        (0, 0, 0, 1, 1),
    )


def test_the_bound_of_false_fives_is_that_of_as_many_questions_as_videos() -> None:
    once = grade([of("a", str(i), 3, 3) for i in range(20)])
    often = grade([of("a", str(i), 3, 3) for i in range(20) for _ in range(9)])
    assert once is not None
    assert often is not None
    assert once.false_five == often.false_five == 0.0
    assert once.false_five_high == often.false_five_high == wilson_interval(0, 20)[1] > 0.1
    best = grade([of("a", "1", 5, 5)])
    assert best is not None
    assert np.isnan([best.false_five, best.false_five_high]).all()


@pytest.mark.parametrize(("always", "error"), [(3, 1.233), (2, 1.294)])
def test_the_yardsticks_of_robo_reward_bench(always: int, error: float) -> None:
    """An answer that is the same for all of its 2,831 videos: the error without groups."""
    counts = {1: 689, 2: 641, 3: 556, 4: 418, 5: 527}
    videos = [
        of("all", f"{level}-{i}", level, always) for level, count in counts.items() for i in range(count)
    ]
    report = grade(videos, resamples=10)
    assert report is not None
    assert report.questions == 2831
    assert report.mae == pytest.approx(error, abs=5e-4)
    assert [sum(row) for row in report.confusion] == list(counts.values())
