"""What was paid for stands on the disk line by line, and a torn tail costs that line alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from roborl.data.stage_log import StageLog
from roborl.errors import DatasetError


def test_whatever_is_cut_off_the_whole_lines_are_there_and_the_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "write.jsonl"
    log = StageLog(path)
    for number in range(3):
        log.append(f"k{number}", {"reply": f"said \n {number} \u2028"})
    log.close()
    raw = path.read_bytes()
    edges = [0, *(at + 1 for at, byte in enumerate(raw) if byte == 10)]
    for size in range(0, len(raw) + 1, 7):
        path.write_bytes(raw[:size])
        dry = StageLog(path, dry=True)
        assert path.stat().st_size == size, "a dry log writes"
        again = StageLog(path)
        assert len(again) == len(dry) == sum(edge <= size for edge in edges) - 1
        again.append("new", {"reply": "more"})
        again.close()
        found = StageLog(path, dry=True)
        assert found.get("new") == {"reply": "more"}
        assert (found.get("k0") or {"reply": "said \n 0 \u2028"})["reply"] == "said \n 0 \u2028"


def test_a_damaged_line_is_passed_over_and_a_full_disk_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "write.jsonl"
    path.write_bytes(b'{"key": "a", "reply": "x"}\nrubbish\n[1]\n{"reply": "no key"}\n')
    log = StageLog(path)
    assert len(log) == 1
    size = path.stat().st_size
    monkeypatch.setattr("os.write", lambda fd, raw: 3)
    with pytest.raises(DatasetError, match="cannot be written"):
        log.append("b", {})
    assert path.stat().st_size == size
    assert log.get("b") is None
