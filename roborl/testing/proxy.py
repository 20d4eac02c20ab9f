"""A TCP proxy in user space that stands for a network: it delays, throttles and cuts."""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_READ_BYTES = 1 << 14
_SOCKET_BYTES = 1 << 17


@dataclass(slots=True, eq=False)
class _Flow:
    """One direction of one connection."""

    source: socket.socket
    target: socket.socket
    way: str
    queue: collections.deque[tuple[float, bytes]] = field(default_factory=collections.deque)
    queued_bytes: int = 0
    ended: bool = False


class TcpProxy:
    """Forwards connections to a port of this machine.

    Args:
        target_port: Where the server listens, on 127.0.0.1.
        delay_s: One-way delay in each direction.
        rate_bytes_s: Bandwidth of each direction, shared by its connections; None for no limit.

    Attributes:
        endpoint: The address for clients, ``tcp://127.0.0.1:port``.
        forwarded_bytes: How much has gone through in both directions.
    """

    def __init__(self, target_port: int, *, delay_s: float = 0.0, rate_bytes_s: float | None = None) -> None:
        self._target_port, self._delay_s, self._rate_bytes_s = target_port, delay_s, rate_bytes_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.forwarded_bytes = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._flows: list[_Flow] = []
        self._free_at_s = {"up": 0.0, "down": 0.0}  # when the line has sent what was read so far
        self._down = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def cut(self) -> None:
        """Break all connections and refuse new ones, until :meth:`restore`."""
        self._down.set()

    def restore(self) -> None:
        """Let connections through again."""
        self._down.clear()

    def close(self) -> None:
        """Stop; connections break."""
        self._closing.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._closing.is_set():
            for key, _ in self._selector.select(self._pause_s()):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.data)
            if self._down.is_set():
                self._drop(self._flows)
            for flow in list(self._flows):
                self._write(flow)
        self._drop(self._flows)
        self._selector.close()
        self._listener.close()

    def _pause_s(self) -> float:
        now_s = time.monotonic()
        heads = [flow.queue[0][0] - now_s for flow in self._flows if flow.queue]
        return min([0.02, *(max(0.0005, head) for head in heads)])

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._down.is_set():
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port), timeout=1.0)
        except OSError:
            client.close()
            return
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Small buffers, or the kernel would hide seconds of a slow line.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES)
        for source, target, way in ((client, server, "up"), (server, client, "down")):
            flow = _Flow(source, target, way)
            self._flows.append(flow)
            self._selector.register(source, selectors.EVENT_READ, flow)

    def _read(self, flow: _Flow) -> None:
        try:
            data = flow.source.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            flow.ended = True
            self._selector.unregister(flow.source)
            return
        now_s = time.monotonic()
        sent_s = max(now_s, self._free_at_s[flow.way])
        if self._rate_bytes_s is not None:
            sent_s += len(data) / self._rate_bytes_s
        self._free_at_s[flow.way] = sent_s
        flow.queue.append((sent_s + self._delay_s, data))
        flow.queued_bytes += len(data)
        self._watch(flow)

    def _watch(self, flow: _Flow) -> None:
        """Read on only while the line has room: what it holds is its delay's worth and one buffer."""
        room = _SOCKET_BYTES + self._delay_s * (self._rate_bytes_s or 1e9)
        watched = flow.source in self._selector.get_map()
        if flow.queued_bytes >= room and watched:
            self._selector.unregister(flow.source)
        elif flow.queued_bytes < room and not watched and not flow.ended:
            self._selector.register(flow.source, selectors.EVENT_READ, flow)

    def _write(self, flow: _Flow) -> None:
        now_s = time.monotonic()
        while flow.queue and flow.queue[0][0] <= now_s:
            due_s, data = flow.queue.popleft()
            try:
                sent = flow.target.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._drop([other for other in self._flows if flow.target in (other.source, other.target)])
                return
            flow.queued_bytes -= sent
            self.forwarded_bytes += sent
            if sent < len(data):
                flow.queue.appendleft((due_s, data[sent:]))
                break
        if flow.ended and not flow.queue:
            self._drop([other for other in self._flows if flow.target in (other.source, other.target)])
        elif flow in self._flows:
            self._watch(flow)

    def _drop(self, flows: list[_Flow]) -> None:
        gone = [flow for flow in flows if flow in self._flows]
        self._flows = [flow for flow in self._flows if flow not in gone]
        for flow in gone:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(flow.source)
        for flow in gone:
            flow.source.close()
            flow.target.close()
