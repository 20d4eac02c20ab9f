from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.data.episodes import EpisodeInfo
from roborl.records import Begin, End, Verdict
from roborl.testing.experience import arrival
from roborl.types import EndCause, EpisodeKey, RewardSource

KEY = EpisodeKey(actor="left-arm", incarnation=2, episode=17)


def begun() -> EpisodeInfo:
    return EpisodeInfo.from_begin(Begin(key=KEY, task="lift", meta={"seed": 3}), ordinal=9)


def verdict(index: int, success: bool = True) -> Verdict:
    return Verdict(key=KEY, index=index, success=success, source=RewardSource.OPERATOR)


@given(
    observations=st.integers(0, 5),
    end=st.none() | st.sampled_from(list(EndCause)),
    judged=st.none() | st.tuples(st.integers(0, 7), st.booleans()),
)
def test_terminal_observation_and_attributes(
    observations: int, end: EndCause | None, judged: tuple[int, bool] | None
) -> None:
    info = begun().taken("ring", 4).taken("ring", 3).taken("", 9)
    for index in range(observations):
        grown = info.with_record(arrival(KEY, index))
        assert grown is not None
        info = grown
    if judged is not None:
        info = info.with_record(verdict(*judged)) or info
    if end is not None:
        info = info.with_record(End(key=KEY, index=max(0, observations - 1), cause=end)) or info
    if judged is not None and 0 < judged[0] < observations:
        assert info.terminal_index == judged[0]
    elif end in (EndCause.SUCCESS, EndCause.FAILURE) and observations > 1:
        assert info.terminal_index == observations - 1
    else:
        assert info.terminal_index is None
    assert info.sequences == {"ring": 4}
    assert EpisodeInfo.from_attributes(json.loads(json.dumps(info.to_attributes()))) == info


def test_only_records_that_continue_it_belong() -> None:
    info = begun()
    assert info.with_record(arrival(KEY, 1)) is None
    assert info.with_record(arrival(EpisodeKey(actor="left-arm", incarnation=2, episode=18), 0)) is None
    assert info.with_record(Begin(key=KEY, task="again")) is None
    first = info.with_record(arrival(KEY, 0))
    assert first is not None
    assert first.with_record(arrival(KEY, 0)) is None
    over = first.with_record(End(key=KEY, index=0, cause=EndCause.WATCHDOG))
    assert over is not None
    assert over.with_record(arrival(KEY, 1)) is None
    assert over.with_record(End(key=KEY, index=0, cause=EndCause.SUCCESS)) is None
    assert over.with_record(verdict(0)) is not None


@pytest.mark.parametrize("change", [{"kind": "other"}, {"end": "bored"}, {"key": "x"}, {"verdict": {}}])
def test_foreign_attributes_are_refused(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        EpisodeInfo.from_attributes({**begun().to_attributes(), **change})
