"""Weights: the newest set, whole and finite or not at all, for whoever joins whenever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.clock import FakeClock
from roborl.errors import ConfigError, DeadlineExceeded, HandshakeMismatch, WireError
from roborl.serving import weight_sets
from roborl.serving.buffers import Buffers, SharedMemory, Windows
from roborl.serving.handshake import Handshake
from roborl.serving.server_link import ServerLink
from roborl.serving.weight_layout import WeightSet
from roborl.serving.weight_sets import CHUNK_BYTES, Packing, digest
from roborl.serving.weights_publisher import WeightsPublisher
from roborl.serving.weights_subscriber import WeightsSubscriber
from roborl.testing.proxy import TcpProxy

LOCAL = "tcp://127.0.0.1:*"
HANDSHAKE = Handshake(action_dim=4, version="net1")


def weights(value: float, size: int = 700_001) -> dict[str, np.ndarray]:
    return {
        "encoder.weight": np.full((size // 7, 7), value, np.float32),
        "head.bias": np.full(3, -value, np.float64),
        "steps": np.array(int(value), np.int64),
        "empty": np.zeros((0, 4), np.float16),
    }


def check(found: WeightSet, value: float, size: int = 700_001) -> None:
    arrays, expected = found.arrays(), weights(value, size)
    assert list(arrays) == list(expected)
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


@pytest.fixture(params=["tcp", "ipc"])
def publisher(
    opened: Callable[[Any], Any], request: pytest.FixtureRequest, tmp_path: Path
) -> WeightsPublisher:
    endpoint = LOCAL if request.param == "tcp" else f"ipc://{tmp_path}/w.sock"
    return opened(WeightsPublisher(endpoint, handshake=HANDSHAKE))


over_tcp = pytest.mark.parametrize("publisher", ["tcp"], indirect=True)


@pytest.fixture
def join(opened: Callable[[Any], Any], publisher: WeightsPublisher) -> Callable[..., WeightsSubscriber]:
    def subscriber(name: str = "left", **options: Any) -> WeightsSubscriber:
        options = {"handshake": HANDSHAKE} | options
        endpoint = options.pop("endpoint", publisher.endpoint)
        return opened(WeightsSubscriber(endpoint, name=name, **options))

    return subscriber


def test_a_set_arrives_as_it_was_published(publisher: WeightsPublisher, join: Any) -> None:
    subscriber = join()
    publisher.publish(1, weights(1.5))
    found = subscriber.wait_newest(5.0)
    assert (found.version, subscriber.version) == (1, 1)
    check(found, 1.5)
    assert not found.arrays()["encoder.weight"].flags.writeable
    assert subscriber.newest(0.05) is None


def test_what_was_published_does_not_change_with_the_trainers_arrays(
    publisher: WeightsPublisher, join: Any
) -> None:
    own = weights(2)
    publisher.publish(1, own)
    own["encoder.weight"][:] = 9
    check(join().wait_newest(5.0), 2)


def test_whoever_joins_late_gets_the_last_set_without_another_publication(
    publisher: WeightsPublisher, join: Any
) -> None:
    publisher.publish(1, weights(1))
    publisher.publish(2, weights(2))
    for name in ("early", "late"):
        found = join(name).wait_newest(5.0)
        assert found.version == 2
        check(found, 2)


def test_the_first_set_is_not_lost_on_a_subscriber_that_is_still_connecting(
    publisher: WeightsPublisher, join: Any
) -> None:
    subscriber = join()
    publisher.publish(1, weights(1))  # at once: with PUB/SUB this one is dropped
    assert subscriber.wait_newest(5.0).version == 1


def test_a_busy_subscriber_then_gets_the_newest_not_the_oldest(
    publisher: WeightsPublisher, join: Any
) -> None:
    subscriber = join()
    publisher.publish(1, weights(1))
    subscriber.wait_newest(5.0)
    for version in range(2, 30):
        publisher.publish(version, weights(version))
    versions = []
    while subscriber.version < 29:
        versions.append(subscriber.wait_newest(5.0).version)
    assert len(versions) <= 3  # at most those that were under way
    assert versions[-1] == 29


def test_arrays_in_use_are_never_written_again(publisher: WeightsPublisher, join: Any) -> None:
    subscriber = join()
    held = []
    for version in range(1, 6):
        publisher.publish(version, weights(version))
        held.append(subscriber.wait_newest(5.0))
    for found in held:
        check(found, found.version)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 65_536, -1])
def test_a_publisher_refuses_what_is_not_finite_and_the_last_good_set_stays(
    publisher: WeightsPublisher, join: Any, bad: float, where: int
) -> None:
    publisher.publish(1, weights(1))
    broken = weights(2)
    broken["encoder.weight"].reshape(-1)[where] = bad
    with pytest.raises(WireError, match=r"encoder\.weight.*not finite"):
        publisher.publish(2, broken)
    assert publisher.version == 1
    check(join().wait_newest(5.0), 1)


def test_very_large_weights_are_finite(publisher: WeightsPublisher, join: Any) -> None:
    publisher.publish(1, {"w": np.full(70_000, 1e30, np.float32)})
    assert join().wait_newest(5.0).arrays()["w"].max() == np.float32(1e30)


def test_a_subscriber_refuses_what_is_not_finite_and_the_last_good_set_stays(
    publisher: WeightsPublisher, join: Any, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    subscriber = join()
    publisher.publish(1, weights(1))
    subscriber.wait_newest(5.0)

    broken = weights(2)
    broken["encoder.weight"].reshape(-1)[-1] = np.nan
    monkeypatch.setattr(weight_sets, "check_finite", lambda name, array: None)  # a careless publisher's
    publisher.publish(2, broken)
    until(lambda: subscriber.refused, lambda: subscriber.newest(0.01))
    assert subscriber.version == 1
    assert "not finite" in subscriber.refusal
    monkeypatch.undo()
    publisher.publish(3, weights(3))
    assert subscriber.wait_newest(5.0).version == 3
    assert subscriber.refused == 1
    until(lambda: publisher.subscribers()["left"].get("version") == 3, lambda: subscriber.newest(0.01))
    assert publisher.subscribers()["left"]["refused"] == 1


def test_a_version_that_is_not_new_is_refused(publisher: WeightsPublisher) -> None:
    with pytest.raises(WireError, match="above 0"):
        publisher.publish(0, weights(1))
    publisher.publish(5, weights(1))
    for version in (5, 4):
        with pytest.raises(WireError, match="above 5"):
            publisher.publish(version, weights(2))


def test_rolling_back_is_publishing_older_arrays_under_a_new_version(
    publisher: WeightsPublisher, join: Any
) -> None:
    subscriber = join()
    for version, value in ((1, 1), (2, 2), (3, 1)):
        publisher.publish(version, weights(value))
        assert subscriber.wait_newest(5.0).version == version
    check(join("other").wait_newest(5.0), 1)


def test_a_restarted_trainer_is_followed_even_at_the_same_version(
    publisher: WeightsPublisher, join: Any, opened: Callable[[Any], Any]
) -> None:
    subscriber = join()
    publisher.publish(9, weights(9))
    subscriber.wait_newest(5.0)
    publisher.close()
    again = opened(WeightsPublisher(publisher.endpoint, handshake=HANDSHAKE))
    again.publish(9, weights(7))
    check(subscriber.wait_newest(5.0), 7)
    again.publish(10, weights(10))
    check(subscriber.wait_newest(5.0), 10)


@over_tcp
def test_a_cut_in_the_middle_leaves_the_old_set_and_then_brings_the_newest(
    publisher: WeightsPublisher, join: Any, until: Any
) -> None:
    with TcpProxy(int(publisher.endpoint.rsplit(":", 1)[1]), delay_s=0.04, rate_bytes_s=50e6 / 8) as proxy:
        subscriber = join(endpoint=proxy.endpoint)
        publisher.publish(1, weights(1, 7_000))
        subscriber.wait_newest(5.0)
        publisher.publish(2, weights(2, 2_100_000))
        before = proxy.forwarded_bytes
        until(lambda: proxy.forwarded_bytes > before + 3e6, lambda: subscriber.newest(0.01))
        proxy.cut()
        until(lambda: not subscriber.alive, lambda: subscriber.newest(0.01))
        assert subscriber.version == 1
        publisher.publish(3, weights(3, 7_000))
        proxy.restore()
        found = subscriber.wait_newest(10.0)
        assert found.version == 3
        check(found, 3, 7_000)
        subscriber.close()


@over_tcp
def test_a_slow_line_finishes_what_it_began_and_skips_to_the_newest(
    publisher: WeightsPublisher, join: Any
) -> None:
    with TcpProxy(int(publisher.endpoint.rsplit(":", 1)[1]), rate_bytes_s=10e6) as proxy:
        subscriber = join(endpoint=proxy.endpoint)
        got, version, end_s = [], 0, time.monotonic() + 2.5
        while time.monotonic() < end_s:
            version += 1
            publisher.publish(version, weights(version))
            if (new := subscriber.newest(0.02)) is not None:
                got.append(new.version)
                check(new, new.version)
        subscriber.close()
    assert len(got) >= 3
    assert got == sorted(got)
    assert got[-1] > version - version // 2


def test_peers_that_do_not_fit_are_told_on_both_ends(publisher: WeightsPublisher, join: Any) -> None:
    publisher.publish(1, weights(1))
    with pytest.raises(HandshakeMismatch) as caught:
        join(handshake=Handshake(version="net2")).wait_newest(5.0)
    for error in (caught.value, publisher.refusals[-1]):
        assert all(part in str(error) for part in ("version", "net1", "net2"))


def test_a_wait_for_a_publisher_that_never_comes_ends_with_a_reason(
    publisher: WeightsPublisher, join: Any
) -> None:
    publisher.close()
    with pytest.raises(DeadlineExceeded, match="silence"):
        join().wait_newest(0.2)


def test_a_failure_of_the_serving_thread_is_not_silent(
    publisher: WeightsPublisher, join: Any, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    def fail(self: object, peer: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(WeightsPublisher, "_pump", fail)
    subscriber = join()
    until(lambda: not publisher._thread.is_alive(), lambda: subscriber.newest(0.01))
    with pytest.raises(WireError, match="a fault of ours"):
        publisher.publish(1, weights(1))


def test_the_first_chunks_travel_while_the_last_are_still_checked(
    publisher: WeightsPublisher, join: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscriber, check_finite, travelled = join(), weight_sets.check_finite, []
    publisher.publish(1, weights(1))
    subscriber.wait_newest(5.0)

    def slowly(name: str, array: np.ndarray) -> None:
        end_s = time.monotonic() + 5.0
        while name == "head.bias" and not subscriber._arriving and time.monotonic() < end_s:
            assert subscriber.newest(0.01) is None
        travelled.append(subscriber._arriving is not None)
        check_finite(name, array)

    monkeypatch.setattr(weight_sets, "check_finite", slowly)
    publisher.publish(2, weights(2))
    assert travelled[-1]
    check(subscriber.wait_newest(5.0), 2)


def test_a_set_that_turns_out_not_to_be_finite_is_dropped_on_its_way(
    publisher: WeightsPublisher, join: Any, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    subscriber, check_finite = join(), weight_sets.check_finite
    publisher.publish(1, weights(1))
    subscriber.wait_newest(5.0)

    def slowly(name: str, array: np.ndarray) -> None:
        if name == "head.bias":
            until(lambda: subscriber._arriving and subscriber._arriving.got, lambda: subscriber.newest(0.01))
        check_finite(name, array)

    monkeypatch.setattr(weight_sets, "check_finite", slowly)
    broken = weights(2)
    broken["head.bias"][0] = np.nan
    with pytest.raises(WireError, match=r"head\.bias.*not finite"):
        publisher.publish(2, broken)
    monkeypatch.undo()
    until(lambda: subscriber._arriving is None, lambda: subscriber.newest(0.01))
    assert (publisher.version, subscriber.version, subscriber.refused) == (1, 1, 0)
    publisher.publish(2, weights(3))
    found = subscriber.wait_newest(5.0)
    assert found.version == 2
    check(found, 3)


def test_a_set_without_arrays_does_not_stand_in_the_way(publisher: WeightsPublisher, join: Any) -> None:
    subscriber = join()
    publisher.publish(1, {})
    found = subscriber.wait_newest(5.0)
    assert (found.version, found.arrays()) == (1, {})
    publisher.publish(2, weights(2))
    check(subscriber.wait_newest(5.0), 2)


def packed(buffers: Buffers) -> Packing:
    packing = Packing(1, weights(1), buffers)
    assert list(packing.fill(weights(1)))[-1] == len(packing.chunks) == 3
    return packing


class Forger:
    """A publisher that sends what it likes."""

    def __init__(self) -> None:
        self.link = ServerLink(LOCAL, link="weights", handshake=HANDSHAKE, welcome=lambda peer, message: {})

    def close(self) -> None:
        self.link.close()

    def begin(self, **changes: Any) -> None:
        good = packed(Buffers())
        fields = {
            "transfer": 1,
            "version": 1,
            "manifest": good.weights.manifest(),
            "memory": None,
        } | changes
        for peer in self.link.peers.values():
            self.link.send(peer, "begin", **fields)

    def chunk(self, index: int, data: bytes | None, **changes: Any) -> None:
        fields = {"transfer": 1, "index": index} | changes
        fields.setdefault("digest", digest(data or b""))
        for peer in self.link.peers.values():
            self.link.send(peer, "chunk", data, **fields)


@pytest.fixture
def forged(opened: Callable[[Any], Any], until: Any) -> tuple[Forger, WeightsSubscriber]:
    forger = opened(Forger())
    subscriber = opened(
        WeightsSubscriber(forger.link.endpoint, name="left", handshake=HANDSHAKE, most_bytes=1 << 24)
    )
    until(lambda: subscriber.connected, lambda: subscriber.newest(0.01), lambda: forger.link.receive(0.01))
    return forger, subscriber


@pytest.mark.parametrize(
    "changes",
    [
        {"manifest": None},
        {"manifest": [["w", "<f4"]]},
        {"manifest": [["w", "object", [3]]]},
        {"manifest": [["w", [], [3]]]},
        {"manifest": [["w", "<f4", [1 << 30] * 7 + [0]]]},
        {"manifest": [["w", "<f4", [-1]]]},
        {"manifest": [["w", "<f4", [1 << 62, 1 << 62]]]},
        {"manifest": [["w", "<f4", [1 << 23]]]},
        {"manifest": [["w", "<f4", [3]], ["w", "<f4", [3]]]},
        {"version": -1},
        {"version": "1"},
    ],
)
def test_a_forged_manifest_is_refused(forged: tuple, until: Any, changes: dict) -> None:
    forger, subscriber = forged
    forger.begin(**changes)
    until(lambda: subscriber.refused, lambda: subscriber.newest(0.01))
    assert subscriber.version == 0


@pytest.mark.parametrize("fault", ["corrupt", "unsigned", "short", "early", "last twice"])
def test_a_set_that_is_partial_or_corrupt_is_refused(forged: tuple, until: Any, fault: str) -> None:
    forger, subscriber = forged
    data = packed(Buffers()).weights.flat.tobytes()
    first, second = data[:CHUNK_BYTES], data[CHUNK_BYTES : 2 * CHUNK_BYTES]
    flipped = bytes([first[0] ^ 1]) + first[1:]
    forger.begin()
    match fault:
        case "corrupt":
            forger.chunk(0, flipped, digest=digest(first))
        case "unsigned":
            forger.chunk(0, first, digest=None)
        case "short":
            forger.chunk(0, first[:-1])
        case "early":
            forger.chunk(1, second)
        case "last twice":
            forger.chunk(0, first)
            forger.chunk(0, first)
    until(lambda: subscriber.refused, lambda: subscriber.newest(0.01))
    forger.chunk(0, first)
    forger.chunk(1, second)
    forger.chunk(2, data[2 * CHUNK_BYTES :])
    for _ in range(5):
        assert subscriber.newest(0.02) is None
    assert subscriber.version == 0


def test_on_one_machine_the_set_does_not_travel(
    publisher: WeightsPublisher, join: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    travelled = []
    take = WeightsSubscriber._take
    monkeypatch.setattr(
        WeightsSubscriber,
        "_take",
        lambda self, message: (travelled.append(sum(map(len, message.parts))), take(self, message)),
    )
    publisher.publish(1, weights(1))
    check(join().wait_newest(5.0), 1)
    assert (sum(travelled) > 2_800_000) == publisher.endpoint.startswith("tcp")
    assert sum(travelled) < 2_810_000


@pytest.mark.parametrize("publisher", ["ipc"], indirect=True)
def test_a_publisher_whose_memory_is_out_of_reach_sends_it(
    publisher: WeightsPublisher, join: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Windows, "view", lambda *_: (_ for _ in ()).throw(PermissionError("another user")))
    publisher.publish(1, weights(1))
    check(join().wait_newest(5.0), 1)


class Full:
    """Memory without room for a while, or for ever."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.room, self.asked = error, Buffers(), 0

    def take(self, size: int) -> tuple[np.ndarray, object]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.room.take(size)


def test_a_set_that_there_is_no_room_for_comes_when_there_is_some(
    publisher: WeightsPublisher, join: Any, until: Any
) -> None:
    memory = Full()
    subscriber = join(memory=memory)
    publisher.publish(1, weights(1))
    check(subscriber.wait_newest(5.0), 1)
    memory.error = MemoryError("no room now")
    publisher.publish(2, weights(2))
    until(lambda: memory.asked > 4, lambda: subscriber.newest(0.01))
    assert subscriber.version == 1
    assert not subscriber.refused
    memory.error = None
    check(subscriber.wait_newest(5.0), 2)
    publisher.publish(3, weights(3))
    check(subscriber.wait_newest(5.0), 3)


def test_where_there_never_was_room_that_is_said_at_once(publisher: WeightsPublisher, join: Any) -> None:
    publisher.publish(1, weights(1))
    with pytest.raises(ConfigError, match="no room"):
        join(memory=Full(ConfigError("There is no room"))).wait_newest(5.0)


@pytest.mark.parametrize("place", ["no", [1], [-1, 3], ["1", "2"], [True, 0]])
def test_a_forged_place_in_memory_is_refused(forged: tuple, until: Any, place: object) -> None:
    forger, subscriber = forged
    forger.begin(memory=place)
    until(lambda: subscriber.refused, lambda: subscriber.newest(0.01))


def test_only_a_sealed_buffer_of_the_right_size_is_looked_at(tmp_path: Path) -> None:
    flat, place = Buffers(shared=True).take(5000)
    assert place is not None
    flat[:] = 7
    windows = Windows()
    assert bytes(windows.view(place, 5000)) == bytes([7]) * 5000
    with pytest.raises(WireError):
        windows.view(place, 4999)
    (tmp_path / "file").write_bytes(bytes(5000))
    with (tmp_path / "file").open("rb") as file, pytest.raises(WireError):
        windows.view(SharedMemory(os.getpid(), file.fileno()), 5000)
    with pytest.raises(OSError):
        windows.view(SharedMemory(os.getpid(), 10**6), 5000)


def test_what_lies_elsewhere_than_was_announced_is_sent_and_what_is_sent_wrong_is_refused(
    forged: tuple, until: Any
) -> None:
    forger, subscriber = forged
    good = packed(Buffers(shared=True))
    digests, data = [int(d) for d in good.digests], good.weights.flat.tobytes()
    good.weights.flat[-100] ^= 1  # as another process's buffer of the same size would
    asked: list[str] = []

    def listen() -> None:
        subscriber.newest(0.01)
        asked.extend(message.kind for _, message in forger.link.receive(0.01))

    forger.begin(memory=good.memory)
    for index, expected in enumerate(digests):
        forger.chunk(index, None, digest=expected)
    until(lambda: "stream" in asked, listen)
    assert not subscriber.refused
    forger.begin()
    pieces = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    for index, piece in enumerate(pieces[:-1]):
        forger.chunk(index, piece)
    forger.chunk(2, pieces[2][:-1] + bytes([pieces[2][-1] ^ 1]), digest=digests[2])
    until(lambda: subscriber.refused, listen)
    assert "corrupt" in subscriber.refusal


def test_a_file_under_the_number_of_the_publishers_memory_is_not_it(
    publisher: WeightsPublisher, join: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in another container, where the same process number is another process."""

    def another(*_: object) -> None:
        raise WireError("A buffer in memory is not what was announced")

    monkeypatch.setattr(Windows, "view", another)
    publisher.publish(1, weights(1))
    subscriber = join()
    check(subscriber.wait_newest(5.0), 1)
    assert not subscriber.refused


def test_what_was_on_its_way_to_a_subscriber_that_died_is_let_go(
    opened: Callable[[Any], Any], until: Any
) -> None:
    clock = FakeClock()
    publisher = opened(WeightsPublisher(LOCAL, handshake=HANDSHAKE, clock=clock))
    subscriber = WeightsSubscriber(publisher.endpoint, name="left", handshake=HANDSHAKE)
    until(lambda: subscriber.connected, lambda: subscriber.newest(0.01))
    publisher.publish(1, weights(1, 21_000_000))
    until(lambda: publisher._transfers, lambda: time.sleep(0.01))
    subscriber.close()
    clock.advance(61.0)
    until(lambda: not publisher._transfers and not publisher._has, lambda: time.sleep(0.01))
