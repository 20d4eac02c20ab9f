"""Records: what an actor may commit, the store can read; what nobody committed is refused as a WireError."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.codec import decode, encode, join, split
from roborl.errors import WireError
from roborl.records import Arrival, Begin, End, Record, Verdict, pack_record, unpack_record
from roborl.types import Command, EndCause, EpisodeKey, Frame, Observation, RewardSource, Source

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
counts = st.integers(0, 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
rewards = st.floats(allow_nan=False, allow_infinity=False, width=32)
keys = st.builds(EpisodeKey, actor=names, incarnation=counts, episode=counts)


def vector(size: int) -> np.ndarray:
    return np.linspace(-1, 1, size, dtype=np.float32)


def observation(index: int, cameras: list[str]) -> Observation:
    picture = np.full((4, 5, 3), index % 256, np.uint8)
    frames = {name: Frame(rgb=picture, camera=name, stamp_ns=index, id=index) for name in cameras}
    return Observation(frames=frames, state=vector(6), stamp_ns=index)


commands = st.none() | st.builds(
    Command,
    action=st.just(vector(4)),
    proposed=st.just(-vector(4)),
    source=st.sampled_from(Source),
    policy_version=counts,
)
records = st.one_of(
    st.builds(
        Begin,
        key=keys,
        task=texts,
        meta=st.dictionaries(texts, texts | finite | st.integers(-(2**63), 2**63 - 1), max_size=3),
    ),
    st.builds(
        Arrival,
        key=keys,
        index=counts,
        observation=st.builds(observation, counts, st.lists(names, max_size=2, unique=True)),
        command=commands,
        reward=rewards,
        reward_source=st.sampled_from(RewardSource),
    ),
    st.builds(End, key=keys, index=counts, cause=st.sampled_from(EndCause), discarded=st.booleans()),
    st.builds(
        Verdict,
        key=keys,
        index=counts,
        success=st.booleans(),
        source=st.sampled_from(RewardSource),
        reward=st.none() | rewards,
    ),
)


@given(records)
@settings(max_examples=100)
def test_what_is_committed_can_be_read(record: Record) -> None:
    blob = join(pack_record(record))
    back = unpack_record(split(blob))
    assert type(back) is type(record)
    assert join(pack_record(back)) == blob


def arrival() -> Arrival:
    return Arrival(
        key=EpisodeKey(actor="left-arm", incarnation=2, episode=17),
        index=3,
        observation=observation(3, ["front", "wrist"]),
        command=Command(action=vector(4), proposed=-vector(4), source=Source.PERSON, policy_version=9),
        reward=1.0,
        reward_source=RewardSource.OPERATOR,
    )


def test_an_arrival_keeps_every_field() -> None:
    sent, back = arrival(), unpack_record(pack_record(arrival()))
    assert isinstance(back, Arrival)
    assert (back.key, back.index, back.reward, back.reward_source) == (
        sent.key,
        3,
        1.0,
        RewardSource.OPERATOR,
    )
    assert back.command is not None
    assert (back.command.source, back.command.policy_version) == (Source.PERSON, 9)
    np.testing.assert_array_equal(back.command.action, vector(4))
    np.testing.assert_array_equal(back.command.proposed, -vector(4))
    np.testing.assert_array_equal(back.observation.state, vector(6))
    assert back.observation.stamp_ns == 3
    assert list(back.observation.frames) == ["front", "wrist"]
    frame = back.observation.frames["wrist"]
    assert (frame.camera, frame.stamp_ns, frame.id, frame.rgb.shape) == ("wrist", 3, 3, (4, 5, 3))


def test_numbers_of_numpy_may_stand_in_a_record() -> None:
    key = EpisodeKey(actor="a", incarnation=1, episode=0)
    back = unpack_record(pack_record(Begin(key=key, task="t", meta={"seed": np.int64(3)})))  # type: ignore[dict-item]
    assert isinstance(back, Begin)
    assert back.meta == {"seed": 3}
    end = End(key=key, index=np.int64(5), cause=EndCause.WATCHDOG)  # type: ignore[arg-type]
    assert unpack_record(pack_record(end)) == End(key=key, index=5, cause=EndCause.WATCHDOG)


@pytest.mark.parametrize(
    "record",
    [
        Begin(key=EpisodeKey(actor="../../etc", incarnation=1, episode=0), task="t"),
        Begin(key=EpisodeKey(actor="", incarnation=1, episode=0), task="t"),
        Begin(key=EpisodeKey(actor="a", incarnation=-1, episode=0), task="t"),
        Begin(key=EpisodeKey(actor="a", incarnation=1, episode=0), task="t", meta={"x": [1]}),  # type: ignore[dict-item]
        Begin(key=EpisodeKey(actor="a", incarnation=1, episode=0), task="t", meta={1: "x"}),  # type: ignore[dict-item]
        Arrival(key=EpisodeKey(actor="a", incarnation=1, episode=0), index=0, observation=observation(0, ["../x"])),
        Arrival(
            key=EpisodeKey(actor="a", incarnation=1, episode=0),
            index=1,
            observation=observation(1, []),
            reward=float("nan"),
        ),
        End(key=EpisodeKey(actor="a", incarnation=1, episode=0), index=-1, cause=EndCause.SUCCESS),
        Arrival(
            key=EpisodeKey(actor="a", incarnation=1, episode=0),
            index=0,
            observation=Observation(frames={}, state=vector(6), stamp_ns=2**63),
        ),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_the_store_could_not_read_is_not_committed(record: Record) -> None:
    with pytest.raises(WireError):
        pack_record(record)


GOOD = {
    "kind": "arrival",
    "key": "a-0001-000000",
    "index": 1,
    "stamp_ns": 5,
    "state": vector(6),
    "frames": {"front": {"rgb": np.zeros((2, 2, 3), np.uint8), "stamp_ns": 5, "id": 1}},
    "reward": 0.0,
    "reward_source": "env",
    "command": {"action": vector(4), "proposed": vector(4), "source": "policy", "policy_version": 1},
}


def test_the_good_message_is_good() -> None:
    assert isinstance(unpack_record(encode(GOOD)), Arrival)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, None) for name in GOOD if name != "command"),
        ("kind", "pickle"),
        ("kind", []),
        ("key", "a-1-0"),
        ("key", "a-0001-0000_00"),
        ("key", "../x-0001-000000"),
        ("key", "\u0661-0001-000000"),
        ("index", -1),
        ("index", True),
        ("index", float("inf")),
        ("stamp_ns", float("inf")),
        ("stamp_ns", "5"),
        ("stamp_ns", True),
        ("stamp_ns", 2**63),
        ("frames", {"front": {**GOOD["frames"]["front"], "stamp_ns": 2**63}}),
        ("frames", {"front": {**GOOD["frames"]["front"], "id": 2**63}}),
        ("state", [1.0]),
        ("state", np.zeros((2, 3), np.float32)),
        ("state", np.zeros(6)),
        ("frames", []),
        ("frames", {"front": 1}),
        ("frames", {"fr/ont": GOOD["frames"]["front"]}),
        ("frames", {"front": {"rgb": np.zeros((2, 2), np.uint8), "stamp_ns": 5, "id": 1}}),
        ("frames", {"front": {"rgb": b"xx", "stamp_ns": 5, "id": 1}}),
        ("reward", float("nan")),
        ("reward", "1"),
        ("reward_source", "me"),
        ("command", {}),
        ("command", {**GOOD["command"], "proposed": vector(3)}),
        ("command", {**GOOD["command"], "source": "wind"}),
        ("command", {**GOOD["command"], "policy_version": -1}),
    ],
)
def test_a_malformed_record_is_a_wire_error(field: str, value: object) -> None:
    with pytest.raises(WireError):
        unpack_record(encode({**GOOD, field: value}))


def test_a_stamp_that_no_column_holds_is_told_with_what_to_do() -> None:
    with pytest.raises(WireError, match="time stamp is out of range") as caught:
        unpack_record(encode({**GOOD, "stamp_ns": 2**63}))
    assert (caught.value.seen, caught.value.allowed) == (2**63, "nanoseconds from -2**63 to 2**63 - 1")
    assert "monotonic clock" in caught.value.remedy


def test_random_values_in_random_fields_raise_nothing_but_wire_errors() -> None:
    rng = random.Random(0)
    pool = [None, True, -1, 2**63, float("inf"), "", "a-0001-000000", b"", [], {}, [[]], np.zeros(0, np.float32),
            np.zeros((1, 1, 3), np.uint8), "begin", "arrival", "end", "verdict", "success", "policy"]  # fmt: skip
    refused = 0
    for _ in range(2_000):
        message = dict(GOOD)
        for _ in range(rng.randint(1, 4)):
            message[rng.choice([*GOOD, "task", "meta", "cause", "discarded", "success", "source"])] = (
                rng.choice(pool)
            )
        try:
            unpack_record(encode(message))
        except WireError:
            refused += 1
    assert refused > 1_500


@pytest.mark.parametrize("reward", [1e39, -1e300, float("inf"), float("nan")])
def test_a_reward_that_the_replay_memory_cannot_hold_is_refused(reward: float) -> None:
    with pytest.raises(WireError, match="not finite"):
        pack_record(replace(arrival(), reward=reward))
    message = decode(pack_record(arrival())) | {"reward": reward}
    with pytest.raises(WireError, match="not finite"):
        unpack_record(encode(message))
