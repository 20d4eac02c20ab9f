"""Whole runs whose processes are killed: every committed step is in the store once, in order, as it was."""

from __future__ import annotations

from typing import Any

import pytest

from roborl.loops.benchmarks.faults import run

FAULTS = ("lost", "doubled", "foreign", "misplaced", "altered", "overtaken", "ends_differ", "not_durable")


def check_account(account: dict[str, int]) -> None:
    assert account["committed"] == account["stored"] > 20
    assert {name: account[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0)


def tell(figures: dict[str, Any]) -> None:
    """Print the times, which a machine that runs other tests too does not keep to; ``-s`` shows them."""
    shown = ("detection_s", "back_s", "import_s", "missed_ticks")
    print({name: figures[name] for name in shown})  # noqa: T201  (for people, with -s)


@pytest.mark.timeout(300)
def test_three_kills_lose_and_double_nothing() -> None:
    figures = run(kills=3, server_away_s=0.0, learner_away_s=0.0, time_scale=4.0)
    assert figures["kills"] == 3
    check_account(figures["account"])
    assert figures["labels"]["wrong"] == figures["labels"]["taken_back"] == 0
    tell(figures)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_process_may_die_and_server_and_learner_may_stay_away() -> None:
    figures = run(kills=7, server_away_s=10.0, learner_away_s=20.0, time_scale=2.0, seed=1)
    tell(figures)
    check_account(figures["account"])
    assert set(figures["detection_s"]) >= {
        *("control", "inference", "io", "store", "labeller", "trainer", "serve"),
    }
    assert figures["labels"]["wrong"] == figures["labels"]["taken_back"] == 0
    assert figures["labels"]["labelled"] > 0
    away = figures["server_away"]
    assert away["frames_behind"] > 0
    assert away["missing"] == 0
    assert away["rate_ratio"] > 0.7
    check_account(figures["learner_away"]["account"])
    assert figures["learner_away"]["steps_meanwhile"] > 20
    assert figures["learner_away"]["records_waiting"] >= figures["learner_away"]["steps_meanwhile"]
