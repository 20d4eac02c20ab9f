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
    there = [name for name in SETS if counts[name]]
    shared = [name for name in there if kinds[name] == "proportional"]
    left = max(0.0, 1.0 - sum(mix[name].at(update, 0.0) for name in there if name not in shared))
    natural = {name: left * counts[name] / sum(counts[name] for name in shared) for name in shared}
    wanted = {name: mix[name].at(update, natural.get(name, 0.0)) if name in there else 0.0 for name in SETS}
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


def test_a_proportional_share_is_of_what_no_other_share_is_set_aside_for() -> None:
    mix = {
        "online": Share(kind="rest"),
        "demo": Share(kind="proportional", share=0.25),
        "failure": Share(share=0.25),
    }
    counts = {"online": 900, "demo": 3000, "failure": 60}
    assert split_batch(64, mix, counts, 0) == {"online": 11, "demo": 37, "failure": 16}
    assert split_batch(64, mix, {**counts, "failure": 0}, 0) == {"online": 15, "demo": 49}
    assert split_batch(64, mix, {**counts, "online": 0}, 0) == {"demo": 48, "failure": 16}


def test_shares_out_of_range_are_refused() -> None:
    for wrong in ({"share": -0.1}, {"share": 1.1}, {"final": 2.0}, {"over_updates": 0}):
        with pytest.raises(ConfigError):
            Share(**wrong)  # type: ignore[arg-type]
