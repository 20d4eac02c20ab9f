"""How fast a transition gets from actor to learner: our link beside gRPC streams and pickle + lz4 request/reply.

Every path carries the same transition (two 128 px cameras, observation and next observation, 197 kB) from arrays in one
process to arrays in another, over TCP on this machine; each side of each path is a process of its own. Rounds of all
paths alternate and medians are taken, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.codec import Part, decode, encode, join, split
from roborl.loops.benchmarks.peers import GrpcClient, PickleClient, PickleServer, serve_grpc
from roborl.loops.benchmarks.sides import Pair
from roborl.records import Arrival, pack_record, unpack_record
from roborl.serving.handshake import Handshake
from roborl.serving.steps_receiver import StepsReceiver
from roborl.serving.steps_sender import StepsSender
from roborl.types import Command, EpisodeKey, Frame, Observation, Source

_PX = 128
_DISTINCT = 16
_HANDSHAKE = Handshake(state_dim=7, action_dim=4)
_CAMERAS = ("front", "wrist")

OURS = "ours, ack per transition"
OURS_DURABLE = "ours as used: 99 kB, written before ack"
GRPC_CLIENT = "grpc client stream, one answer at the end"
GRPC_TWO_WAY = "grpc two-way stream, ack per transition"
PICKLE = "pickle+lz4 request/reply"


def run(*, rounds: int = 7, messages: int = 400) -> dict[str, Any]:
    """Measure all paths.

    Args:
        rounds: How often each path is measured; medians count.
        messages: Transitions per round.

    Returns:
        Transitions per second by path, their ratios, and round trips of a single transition.
    """
    with tempfile.TemporaryDirectory() as folder:
        pairs = {
            OURS: Pair(_receive, ("plain", folder), _send, ("plain",)),
            OURS_DURABLE: Pair(_receive, ("durable", folder), _send, ("durable",)),
            GRPC_CLIENT: Pair(_serve_grpc, (), _send_grpc, ("client",)),
            GRPC_TWO_WAY: Pair(_serve_grpc, (), _send_grpc, ("two_way",)),
            PICKLE: Pair(_serve_pickle, (), _send_pickle, ()),
        }
        try:
            return _measure(pairs, rounds, messages)
        finally:
            for pair in pairs.values():
                pair.close()


def _measure(pairs: dict[str, Pair], rounds: int, messages: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in pairs}
    singles_ms: dict[str, list[float]] = {OURS: [], GRPC_TWO_WAY: [], PICKLE: []}
    for turn in range(rounds + 1):
        for name, pair in pairs.items():
            took_s = pair.go(messages)
            if turn:  # the first round warms up
                rates[name].append(messages / took_s)
    for _ in range(100):
        for name, values in singles_ms.items():
            values.append(1e3 * pairs[name].go(1))
    rate = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        # A client stream acknowledges nothing on the way: ours does more here than it is compared with.
        f"{OURS} / {GRPC_CLIENT}": rate[OURS] / rate[GRPC_CLIENT],
        f"{OURS} / {GRPC_TWO_WAY}": rate[OURS] / rate[GRPC_TWO_WAY],
        f"{OURS} / {PICKLE}": rate[OURS] / rate[PICKLE],
        f"{OURS_DURABLE} / {GRPC_CLIENT}": rate[OURS_DURABLE] / rate[GRPC_CLIENT],
    }
    return {
        "transition_bytes": len(join(encode(_transition(0)))),
        "as_used_bytes": len(join(pack_record(_arrival(0)))),
        "transitions_per_s": {name: round(value) for name, value in rate.items()},
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "round_trip_p50_ms": {name: round(statistics.median(v), 3) for name, v in singles_ms.items()},
    }


def _receive(ready: Callable[[Any], None], how: str, folder: str) -> None:
    receiver = StepsReceiver("tcp://127.0.0.1:*", handshake=_HANDSHAKE, last_sequence=lambda ring: 0)
    ready(receiver.endpoint)
    log = (Path(folder) / how).open("wb", buffering=0)
    while True:
        steps = receiver.poll(0.1)
        for step in steps:
            if how == "durable":
                unpack_record(split(step.blob))
                log.write(step.blob)
            else:
                _check(decode(split(step.blob)))
            if how == "plain":
                receiver.acknowledge(step.ring_id, step.seq)
        if steps and how != "plain":
            receiver.acknowledge(steps[-1].ring_id, steps[-1].seq)
        if log.tell() > 1 << 28:
            log.seek(0)


def _send(line: Connection, endpoint: str, what: str) -> None:
    sender = StepsSender(endpoint, ring_id="bench", actor="bench", handshake=_HANDSHAKE)
    sender.wait_connected(10.0)
    make = _maker(what)

    def send(count: int) -> None:
        for number in range(count):
            body: Part = make(number)
            while not sender.offer(sender.next_sequence, body):
                sender.poll(1.0)
        while sender.in_flight:
            sender.poll(1.0)

    _serve_rounds(line, send)


def _serve_grpc(ready: Callable[[Any], None]) -> None:
    server, port = serve_grpc(lambda body: _check(decode(split(body))))
    ready(port)
    server.wait_for_termination()


def _send_grpc(line: Connection, port: int, how: str) -> None:
    client, make = GrpcClient(port), _maker("plain")

    def bodies(count: int) -> Iterator[bytes]:
        return (make(number) for number in range(count))

    stream = client.client_stream if how == "client" else client.two_way
    _serve_rounds(line, lambda count: stream(bodies(count)))


def _serve_pickle(ready: Callable[[Any], None]) -> None:
    server = PickleServer()
    ready(server.port)
    while True:
        _check(server.serve_one())


def _send_pickle(line: Connection, port: int) -> None:
    client, transitions = PickleClient(port), [_transition(seed) for seed in range(_DISTINCT)]

    def send(count: int) -> None:
        for number in range(count):
            client.request(transitions[number % _DISTINCT])

    _serve_rounds(line, send)


def _serve_rounds(line: Connection, send: Callable[[int], object]) -> None:
    while True:
        count = line.recv()
        begun_s = time.perf_counter()
        send(count)
        line.send(time.perf_counter() - begun_s)


def _maker(what: str) -> Callable[[int], bytes]:
    if what == "durable":
        arrivals = [_arrival(seed) for seed in range(_DISTINCT)]
        return lambda number: join(pack_record(arrivals[number % _DISTINCT]))
    transitions = [_transition(seed) for seed in range(_DISTINCT)]
    return lambda number: join(encode(transitions[number % _DISTINCT]))


def _check(transition: dict[str, Any]) -> None:
    if transition["next_images"]["wrist"].shape != (_PX, _PX, 3):
        raise AssertionError("a transition did not arrive whole")


def _pictures(seed: int) -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (_PX, _PX, 3), dtype=np.uint8) for name in _CAMERAS}


def _transition(seed: int) -> dict[str, Any]:
    return {
        "images": _pictures(seed),
        "next_images": _pictures(seed + 1),
        "state": np.zeros(7, np.float32),
        "next_state": np.zeros(7, np.float32),
        "action": np.zeros(4, np.float32),
        "reward": 0.0,
        "terminated": False,
    }


def _arrival(seed: int) -> Arrival:
    frames = {
        name: Frame(rgb=rgb, camera=name, stamp_ns=seed, id=seed) for name, rgb in _pictures(seed).items()
    }
    zeros = np.zeros(4, np.float32)
    return Arrival(
        key=EpisodeKey(actor="bench", incarnation=1, episode=0),
        index=seed + 1,
        observation=Observation(frames=frames, state=np.zeros(7, np.float32), stamp_ns=seed),
        command=Command(action=zeros, proposed=zeros, source=Source.POLICY),
    )
