"""What is misspelt in a configuration is told with the words that are allowed, wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from roborl.cli.main import main
from roborl.envs.bench import load_bench
from roborl.errors import ConfigError
from roborl.paths import bench_file

ARMS = ["koch_follower", "omx_follower", "so100_follower", "so101_follower", "so101_sim"]


def told(bench: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_bench(bench, overrides)
    assert caught.value.remedy
    return caught.value


def test_a_misspelt_type_of_robot_is_told_with_all_types_and_plugins(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text("robot: {type: so101_folower, id: desk, port: /dev/ttyACM0}\nmodel: so101_sim\n")
    error = told(str(path))
    assert error.problem == "There is no such type of robot"
    assert error.seen == f"so101_folower in {path}"
    assert set(ARMS) <= set(error.allowed)  # type: ignore[call-overload]
    assert "--plugins" in str(error)


def test_a_misspelt_override_of_a_bench_is_told_with_the_fields_of_its_robot() -> None:
    error = told("so101_sim", "--robot.scen=Reach")
    assert error.problem == "There is no such field of robot"
    assert str(error.seen).startswith("--robot.scen=Reach on top of ")
    names = str(error.allowed).split(", ")
    assert "scene" in names
    assert "port" not in names
    assert told("so101_sim", "--max_stps", "3").problem == "There is no such option"
    assert told("so101_sim", "robot.scene=Reach").problem == "A word belongs to no option"
    assert told("so101_sim", "--control_hz", "[50]").problem == "control_hz takes no list"
    whole = told("so101_sim", "--robot.cameras.front.width=3")
    assert whole.problem == "robot.cameras is given as a whole"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("if_control_dies:", "if_control_dies has no value. Found: nothing in FILE. Allowed: text"),
        ("model:", "model has no value. Found: nothing in FILE. Allowed: text"),
        ("control_hz:", "control_hz has no value. Found: nothing in FILE. Allowed: a number"),
        ("outcome:", "outcome has no value. Found: nothing in FILE. Allowed: auto, judge"),
        ("cameras:", "cameras has no value. Found: nothing in FILE. Allowed: {name: value}"),
        (
            "cameras: {front: {height_px: true, width_px: 320}}",
            "cameras.front.height_px takes a number. Found: true in",
        ),
        ("control_hz: [50]", "control_hz takes no list. Found: [50] in FILE. Allowed: a number, such as 1"),
        ("cameras: [front]", "cameras takes no list. Found: ['front'] in FILE. Allowed: {name: value}"),
        (
            "safety: {workspace_low_m: }",
            "safety.workspace_low_m has no value. Found: nothing in FILE. Allowed: [a, b]",
        ),
        (
            "safety: {workspace_low_m: '0.1'}",
            "safety.workspace_low_m takes a list. Found: 0.1 in FILE. Allowed: [a, b]",
        ),
        (
            "safety: {workspace_low_m: [0.1, -0.1, ~]}",
            "safety.workspace_low_m.2 has no value. Found: nothing in",
        ),
        (
            "robot: {type: so101_follower, port: , use_degrees: true}",
            "robot.port has no value. Found: nothing in",
        ),
        (
            "robot: {type: so101_follower, port: x, use_degrees: }",
            "robot.use_degrees has no value. Found: nothing in",
        ),
        ("robot:", "robot has no value. Found: nothing in FILE. Allowed: "),
    ],
)
def test_a_field_of_a_bench_file_that_has_nothing_or_no_list_is_named(
    written: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "bench.yaml"
    desk = yaml.safe_load(bench_file("so101_desk").read_text())
    path.write_text(yaml.safe_dump(desk | yaml.safe_load(written)))
    assert says.replace("FILE", str(path)) in str(told(str(path)))


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            "{type: so101_leader, prt: /dev/ttyACM1}",
            "There is no such field of teleop. Found: prt in FILE. Allowed: port, ",
        ),
        (
            "{type: so101_leadr}",
            "There is no such type of teleop. Found: so101_leadr in FILE. Allowed: ['gamepad'",
        ),
    ],
)
def test_what_is_misspelt_of_a_device_is_told_though_there_need_be_none(
    written: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "record.yaml"
    path.write_text(f"teleop: {written}\n")
    assert main(["record", "--config_path", str(path), "--out", str(tmp_path / "d")]) == 2
    assert says.replace("FILE", str(path)) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["relabel", "--source", "s", "--verify", "blnd"],
            "verify takes one of a few words. Found: blnd. Allowed: ['",
        ),
        (
            ["train", "--shaping.form", "foo"],
            "shaping.form takes one of a few words. Found: foo. Allowed: ['",
        ),
        (
            ["record", "--by_hand", "1", "--out", "d", "--teleop.type", "so101_leadr"],
            "teleop.type takes one of a few words. Found: so101_leadr. Allowed: ['",
        ),
        (
            ["train", "--trainer.burts=3"],
            "There is no such field of trainer. Found: --trainer.burts=3. Allowed: budget, ",
        ),
        (
            ["record", "--out", "d", "--scripte", "3"],
            "There is no such option. Found: --scripte 3. Allowed: out, ",
        ),
    ],
)
def test_a_misspelt_word_of_a_command_is_told_with_those_there_are(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    assert says in capsys.readouterr().err
