from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from roborl.errors import ConfigError
from roborl.whole_files import as_json, draft_folder, read_json, require_writable, whole_file, write_whole

TEXTS = ("short", "long " * 20_000)


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for content, bytes_there in (("é", "é".encode()), (b"\x00", b"\x00")):
        write_whole(tmp_path / "file.json", content, sync=True)
        assert (tmp_path / "file.json").read_bytes() == bytes_there
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_block_that_raises_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "old")

    def half() -> None:
        with whole_file(tmp_path / "file") as draft:
            draft.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half()
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_draft_of_a_folder_begins_empty_and_goes_with_a_block_that_raises(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "left").touch()

    def filled(*, fail: bool = False) -> None:
        with draft_folder(tmp_path / "draft") as draft:
            draft.mkdir()
            (draft / "part").touch()
            if fail:
                raise OSError("disk full")
            draft.rename(tmp_path / "whole")

    with pytest.raises(OSError, match="disk full"):
        filled(fail=True)
    assert os.listdir(tmp_path) == []
    filled()
    assert [path.name for path in tmp_path.rglob("*")] == ["whole", "part"]


def test_the_draft_of_a_process_that_was_killed_is_removed_and_a_live_one_is_not(tmp_path: Path) -> None:
    old, live = tmp_path / ".file[1].77.draft", tmp_path / ".file[1].78.draft"
    for draft in (old, live):
        draft.write_text("half")
    os.utime(old, (0, 0))
    write_whole(tmp_path / "file[1]", "new")
    assert sorted(os.listdir(tmp_path)) == [live.name, "file[1]"]


# In processes of their own, not forked: one that is forked while other threads run may never come to its first write.
WRITE_ON = """
import sys
from pathlib import Path
from roborl.whole_files import write_whole

while True:
    for text in ("short", "long " * 20_000):
        write_whole(Path(sys.argv[1]), text)
"""


def test_a_reader_never_sees_half_a_file_while_two_writers_are_killed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for _ in range(5):
        write_whole(path, TEXTS[0])
        writers = [subprocess.Popen([sys.executable, "-c", WRITE_ON, str(path)]) for _ in "ab"]
        seen: set[str] = set()
        until = time.monotonic() + 60
        while seen != set(TEXTS) and time.monotonic() < until:
            seen.add(path.read_text())
        for _ in range(200):
            assert path.read_text() in TEXTS
        for writer in writers:
            writer.kill()
            writer.wait()
        assert path.read_text() in TEXTS
        assert seen == set(TEXTS)


def test_a_full_disk_is_told_with_the_file_that_it_did_not_take(tmp_path: Path) -> None:
    def half() -> None:
        with whole_file(tmp_path / "file"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        half()
    assert caught.value.filename == str(tmp_path / "file")


def test_what_json_has_no_number_for_is_null_however_deep_it_lies() -> None:
    told = {
        "a": math.nan,
        "b": [1, np.float32(math.inf), (2.5, np.int64(3))],
        "c": {"d": "NaN", "e": None, "f": True},
    }
    read = json.loads(as_json(told), parse_constant=pytest.fail)
    assert read == {"a": None, "b": [1, None, [2.5, 3]], "c": {"d": "NaN", "e": None, "f": True}}


def test_json_that_is_torn_is_an_error_of_four_parts(tmp_path: Path) -> None:
    write_whole(tmp_path / "file.json", "")
    with pytest.raises(ConfigError, match=r"cannot be read.*file\.json.*Allowed.*Delete it"):
        read_json(tmp_path / "file.json", remedy="Delete it")


def test_a_place_that_cannot_be_written_is_seen_early(tmp_path: Path) -> None:
    require_writable(tmp_path / "ä b" / "file")
    assert os.listdir(tmp_path / "ä b") == []
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "x"):
        with pytest.raises(OSError, match=str(tmp_path)):
            require_writable(place)
