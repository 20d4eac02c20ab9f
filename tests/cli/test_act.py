"""What ``roborl act`` says of how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roborl.cli import act


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(
    ("mode", "wanted", "episodes", "cut_short", "fails"),
    [
        ("evaluate", 40, 4, 1, True),
        ("evaluate", 3, 4, 1, False),
        ("evaluate", 4, 4, 1, True),
        ("evaluate", 0, 4, 1, False),
        ("train", 40, 4, 1, False),
    ],
)
def test_an_evaluation_that_was_stopped_early_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    wanted: int,
    episodes: int,
    cut_short: int,
    fails: bool,
) -> None:
    figures = {"episodes": episodes, "cut_short": cut_short}
    monkeypatch.setattr(act, "run_actor", lambda *_: figures)
    monkeypatch.setattr("roborl.loops.learnt.warn_of_start", lambda folder: None)
    result = act.main(act.Config(run=tmp_path, mode=mode, episodes=wanted))
    assert ("exit" in result) is fails
    assert result | {"exit": 1} == figures | {"exit": 1}
