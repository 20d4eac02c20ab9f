"""Steps: nothing lost, nothing twice, in order, and nobody waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roborl.clock import NS, FakeClock
from roborl.codec import MAX_RECORD_BYTES
from roborl.errors import DatasetError, DeadlineExceeded, HandshakeMismatch, WireError
from roborl.serving.client_link import ClientLink
from roborl.serving.handshake import PROTOCOL_VERSION, Handshake
from roborl.serving.security import Keys, make_keys
from roborl.serving.steps_receiver import StepsReceiver
from roborl.serving.steps_sender import StepsSender
from roborl.testing.proxy import TcpProxy

LOCAL = "tcp://127.0.0.1:*"


class Log:
    """A store in memory: what is in it is durable."""

    def __init__(self) -> None:
        self.rings: dict[str, list[bytes]] = {}

    def last(self, ring_id: str) -> int:
        return len(self.rings.get(ring_id, []))

    def turn(self, receiver: StepsReceiver, timeout_s: float = 0.002) -> None:
        for ring_id, seq, blob in receiver.poll(timeout_s):
            assert seq == self.last(ring_id) + 1
            self.rings.setdefault(ring_id, []).append(bytes(blob))
            receiver.acknowledge(ring_id, seq)


def blob(seq: int, size: int = 100_000) -> bytes:
    return seq.to_bytes(4, "little") * (size // 4)


def feed(sender: StepsSender, last: int, size: int = 100_000, timeout_s: float = 0.002) -> None:
    sender.poll(timeout_s)
    while sender.next_sequence <= last and sender.offer(
        sender.next_sequence, blob(sender.next_sequence, size)
    ):
        pass


@pytest.fixture
def make(opened: Callable[[Any], Any], handshake: Handshake) -> Callable[..., tuple]:
    def both(**options: Any) -> tuple[Log, StepsReceiver, StepsSender]:
        log, clock = Log(), options.get("clock")
        receiver = opened(StepsReceiver(LOCAL, handshake=handshake, last_sequence=log.last, clock=clock))
        options = {"ring_id": "r1", "actor": "left", "handshake": handshake} | options
        sender = opened(StepsSender(options.pop("endpoint", receiver.endpoint), **options))
        return log, receiver, sender

    return both


def test_every_record_arrives_once_in_order_and_unchanged(make: Any, until: Any) -> None:
    log, receiver, sender = make()
    until(lambda: sender.acknowledged == 300, lambda: feed(sender, 300), lambda: log.turn(receiver, 0))
    assert log.rings["r1"] == [blob(seq) for seq in range(1, 301)]
    assert receiver.rings["r1"].duplicates == receiver.rings["r1"].gaps == 0


@pytest.mark.parametrize("size", [MAX_RECORD_BYTES + 1, 1 << 30])
def test_a_record_that_the_receiver_would_hang_up_on_is_refused_and_those_beside_it_arrive(
    make: Any, until: Any, size: int
) -> None:
    log, receiver, sender = make()
    until(lambda: sender.acknowledged == 3, lambda: feed(sender, 3), lambda: log.turn(receiver, 0))
    with pytest.raises(
        WireError, match=rf"Record 4 is too long.*{size} bytes.*67108864.*height_px"
    ) as caught:
        sender.offer(4, bytes(size))
    error = caught.value
    assert all((error.problem, error.seen, error.allowed, error.remedy))
    assert sender.next_sequence == 4
    until(lambda: sender.acknowledged == 9, lambda: feed(sender, 9), lambda: log.turn(receiver, 0))
    assert log.rings["r1"] == [blob(seq) for seq in range(1, 10)]
    assert sender.counters()["welcomed"] == 1


@pytest.mark.parametrize("locked", [False, True])
def test_the_longest_record_that_is_taken_arrives(
    opened: Callable[[Any], Any], handshake: Handshake, tmp_path: Path, until: Any, locked: bool
) -> None:
    names = ["learner", "robot"]
    folders = make_keys(tmp_path / "keys", names)
    learner, robot = (Keys.load(folders[name]) if locked else None for name in names)
    receiver = opened(StepsReceiver(LOCAL, handshake=handshake, last_sequence=lambda ring: 0, keys=learner))
    sender = opened(
        StepsSender(receiver.endpoint, ring_id="r1", actor="left", handshake=handshake, keys=robot)
    )
    until(lambda: sender.connected, lambda: sender.poll(0.01), lambda: receiver.poll(0.01))
    assert sender.offer(1, bytes(MAX_RECORD_BYTES))
    came: list = []
    until(
        lambda: came,
        lambda: sender.poll(0.01),
        lambda: came.extend(receiver.poll(0.01)),
        within_s=20.0,
    )
    assert len(came[0].blob) == MAX_RECORD_BYTES
    assert sender.counters()["welcomed"] == 1


def test_acknowledged_means_written_not_received(make: Any, until: Any) -> None:
    _, receiver, sender = make()
    got: list = []
    until(lambda: len(got) == 10, lambda: feed(sender, 10), lambda: got.extend(receiver.poll(0.002)))
    for _ in range(5):
        assert sender.poll(0.02) == 0
    receiver.acknowledge("r1", 7)
    until(lambda: sender.acknowledged == 7, lambda: sender.poll(0.02))
    assert sender.in_flight == 3


def test_the_window_bounds_what_is_under_way(make: Any, until: Any) -> None:
    _, receiver, sender = make(window=5)
    until(lambda: sender.connected, lambda: sender.poll(0.01), lambda: receiver.poll(0.01))
    assert [sender.offer(seq, b"x") for seq in range(1, 8)] == [True] * 5 + [False] * 2


def test_the_window_is_bounded_in_bytes_but_one_record_may_always_go(make: Any, until: Any) -> None:
    _, receiver, sender = make(window_bytes=1000)
    until(lambda: sender.connected, lambda: sender.poll(0.01), lambda: receiver.poll(0.01))
    assert sender.offer(1, bytes(5000))
    assert not sender.offer(2, b"x")


def test_a_record_out_of_order_is_refused(make: Any, until: Any) -> None:
    _, receiver, sender = make()
    until(lambda: sender.connected, lambda: sender.poll(0.01), lambda: receiver.poll(0.01))
    with pytest.raises(WireError, match="Allowed: 1"):
        sender.offer(2, b"x")


def test_nothing_blocks_while_the_receiver_is_away(make: Any) -> None:
    _, receiver, sender = make()
    receiver.close()
    begun_s = time.monotonic()
    for _ in range(200):
        assert not sender.offer(1, bytes(100_000))
        sender.poll()
        sender.set_status({"mode": "train"})
    assert time.monotonic() - begun_s < 2.0
    assert not sender.alive


def test_a_wait_for_a_receiver_that_never_comes_ends_with_a_reason(make: Any) -> None:
    _, receiver, sender = make()
    receiver.close()
    with pytest.raises(DeadlineExceeded, match="keys"):
        sender.wait_connected(0.2)


def test_two_actors_share_a_receiver(
    make: Any, until: Any, opened: Callable[[Any], Any], handshake: Handshake
) -> None:
    log, receiver, left = make()
    right = opened(StepsSender(receiver.endpoint, ring_id="r2", actor="right", handshake=handshake))
    until(
        lambda: left.acknowledged == right.acknowledged == 50,
        lambda: feed(left, 50),
        lambda: feed(right, 50),
        lambda: log.turn(receiver),
    )
    assert {ring: state.actor for ring, state in receiver.rings.items()} == {"r1": "left", "r2": "right"}
    assert log.rings["r1"] == log.rings["r2"] == [blob(seq) for seq in range(1, 51)]


def test_a_new_sender_goes_on_where_the_store_is_not_where_its_ring_thought(
    make: Any, until: Any, opened: Callable[[Any], Any], handshake: Handshake
) -> None:
    log, receiver, sender = make()
    until(lambda: sender.acknowledged == 20, lambda: feed(sender, 20), lambda: log.turn(receiver))
    sender.close()
    again = opened(
        StepsSender(receiver.endpoint, ring_id="r1", actor="left", handshake=handshake, acknowledged=15)
    )
    until(lambda: again.acknowledged == 30, lambda: feed(again, 30), lambda: log.turn(receiver))
    assert log.rings["r1"] == [blob(seq) for seq in range(1, 31)]


def test_a_new_receiver_asks_for_what_is_not_durable_and_no_more(
    make: Any, until: Any, opened: Callable[[Any], Any], handshake: Handshake
) -> None:
    log, receiver, sender = make()
    until(lambda: sender.acknowledged == 10, lambda: feed(sender, 10), lambda: log.turn(receiver))
    until(lambda: sender.in_flight == 30, lambda: feed(sender, 40))
    receiver.poll(0.05)  # received, never written: they die with this receiver
    receiver.close()
    again = opened(StepsReceiver(receiver.endpoint, handshake=handshake, last_sequence=log.last))
    until(lambda: sender.acknowledged == 40, lambda: feed(sender, 40), lambda: log.turn(again))
    assert log.rings["r1"] == [blob(seq) for seq in range(1, 41)]
    assert again.rings["r1"].duplicates == 0


def test_a_ring_that_lost_its_end_is_noticed_before_new_records_pass_for_old_ones(
    make: Any, until: Any, opened: Callable[[Any], Any], handshake: Handshake
) -> None:
    log, receiver, sender = make(head=0)
    until(lambda: sender.acknowledged == 20, lambda: feed(sender, 20), lambda: log.turn(receiver))
    receiver.close()  # a reconnection is no such case: the sender has offered them itself
    again = opened(StepsReceiver(receiver.endpoint, handshake=handshake, last_sequence=log.last))
    until(lambda: sender.acknowledged == 30, lambda: feed(sender, 30), lambda: log.turn(again))
    sender.close()
    torn = opened(
        StepsSender(again.endpoint, ring_id="r1", actor="left", handshake=handshake, acknowledged=15, head=29)
    )
    with pytest.raises(DatasetError, match=r"record 30.*record 29"):
        until(lambda: False, lambda: torn.poll(0.01), lambda: log.turn(again))


def test_a_gap_is_asked_for_again(opened: Callable[[Any], Any], handshake: Handshake, until: Any) -> None:
    log = Log()
    receiver = opened(StepsReceiver(LOCAL, handshake=handshake, last_sequence=log.last))
    link = opened(
        ClientLink(
            receiver.endpoint,
            link="steps",
            name="left",
            handshake=handshake,
            hello=lambda: {"ring": "r1", "acknowledged": 0},
        )
    )
    kinds: list[str] = []
    until(lambda: link.up, lambda: link.receive(0.01), lambda: log.turn(receiver))
    for seq in (1, 1, 4, 5, 2):
        link.send("step", blob(seq), seq=seq)
    until(
        lambda: "resume" in kinds and log.last("r1") == 2,
        lambda: kinds.extend(message.kind for message in link.receive(0.01)),
        lambda: log.turn(receiver),
    )
    assert log.rings["r1"] == [blob(1), blob(2)]
    assert (receiver.rings["r1"].duplicates, receiver.rings["r1"].gaps) == (1, 2)
    assert kinds.count("resume") == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"state_dim": 7}, "state_dim"),
        ({"action_dim": 6}, "action_dim"),
        ({"cameras": {"front": (128, 128)}}, "cameras"),
        ({"version": "b2"}, "version"),
        ({"protocol": PROTOCOL_VERSION + 1}, "protocol"),
    ],
)
def test_peers_that_do_not_fit_are_told_on_both_ends(make: Any, until: Any, change: dict, field: str) -> None:
    base = Handshake(cameras={"front": (96, 96), "wrist": (96, 96)}, state_dim=6, action_dim=4, version="b1")
    _, receiver, sender = make(handshake=replace(base, **change))
    ours, theirs = getattr(base, field), change[field]
    with pytest.raises(HandshakeMismatch) as caught:
        until(lambda: False, lambda: sender.poll(0.01), lambda: receiver.poll(0.01))
    for error in (caught.value, receiver.refusals[-1]):
        assert isinstance(error, HandshakeMismatch)
        assert all(part in str(error) for part in (field, repr(ours), repr(theirs)))


def test_the_control_map_reaches_present_and_future_senders(
    make: Any, until: Any, opened: Callable[[Any], Any], handshake: Handshake
) -> None:
    _, receiver, sender = make()
    until(lambda: sender.connected, lambda: sender.poll(0.01), lambda: receiver.poll(0.01))
    receiver.set_control({"mode": "pause"})
    until(lambda: sender.control == {"mode": "pause"}, lambda: sender.poll(0.01))
    late = opened(StepsSender(receiver.endpoint, ring_id="r2", actor="late", handshake=handshake))
    until(lambda: late.connected, lambda: late.poll(0.01), lambda: receiver.poll(0.01))
    assert late.control == {"mode": "pause"}
    receiver.set_control({"mode": "run"}, ring_id="r1")
    until(lambda: sender.control == {"mode": "run"}, lambda: sender.poll(0.01), lambda: late.poll(0))
    assert late.control == {"mode": "pause"}


def test_the_newest_status_reaches_the_receiver(make: Any, until: Any) -> None:
    _, receiver, sender = make()
    sender.set_status({"episode": 0})
    sender.set_status({"episode": 1})
    until(
        lambda: "r1" in receiver.rings and receiver.rings["r1"].status == {"episode": 1},
        lambda: sender.poll(0.01),
        lambda: receiver.poll(0.01),
    )


def quiet(make: Any, until: Any) -> tuple[FakeClock, StepsReceiver, StepsSender]:
    clock = FakeClock()
    _, receiver, sender = make(clock=clock)
    until(
        lambda: sender.connected,
        lambda: clock.advance(0.01),
        lambda: sender.poll(0.002),
        lambda: receiver.poll(0.002),
    )
    return clock, receiver, sender


def test_a_second_live_actor_of_one_name_is_refused_in_words_and_costs_the_first_nothing(
    until: Any, opened: Callable[[Any], Any], handshake: Handshake
) -> None:
    log, clock = Log(), FakeClock()
    receiver = opened(StepsReceiver(LOCAL, handshake=handshake, last_sequence=log.last, clock=clock))
    first, second = (
        opened(StepsSender(receiver.endpoint, ring_id=ring, actor="arm", handshake=handshake, clock=clock))
        for ring in ("r1", "r2")
    )
    turns = (lambda: clock.advance(0.02), lambda: log.turn(receiver), lambda: feed(first, log.last("r1") + 5))
    until(lambda: first.connected, *turns)
    with pytest.raises(
        HandshakeMismatch, match=r"same name.*Found: arm\. Allowed: a name of its own.*--actor"
    ):
        until(lambda: False, *turns, lambda: feed(second, 5))
    assert list(log.rings) == ["r1"]
    assert log.last("r1") > 10


def test_an_actor_that_has_just_died_leaves_its_name_to_a_new_ring(
    until: Any, opened: Callable[[Any], Any], handshake: Handshake
) -> None:
    log, clock = Log(), FakeClock()
    receiver = opened(StepsReceiver(LOCAL, handshake=handshake, last_sequence=log.last, clock=clock))
    old, new = (
        opened(StepsSender(receiver.endpoint, ring_id=ring, actor="arm", handshake=handshake, clock=clock))
        for ring in ("r1", "r2")
    )
    turns = (lambda: clock.advance(0.02), lambda: log.turn(receiver))
    until(lambda: old.acknowledged == 5, *turns, lambda: feed(old, 5))
    begun_ns = clock.now_ns()
    until(lambda: new.acknowledged == 5, *turns, lambda: feed(new, 5))
    assert clock.now_ns() - begun_ns < 3 * NS
    assert receiver.rings["r2"].alive
    # The old one was not dead after all.
    with pytest.raises(HandshakeMismatch, match="same name"):
        until(lambda: False, *turns, lambda: feed(new, 8), lambda: feed(old, 20))
    assert (log.last("r1"), log.last("r2")) == (5, 8)
    # Once the name is free again, it sends the rest.
    until(lambda: old.acknowledged == 20, *turns, lambda: feed(old, 20))
    assert log.rings["r1"] == [blob(seq) for seq in range(1, 21)]


def test_each_side_knows_within_a_second_that_the_other_is_silent(make: Any, until: Any) -> None:
    clock, receiver, sender = quiet(make, until)
    assert sender.alive
    assert receiver.rings["r1"].alive
    clock.advance(1.0)
    assert not sender.alive
    assert not receiver.rings["r1"].alive
    until(lambda: sender.alive, lambda: sender.poll(0.002), lambda: receiver.poll(0.002))
    until(lambda: receiver.rings["r1"].alive, lambda: sender.poll(0.002), lambda: receiver.poll(0.002))


def test_an_idle_link_stays_alive(make: Any, until: Any) -> None:
    clock, receiver, sender = quiet(make, until)
    for _ in range(6):
        clock.advance(0.8)
        assert sender.alive
        assert receiver.rings["r1"].alive
        for _ in range(10):
            sender.poll(0.005)
            receiver.poll(0.005)


def over_a_bad_line(
    until: Any, make: Any, opened: Any, handshake: Handshake, cut_s: float, count: int
) -> None:
    log, receiver, near = make()
    near.close()
    with TcpProxy(int(receiver.endpoint.rsplit(":", 1)[1]), delay_s=0.04, rate_bytes_s=50e6 / 8) as proxy:
        sender = opened(StepsSender(proxy.endpoint, ring_id="r2", actor="far", handshake=handshake))
        turns = (lambda: feed(sender, count), lambda: log.turn(receiver))
        until(lambda: sender.acknowledged > count // 3, *turns, within_s=30)
        proxy.cut()
        end_s = time.monotonic() + cut_s
        until(lambda: not sender.alive and not receiver.rings["r2"].alive, *turns, within_s=5)
        until(lambda: time.monotonic() > end_s, *turns, within_s=cut_s + 1)
        proxy.restore()
        until(lambda: sender.acknowledged == count, *turns, within_s=30)
    assert log.rings["r2"] == [blob(seq) for seq in range(1, count + 1)]


def test_two_computers_with_a_slow_line_that_breaks(
    make: Any, until: Any, opened: Any, handshake: Handshake
) -> None:
    over_a_bad_line(until, make, opened, handshake, cut_s=1.5, count=90)


@pytest.mark.slow
def test_two_computers_with_a_line_that_is_cut_for_a_minute(
    make: Any, until: Any, opened: Any, handshake: Handshake
) -> None:
    over_a_bad_line(until, make, opened, handshake, cut_s=60.0, count=400)


STORE = """
import sys
from pathlib import Path
from roborl.serving.handshake import Handshake
from roborl.serving.steps_receiver import StepsReceiver

path = Path(sys.argv[2])
size = 20_000
file = path.open("ab")
whole = path.stat().st_size // size
file.truncate(whole * size)
receiver = StepsReceiver(sys.argv[1], handshake=Handshake(), last_sequence=lambda ring: whole)
while True:
    steps = receiver.poll(0.05)
    for step in steps:
        file.write(step.blob)
    file.flush()
    if steps:
        receiver.acknowledge(steps[-1].ring_id, steps[-1].seq)
"""


def test_nothing_is_lost_or_doubled_when_the_store_is_killed_again_and_again(
    opened: Callable[[Any], Any], until: Any, tmp_path: Path
) -> None:
    path, endpoint = tmp_path / "log", f"ipc://{tmp_path}/steps.sock"

    def start() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", STORE, endpoint, str(path)])

    sender = opened(StepsSender(endpoint, ring_id="r1", actor="left", handshake=Handshake()))
    store = start()
    try:
        for life in range(1, 5):
            until(
                lambda life=life: sender.acknowledged > 700 * life,
                lambda life=life: feed(sender, 701 * life + 200, size=20_000),
                within_s=20,
            )
            os.kill(store.pid, signal.SIGKILL)
            store.wait()
            store = start()
        last = sender.acknowledged + 100
        until(lambda: sender.acknowledged == last, lambda: feed(sender, last, size=20_000), within_s=20)
    finally:
        store.kill()
        store.wait()
    data = memoryview(path.read_bytes())
    assert len(data) == last * 20_000
    assert all(data[20_000 * (seq - 1) : 20_000 * seq] == blob(seq, 20_000) for seq in range(1, last + 1))
