"""Sub-tasks that nobody has marked are found in the pictures, and stand where a person's would."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from roborl.cli.main import main
from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_io import read_episodes
from roborl.errors import ConfigError, DatasetError
from roborl.loops.reward_training.annotate import apply_marks, read_marks
from roborl.loops.reward_training.propose_marks import propose_marks
from roborl.testing.episodes import crossing_episode, lerobot_recording, random_episode, write_episodes
from roborl.types import EndCause

TURNS = (9, 16, 12)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    unmarked = [replace(crossing_episode(i, turns=turns), subtasks=()) for i, turns in enumerate(TURNS)]
    failure = crossing_episode(8, turns=12, stops_at=8)
    discarded = replace(crossing_episode(9, turns=12), subtasks=(), discarded=True)
    write_episodes(tmp_path / "data", *unmarked, failure, discarded)
    return tmp_path / "data"


def test_sub_tasks_are_found_where_they_change_and_only_successes_get_them(dataset: Path) -> None:
    marks = propose_marks(dataset, steps=2)
    assert sorted(marks) == [0, 1, 2]
    for turns, (first, second) in zip(TURNS, marks.values(), strict=True):
        assert (first.name, first.start) == ("step 1", 0)
        assert abs(first.end - turns) <= 1
        assert second == Subtask(name="step 2", start=first.end, end=24)
    assert not read_marks(dataset)  # nothing is written


def test_the_names_tell_how_many(dataset: Path) -> None:
    marks = propose_marks(dataset, names=["across", "turn", "down"])
    assert {tuple(s.name for s in found) for found in marks.values()} == {("across", "turn", "down")}
    assert len({len(found) for found in propose_marks(dataset).values()}) == 1
    with pytest.raises(ConfigError, match=r"do not match.*3 steps.*--propose 0"):
        propose_marks(dataset, steps=3, names=["across", "down"])
    with pytest.raises(ConfigError, match="two steps or more"):
        propose_marks(dataset, steps=1)


def test_a_persons_marks_are_kept_and_their_names_taken(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand = (Subtask(name="across", start=0, end=7), Subtask(name="down", start=7, end=24))
    apply_marks(dataset, {1: by_hand})
    assert main(["annotate", "--dataset", str(dataset), "--propose", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["annotated"] == 2
    marks = read_marks(dataset)
    assert sorted(marks) == [0, 1, 2]
    assert marks[1] == by_hand
    assert [s.name for s in marks[0]] == ["across", "down"]
    assert abs(marks[0][0].end - TURNS[0]) <= 1
    # The other format, which holds where each begins, agrees.
    read = {e.index: e.subtasks for e in read_episodes(dataset, with_images=False)}
    assert read[2] == marks[2]
    with pytest.raises(DatasetError, match="no episode to propose"):
        propose_marks(dataset)


def test_a_proposal_comes_onto_the_page_and_stays_out_of_the_dataset(dataset: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = ["--dataset", str(dataset), "--page", str(page), "--propose", "2"]
    assert main(["annotate", *arguments, "--stages", "[across, down]"]) == 0
    block = page.read_text().split('<script id="data" type="application/json">')[1].split("</script>")[0]
    data = json.loads(block)
    assert data["stages"] == ["across", "down"]
    marks = {entry["index"]: entry["marks"] for entry in data["episodes"]}
    expected = propose_marks(dataset, steps=2, names=["across", "down"])
    assert marks[0] == [{"name": s.name, "start": s.start, "end": s.end} for s in expected[0]]
    assert marks[3] == []
    assert not read_marks(dataset)
    # Without names the page takes those of the proposal.
    assert main(["annotate", *arguments]) == 0
    assert '"stages": ["step 1", "step 2"]' in page.read_text()
    assert main(["annotate", "--dataset", str(dataset), "--marks", "m.json", "--propose", "2"]) == 2


def test_several_tasks_are_not_taken_for_one(tmp_path: Path) -> None:
    tasks = ["cross twice", "cross back", "cross twice"]
    unmarked = [
        replace(crossing_episode(i, turns=9 + i), subtasks=(), task=task) for i, task in enumerate(tasks)
    ]
    write_episodes(tmp_path / "data", *unmarked)
    words = r"more than one task.*'cross twice' in \[0, 2\], 'cross back' in \[1\].*--episodes '\[0, 2\]'"
    with pytest.raises(DatasetError, match=words):
        propose_marks(tmp_path / "data", steps=2)
    assert sorted(propose_marks(tmp_path / "data", steps=2, episodes=[0, 2])) == [0, 2]


def test_an_episode_of_unknown_outcome_gets_no_marks_beside_judged_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = [replace(crossing_episode(i, turns=9 + i), subtasks=()) for i in range(2)]
    stalled = crossing_episode(8, turns=12, stops_at=3)
    unjudged = replace(stalled, success=None, failure="", end=EndCause.TIME_LIMIT)
    write_episodes(tmp_path / "data", *known, unjudged)
    assert sorted(propose_marks(tmp_path / "data", steps=2)) == [0, 1]
    assert "1 episodes are left out, of which nobody says" in caplog.text
    assert sorted(propose_marks(tmp_path / "data", steps=2, failed=[1])) == [0]


def test_marks_end_at_the_last_frame_that_a_foreign_file_has(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [8, 9])
    marks = propose_marks(tmp_path / "f", steps=2)
    assert {index: found[-1].end for index, found in marks.items()} == {0: 7, 1: 8}
    apply_marks(tmp_path / "f", marks)
    assert sorted(read_marks(tmp_path / "f")) == [0, 1]


def test_marks_end_where_the_task_was_judged_done(tmp_path: Path) -> None:
    known = random_episode(0, steps=24).provenance
    assert known is not None
    crossing = replace(crossing_episode(0, turns=9), subtasks=(), end=EndCause.TIME_LIMIT)
    cameras = replace(known, verdict_index=18, stamp_ns=known.stamp_ns[:, :2])
    write_episodes(tmp_path / "data", replace(crossing, provenance=cameras))
    assert propose_marks(tmp_path / "data", steps=2)[0][-1].end == 18
