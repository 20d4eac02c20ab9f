"""Files that a process can do without cost it nothing where they cannot be written."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from roborl.loops.run_files import JsonLines, read_lines, read_status, versions_here, write_status

FULL = Path("/dev/full")


def test_lines_and_status_are_read_back(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "run" / "lines.jsonl", child="a")
    lines({"kind": "x", "value": float("nan")})
    lines({"kind": "y"})
    assert read_lines(tmp_path / "run" / "lines.jsonl", "x") == [{"child": "a", "kind": "x", "value": None}]
    write_status(tmp_path / "run" / "status.json", {"count": 3})
    assert read_status(tmp_path / "run" / "status.json")["count"] == 3
    assert read_status(tmp_path / "none.json") == {}


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_lines_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    lines = JsonLines(FULL)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            lines({"kind": "x"})
    assert lines.lost == 5
    assert [record.levelname for record in caplog.records] == ["ERROR"]


_FILLS_UP = """
import resource, signal, sys
from pathlib import Path
from roborl.loops.run_files import JsonLines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lines = JsonLines(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for number in range(9):
    lines({"number": number, "pad": "x" * 10})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(lines.lost)
"""


def test_a_line_of_which_the_disk_took_half_is_counted_and_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    told = subprocess.run(
        [sys.executable, "-c", _FILLS_UP, str(path)], capture_output=True, text=True, check=True
    )
    whole = [line["number"] for line in read_lines(path)]
    assert whole == [0, 1]
    assert len(path.read_bytes()) == 100
    assert int(told.stdout) == 9 - len(whole)
    lines = JsonLines(path)  # Another process may write the next one.
    for number in (9, 10):
        lines({"number": number})
    assert [line["number"] for line in read_lines(path)] == [0, 1, 9, 10]


def test_a_status_that_cannot_be_written_leaves_the_older_one_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "status.json"
    write_status(path, {"count": 3})

    def no_room(self: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", no_room)
        write_status(path, {"count": 4})
    assert read_status(path)["count"] == 3
    assert "No space left on device" in caplog.text


def test_versions_leave_out_a_package_that_is_not_installed() -> None:
    assert versions_here(["numpy", "no-such-package"]).keys() == {"python", "numpy"}


def test_a_torn_status_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("")
    assert read_status(tmp_path / "status.json") == {}
