"""Examples come out as they went in, whatever writer packed them, and other bytes are told to be none."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import example as given_example
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from roborl.data.rlds.wire import parse_example
from roborl.errors import DatasetError
from roborl.testing.rlds import example, field, varint

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES = st.one_of(
    st.lists(st.binary(max_size=40), max_size=5),
    arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32, allow_nan=False)),
    st.lists(INT64, max_size=20).map(lambda n: np.array(n, np.int64)),
)


def test_a_message_put_together_by_hand() -> None:
    """{"a": int64 [1, 300, -1]}: 300 is ac 02 in groups of seven bits, and -1 ten bytes."""
    numbers = bytes.fromhex("01 ac02 ffffffffffffffffff01".replace(" ", ""))
    packed = bytes([0x1A, len(numbers) + 2, 0x0A, len(numbers)]) + numbers
    entry = b"\x0a\x01a" + bytes([0x12, len(packed)]) + packed
    whole = bytes([0x0A, len(entry) + 2, 0x0A, len(entry)]) + entry
    assert whole == example({"a": np.array([1, 300, -1])})
    assert parse_example(whole)["a"].tolist() == [1, 300, -1]


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=20), VALUES, max_size=4), st.booleans())
def test_what_goes_in_comes_out(values: dict[str, object], packed: bool) -> None:
    found = parse_example(example(values, packed=packed))
    assert found.keys() == values.keys()
    for name, value in values.items():
        if isinstance(value, list):
            assert found[name] == value
        else:
            np.testing.assert_array_equal(found[name], value)


def test_readers_rules_of_protocol_buffers_are_kept() -> None:
    def entry(*lists: bytes) -> bytes:
        return field(1, field(1, field(1, b"x") + field(2, b"".join(lists))))

    def ints(*numbers: int) -> bytes:
        return field(3, field(1, b"".join(map(varint, numbers))))

    unknown = field(9, b"whatever") + varint(10 << 3) + varint(7) + varint(11 << 3 | 1) + bytes(8)
    later = varint(1 << 3) + varint(5)
    assert parse_example(unknown + entry(unknown, ints(1), ints(2, 3)))["x"].tolist() == [1, 2, 3]
    assert parse_example(entry(field(3, later + field(1, varint(6)) + later)))["x"].tolist() == [5, 6, 5]
    assert parse_example(entry(ints(1), field(1, field(1, b"last"))))["x"] == [b"last"]
    assert parse_example(entry(ints(1)) + entry(ints(2)))["x"].tolist() == [2]
    assert parse_example(entry())["x"] == []
    assert parse_example(b"") == {}


def test_many_integers_of_every_length_are_read_in_pieces() -> None:
    numbers = np.tile(np.array([0, 127, 128, 1 << 35, -5]), 55_000)
    single = b"".join(varint(int(n)) for n in numbers[:5])
    record = field(1, field(1, field(1, b"x") + field(2, field(3, field(1, single * 55_000)))))
    np.testing.assert_array_equal(parse_example(record)["x"], numbers)


@pytest.mark.parametrize(
    ("record", "seen"),
    [
        (b"\x0a", "an integer without an end"),
        (b"\x0a\x05abc", "a field of 5 bytes, where 3 are left"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "bytes, where 0 are left"),
        (b"\xff" * 11, "an integer of more than 10 bytes"),
        (b"\x00\x00", "field number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "varint where Features should be"),
        (field(1, b"\x08\x01"), "varint where an entry should be"),
        (field(1, field(1, field(1, b"\xff\xfe"))), "a name that is no UTF-8"),
        (field(1, field(1, field(2, field(2, field(1, b"123"))))), "3 bytes of floats"),
        (field(1, field(1, field(2, field(3, field(1, b"\x80"))))), "an integer without an end"),
        (field(1, field(1, field(2, field(3, field(1, b"\x80" * 11 + b"\x01"))))), "an integer of 12 bytes"),
        (field(1, field(1, field(2, field(1, b"\x0d1234")))), "4 bytes where bytes should be"),
    ],
)
def test_what_is_malformed_is_named(record: bytes, seen: str) -> None:
    with pytest.raises(
        DatasetError, match=rf"no tf\.train\.Example\. Found: .*{seen}.*Allowed: .*Fetch the file"
    ):
        parse_example(record)


@settings(max_examples=150)
@given(
    st.dictionaries(st.text(max_size=5), VALUES, max_size=3),
    st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), max_size=6),
    st.integers(0, 1 << 30),
    st.binary(max_size=60),
)
@given_example({}, [], 0, b"\x0a\x02\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_nothing_but_our_error_leaves_whatever_the_bytes(
    values: dict[str, object], changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    record = bytearray(example(values) + tail)
    for place, byte in changes if record else []:
        record[place % len(record)] = byte
    try:
        parse_example(bytes(record[: cut % (len(record) + 1)] if cut % 3 else record))
    except DatasetError:
        return


def test_what_it_makes_is_bounded_by_the_record() -> None:
    hostile = [
        field(1, field(1, field(2, field(1, b"\x0a\x00" * 5_000)))),
        field(1, field(1, field(2, field(3, field(1, b"\x80\x80\x01" * 5_000))))),
        field(1, field(1, field(2, field(2, b"\x0d1234" * 2_000)))),
        field(1, b"\x0a\x00" * 5_000),
        field(1, b"\x0a\x81\x80\x80\x80\x04" + bytes(10_000)),
    ]
    for record in hostile:
        tracemalloc.start()
        try:
            parse_example(record)
        except DatasetError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 200 * len(record)
