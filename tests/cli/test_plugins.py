"""Robots and teleoperators of one's own: by plug-ins in every verb that touches hardware, and by the path of a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from roborl.cli import record
from roborl.cli.main import main
from roborl.config import parse
from roborl.envs.bench import import_plugins, load_bench
from roborl.envs.robot_model import load_robot_model
from roborl.errors import ConfigError
from roborl.loops.bench_scales import scales
from roborl.paths import robot_folder


@pytest.mark.parametrize(
    "option", [["--plugins", "[{}]"], ["--plugins=[{}]"], ["--plugins", "{}"], ["--config_path", "own.yaml"]]
)
def test_a_teleoperator_of_a_plug_in_records(
    option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = "roborl.testing.config_stub_teleoperator"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(f"plugins: [{plugin}]\n")
    imported: list[str] = []
    monkeypatch.setattr(record, "import_plugins", imported.extend)
    import_plugins([plugin])
    words = [word.format(plugin) for word in option]
    told = record.prepare_args(["--out", "d", *words, "--teleop.type", "stub_pad"])
    assert imported == [plugin], "too late for the device's type"
    config = parse(record.Config, told, prog="roborl record")
    assert config.plugins == [plugin]
    assert type(config.teleop).__name__ == "StubTeleoperatorConfig"


def test_a_torn_list_of_plug_ins_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--out", "d", "--plugins", "[1"]) == 2
    assert "--plugins cannot be read as a list. Found: [1." in capsys.readouterr().err


def test_the_leader_arms_that_can_take_over_can_record() -> None:
    config = parse(
        record.Config,
        ["--out", "d", "--teleop.type", "omx_leader", "--teleop.port", "p"],
        prog="roborl record",
    )
    assert type(config.teleop).__name__ == "OmxLeaderConfig"


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("record", ["--out", "d"]),
        ("check", []),
        ("evaluate", ["--policy", "scripted"]),
        ("watch", ["--source", "s"]),
    ],
)
def test_every_verb_that_touches_a_bench_imports_plug_ins(
    verb: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, *words, "--plugins", "[no_such_plugin]"]) == 2
    assert "A plug-in cannot be imported. Found: no_such_plugin" in capsys.readouterr().err


def test_a_model_may_be_a_folder_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(robot_folder("so101_sim"), tmp_path / "mine" / "arm")
    described = tmp_path / "mine" / "arm" / "robot.yaml"
    described.write_text(described.read_text().replace("name: so101_sim", "name: my_arm"))
    monkeypatch.chdir(tmp_path / "mine")
    for place in ("arm", str(tmp_path / "mine" / "arm")):
        assert load_robot_model(place).name == "my_arm"
        told: Any = scales(load_bench("so101_desk", [f"--model={place}"]))
        assert told.model == "my_arm", "data is of this model, wherever its folder lies"
    with pytest.raises(ConfigError, match=r"no such robot.*elsewhere.*so101_sim.*path"):
        load_robot_model("elsewhere")
