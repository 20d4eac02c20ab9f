"""Videos that people graded from 1 to 5, in the layout of RoboRewardBench, and how well a model grades them.

A folder holds ``metadata.jsonl``, a line for each question with ``file_name``, ``task`` and ``reward``, and the videos in a
folder for each subset: the groups that the error is averaged over. A model is shown the pictures of a video and its task,
nothing else of the line and not the name of the file, which may hold the grade.

Source: Lee et al., "RoboReward: General-purpose vision-language reward models for robotics", arXiv 2601.00675, and its
data, teetone/RoboReward.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from roborl.errors import ConfigError, DatasetError
from roborl.rewards.grades import HIGHEST, LOWEST, Grade, GradeReading, GradeReport, grade, level_of
from roborl.rewards.model import RewardModel
from roborl.rewards.references import count_frames, video_frames
from roborl.rewards.viewing import Viewer
from roborl.types import Frame, Observation

METADATA = "metadata.jsonl"
_VIEW = "front"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedVideo:
    """A question about a video, and the grade that people gave.

    Attributes:
        file: The video.
        group: Its subset.
        task: The instruction in words.
        level: The grade, 1 to 5.
        ladder: What it shares with other questions about the same episode; empty where that is not said.
        recorded: Digest of the recording that it was cut from; empty where that is not said.
    """

    file: Path
    group: str
    task: str
    level: int
    ladder: str = ""
    recorded: str = ""

    def digest(self) -> str:
        """Return the identity of the video: copies of it under other names have the same."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def content(self) -> str:
        """Return by what it is known which models learnt from it: its recording, or the video alone where that is not said."""
        return self.recorded or self.digest()

    def recording(self) -> str:
        """Return what names the recording that the video was made from: what is made of one is not independent.

        Where its metadata do not say, RoboReward's copies and clips share its number; any other video stands alone.

        Source: the files of the dataset teetone/RoboReward, ``SUBSET_originalsplit_SPLIT_index_NUMBER``, and then the copy
            or attempt.
        """
        if self.ladder:
            return self.ladder
        numbered = re.match(r".*_index_\d+", self.file.stem)
        return str(self.file.with_name(numbered[0])) if numbered else self.digest()

    def places(self, rate_hz: float) -> list[int]:
        """Return the frame of each observation at some rate, the last one at the end; blocks while it goes through them.

        Args:
            rate_hz: Observations per second; a frame of a slower video is several. The frames of one that does not say its
                rate are taken for one each.

        Raises:
            DatasetError: If it has no frame.
        """
        capture = cv2.VideoCapture(str(self.file))
        frame_hz = float(capture.get(cv2.CAP_PROP_FPS))
        capture.release()
        count = count_frames(self.file)
        if not count:
            raise DatasetError(
                "A graded video cannot be read", seen=self.file, allowed="a video with at least one frame"
            )
        # An observation's number tells its instant: each is the newest frame there is by then.
        step = frame_hz / rate_hz if frame_hz > 0 else 1.0
        grid = np.arange(0, count - 1 - 1e-6, step) + 1e-6
        return [*grid.astype(int).tolist(), count - 1]

    def observations(self, view: str, rate_hz: float) -> list[Observation]:
        """Decode the video; blocks.

        Args:
            view: Name for its only camera.
            rate_hz: Observations per second; a frame of a slower video is several. The last frame is always the last one.

        Raises:
            DatasetError: If it has no frame.
        """
        places = self.places(rate_hz)
        frames = video_frames(self.file, places)
        return [
            Observation(
                frames={view: Frame(rgb=frames[place], camera=view, stamp_ns=index, id=index)},
                state=np.zeros(0, np.float32),
                stamp_ns=index,
            )
            for index, place in enumerate(places)
        ]


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenGrades:
    """What a model made of videos that people graded.

    Attributes:
        report: Its errors, by the levels nearest to its progress.
        written: Its errors by the numbers that its judge wrote, read as in the published protocol, in which an answer that
            never came is left out, and is the worst error here; None where it writes none.
        figures: ``grade_mae`` with its bounds, ``grade_unreadable``, how often a 5 is false, ``written_grade_mae`` where
            the judge writes levels, and what a call of the judge took.
        reasons: The commonest reasons why answers could not be read, and how many for each.
    """

    report: GradeReport
    written: GradeReport | None
    figures: dict[str, float]
    reasons: dict[str, int]


def read_graded(folder: Path) -> list[GradedVideo]:
    """Read what is asked about the videos of a folder; they are not opened yet.

    Raises:
        DatasetError: If there is no metadata, a line of it lacks something, or a video is missing or lies elsewhere.
    """
    path = folder / METADATA
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            "This is no folder of graded videos",
            seen=f"{path} ({type(error).__name__})",
            allowed=f"{METADATA} beside folders of videos, as in each split of RoboRewardBench",
        ) from error
    found = [_read_line(folder, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise DatasetError(
            "There is no graded video", seen=f"{path} is empty", allowed="a line for each video"
        )
    return found


def grade_videos(
    model: RewardModel[Any, Any],
    videos: Sequence[GradedVideo],
    *,
    rate_hz: float,
    max_batch: int,
    on_video: Callable[[int, int], None] = lambda done, of: None,
) -> GivenGrades:
    """Ask a model for the grade of each video: its score of the last frame, having been shown all.

    An answer that cannot be read, or does not come, has the worst error.

    Args:
        model: The model; it looks at one view.
        videos: At least one.
        rate_hz: Observations per second that it is shown.
        max_batch: Most queries per call of the judge.
        on_video: Told how many videos are done, and of how many.

    Raises:
        ConfigError: If it looks at several views.
        DatasetError: If a video cannot be read.
        RoborlError: If it refuses every single video.
    """
    if len(model.info.cameras) > 1:
        raise ConfigError(
            "Graded videos have one view each, and the reward model looks at several",
            seen=list(model.info.cameras),
            allowed="a model of one view",
        )
    view = model.info.cameras[0] if model.info.cameras else _VIEW
    viewer = Viewer(model, max_batch=max_batch)
    grades, written = [], []
    for done, video in enumerate(videos, start=1):
        shown = video.observations(view, rate_hz)
        curve = viewer.show(video.task, shown, [len(shown) - 1], {})
        answer = None if curve.last is None else level_of(curve.last)
        asked = Grade(group=video.group, video=video.recording(), truth=video.level, answer=answer)
        grades.append(asked)
        written.append(replace(asked, answer=curve.written))
        on_video(done, len(videos))
    if len(viewer.refusals) == len(videos):
        raise viewer.refusals[0]
    report = grade(grades)
    assert report is not None, "there is at least one video"
    low, high = report.interval
    figures = {
        "grade_mae": report.mae,
        "grade_mae_low": low,
        "grade_mae_high": high,
        "grade_unreadable": report.unparsable / report.questions,
        "grade_false_five": report.false_five,
        "grade_false_five_high": report.false_five_high,
    }
    by_words = None
    if any(g.answer is not None for g in written):
        by_words = grade(written, reading=GradeReading.WRITTEN)
        assert by_words is not None, "there is at least one video"
        figures["written_grade_mae"] = by_words.mae
    return GivenGrades(
        report=report,
        written=by_words,
        figures=figures | viewer.latency(),
        reasons=dict(viewer.reasons.most_common(5)),
    )


def _read_line(folder: Path, number: int, line: str) -> GradedVideo:
    try:
        row = json.loads(line)
        name, task, level = row["file_name"], row["task"], row["reward"]
        # Writers of tables put null where a row has no value.
        ladder, recorded = ("" if row.get(k) is None else row[k] for k in ("ladder", "source_content"))
        whole = type(level) is int and all(isinstance(v, str) for v in (name, task, ladder, recorded))
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole or not LOWEST <= level <= HIGHEST:
        raise DatasetError(
            f"Line {number} of {folder / METADATA} is no question about a video",
            seen=line[:160],
            allowed="file_name and task as text, reward as a whole number from 1 to 5; ladder and source_content as text,"
            " null or left out",
        )
    file = folder / name
    inside = file.resolve().is_relative_to(folder.resolve())
    if not inside or not file.is_file():
        raise DatasetError(
            f"The video of line {number} of {folder / METADATA} is not there",
            seen=name,
            allowed="a file in that folder",
            remedy="Fetch the dataset again",
        )
    parts = Path(name).parts
    return GradedVideo(
        file=file,
        group=parts[0] if len(parts) > 1 else folder.name,
        task=task,
        level=level,
        ladder=ladder,
        recorded=recorded,
    )
