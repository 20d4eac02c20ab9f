"""Graded videos are read as they were published, and nothing but pictures and task reaches the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.errors import ConfigError, DatasetError
from roborl.loops.video import write_video
from roborl.rewards.calibrated import CalibratedModel
from roborl.rewards.calibration import Calibration
from roborl.rewards.fake import BrightnessModel
from roborl.rewards.graded_videos import GradedVideo, grade_videos, read_graded
from roborl.rewards.grades import GradeReading
from roborl.rewards.judges.queries import Clip, VlmQuery, VlmReply
from roborl.rewards.metrics import wilson_interval
from roborl.rewards.model import Fold, missing
from roborl.rewards.prompts import own_prompt
from roborl.rewards.roboreward import CONTRACT, RoboRewardModel
from roborl.rewards.roboreward_config import RoboRewardConfig, ScoreReadout
from roborl.testing.vlms import ScriptedVlm
from roborl.types import Observation, Score


def video(path: Path, *shades: int, fps: float = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [np.full((32, 48, 3), shade, np.uint8) for shade in shades], fps=fps)


def line(name: str = "droid/1.mp4", **changes: Any) -> str:
    row = {"file_name": name, "task": "open the drawer", "reward": 3, "gpt5_mini_check": "ANSWER: TRUE"}
    return json.dumps(row | changes)


def folder_of(path: Path, *lines: str) -> Path:
    (path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return path


def test_a_group_is_a_subset_and_a_grade_comes_from_the_metadata_alone(tmp_path: Path) -> None:
    for name in ("droid/1.mp4", "bridge/attempt_1_score_5.mp4", "robo_arena/2.mp4"):
        video(tmp_path / name, 0, 99)
    found = read_graded(
        folder_of(
            tmp_path, line(), "", line("bridge/attempt_1_score_5.mp4", reward=1), line("robo_arena/2.mp4")
        )
    )
    assert [(one.group, one.level) for one in found] == [("droid", 3), ("bridge", 1), ("robo_arena", 3)]
    assert {one.task for one in found} == {"open the drawer"}
    assert len({one.digest() for one in found}) == 1, "copies of one video are one video"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Line 2 of .*no question"),
        (line(reward=6), "Line 2 of .*no question"),
        (line(reward=2.5), "Line 2 of .*no question"),
        (line(reward=True), "Line 2 of .*no question"),
        (line(task=None), "Line 2 of .*no question"),
        ("[1]", "Line 2 of .*no question"),
        (line(ladder=7), "Line 2 of .*no question.*ladder and source_content as text, null"),
        (line(source_content=False), "Line 2 of .*no question"),
        (
            line("droid/absent.mp4"),
            r"video of line 2 .*not there\. Found: droid/absent\.mp4\. Allowed: .*Fetch",
        ),
        (line("../outside.mp4"), "video of line 2 .*not there"),
        (line("/etc/passwd"), "video of line 2 .*not there"),
    ],
)
def test_a_line_that_is_none_is_named(text: str, words: str, tmp_path: Path) -> None:
    inside = tmp_path / "test"
    video(inside / "droid" / "1.mp4", 0, 99)
    video(tmp_path / "outside.mp4", 0, 99)
    with pytest.raises(DatasetError, match=words):
        read_graded(folder_of(inside, line(), text))


def test_a_folder_without_metadata_or_questions_is_none(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no folder of graded videos"):
        read_graded(tmp_path)
    with pytest.raises(DatasetError, match="no graded video"):
        read_graded(folder_of(tmp_path))


@pytest.mark.parametrize(
    ("fps", "rate_hz", "places"),
    [
        (10, 10, range(8)),
        (10, 5, [0, 2, 4, 6, 7]),
        (10, 4, [0, 2, 5, 7]),
        (5, 10, [i // 2 for i in range(15)]),
        (3, 10, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 6, 7]),
    ],
)
def test_a_video_is_shown_at_the_rate_with_its_last_frame(
    fps: float, rate_hz: float, places: Sequence[int], tmp_path: Path
) -> None:
    video(tmp_path / "v.mp4", *range(0, 240, 30), fps=fps)
    shown = GradedVideo(file=tmp_path / "v.mp4", group="a", task="t", level=1).observations("front", rate_hz)
    assert [round(float(o.images["front"].mean()) / 30) for o in shown] == list(places)
    assert [o.frames["front"].id for o in shown] == list(range(len(places)))


@pytest.mark.parametrize("fps", [3, 5, 10, 30])
def test_a_judge_that_is_told_instants_is_told_the_true_ones_whatever_the_rate_of_a_video(
    fps: int, tmp_path: Path
) -> None:
    video(tmp_path / "droid" / "1.mp4", *(240 * i // (4 * fps) for i in range(4 * fps + 1)), fps=fps)
    judge = ScriptedVlm(lambda query: None)
    model: Any = RoboRewardModel(judge, own_prompt(CONTRACT), RoboRewardConfig(camera="front"))
    grade_videos(model, read_graded(folder_of(tmp_path, line())), rate_hz=10, max_batch=4)
    (clip,) = (part for query in judge.asked for part in query.parts if isinstance(part, Clip))
    assert clip.stamps_s[-1] == 4.0
    for stamp_s, frame in zip(clip.stamps_s, clip.frames, strict=True):
        assert abs(frame.mean() / 60 - stamp_s) < 1 / min(fps, 10), "it is not what was seen then"


class Reads(BrightnessModel):
    """Notes what it is shown, and has no answer to dark videos."""

    def __init__(self, cameras: tuple[str, ...] = ()) -> None:
        super().__init__(cameras)
        self.told: list[str] = []
        self.seen: list[int] = []

    def start(self, task: str, references: Any) -> Any:
        inner = super().start(task, references)
        self.told.append(task)
        self.seen.append(0)
        model = self

        class Noting(Fold[Any, Any]):
            def queries(self, observation: Observation) -> list[Any]:
                self.skip(observation)
                return list(inner.queries(observation))

            def skip(self, observation: Observation) -> None:
                model.seen[-1] += 1

            def fold(self, observation_id: int, replies: Sequence[Any]) -> Score:
                score = inner.fold(observation_id, replies)
                return score if score.progress > 0.1 else missing(observation_id, "dark", version="x")

        return Noting()


def test_the_last_frame_is_the_grade_and_what_cannot_be_read_is_the_worst(tmp_path: Path) -> None:
    video(tmp_path / "droid" / "1.mp4", 0, 0, 128)
    video(tmp_path / "droid" / "2.mp4", 255, 255, 0)
    video(tmp_path / "bridge" / "3.mp4", 0, 255)
    lines = line(), line("droid/2.mp4", reward=1), line("bridge/3.mp4", reward=4)
    model = Reads(("wrist",))
    given = grade_videos(model, read_graded(folder_of(tmp_path, *lines)), rate_hz=10, max_batch=4)
    assert given.report.by_group == {"droid": 2.0, "bridge": 1.0}
    assert given.figures["grade_mae"] == 1.5, "the mean of the groups"
    assert given.figures["grade_unreadable"] == pytest.approx(1 / 3)
    assert given.reasons == {"dark": 1}
    assert model.told == ["open the drawer"] * 3
    assert model.seen == [3, 3, 2]
    assert given.figures["batch"] == 1.0, "one question for each video"
    assert given.figures["grade_false_five"] == pytest.approx(1 / 3)
    assert given.figures["grade_false_five_high"] == wilson_interval(1, 3)[1]
    assert given.written is None
    assert "written_grade_mae" not in given.figures, "it writes no levels"


def test_bounds_draw_recordings_and_not_the_videos_that_were_made_of_them(tmp_path: Path) -> None:
    lines = []
    for number in range(12):
        # All that is made of every second recording is graded wrongly.
        video(tmp_path / "droid" / f"{number}.mp4", 0, 20 * number, 255 if number // 4 % 2 else 128)
        lines.append(line(f"droid/{number}.mp4", ladder=f"recording {number // 4}"))
    bounds = []
    for folder in (lines, [json.dumps(json.loads(text) | {"ladder": ""}) for text in lines]):
        found = grade_videos(Reads(), read_graded(folder_of(tmp_path, *folder)), rate_hz=10, max_batch=4)
        bounds.append(
            (found.figures["grade_mae_high"], found.figures["grade_false_five_high"], found.report.videos)
        )
    (by_recording, five_by_recording, recordings), (by_video, five_by_video, videos) = bounds
    assert (recordings, videos) == (3, 12)
    assert by_recording > by_video
    assert five_by_recording > five_by_video


def test_null_names_no_recording(tmp_path: Path) -> None:
    for number in (1, 2):
        video(tmp_path / f"droid/{number}.mp4", 0, 90 * number)
    lines = [line(f"droid/{number}.mp4", ladder=None, source_content=None) for number in (1, 2)]
    found = read_graded(folder_of(tmp_path, *lines))
    assert [(one.recording(), one.content()) for one in found] == [(one.digest(),) * 2 for one in found]
    assert len({one.recording() for one in found}) == 2


@pytest.mark.parametrize("mapped", [False, True])
def test_a_judge_that_writes_levels_is_graded_by_them_as_well(mapped: bool, tmp_path: Path) -> None:
    lines = []
    for number, level in enumerate((1, 4, 5)):
        video(tmp_path / "droid" / f"{number}.mp4", 0, 60 * number)
        lines.append(line(f"droid/{number}.mp4", reward=level))
    # It writes 4, and its expected score is 3.3; of the brightest video nothing can be read.
    unsure = VlmReply(text="ANSWER: 4", probabilities=(0.3, 0.0, 0.0, 0.6, 0.1), mass=1.0)

    def reply(query: VlmQuery) -> VlmReply | None:
        return None if query.pictures[-1].mean() > 90 else unsure

    model: Any = RoboRewardModel(
        ScriptedVlm(reply), own_prompt(CONTRACT), RoboRewardConfig(camera="front", observation_hz=10.0)
    )
    if mapped:
        model = CalibratedModel(model, Calibration(raw=(0.0, 1.0), calibrated=(0.0, 0.5)))
    given = grade_videos(model, read_graded(folder_of(tmp_path, *lines)), rate_hz=10, max_batch=4)
    near = 2 if mapped else 3
    assert given.figures["grade_mae"] == pytest.approx((near - 1 + 4 - near + 4) / 3)
    assert given.written is not None
    assert given.figures["written_grade_mae"] == given.written.mae == pytest.approx((3 + 0 + 4) / 3)
    assert (given.report.reading, given.written.reading) == (GradeReading.PROGRESS, GradeReading.WRITTEN)
    assert given.written.confusion[3] == (0, 0, 0, 1, 0)


def test_words_that_pay_nothing_are_read_as_the_published_benchmark_reads_them(tmp_path: Path) -> None:
    said = {0: "**ANSWER: 4**", 60: "ANSWER: 2", 120: "It went well."}
    for shade in said:
        video(tmp_path / "droid" / f"{shade}.mp4", shade, shade)
    lines = [line(f"droid/{shade}.mp4") for shade in said]

    def reply(query: VlmQuery) -> str:
        return said[min(said, key=lambda shade: abs(shade - float(query.pictures[-1].mean())))]

    config = RoboRewardConfig(camera="front", reading=ScoreReadout.TEXT)
    model: Any = RoboRewardModel(ScriptedVlm(reply), own_prompt(CONTRACT), config)
    given = grade_videos(model, read_graded(folder_of(tmp_path, *lines)), rate_hz=10, max_batch=4)
    assert given.figures["grade_mae"] == pytest.approx((4 + 1 + 4) / 3)
    assert given.figures["written_grade_mae"] == pytest.approx((1 + 1 + 4) / 3)
    assert given.written is not None
    assert (given.report.unparsable, given.written.unparsable) == (2, 1)


def test_a_model_of_several_views_is_refused_and_one_that_refuses_all_is_heard(tmp_path: Path) -> None:
    video(tmp_path / "droid" / "1.mp4", 0, 99)
    videos = read_graded(folder_of(tmp_path, line()))
    with pytest.raises(ConfigError, match=r"looks at several.*Found: \['front', 'wrist'\]"):
        grade_videos(BrightnessModel(("front", "wrist")), videos, rate_hz=10, max_batch=4)

    class Refuses(BrightnessModel):
        def start(self, task: str, references: Any) -> Any:
            raise ConfigError("No idea what that looks like")

    with pytest.raises(ConfigError, match="No idea"):
        grade_videos(Refuses(), videos, rate_hz=10, max_batch=4)
    videos[0].file.write_bytes(b"no video")
    with pytest.raises(DatasetError, match="cannot be read"):
        grade_videos(BrightnessModel(), videos, rate_hz=10, max_batch=4)
