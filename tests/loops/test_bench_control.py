import pytest

from roborl.loops.bench_control import run


def test_ticks_are_as_punctual_as_a_bare_sleep_loop_within_reason() -> None:
    """A few seconds on a machine that runs other tests too: the bound is generous, the figures are not empty."""
    figures = run(ticks=150, load=False)
    assert figures["ticks"] >= 150
    assert figures["steps"] > 5
    assert figures["watchdogs"] == 0
    assert figures["restarts"] == {"control": 0, "inference": 0, "io": 0}
    assert 0 < figures["control_ms"]["p50"] <= figures["control_ms"]["p99"]
    assert figures["control_ms"]["p99"] <= figures["bare_ms"]["max"] + 20.0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_30000_ticks_under_load_are_within_2_ms_of_a_bare_sleep_loop() -> None:
    figures = run(ticks=30_000)
    assert figures["within_bar"], figures
