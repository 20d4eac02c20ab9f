"""The codec: what goes in comes out, and whatever else comes in leaves as a WireError."""

from __future__ import annotations

import random

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roborl.codec import MAX_HEADER_BYTES, MAX_PARTS, decode, encode, join, split
from roborl.errors import WireError

DTYPES = ["u1", "<f4", "<f8", "<i8", "<i4", "<f2", "?", "<u4", "<u8", "<i2", "<u2", "i1"]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
plain = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | text | st.binary(max_size=9)
)
values = st.recursive(
    plain | arrays, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
)
messages = st.dictionaries(text, values, max_size=5)


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.tobytes() == b.tobytes()
            and not b.flags.writeable
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


@given(messages)
@settings(max_examples=100)
def test_what_goes_in_comes_out(message: dict) -> None:
    parts = encode(message)
    assert same(message, decode(parts))
    assert same(message, decode(split(join(parts))))
    assert same(message, decode([memoryview(bytearray(part)) for part in parts]))


def test_an_array_is_not_copied_on_the_way_in_or_out() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    parts = encode({"rgb": picture})
    out = decode(parts)["rgb"]
    picture[3, 3, 1] = 7
    assert out[3, 3, 1] == 7


def test_a_view_with_strides_is_sent_as_it_looks() -> None:
    picture = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1]
    np.testing.assert_array_equal(decode(encode({"a": picture}))["a"], picture)


def test_a_map_that_looks_like_an_array_stays_a_map() -> None:
    message = {"a": {"__array__": 1, "d": "|u1", "s": [3]}}
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        object(),
        2**64,
        "\ud800",
        np.longdouble(1),
        np.datetime64("2020-01-01"),
        np.zeros(3, ">f4"),
        np.zeros(3, complex),
        np.array(["text"]),
        np.array([None]),
        np.zeros((1,) * 9, np.uint8),
        [np.zeros(1, np.uint8)] * MAX_PARTS,
        b"x" * MAX_HEADER_BYTES,
    ],
)
def test_what_cannot_be_sent_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        encode({"value": value})


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list = []
    loop.append(loop)
    with pytest.raises(WireError):
        encode({"loop": loop})


def ext(data: bytes, code: int = 1) -> bytes:
    return msgpack.packb({"a": msgpack.ExtType(code, data)})


def shape(*sizes: int, part: int = 1, kind: int = 0) -> bytes:
    return bytes([part, kind]) + b"".join(n.to_bytes(8, "little") for n in sizes)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"\xc1"],
        [msgpack.packb([1])],
        [msgpack.packb({1: 2})],
        [msgpack.packb({b"a": 2})],
        [msgpack.packb({"a": {b"b": 2}})],
        [msgpack.packb({"a": 1}) + b"more"],
        [b"\x91" * 5000],
        [b"\x81\xa1a" * 5000],
        [b"\xdd\xff\xff\xff\xff"],
        [b"\xdf\xff\xff\xff\xff"],
        [b"\xc6\xff\xff\xff\xff"],
        [b"\x81\xa1a\xa2\xff\xfe"],
        [b"\x80" + b"\x00" * MAX_HEADER_BYTES],
        [msgpack.packb({})] + [b""] * MAX_PARTS,
        [ext(b"")],
        [ext(b"\x01\x00\x05"), b"x"],
        [ext(shape(1), code=2), b"x"],
        [ext(shape(1, part=0)), b"x"],
        [ext(shape(1, part=2)), b"x"],
        [ext(shape(1, kind=200)), b"x"],
        [ext(shape(2)), b"x"],
        [ext(shape(2**63, 2**63)), b""],
        [ext(shape(0, 2**64 - 1)), b""],
        [ext(shape(*[2**31] * 8)), b""],
        [ext(shape(*[1] * 9)), b"x"],
        [ext(shape(3, kind=1)), b"x" * 11],
        [ext(shape(2, kind=6)), b"\x00\x02"],
        [msgpack.packb([msgpack.ExtType(1, shape(1))] * 2), b"x"],
    ],
    ids=range(30),
)
def test_a_message_that_is_none_is_a_wire_error(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode(parts)


def test_two_arrays_never_share_a_part() -> None:
    with pytest.raises(WireError, match="cannot be"):
        decode([msgpack.packb({"a": msgpack.ExtType(1, shape(1)), "b": msgpack.ExtType(1, shape(1))}), b"x"])


@pytest.mark.parametrize("parts", [[], [b""] * (MAX_PARTS + 1)])
def test_parts_that_cannot_be_joined_are_refused(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        join(parts)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8), st.data())
def test_a_torn_blob_is_a_wire_error(parts: list[bytes], data: st.DataObject) -> None:
    blob = join(parts)
    with pytest.raises(WireError):
        split(blob[: data.draw(st.integers(0, len(blob) - 1))])


def mutate(rng: random.Random, parts: list[bytes]) -> list[bytes]:
    parts = list(parts)
    for _ in range(rng.randint(1, 4)):
        where = rng.randrange(len(parts))
        part = bytearray(parts[where])
        match rng.randrange(6):
            case 0 if part:
                part[rng.randrange(len(part))] = rng.randrange(256)
            case 1:
                part[rng.randint(0, len(part)) :] = b""
            case 2:
                part += rng.randbytes(rng.randint(1, 20))
            case 3 if part:
                at = rng.randrange(len(part))
                part[at:at] = part[: rng.randint(1, 16)]
            case 4:
                part = bytearray(rng.randbytes(rng.randint(0, 64)))
            case _:
                parts.insert(where, bytes(part))
        parts[where] = bytes(part)
    return parts


def fuzz(count: int, seed: int) -> int:
    rng = random.Random(seed)
    valid = [bytes(part) for part in encode({
        "kind": "arrival", "x": 1.5, "s": "text", "n": None, "l": [1, {"k": True}],
        "rgb": np.zeros((4, 4, 3), np.uint8), "state": np.zeros(6, np.float32), "flag": np.zeros(3, bool),
    })]  # fmt: skip
    refused = 0
    for _ in range(count):
        parts = mutate(rng, valid) if rng.random() < 0.8 else [rng.randbytes(rng.randint(0, 80))]
        try:
            decode(parts)
            split(join(parts))
            split(parts[0])
        except WireError:
            refused += 1
    return refused


def test_fuzzed_messages_raise_nothing_but_wire_errors() -> None:
    assert fuzz(10_000, seed=0) > 5_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_fuzzed_messages_raise_nothing_but_wire_errors() -> None:
    assert fuzz(1_000_000, seed=1) > 500_000
