from __future__ import annotations

import json
import signal
import sys
import types
from pathlib import Path

import pytest

from roborl.cli import bench
from roborl.cli.bench import Benchmark
from roborl.cli.main import main
from roborl.loops.bars import Bar


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A benchmark that gives back what it is told."""
    module = types.ModuleType("roborl.loops.benchmarks.toy")
    module.run = lambda figure=5.0: {"figure": figure, "ratios": {"ours / theirs": 2.0}}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "roborl.loops.benchmarks.toy", module)
    toy = Benchmark(
        quick={"figure": 1.0},
        bars=(
            Bar(name="figure", read=lambda result: result["figure"], least=3),
            Bar(name="ratio", read=lambda result: result["ratios"]["ours / theirs"], most=2),
        ),
    )
    monkeypatch.setattr(bench, "BENCHMARKS", {"toy": toy})
    monkeypatch.setattr(bench, "ALL", ("toy",))
    return module


@pytest.mark.parametrize("what", ["toy", "all"])
def test_figures_stand_beside_their_bars_and_in_a_file(
    toy: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert main(["bench", what, "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    told = json.loads(line)
    assert (told["missed"], told["exit"]) == ([], 0)
    assert (told if what == "toy" else told["toy"])["figure"] == 5.0
    written = json.loads((tmp_path / "toy.json").read_text())
    assert [bar["met"] for bar in written["bars"]] == [True, True]
    assert "ours / theirs" in err
    assert "bar >= 3: met" in err


def test_a_missed_bar_is_named_and_sets_the_exit_code(
    toy: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "toy", "--quick", "true", "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["missed"] == ["toy: figure"]
    assert "bar >= 3: MISSED" in err


@pytest.mark.parametrize("args", [[], ["nothing"]])
def test_an_unknown_benchmark_is_misuse(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *args]) == 2
    assert "two-computers" in capsys.readouterr().err


def test_the_grids_are_held_to_bars_over_seeds() -> None:
    result = {
        "table": {"PickPlace shaped": {"by_seed": {str(seed): 0.9 for seed in range(5)}}},
        "differences": {"PickPlace: shaped - sparse": {"interval": [-0.1, 0.4], "interval by t": [0.1, 0.6]}},
    }
    bars = {bar["name"]: bar for bar in (bar.check(result) for bar in bench.BENCHMARKS["seeds"].bars)}
    assert bars["PickPlace: seeds whose shaped run ends at 90 %"]["figure"] == 5
    assert bars["PickPlace: shaped - sparse, lower end of the interval"]["met"]
    assert not bars["PickPlace: shaped - blind, lower end of the interval"]["met"], "an arm that is not there"
    nothing = {"interval": [0.0, 0.0], "interval by t": [0.0, 0.0]}
    weights = "weighted, without what ends below a half - everything"
    (bar,) = bench.BENCHMARKS["rabc"].bars
    assert not bar.check({"differences": {weights: nothing}})["met"], "arms that are equal on every seed"
    (bar,) = bench.BENCHMARKS["judges"].bars
    assert not bar.check({"table": {"PickPlace fused": {"success": 0.94}}})["met"]


def test_a_benchmark_that_is_asked_to_end_ends_what_it_began(
    toy: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[str] = []

    def run() -> dict[str, float]:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            ended.append("its processes")
        return {}

    toy.run = run  # type: ignore[attr-defined]
    assert main(["bench", "toy", "--out", str(tmp_path)]) == 1
    assert ended == ["its processes"]
    assert "stopped by SIGTERM" in capsys.readouterr().err
