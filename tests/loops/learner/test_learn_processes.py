from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from roborl.errors import DatasetError
from roborl.loops.learner import learn_processes
from roborl.loops.learner.learn_processes import _await_store
from roborl.loops.supervise import Child


def child() -> Child:
    return Child("trainer", None, ctypes.c_int64(0))


def test_a_store_that_fills_its_memory_is_waited_for_however_long_that_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(learn_processes, "_STORE_TELL_S", 0.0)
    looks = iter([DatasetError("There is no replay memory here", seen=Path("arena"))] * 2)

    def open_it() -> str:
        for error in looks:
            raise error
        return "open"

    assert _await_store(child(), open_it) == "open"
    assert "trainer still waits for the store: There is no replay memory here" in caplog.text
    stopped = child()
    stopped.stop()
    assert _await_store(stopped, open_it) is None
