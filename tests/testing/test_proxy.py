"""The proxy delays, throttles and cuts as it is told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from roborl.testing.proxy import TcpProxy


@pytest.fixture
def echo_port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                end, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(end,), daemon=True).start()

    def echo(end: socket.socket) -> None:
        try:
            while data := end.recv(1 << 16):
                end.sendall(data)
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def connect(proxy: TcpProxy) -> socket.socket:
    end = socket.create_connection(("127.0.0.1", int(proxy.endpoint.rsplit(":", 1)[1])), timeout=5.0)
    end.settimeout(5.0)
    return end


def exchange(end: socket.socket, data: bytes) -> float:
    begun_s = time.monotonic()
    threading.Thread(target=end.sendall, args=(data,), daemon=True).start()
    back = b""
    while len(back) < len(data):
        back += end.recv(1 << 16)
    assert back == data
    return time.monotonic() - begun_s


def test_bytes_pass_unchanged(echo_port: int) -> None:
    with TcpProxy(echo_port) as proxy, connect(proxy) as end:
        exchange(end, bytes(range(256)) * 4000)
        give_up_s = time.monotonic() + 5.0  # it counts after it has sent
        while proxy.forwarded_bytes != 2 * 256 * 4000:
            assert time.monotonic() < give_up_s


def test_the_delay_is_paid_in_each_direction(echo_port: int) -> None:
    with TcpProxy(echo_port, delay_s=0.04) as proxy, connect(proxy) as end:
        assert 0.08 <= exchange(end, b"x") < 0.5


def test_the_rate_is_kept(echo_port: int) -> None:
    with TcpProxy(echo_port, rate_bytes_s=1e6) as proxy, connect(proxy) as end:
        assert 0.3 <= exchange(end, bytes(300_000)) < 1.5


def test_a_cut_breaks_connections_until_it_is_restored(echo_port: int) -> None:
    with TcpProxy(echo_port) as proxy:
        with connect(proxy) as end:
            exchange(end, b"x")
            proxy.cut()
            assert end.recv(1) == b""
        with connect(proxy) as end:
            assert end.recv(1) == b""
        proxy.restore()
        with connect(proxy) as end:
            exchange(end, b"x")
