"""What the benchmarks compare ours with: gRPC streams, pickle + lz4 over ZeroMQ as peers send it, and bare ZeroMQ.

Nothing else may import this module: it unpickles, which is safe only because both ends are the benchmark's own.
"""

from __future__ import annotations

import pickle
import struct
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import lz4.frame
import zmq

_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def serve_grpc(take: Callable[[bytes], None]) -> tuple[Any, int]:
    """Serve client streams (one answer at the end) and two-way streams (one answer per message) of raw bytes.

    Args:
        take: What is done with each body.

    Returns:
        The server, to be kept, and its port.
    """

    def client_stream(requests: Iterator[bytes], context: object) -> bytes:
        count = 0
        for body in requests:
            take(body)
            count += 1
        return str(count).encode()

    def two_way(requests: Iterator[bytes], context: object) -> Iterator[bytes]:
        for body in requests:
            take(body)
            yield b"k"

    server = grpc.server(futures.ThreadPoolExecutor(2), options=_UNLIMITED)
    handlers = {
        "client": grpc.stream_unary_rpc_method_handler(client_stream),
        "two_way": grpc.stream_stream_rpc_method_handler(two_way),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


class GrpcClient:
    """Sends bodies to :func:`serve_grpc`."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_UNLIMITED)
        grpc.channel_ready_future(self._channel).result(timeout=10.0)
        self._client = self._channel.stream_unary("/bench/client")
        self._two_way = self._channel.stream_stream("/bench/two_way")

    def client_stream(self, bodies: Iterator[bytes]) -> int:
        """Send all, and return the count that comes back at the end."""
        return int(self._client(bodies, timeout=60.0))

    def two_way(self, bodies: Iterator[bytes]) -> int:
        """Send all, and return how many answers came back, one per body."""
        return sum(1 for _ in self._two_way(bodies, timeout=60.0))


class PickleServer:
    """Answers pickle + lz4 requests, as the transport under several peers does."""

    def __init__(self) -> None:
        self._socket = zmq.Context().socket(zmq.REP)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")

    def serve_one(self) -> Any:
        """Take one request, answer it, and return what it held."""
        message = pickle.loads(lz4.frame.decompress(self._socket.recv()))  # noqa: S301  (both ends are ours)
        self._socket.send(lz4.frame.compress(pickle.dumps({"ok": True})))
        return message


class PickleClient:
    """Sends pickle + lz4 requests and waits for each answer."""

    def __init__(self, port: int) -> None:
        self._socket = zmq.Context().socket(zmq.REQ)
        self._socket.rcvtimeo = 60_000
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def request(self, message: Any) -> Any:
        """Send a message and return the answer."""
        self._socket.send(lz4.frame.compress(pickle.dumps(message)))
        return pickle.loads(lz4.frame.decompress(self._socket.recv()))  # noqa: S301  (both ends are ours)


class PicklePublisher:
    """Publishes pickle + lz4 messages, as peers send weights."""

    def __init__(self) -> None:
        self._socket = zmq.Context().socket(zmq.PUB)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")

    def publish(self, message: Any) -> None:
        """Send to whoever is subscribed."""
        self._socket.send(lz4.frame.compress(pickle.dumps(message)))


class PickleSubscriber:
    """Receives what a :class:`PicklePublisher` sends."""

    def __init__(self, port: int) -> None:
        self._socket = zmq.Context().socket(zmq.SUB)
        self._socket.subscribe(b"")
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def receive(self, timeout_s: float) -> Any | None:
        """Return the next message, or None where none comes in time."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        return pickle.loads(lz4.frame.decompress(self._socket.recv()))  # noqa: S301  (both ends are ours)


class BareServer:
    """Keeps a processor busy for a while for each message, and answers with how long: what no server can be quicker than."""

    def __init__(self) -> None:
        self._socket = zmq.Context().socket(zmq.ROUTER)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")

    def serve_one(self) -> None:
        """Take one message and answer it."""
        peer, work, _ = self._socket.recv_multipart(copy=False)
        began = time.perf_counter()
        (work_s,) = struct.unpack("<d", work.bytes)
        while (worked_s := time.perf_counter() - began) < work_s:
            pass
        self._socket.send_multipart([peer.bytes, struct.pack("<d", worked_s)])


class BareClient:
    """Sends to a :class:`BareServer`."""

    def __init__(self, port: int) -> None:
        self._socket = zmq.Context().socket(zmq.DEALER)
        self._socket.rcvtimeo = 60_000
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def round_trip_ms(self, body: bytes, work_s: float) -> float:
        """Return how long it takes to have ``body`` worked on, beyond the work itself."""
        began = time.perf_counter()
        self._socket.send_multipart([struct.pack("<d", work_s), body])
        (worked_s,) = struct.unpack("<d", self._socket.recv())
        return 1e3 * (time.perf_counter() - began - float(worked_s))
