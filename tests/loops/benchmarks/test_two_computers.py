from __future__ import annotations

import pytest

from roborl.loops.benchmarks.two_computers import run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_over_a_slow_line_that_is_cut_loses_and_doubles_nothing() -> None:
    figures = run(cut_s=8.0, before_s=3.0, after_s=3.0, time_scale=2.0)
    account = figures["account"]
    assert account["committed"] == account["stored"] > 50
    for fault in ("lost", "doubled", "foreign", "misplaced", "altered", "overtaken", "ends_differ"):
        assert account[fault] == 0, fault
    assert account["not_durable"] == 0
    # The arm went on while the line was cut, and new weights came through it afterwards.
    assert figures["steps_while_cut"] > 20
    assert figures["records_waiting"] >= figures["steps_while_cut"]
    assert figures["weights_version"] > 0
    assert figures["strangers_in"] == 0
    assert figures["friends_in"] == 1
