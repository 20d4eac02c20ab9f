from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import ConfigError, DatasetError
from roborl.learning.mixing import Share, split_batch

SETS = ("online", "demo", "person")


@given(
    batch=st.integers(1, 500),
    counts=st.fixed_dictionaries({name: st.integers(0, 1000) for name in SETS}),
    shares=st.fixed_dictionaries({name: st.floats(0, 1) for name in SETS}),
    kinds=st.fixed_dictionaries(
        {name: st.sampled_from(["fixed", "linear", "proportional"]) for name in SETS}
    ),
    update=st.integers(0, 100),
)
def test_parts_add_up_and_come_from_sets_that_have_something(
    batch: int, counts: dict[str, int], shares: dict[str, float], kinds: dict[str, str], update: int
) -> None:
    mix = {
        name: Share(kind=kinds[name], share=shares[name], final=1 - shares[name], over_updates=50)  # type: ignore[arg-type]
        for name in SETS
    }
    everything = sum(counts.values())
    wanted = {
        name: mix[name].at(update, counts[name] / max(1, everything)) if counts[name] else 0.0
        for name in SETS
    }
    total = sum(wanted.values())
    if total <= 0:
        with pytest.raises(DatasetError):
            split_batch(batch, mix, counts, update)
        return
    parts = split_batch(batch, mix, counts, update)
    assert sum(parts.values()) == batch
    for name in SETS:
        assert abs(parts.get(name, 0) - batch * wanted[name] / total) < 1
        assert counts[name] or not parts.get(name)


def test_a_linear_share_moves_and_stays() -> None:
    share = Share(kind="linear", share=1.0, final=0.2, over_updates=10)
    assert [round(share.at(update, 0.0), 2) for update in (0, 5, 10, 1000)] == [1.0, 0.6, 0.2, 0.2]


def test_a_proportional_share_has_a_floor() -> None:
    share = Share(kind="proportional", share=0.25)
    assert share.at(0, natural=0.1) == 0.25
    assert share.at(0, natural=0.7) == 0.7


def test_shares_out_of_range_are_refused() -> None:
    for wrong in ({"share": -0.1}, {"share": 1.1}, {"final": 2.0}, {"over_updates": 0}):
        with pytest.raises(ConfigError):
            Share(**wrong)  # type: ignore[arg-type]
