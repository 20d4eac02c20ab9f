from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roborl.cli.main import main
from roborl.errors import ConfigError, DatasetError, ModelLoadError, RoborlError
from roborl.loops import demo
from roborl.loops.demo import run_demo
from roborl.loops.demo_config import DemoConfig
from roborl.loops.references_config import ReferencesConfig
from roborl.loops.reporting.results import read_results
from roborl.loops.stages import Stages
from roborl.loops.train_config import TrainConfig


class _Reached(Exception):
    """Stands for the first stage."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(config: DemoConfig) -> None:
        Stages(config.out).run("record demonstrations", lambda: {"episodes": 1})
        raise _Reached

    monkeypatch.setattr(demo, "prepare", prepare)


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("change", [{"scene": "PickCube"}, {"quick": True}, {"seed": 3}])
def test_a_folder_of_another_run_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    first = DemoConfig(out=tmp_path)
    for _ in range(2):  # The same run goes on.
        with pytest.raises(_Reached):
            run_demo(first)
    settings = (tmp_path / "demo.yaml").read_text()
    with pytest.raises(ConfigError, match="other settings") as caught:
        run_demo(replace(first, **change))  # type: ignore[arg-type]
    name = next(iter(change))
    assert name in str(caught.value.seen)
    assert name in str(caught.value.allowed)
    assert "--out" in caught.value.remedy
    assert (tmp_path / "demo.yaml").read_text() == settings


@pytest.mark.parametrize(
    ("slip", "remedy"),
    [
        ({"episodes": -1}, "--episodes"),
        ({"evaluation": 0}, "--evaluation"),
        ({"demonstrations": 0}, "--demonstrations"),
        ({"clone_from": 0}, "--clone_from"),
        ({"clone_from": 19}, "--clone_from"),
        ({"failures": -1}, "--failures"),
        ({"filmed": -1}, "--filmed"),
        ({"threads": 0}, "--threads"),
        ({"spread_m": -0.1}, "--spread_m"),
        ({"spread_m": float("inf")}, "--spread_m"),
        ({"time_scale": 0.0}, "--time_scale"),
        ({"reward_budget_s": float("nan")}, "--reward_budget_s"),
        ({"seed": -1}, "seed"),
        ({"seed": 40_000}, "seed"),
    ],
)
def test_a_number_that_no_stage_can_use_is_refused_before_the_first(
    slip: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ConfigError, match=r"Found: .*Allowed: ") as caught:
        DemoConfig(**slip)
    assert remedy in caught.value.remedy


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize(
    ("slip", "remedy"),
    [
        (["--scene", "PickCub"], "Set scene"),
        (["--scene", "Reach"], "Set spread_m to 0"),
        (["--bench", "so102_sim"], "one of these names"),
        (["--judge", "brightnes"], "train-reward"),
    ],
)
def test_a_run_that_is_refused_leaves_its_folder_to_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slip: list[str], remedy: str
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), *slip]) != 0
    assert remedy in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.usefixtures("begun")
def test_a_judge_that_cannot_be_asked_is_told_before_anything_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(config: TrainConfig, stopping: Callable[[], bool], shown: bool) -> None:
        assert shown
        assert (config.reward, config.references.path) == ("dopamine:nowhere", "shown")
        raise ModelLoadError("This judge cannot be loaded")

    monkeypatch.setattr(demo, "pass_gate", refuse)
    config = DemoConfig(
        out=tmp_path / "demo", judge="dopamine:nowhere", references=ReferencesConfig(path="shown")
    )
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        run_demo(config)
    assert not config.out.exists()


@pytest.mark.usefixtures("begun")
def test_a_judge_is_not_asked_about_demonstrations_that_are_yet_to_be_recorded(tmp_path: Path) -> None:
    own = ReferencesConfig(path=f"{tmp_path}/demo/demonstrations/")
    config = DemoConfig(out=tmp_path / "demo", judge="brightness", references=own)
    with pytest.raises(_Reached):
        run_demo(config)
    # Once they are said to be recorded, they are read.
    with pytest.raises(RoborlError, match="no LeRobotDataset here"):
        run_demo(config)


@pytest.mark.usefixtures("begun")
def test_a_folder_of_another_run_is_refused_before_a_judge_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "pass_gate", lambda config, stopping, shown: None)
    with pytest.raises(_Reached):
        run_demo(DemoConfig(out=tmp_path, judge="brightness"))
    monkeypatch.delattr(demo, "pass_gate")
    with pytest.raises(ConfigError, match="other settings"):
        run_demo(DemoConfig(out=tmp_path, judge="brightness", seed=3))


def test_how_far_the_training_of_the_reward_model_has_come_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def train(config: object, log: Callable[[dict[str, float]], None]) -> None:
        log({"step": 19, "seconds": 5.2038035900004616, "loss": 0.25})
        raise _Reached

    begun = demo.Folders(root=tmp_path), Stages(tmp_path), None
    monkeypatch.setattr(demo, "_prepare_clone", lambda config: begun)
    monkeypatch.setattr(demo, "train_reward", train)
    with caplog.at_level("INFO"), pytest.raises(_Reached):
        demo.prepare(DemoConfig(out=tmp_path))
    assert caplog.messages[-1] == "step    19     5.2 s  loss 0.2500"


def test_a_run_that_ended_before_it_made_anything_leaves_its_folder_to_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def prepare(config: DemoConfig) -> None:
        raise _Reached

    monkeypatch.setattr(demo, "prepare", prepare)
    for config in (DemoConfig(out=tmp_path), DemoConfig(out=tmp_path, seed=3)):
        with pytest.raises(_Reached):
            run_demo(config)
    assert "seed: 3" in (tmp_path / "demo.yaml").read_text()


def test_a_run_that_is_asked_to_end_keeps_what_it_has_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def clone() -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        return {}

    def prepare(config: DemoConfig) -> None:
        stages = Stages(config.out)
        stages.run("record demonstrations", lambda: {"episodes": 1})
        stages.run("clone a first policy", clone)

    monkeypatch.setattr(demo, "prepare", prepare)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert list(Stages(tmp_path).done) == ["record demonstrations"]


def test_a_quick_run_clones_no_more_than_it_records() -> None:
    assert DemoConfig(quick=True, clone_from=18).quickened().clone_from == 4


def test_a_quick_run_does_not_lie_where_the_whole_one_belongs(tmp_path: Path) -> None:
    assert DemoConfig(quick=True).quickened().out == Path("outputs/demo-quick")
    assert DemoConfig(quick=True, out=tmp_path).quickened().out == tmp_path


def test_torn_stages_are_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text("")
    for read in (Stages, read_results):
        with pytest.raises(ConfigError, match=r"stages\.json.*Allowed.*Delete it"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["demo.yaml", "before.jsonl"])
def test_a_torn_file_of_a_demonstration_is_told_in_four_parts(tmp_path: Path, name: str) -> None:
    (tmp_path / "stages.json").write_text("{}")
    (tmp_path / name).write_text("{")
    with pytest.raises(DatasetError, match=rf"{name}.*Allowed.*backup"):
        read_results(tmp_path)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The stages of a run that meets its bars, to change before the run is shown."""
    stages: dict[str, dict[str, Any]] = {
        "train the reward model": {
            "held_out": {"forward": 0.98, "backward": -0.97, "frozen": 0.02, "error": 0.07},
            "leak": 0.0,
            "frame_ms": 1.5,
            "wall_s": 120.0,
        },
        "measure the clone": {"success": 0.08, "wall_s": 30.0},
        "learn online": {"wall_s": 480.0},
        "measure what was learnt": {"success": 0.96, "wall_s": 20.0},
    }

    def prepare(config: DemoConfig) -> dict[str, Any]:
        (tmp_path / "stages.json").write_text(json.dumps(stages))
        (tmp_path / "run").mkdir(exist_ok=True)
        line = {"kind": "train", "lookahead": stages["learn online"].get("lookahead", 1.0)}
        (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return stages["measure the clone"]

    def learn(config: DemoConfig, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return stages["learn online"], stages["measure what was learnt"]

    monkeypatch.setattr(demo, "prepare", prepare)
    monkeypatch.setattr(demo, "pass_gate", lambda config, stopping, shown: None)
    monkeypatch.setattr(demo, "learn_and_measure", learn)
    monkeypatch.setattr(demo, "write_report", lambda folder: folder / "report.html")
    return stages


def test_its_figures_stand_beside_their_bars(
    done: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path), "--require_bars", "true"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["missed"] == []
    assert {bar["name"]: bar["figure"] for bar in told["bars"]} == {
        "success before": 0.08,
        "success after": 0.96,
        "how far critics look ahead after": 1.0,
        "minutes of all stages": pytest.approx(650 / 60),
        "value order, successes": 0.98,
        "value order, played backwards": -0.97,
        "movement on a frozen video": 0.02,
        "error against true progress": 0.07,
        "change of earlier scores by later frames": 0.0,
        "ms per observation": 1.5,
    }
    assert "bar >= 0.9: met" in err
    assert json.loads((tmp_path / "figures.json").read_text())["bars"] == told["bars"]


@pytest.mark.parametrize(
    ("stage", "change", "missed"),
    [
        ("measure the clone", {"success": 0.12}, "success before"),
        ("measure what was learnt", {"success": 0.88}, "success after"),
        ("learn online", {"wall_s": 1200.0}, "minutes of all stages"),
        ("learn online", {"lookahead": 0.97}, "how far critics look ahead after"),
        ("train the reward model", {"leak": 0.1}, "change of earlier scores by later frames"),
    ],
)
def test_a_bar_that_is_missed_is_named_and_sets_the_exit_code_where_bars_are_required(
    done: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    change: dict[str, float],
    missed: str,
) -> None:
    done[stage] |= change
    assert main(["demo", "--out", str(tmp_path)]) == 0, "what it does is done"
    assert main(["demo", "--out", str(tmp_path), "--require_bars", "true"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["missed"] for line in out.splitlines()] == [[missed]] * 2
    assert "MISSED" in err


def test_a_reward_model_from_elsewhere_and_a_quick_run_are_held_to_less(
    done: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del done["train the reward model"]
    assert main(["demo", "--out", str(tmp_path), "--judge", "brightness"]) == 0
    assert len(json.loads(capsys.readouterr().out)["bars"]) == 4
    (tmp_path / "demo.yaml").unlink()
    assert main(["demo", "--out", str(tmp_path), "--quick", "true", "--require_bars", "true"]) == 0
    assert json.loads(capsys.readouterr().out)["bars"] == []
