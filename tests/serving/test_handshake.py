"""Two peers that do not fit together are told which field and both values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import HandshakeMismatch, WireError
from roborl.serving.handshake import PROTOCOL_VERSION, Handshake

sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
handshakes = st.builds(
    Handshake,
    cameras=st.none() | st.dictionaries(st.text(max_size=5), sizes, max_size=3),
    state_dim=st.none() | st.integers(0, 99),
    action_dim=st.none() | st.integers(0, 99),
    policy_hz=st.none() | st.sampled_from([10.0, 50.0]),
    scales=st.none()
    | st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.tuples(st.floats(-9, 9)), max_size=2),
    version=st.none() | st.text(max_size=8),
)


@given(handshakes)
def test_a_handshake_survives_the_wire(handshake: Handshake) -> None:
    assert Handshake.from_wire(handshake.to_wire()) == handshake


@given(handshakes, handshakes)
def test_both_sides_come_to_the_same_conclusion(a: Handshake, b: Handshake) -> None:
    verdicts = []
    for ours, theirs in ((a, b), (b, a)):
        try:
            ours.check(theirs, peer="peer")
            verdicts.append(True)
        except HandshakeMismatch:
            verdicts.append(False)
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize(
    ("field", "ours", "theirs"),
    [
        ("protocol", PROTOCOL_VERSION, 99),
        ("cameras", {"front": (96, 96)}, {"front": (128, 96)}),
        ("cameras", {"front": (96, 96)}, {"wrist": (96, 96)}),
        ("state_dim", 6, 7),
        ("action_dim", 4, 6),
        ("policy_hz", 10.0, 20.0),
        ("version", "v1", "v2"),
    ],
)
def test_a_mismatch_names_the_field_and_both_values(field: str, ours: object, theirs: object) -> None:
    with pytest.raises(HandshakeMismatch) as caught:
        Handshake(**{field: ours}).check(Handshake(**{field: theirs}), peer="left-arm")
    for part in (field, repr(ours), repr(theirs), "left-arm"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("model", "so101_sim", "koch"),
        ("action_unit", (0.02, 0.02, 0.02, 30.0), (0.04, 0.02, 0.02, 30.0)),
        ("action_unit", (0.02, 0.02), (0.02, 0.02, 0.02)),
    ],
)
def test_numbers_that_stand_for_something_else_are_told_by_what_they_stand_for(
    name: str, ours: Any, theirs: Any
) -> None:
    rest: dict[str, Any] = {"state_low": (-90.0, 0.1)}
    with pytest.raises(HandshakeMismatch, match=f"disagree on {name}") as caught:
        Handshake(scales=rest | {name: ours}).check(Handshake(scales=rest | {name: theirs}), peer="left-arm")
    for part in (repr(ours), repr(theirs)):
        assert part in str(caught.value)


def test_the_last_bit_of_a_scale_is_no_mismatch_and_it_comes_over_the_wire() -> None:
    ours = Handshake(policy_hz=10.0, scales={"model": "a", "action_unit": (0.1 + 0.2, 30.0)})
    theirs = Handshake(policy_hz=10.0, scales={"model": "a", "action_unit": (0.3, 30.0)})
    ours.check(theirs, peer="left-arm")
    assert Handshake.from_wire(ours.to_wire()) == ours


def test_a_field_that_one_side_leaves_open_fits() -> None:
    Handshake(state_dim=6).check(Handshake(action_dim=4, cameras={}), peer="peer")


def test_of_another_protocol_only_its_version_is_read() -> None:
    assert Handshake.from_wire({"protocol": 99, "cameras": "anything"}) == Handshake(protocol=99)


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        {},
        {"protocol": "1"},
        {"protocol": True},
        {"protocol": PROTOCOL_VERSION, "scales": {"action_unit": ["much"]}},
        {"protocol": PROTOCOL_VERSION, "scales": []},
        {"protocol": PROTOCOL_VERSION, "policy_hz": "10"},
        {"protocol": PROTOCOL_VERSION, "cameras": []},
        {"protocol": PROTOCOL_VERSION, "cameras": {"front": [96]}},
        {"protocol": PROTOCOL_VERSION, "cameras": {"front": [96, 0]}},
        {"protocol": PROTOCOL_VERSION, "cameras": {"front": [96, 96.0]}},
        {"protocol": PROTOCOL_VERSION, "state_dim": "6"},
        {"protocol": PROTOCOL_VERSION, "version": 5},
    ],
)
def test_a_malformed_handshake_is_a_wire_error(wire: object) -> None:
    with pytest.raises(WireError):
        Handshake.from_wire(wire)
