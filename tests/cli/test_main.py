"""What every verb does with what it cannot know beforehand."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from roborl.cli import keys
from roborl.cli.main import main


def test_a_place_that_cannot_be_written_is_an_error_of_four_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code = main(["keys", "--folder", str(tmp_path / "file" / "keys"), "--computers", "[robot, learner]"])
    said = capsys.readouterr().err
    assert code == 1
    assert "A file or folder cannot be used" in said
    assert str(tmp_path / "file") in said
    assert "Traceback" not in said


def test_a_level_of_the_log_that_does_not_exist_is_misuse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    slip = ["keys", "--folder", str(tmp_path / "keys"), "--computers", "[robot, learner]"]
    monkeypatch.setenv("ROBORL_LOG", "chatty")
    assert main(slip) == 2
    assert "chatty" in capsys.readouterr().err
    for level in ("debug", "WARN", "fatal"):
        monkeypatch.setenv("ROBORL_LOG", level)
        assert main([*slip[:2], str(tmp_path / level), *slip[3:]]) == 0
    codec = logging.getLogger("lerobot.configs.video")
    assert not codec.isEnabledFor(logging.INFO), "it would tell of every recording that is opened"


def test_an_error_of_the_system_that_names_no_file_is_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: object) -> None:
        raise ConnectionResetError("by peer")

    monkeypatch.setattr(keys, "main", fail)
    with pytest.raises(ConnectionResetError):
        main(["keys", "--folder", "x"])


def test_a_full_disk_is_an_error_of_four_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keys, "main", fail)
    assert main(["keys", "--folder", "x"]) == 1
    assert "No space left on device. Allowed: a place" in capsys.readouterr().err
