from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest

from roborl.cli.main import VERBS, main
from roborl.config import HelpShown, dump, load, parse
from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    # speed [m/s]
    speed: float = 1.0

    def __post_init__(self) -> None:
        if self.speed < 0:
            raise ConfigError("A speed cannot be negative", seen=self.speed, allowed="0 or more")


class Gait(StrEnum):
    SLOW = "slow"
    FAST = "fast"


@dataclass(frozen=True, kw_only=True)
class Outer:
    # the arm
    inner: Inner = field(default_factory=Inner)
    # names
    names: list[str] = field(default_factory=list)
    # how to go
    gait: Gait = Gait.SLOW


def test_a_file_and_overrides_make_one_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("inner: {speed: 2.0}\nnames: [a]\n")
    config = parse(
        Outer, ["--config_path", str(path), "--inner.speed", "3", "--gait", "fast"], prog="roborl x"
    )
    assert config.inner.speed == 3.0
    assert config.gait is Gait.FAST
    assert config.names == ["a"]
    path.write_text(dump(config))
    assert "gait: fast" in path.read_text()
    assert load(Outer, path) == config


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--inner.speed", "fast"], "inner.speed"),
        (["--inner.velocity", "1"], "--inner.velocity"),
        (["--inner.speed", "-1"], "negative"),
        (["--config_path", "/nowhere.yaml"], "nowhere"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(args: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse(Outer, args, prog="roborl x")
    assert "\n" not in str(caught.value)


def test_a_resolved_configuration_is_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HelpShown):
        parse(Outer, ["--inner.speed", "4", "--print_config"], prog="roborl x")
    assert "speed: 4.0" in capsys.readouterr().out


def test_misuse_exits_with_2_and_names_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert "demo" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


def test_a_wrong_option_of_a_verb_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "--no_such_option", "1"]) == 2
    assert "no_such_option" in capsys.readouterr().err
