"""The transport and weights benchmarks run every path and report what they say they do."""

from __future__ import annotations

import operator

import pytest

from roborl.cli.bench import BENCHMARKS
from roborl.errors import DeadlineExceeded
from roborl.loops.benchmarks import sides, transport, weights


def test_every_path_carries_whole_transitions() -> None:
    result = transport.run(rounds=1, messages=20)
    assert result["transition_bytes"] == pytest.approx(197_000, rel=0.01)
    assert result["as_used_bytes"] == pytest.approx(98_600, rel=0.01)
    rates = result["transitions_per_s"]
    assert len(rates) == 5
    assert all(rate > 0 for rate in rates.values())
    ours, grpc = rates[transport.OURS], rates[transport.GRPC_CLIENT]
    stated = result["ratios"][f"{transport.OURS} / {transport.GRPC_CLIENT}"]
    assert stated == pytest.approx(ours / grpc, rel=0.05)


@pytest.mark.slow
def test_every_way_of_publishing_weights_is_measured() -> None:
    result = weights.run(rounds=1)
    assert result["parameters"] == 12_000_000
    assert len(result["ms"]) == 8
    assert all(took_ms > 0 for took_ms in result["ms"].values())
    for path in (weights.OURS, weights.OURS_TCP):
        # On the way into the policy, all of it is copied three times and looked at once more.
        applied, received = (result["ms"][f"{path}, {what}"] for what in (weights.APPLIED, weights.RECEIVED))
        assert applied > received + result["ms"]["flat copy"]
    assert all(bar.read(result) > 0 for bar in BENCHMARKS["weights"].bars)
    assert result["bar_ms"] == pytest.approx(3 * result["ms"]["flat copy"] + 10, abs=0.05)


def test_a_side_that_ends_ends_the_benchmark() -> None:
    # operator.call tells the address and is done; operator.eq answers nothing.
    pair = sides.Pair(operator.call, ("address",), operator.eq, ())
    try:
        with pytest.raises(DeadlineExceeded, match="its end"):
            pair.go(1)
    finally:
        pair.close()
