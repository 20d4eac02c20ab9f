from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from roborl.locks import kept
from roborl.loops import grid
from roborl.loops.grid import Cell, at_work, run_grid

CELLS = [
    Cell(arm=arm, seed=seed, config={"task": "Reach"}) for arm in ("shaped", "sparse") for seed in (0, 1)
]


def test_a_stopped_grid_goes_on_where_it_was(tmp_path: Path) -> None:
    ran: list[str] = []

    def run(cell: Cell) -> dict[str, Any]:
        if len(ran) == 2 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        ran.append(f"{cell.arm}{cell.seed}")
        return {"success": cell.seed}

    with pytest.raises(KeyboardInterrupt):
        run_grid(CELLS, run, tmp_path, commit="abc")
    (tmp_path / "again").touch()
    results = run_grid(CELLS, run, tmp_path, commit="abc")
    assert ran == ["shaped0", "shaped1", "sparse0", "sparse1"]
    assert [result["success"] for result in results] == [0, 1, 0, 1]
    assert {result["commit"] for result in results} == {"abc"}


def test_other_code_or_another_setting_is_another_cell(tmp_path: Path) -> None:
    keys = {
        CELLS[0].key("abc"),
        CELLS[0].key("abe"),
        CELLS[1].key("abc"),
        Cell(arm="shaped", seed=0, config={"task": "PickCube"}).key("abc"),
    }
    assert len(keys) == 4


def test_no_cell_begins_after_the_time_is_up(tmp_path: Path) -> None:
    assert run_grid(CELLS, lambda cell: {"x": 1}, tmp_path, commit="abc", stop_after_s=-1.0) == []
    assert not list(tmp_path.iterdir())


def test_a_cell_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(cell: Cell) -> dict[str, Any]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_grid(CELLS[:1], fail, tmp_path, commit="abc")
    assert not list(tmp_path.glob("*.json"))
    run_grid(CELLS[:1], lambda cell: {"x": 1}, tmp_path, commit="abc")
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["x"] == 1


def test_a_cell_that_a_loss_of_power_has_torn_runs_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_grid(CELLS[:1], lambda cell: {"figure": 1}, tmp_path, commit="x")[0]["figure"] == 1
        next(tmp_path.glob("*.json")).write_text("")


@pytest.mark.parametrize("finishes", [True, False])
def test_a_cell_that_another_process_runs_is_waited_for_and_run_if_that_ends_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: bool
) -> None:
    monkeypatch.setattr(grid, "LOOK_AGAIN_S", 0.01)
    path = tmp_path / f"{CELLS[0].key('abc')}.json"
    taken, ran, others_turn = threading.Event(), [], threading.Event()

    def other() -> None:
        with kept(at_work(path)) as mine:
            assert mine
            taken.set()
            assert others_turn.wait(10), "the rest of the grid is run meanwhile"
            if finishes:
                path.write_text('{"x": "theirs"}')

    def run(cell: Cell) -> dict[str, Any]:
        ran.append(cell)
        if len(ran) == len(CELLS) - 1:
            others_turn.set()
        return {"x": "ours"}

    thread = threading.Thread(target=other)
    thread.start()
    assert taken.wait(10)
    results = run_grid(CELLS, run, tmp_path, commit="abc")
    thread.join()
    assert ran == CELLS[1:] + ([] if finishes else CELLS[:1])
    assert [result["x"] for result in results] == ["theirs" if finishes else "ours"] + ["ours"] * 3
