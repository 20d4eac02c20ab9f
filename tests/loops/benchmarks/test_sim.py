from __future__ import annotations

import pytest

from roborl.loops.benchmarks.sim import OURS, THEIRS, run


@pytest.mark.timeout(300)
def test_the_simulation_is_many_times_faster_than_gym_hil() -> None:
    figures = run(rounds=1, steps=40, peer_steps=2)
    rates = figures["steps_per_s"]
    assert rates[OURS] > 0
    assert figures["ratios"][f"{OURS} / {THEIRS}"] == pytest.approx(rates[OURS] / rates[THEIRS], rel=0.2)
    # Measured: some eighty times. A busy machine slows both alike.
    assert rates[OURS] > 5 * rates[THEIRS]
