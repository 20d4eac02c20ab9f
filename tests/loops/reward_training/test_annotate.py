"""A person marks sub-tasks on a page, and what the page saves goes into the dataset."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from roborl.cli.main import main
from roborl.data.annotations import write_annotations, write_language
from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_files import add_episode_columns
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_writer import DatasetWriter
from roborl.errors import ConfigError, DatasetError
from roborl.loops.reward_training.annotate import apply_marks, read_marks, write_page
from roborl.testing.episodes import ACTION, CAMERAS, STATE, lerobot_recording, random_episode, write_episodes
from roborl.types import EndCause


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_episodes(
        tmp_path / "d",
        random_episode(0),
        random_episode(1, subtasks=()),
        random_episode(2, subtasks=(), success=False, end=EndCause.FAILURE, failure="drop"),
    )
    return tmp_path / "d"


def data_of(page: Path) -> dict[str, Any]:
    block = re.search(
        r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert block is not None
    return dict(json.loads(block[1]))


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script here")


def test_the_page_shows_every_frame_and_the_marks_so_far(dataset: Path, tmp_path: Path) -> None:
    assert write_page(dataset, tmp_path / "page.html") == 3
    data = data_of(tmp_path / "page.html")
    assert data["stages"] == ["reach", "lift"]
    first, _, third = data["episodes"]
    assert [f["index"] for f in first["frames"]] == list(range(7))
    assert first["marks"] == [{"name": "reach", "start": 0, "end": 2}, {"name": "lift", "start": 2, "end": 6}]
    assert third["note"] == ", drop"
    raw = base64.b64decode(first["frames"][3]["picture"].split(",")[1])
    seen = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    given = random_episode(0).images["front"][3]
    assert seen.shape == given.shape
    assert abs(seen.astype(float).mean() - given.mean()) < 10


def saved_after(page: Path, presses: list[str]) -> str:
    """Return what a page saves once these keys were pressed."""
    script = page.read_text().split("<script>")[1].split("</script>")[0]
    stub = f"""
        const page = {json.dumps(json.dumps(data_of(page)))};
        const made = () => ({{ style: {{}}, append() {{}}, replaceChildren() {{}}, textContent: page }});
        const elements = {{}};
        let press;
        globalThis.document = {{
            getElementById: (id) => elements[id] ??= made(),
            createElement: made,
            addEventListener: (_, handler) => {{ press = handler; }},
        }};
        {script}
        for (const key of {json.dumps(presses)}) press({{ key, shiftKey: false, preventDefault() {{}} }});
        console.log(JSON.stringify(result()));
    """
    return subprocess.run(["node", "-e", stub], capture_output=True, text=True, check=True).stdout


@needs_node
def test_marks_that_are_taken_away_on_the_page_leave_the_dataset(dataset: Path, tmp_path: Path) -> None:
    write_page(dataset, tmp_path / "page.html")
    (tmp_path / "marks.json").write_text(saved_after(tmp_path / "page.html", ["Backspace", "Backspace"]))
    assert sorted(read_marks(dataset)) == [0]
    assert main(["annotate", "--dataset", str(dataset), "--marks", str(tmp_path / "marks.json")]) == 0
    assert read_marks(dataset) == {}


@needs_node
def test_what_the_page_saves_goes_into_the_dataset(dataset: Path, tmp_path: Path) -> None:
    write_page(dataset, tmp_path / "page.html", stages=["reach", "lift", "</script>"])
    presses = ["n", "1", "ArrowRight", "ArrowRight", "2", "ArrowRight", "3", "Backspace", "ArrowRight", "e"]
    (tmp_path / "marks.json").write_text(saved_after(tmp_path / "page.html", presses))
    assert main(["annotate", "--dataset", str(dataset), "--marks", str(tmp_path / "marks.json")]) == 0
    assert read_marks(dataset) == {
        0: random_episode(0).subtasks,
        1: (Subtask(name="reach", start=0, end=2), Subtask(name="lift", start=2, end=4)),
    }


@needs_node
def test_marks_that_nobody_moves_on_the_page_stay_as_they_are(dataset: Path, tmp_path: Path) -> None:
    apart = (Subtask(name="reach", start=0, end=2), Subtask(name="lift", start=3, end=5))
    apply_marks(dataset, {0: apart})
    write_page(dataset, tmp_path / "page.html")

    def saved(*presses: str) -> list[tuple[str, int, int]]:
        marks = json.loads(saved_after(tmp_path / "page.html", list(presses)))["0"]
        return [(mark["name"], mark["start"], mark["end"]) for mark in marks]

    assert saved() == [("reach", 0, 2), ("lift", 3, 5)]
    assert saved("Backspace") == [("reach", 0, 2)]
    right = ["ArrowRight"] * 4
    assert saved(*right, "e") == [("reach", 0, 2), ("lift", 3, 4)]
    assert saved(*right, "1") == [("reach", 0, 2), ("lift", 3, 4), ("reach", 4, 5)]
    assert saved("Backspace", *right, "e") == [("reach", 0, 4)]


def test_episodes_that_are_not_named_keep_their_marks_unless_told_otherwise(dataset: Path) -> None:
    marks = {1: [Subtask(name="reach", start=0, end=6)]}
    apply_marks(dataset, marks)
    assert sorted(read_marks(dataset)) == [0, 1]
    apply_marks(dataset, {0: []})
    assert sorted(read_marks(dataset)) == [1]
    apply_marks(dataset, {0: [Subtask(name="reach", start=0, end=6)]}, replace_all=True)
    assert sorted(read_marks(dataset)) == [0]


def test_a_dataset_that_is_recorded_is_annotated_once_that_is_done(tmp_path: Path) -> None:
    form: dict[str, Any] = {"cameras": CAMERAS, "state_names": STATE, "action_names": ACTION}
    marks = {0: (Subtask(name="reach", start=0, end=3),)}
    with DatasetWriter(tmp_path / "d", fps=10, checkpoint_every=1, **form) as writer:
        writer.append(random_episode(0, subtasks=()))
        with pytest.raises(DatasetError, match=r"Another recording.*Allowed.*one at a time.*Wait"):
            apply_marks(tmp_path / "d", marks)
        writer.append(random_episode(1, subtasks=()))
    assert read_marks(tmp_path / "d") == {}
    apply_marks(tmp_path / "d", marks)
    write_episodes(tmp_path / "d", random_episode(2))
    assert [len(e.subtasks) for e in read_episodes(tmp_path / "d")] == [1, 0, 2]


def test_sparse_and_dense_annotations_stand_beside_each_other(dataset: Path) -> None:
    fine = [Subtask(name="near", start=0, end=1), Subtask(name="touch", start=1, end=6)]
    apply_marks(dataset, {0: fine}, prefix="dense")
    apply_marks(dataset, {1: fine}, prefix="dense")
    assert sorted(read_marks(dataset, prefix="dense")) == [0, 1]
    assert read_marks(dataset) == {0: random_episode(0).subtasks}


def test_the_chosen_annotation_is_listed_and_stands_on_the_page(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = [Subtask(name="near", start=0, end=3), Subtask(name="touch", start=3, end=6)]
    failed = [Subtask(name="near", start=0, end=6)]
    apply_marks(dataset, {1: fine, 2: failed}, prefix="dense")
    dense = ["annotate", "--dataset", str(dataset), "--prefix", "dense"]
    assert main(dense) == 0
    out, err = capsys.readouterr()
    # A failure says nothing about how long a stage takes.
    assert json.loads(out) == {"annotated": 2, "stage_shares": {"near": 0.5, "touch": 0.5}}
    assert "1: near 0-3, touch 3-6" in err
    assert main([*dense, "--page", str(tmp_path / "page.html")]) == 0
    data = data_of(tmp_path / "page.html")
    assert data["stages"] == ["near", "touch"]
    assert [[mark["name"] for mark in e["marks"]] for e in data["episodes"]] == [
        [],
        ["near", "touch"],
        ["near"],
    ]
    assert data["command"] == f"roborl annotate --dataset {dataset} --prefix dense --marks marks.json"
    write_page(dataset, tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    assert [[mark["name"] for mark in e["marks"]] for e in data["episodes"]] == [["reach", "lift"], [], []]
    assert "--prefix" not in data["command"]


SPOKEN = (Subtask(name="reach", start=0, end=3), Subtask(name="lift", start=3, end=6))


def spoken_names(dataset: Path) -> list[list[str]]:
    """Return the sub-tasks in the per-frame column, for each episode."""
    stock = LeRobotDataset("local/d", root=dataset)
    firsts = [row["dataset_from_index"] for row in stock.meta.episodes]
    return [[said["content"] for said in stock[at]["language_persistent"]] for at in firsts]


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Three episodes with marks in the per-frame column alone, and one more with marks in the other format too."""
    write_episodes(tmp_path / "d", *[random_episode(seed, subtasks=()) for seed in range(3)])
    write_language(tmp_path / "d", dict.fromkeys(range(3), SPOKEN))
    write_episodes(tmp_path / "d", random_episode(3))
    return tmp_path / "d"


def test_episodes_with_marks_in_one_format_keep_them_beside_those_with_marks_in_the_other(
    spoken: Path,
) -> None:
    assert read_marks(spoken) == {**dict.fromkeys(range(3), SPOKEN), 3: random_episode(3).subtasks}
    apply_marks(spoken, {1: [Subtask(name="grab", start=0, end=6)]})
    both = ["reach", "lift"]
    assert spoken_names(spoken) == [both, ["grab"], both, both]
    assert [[m.name for m in marks] for marks in read_marks(spoken).values()] == [both, ["grab"], both, both]


def test_dense_marks_leave_the_column_of_each_frame_alone(spoken: Path) -> None:
    before = spoken_names(spoken)
    apply_marks(spoken, {0: [Subtask(name="near", start=0, end=6)]}, prefix="dense")
    assert spoken_names(spoken) == before
    assert read_marks(spoken)[0] == SPOKEN  # the dense ones are none of these
    assert sorted(read_marks(spoken, prefix="dense")) == [0]


def test_the_first_marks_give_every_data_file_the_column_of_each_frame(tmp_path: Path) -> None:
    for seed in range(2):
        write_episodes(tmp_path / "d", random_episode(seed, subtasks=()))
    apply_marks(tmp_path / "d", {0: SPOKEN})
    assert spoken_names(tmp_path / "d") == [["reach", "lift"], []]


def test_marks_under_the_older_name_of_the_columns_stay(dataset: Path) -> None:
    (path,) = (dataset / "meta" / "episodes").glob("*/*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([n for n in table.column_names if n.startswith("sparse_")]), path)
    apply_marks(dataset, {1: SPOKEN})
    assert read_marks(dataset) == {0: random_episode(0).subtasks, 1: SPOKEN}


def test_the_page_offers_only_frames_that_the_file_has(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [5])
    write_page(tmp_path / "f", tmp_path / "p.html", stages=["grab"])
    (only,) = data_of(tmp_path / "p.html")["episodes"]
    assert only["last"] == 4
    assert [f["index"] for f in only["frames"]] == list(range(5))
    apply_marks(tmp_path / "f", {0: [Subtask(name="grab", start=0, end=only["last"])]})


def test_a_recording_of_lerobot_is_annotated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lerobot_recording(tmp_path / "f", [5, 6])
    (tmp_path / "k.csv").write_text("episode,name,start,end\n1,grab,0,3\n1,move,3,5\n")
    assert main(["annotate", "--dataset", str(tmp_path / "f"), "--marks", str(tmp_path / "k.csv")]) == 0
    assert json.loads(capsys.readouterr().out)["stage_shares"] == pytest.approx({"grab": 0.6, "move": 0.4})
    assert main(["annotate", "--dataset", str(tmp_path / "f")]) == 0
    assert "1: grab 0-3, move 3-5" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["frames", "language"])
def test_marks_that_end_behind_the_last_row_do_not_keep_others_from_being_annotated(
    tmp_path: Path, form: str
) -> None:
    """LeRobot writes the end as a count of rows, and in its other format no end at all."""
    root = tmp_path / "f"
    lerobot_recording(root, [10, 6])
    marks = (Subtask(name="grab", start=0, end=4), Subtask(name="carry", start=4, end=9))
    write_annotations(root, {0: marks}, language=False)
    if form == "frames":
        ends = {f"{start}subtask_end_frames": {0: [4, 10]} for start in ("", "sparse_")}
        add_episode_columns(root, ends, dict.fromkeys(ends, pa.list_(pa.int64())))
    else:
        write_annotations(root, {}, language=False)
        write_language(root, {0: [*marks, Subtask(name="rest", start=9, end=9)]})
    (first, _) = read_episodes(root, with_images=False)
    assert first.subtasks[:2] == marks
    apply_marks(root, {1: [Subtask(name="grab", start=0, end=5)]})
    assert read_marks(root)[0] == marks


@pytest.mark.parametrize("end", [6, 3])
def test_marks_that_lerobot_did_not_check_do_not_keep_others_from_being_annotated(
    dataset: Path, end: int
) -> None:
    theirs = (Subtask(name="grab", start=0, end=4), Subtask(name="carry", start=3, end=end))
    write_annotations(dataset, {0: theirs}, fresh=())
    apply_marks(dataset, {1: [Subtask(name="grab", start=0, end=6)]})
    assert next(read_episodes(dataset, with_images=False)).subtasks == theirs
    with pytest.raises(DatasetError, match=r"carry.*does not fit episode 1"):
        apply_marks(dataset, {1: theirs})


def test_misuse_is_explained(dataset: Path, tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [4])
    with pytest.raises(ConfigError, match=r"names of the sub-tasks.*--stages"):
        write_page(tmp_path / "f", tmp_path / "p.html")
    with pytest.raises(DatasetError, match=r"no such camera.*top.*Allowed.*front"):
        write_page(dataset, tmp_path / "p.html", camera="top")
    with pytest.raises(DatasetError, match=r"no such episodes.*9.*Allowed: 0 to 2"):
        write_page(dataset, tmp_path / "p.html", episodes=[9])
    both = ["annotate", "--dataset", str(dataset), "--marks", "m.json", "--page", "p.html"]
    assert main(both) == 2
