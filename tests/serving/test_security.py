"""Keys, addresses and hostile bytes: a client without keys stays outside, and nothing that is sent kills a server."""

from __future__ import annotations

import json
import pickle
import random
import socket
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from roborl.cli.main import main
from roborl.errors import ConfigError, DeadlineExceeded
from roborl.serving.client_link import ClientLink
from roborl.serving.handshake import Handshake
from roborl.serving.messages import write_message
from roborl.serving.score_client import ScoreClient
from roborl.serving.scores import ScoreServer
from roborl.serving.security import Keys, SecurityConfig, check_bind, make_keys
from roborl.serving.steps_receiver import StepsReceiver
from roborl.serving.steps_sender import StepsSender
from roborl.serving.weights_publisher import WeightsPublisher
from roborl.serving.weights_subscriber import WeightsSubscriber
from roborl.testing.proxy import TcpProxy

LOCAL = "tcp://127.0.0.1:*"
OPEN = Handshake()


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return make_keys(tmp_path / "keys", ["learner", "robot"])


def test_the_command_makes_one_folder_per_computer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["keys", "--folder", str(tmp_path / "k"), "--computers", "[learner, robot, judge]"]
    assert main(args) == 0
    folders = {name: Path(path) for name, path in json.loads(capsys.readouterr().out)["folders"].items()}
    assert sorted(folders) == ["judge", "learner", "robot"]
    for name, folder in folders.items():
        assert stat.S_IMODE((folder / "own.secret").stat().st_mode) == 0o600
        keys = Keys.load(folder)
        assert sorted(keys.peers) == sorted(set(folders) - {name})
        for other, public in keys.peers.items():
            assert public == Keys.load(folders[other]).public
    assert main(args) == 2  # never overwritten


def test_a_secret_is_not_shown(folders: dict[str, Path]) -> None:
    keys = Keys.load(folders["robot"])
    assert keys.secret.decode() not in repr(keys)


@pytest.mark.parametrize("names", [[], ["one"], ["one", "one"], ["a", "../b"], ["a", ""]])
def test_names_that_cannot_be_folders_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ConfigError):
        make_keys(tmp_path, names)


def test_making_keys_that_was_killed_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Path, content: bytes) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            make_keys(tmp_path, ["learner", "robot"])
    assert not (tmp_path / "learner").exists()
    for folder in make_keys(tmp_path, ["learner", "robot"]).values():
        assert Keys.load(folder).server_key()


def test_a_secret_that_others_can_read_is_refused(folders: dict[str, Path]) -> None:
    (folders["robot"] / "own.secret").chmod(0o640)
    with pytest.raises(ConfigError, match=r"mode 640.*600.*chmod"):
        SecurityConfig(keys=str(folders["robot"])).load()


@pytest.mark.parametrize("damage", ["missing", "short", "binary"])
def test_a_key_file_that_is_no_key_is_refused(folders: dict[str, Path], damage: str) -> None:
    path = folders["robot"] / "own.public"
    match damage:
        case "missing":
            path.unlink()
        case "short":
            path.write_bytes(path.read_bytes()[:20])
        case "binary":
            path.write_bytes(bytes(40))
    with pytest.raises(ConfigError, match=r"own\.public"):
        Keys.load(folders["robot"])


def test_two_keys_that_are_no_pair_are_refused(folders: dict[str, Path]) -> None:
    (folders["robot"] / "own.public").write_bytes((folders["learner"] / "own.public").read_bytes())
    with pytest.raises(ConfigError, match=r"no pair.*own\.secret and own\.public"):
        Keys.load(folders["robot"])


@pytest.mark.parametrize("damage", ["missing", "empty", "a file", "not ours"])
def test_a_folder_that_lets_nobody_in_is_refused(
    folders: dict[str, Path], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = folders["robot"] / "peers"
    if damage == "not ours":  # As after unpacking by root; the tests may be root's.

        def refuse(self: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", refuse)
    else:
        (peers / "learner.public").unlink()
        if damage != "empty":
            peers.rmdir()
        if damage == "a file":
            peers.touch()
    with pytest.raises(ConfigError, match=r"other computer.*robot/peers.*NAME\.public"):
        Keys.load(folders["robot"])


def test_an_address_of_the_new_kind_is_listened_on_and_reached(opened: Callable[[Any], Any]) -> None:
    server = opened(ScoreServer("tcp://[::1]:*"))
    client = opened(ScoreClient(server.endpoint, name="c"))
    for _ in range(100):
        server.poll(0.02)
        client.poll(0.0)
        if client.connected:
            break
    assert client.connected


def test_with_several_peers_the_server_must_be_named(tmp_path: Path) -> None:
    folder = make_keys(tmp_path, ["learner", "robot", "judge"])["robot"]
    with pytest.raises(ConfigError, match=r"judge.*learner"):
        Keys.load(folder).server_key()
    assert Keys.load(folder, server="judge").server_key() == Keys.load(tmp_path / "judge").public


def test_no_keys_are_configured_by_default() -> None:
    assert SecurityConfig().load() is None


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://192.168.1.4:5555", "tcp://eth0:5555", "tcp://[::]:5555",
     "tcp://127.0.0.1.example.org:5555"],
)  # fmt: skip
def test_listening_beyond_this_machine_without_keys_is_refused(
    endpoint: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError) as caught:
        StepsReceiver(endpoint, handshake=OPEN, last_sequence=lambda ring: 0)
    assert all(
        (caught.value.problem, caught.value.seen == endpoint, caught.value.allowed, caught.value.remedy)
    )
    check_bind(endpoint, Keys.load(folders["learner"]))


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:5555", "tcp://localhost:*", "tcp://[::1]:5555", "ipc:///run/x"]
)
def test_listening_on_this_machine_needs_no_keys(endpoint: str) -> None:
    check_bind(endpoint, None)


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:99999", "nonsense", "tcp://127.0.0.1", "udp://127.0.0.1:5555", "tcp://:5555"],
)
def test_an_address_that_is_none_is_refused(endpoint: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError):
        ScoreServer(endpoint, keys=Keys.load(folders["learner"]))
    with pytest.raises(ConfigError):
        ScoreClient(endpoint, name="c")


def test_an_address_in_use_is_named(opened: Callable[[Any], Any]) -> None:
    server = opened(ScoreServer(LOCAL))
    with pytest.raises(ConfigError, match=server.endpoint):
        ScoreServer(server.endpoint)


def test_a_path_in_use_is_named_and_one_that_was_left_is_taken(
    opened: Callable[[Any], Any], until: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("s") / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    server = opened(ScoreServer(f"ipc://{path}"))
    with pytest.raises(ConfigError, match=rf"cannot be listened on.*{path}.*another process"):
        ScoreServer(f"ipc://{path}")
    client = opened(ScoreClient(server.endpoint, name="c"))
    until(lambda: client.connected, lambda: client.poll(0.01), lambda: server.poll(0.01))


def test_all_links_work_with_keys_over_a_line(
    folders: dict[str, Path], opened: Callable[[Any], Any], until: Any
) -> None:
    learner, robot = (Keys.load(folders[name]) for name in ("learner", "robot"))
    received: list = []
    receiver = opened(StepsReceiver(LOCAL, handshake=OPEN, last_sequence=lambda ring: 0, keys=learner))
    with TcpProxy(int(receiver.endpoint.rsplit(":", 1)[1]), delay_s=0.01) as proxy:
        sender = opened(StepsSender(proxy.endpoint, ring_id="r", actor="a", handshake=OPEN, keys=robot))
        until(lambda: sender.connected, lambda: sender.poll(0.01), lambda: receiver.poll(0.01))
        sender.offer(1, b"secret of the trade" * 10)
        until(lambda: received, lambda: received.extend(receiver.poll(0.01)), lambda: sender.poll(0.01))
    assert bytes(received[0].blob) == b"secret of the trade" * 10

    publisher = opened(WeightsPublisher(LOCAL, handshake=OPEN, keys=learner))
    subscriber = opened(WeightsSubscriber(publisher.endpoint, name="a", handshake=OPEN, keys=robot))
    publisher.publish(1, {"w": np.ones(10, np.float32)})
    assert subscriber.wait_newest(5.0).version == 1

    server = opened(ScoreServer(LOCAL, keys=learner))
    client = opened(ScoreClient(server.endpoint, name="a", keys=robot))
    until(lambda: client.connected, lambda: client.poll(0.01), lambda: server.poll(0.01))


@pytest.mark.parametrize("guest", ["no keys", "keys that the server does not know"])
def test_a_client_without_the_right_keys_stays_outside(
    guest: str, folders: dict[str, Path], tmp_path: Path, opened: Callable[[Any], Any]
) -> None:
    learner = Keys.load(folders["learner"])
    server = opened(StepsReceiver(LOCAL, handshake=OPEN, last_sequence=lambda ring: 0, keys=learner))
    foreign = Keys.load(make_keys(tmp_path / "other", ["learner", "robot"])["robot"])
    keys = None if guest == "no keys" else Keys(
        public=foreign.public, secret=foreign.secret, peers={"learner": learner.public}
    )  # fmt: skip
    sender = opened(StepsSender(server.endpoint, ring_id="r", actor="x", handshake=OPEN, keys=keys))
    end_s = time.monotonic() + 1.0
    while time.monotonic() < end_s:
        sender.poll(0.02)
        server.poll(0.02)
        assert not sender.connected
        assert not sender.offer(1, b"x")
    assert not server.rings
    assert server.counters() == {}
    with pytest.raises(DeadlineExceeded, match="keys"):
        sender.wait_connected(0.1)


class Honest:
    """A sender that always has steps on their way, and a receiver whose owner writes down what comes of each ring."""

    def __init__(self, opened: Callable[[Any], Any]) -> None:
        self.receiver = opened(StepsReceiver(LOCAL, handshake=OPEN, last_sequence=lambda ring: 0))
        endpoint = self.receiver.endpoint
        self.sender = opened(StepsSender(endpoint, ring_id="good", actor="honest", handshake=OPEN, window=16))
        self.rings: dict[str, list[bytes]] = {"good": []}

    @staticmethod
    def record(seq: int) -> bytes:
        return seq.to_bytes(4, "little") * 25

    def turn(self) -> None:
        self.sender.poll(0)
        while self.sender.offer(self.sender.next_sequence, self.record(self.sender.next_sequence)):
            pass
        self.receive()

    def receive(self) -> None:
        for ring_id, seq, blob in self.receiver.poll(0):
            self.rings.setdefault(ring_id, []).append(bytes(blob))
            self.receiver.acknowledge(ring_id, seq)

    def check(self, until: Any) -> None:
        """See that all that was offered came once, in order and unchanged, over one connection."""
        until(lambda: not self.sender.in_flight, lambda: self.sender.poll(0.001), self.receive)
        assert len(self.rings["good"]) == self.sender.acknowledged
        for seq, blob in enumerate(self.rings["good"], 1):
            assert blob == self.record(seq)
        assert self.sender.counters()["welcomed"] == 1
        assert self.receiver.rings["good"].gaps == self.receiver.rings["good"].duplicates == 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_message_of_a_gigabyte_is_refused_without_its_memory_and_steps_on_their_way_arrive(
    opened: Callable[[Any], Any], until: Any
) -> None:
    honest = Honest(opened)
    receiver = honest.receiver
    until(lambda: len(honest.rings["good"]) > 50, honest.turn)
    before = resident_bytes()
    # ZMTP 3.0 by hand, for no well-behaved socket announces a frame and does not send it.
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    with socket.create_connection(("127.0.0.1", int(receiver.endpoint.rsplit(":", 1)[1])), 5.0) as end:
        end.sendall(greeting + b"\x04" + bytes([len(ready)]) + ready)
        honest.turn()
        assert honest.sender.in_flight
        end.sendall(b"\x02" + struct.pack(">Q", 1 << 30))
        end.setblocking(False)
        until(lambda: has_hung_up(end), honest.turn)
    assert resident_bytes() - before < 50 << 20
    during = len(honest.rings["good"])
    until(lambda: len(honest.rings["good"]) > during + 50, honest.turn)
    honest.check(until)


def has_hung_up(end: socket.socket) -> bool:
    """Read what the other side says; return whether it has gone."""
    try:
        return not end.recv(4096)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


class Trap:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_opened(opened: Callable[[Any], Any], tmp_path: Path, until: Any) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    server = opened(ScoreServer(LOCAL))
    link = opened(ClientLink(server.endpoint, link="scores", name="c", handshake=OPEN))
    until(lambda: link.up, lambda: link.receive(0.01), lambda: server.poll(0.01))
    link._socket.send([trap])
    link._socket.send([trap, trap])
    link.send("open", session=trap, task=trap)
    until(lambda: server.statistics()["transport"].get("malformed") == 3, lambda: server.poll(0.01))
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)  # noqa: S301  (the trap works)
    assert (tmp_path / "sprung").exists()


HELLO = {"link": "?", "name": "x", "client": "c1", "handshake": OPEN.to_wire()}
SEEDS = {
    "steps": [
        write_message("hello", HELLO | {"link": "steps", "ring": "r", "acknowledged": 0}),
        write_message("step", {"seq": 1}, b"blob"),
        write_message("beat", {"note": {"mode": "run"}}),
    ],
    "weights": [
        write_message("hello", HELLO | {"link": "weights", "instance": "", "version": 0}),
        write_message("got", {"transfer": 1, "chunks": 1}),
        write_message("stop", {"transfer": 1}),
    ],
    "scores": [
        write_message("hello", HELLO | {"link": "scores"}),
        write_message(
            "open",
            {"session": "s1", "task": "t", "cameras": ["f"], "model": "", "lane": "label", "references": {}},
        ),
        write_message(
            "frame",
            {
                "session": "s1",
                "frame_id": 0,
                "images": {"f": np.zeros((2, 2, 3), np.uint8)},
                "state": np.zeros(2, np.float32),
                "score": True,
            },
        ),
        write_message("close", {"session": "s1"}),
        write_message("statistics", {"request": 1}),
    ],
}


def mutate(rng: random.Random, message: list) -> list[bytes]:
    parts = [bytearray(part) for part in message]
    for _ in range(rng.randint(0, 3)):
        part = parts[rng.randrange(len(parts))]
        match rng.randrange(5):
            case 0 if part:
                part[rng.randrange(len(part))] = rng.randrange(256)
            case 1 if part:
                del part[rng.randrange(len(part)) :]
            case 2:
                part += rng.randbytes(4)
            case 3:
                parts.append(bytearray(rng.randbytes(rng.randint(0, 40))))
            case 4 if part:
                at = rng.randrange(len(part))
                part[at:at] = part[at : at + 8]
    return [bytes(part) for part in parts]


def fuzz(server: Any, seeds: list, turn: Callable[[], object], count: int, seed: int) -> None:
    rng = random.Random(seed)
    context = zmq.Context()
    attacker = context.socket(zmq.DEALER)
    attacker.linger = 0
    attacker.connect(server.endpoint)
    for number in range(count):
        if number % 100 == 0:
            message = [bytes(part) for part in seeds[0]]  # be let in again, or the rest is only turned away
        elif rng.random() < 0.1:
            message = [rng.randbytes(rng.randint(0, 60)) for _ in range(rng.randint(1, 4))]
        else:
            message = mutate(rng, rng.choice(seeds))
        while True:
            try:
                attacker.send_multipart(message, zmq.NOBLOCK)
                break
            except zmq.Again:
                turn()
        if number % 20 == 0:
            turn()
            while attacker.poll(0):
                attacker.recv_multipart()
    for _ in range(count // 20 + 100):
        turn()
        while attacker.poll(0):
            attacker.recv_multipart()
    attacker.close()
    context.term()


class Newest:
    """A publisher of a version at every hundredth turn, each with its own number for weights, and who takes them."""

    def __init__(self, publisher: WeightsPublisher, subscriber: WeightsSubscriber) -> None:
        self.publisher, self.subscriber = publisher, subscriber
        self.turns = self.published = self.here = self.taken = 0

    def turn(self) -> None:
        if self.turns % 100 == 0:
            self.published += 1
            self.publisher.publish(self.published, {"w": np.full(4, self.published, np.float32)})
        self.turns += 1
        self.take(0.0005)

    def take(self, timeout_s: float) -> None:
        new = self.subscriber.newest(timeout_s)
        if new is not None:
            version = new.version
            assert version > self.here
            np.testing.assert_array_equal(new.arrays()["w"], np.full(4, version, np.float32))
            self.here, self.taken = version, self.taken + 1


@pytest.mark.parametrize("link", ["steps", "weights", "scores"])
@pytest.mark.parametrize(
    "count", [3_400, pytest.param(333_400, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_no_message_kills_a_server(link: str, count: int, opened: Callable[[Any], Any], until: Any) -> None:
    """And whoever spoke with it before goes on, over the same connection."""
    match link:
        case "steps":
            honest = Honest(opened)
            server, client, turn, wait = honest.receiver, honest.sender, honest.turn, honest.sender.poll
        case "weights":
            server = opened(WeightsPublisher(LOCAL, handshake=OPEN))
            client = opened(WeightsSubscriber(server.endpoint, name="a", handshake=OPEN))
            newest, wait = Newest(server, client), client.newest
            turn = newest.turn
        case _:
            server = opened(ScoreServer(LOCAL))
            client = opened(ScoreClient(server.endpoint, name="a"))
            turn, wait = lambda: (client.poll(0), server.poll(0)), client.poll
    until(lambda: client.connected, lambda: wait(0.01), turn)
    fuzz(server, SEEDS[link], turn, count, seed=count)
    counters = server.counters() if hasattr(server, "counters") else server._link.counters
    assert counters["malformed"] > count // 4
    if link == "steps":
        assert len(honest.rings["good"]) > count // 4
        honest.check(until)
    elif link == "weights":
        until(lambda: newest.here == newest.published, lambda: newest.take(0.01))
        assert newest.taken > 2
    until(lambda: client.connected, lambda: wait(0.01), turn)
    assert client._link.counters["welcomed"] == 1
