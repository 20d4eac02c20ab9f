"""ZeroMQ sockets with the limits, deadlines and keys that every link of ours has. Nothing here ever blocks unbounded."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import zmq
from zmq.auth.thread import ThreadAuthenticator

from roborl.codec import MAX_PARTS, Part
from roborl.errors import ConfigError
from roborl.serving.security import Keys, check_bind

# Below these a copy is cheaper than the bookkeeping of a shared buffer.
_COPY_RECEIVED_BELOW_BYTES = 1 << 16
_COPY_SENT_BELOW_BYTES = 1 << 19
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one socket.

    Attributes:
        part_bytes: Largest part of a message; a peer that announces a larger one is disconnected before it is read.
        queue: Messages waiting per peer and direction.
    """

    part_bytes: int = 32 << 20
    queue: int = 256


class Socket:
    """A ROUTER that listens or a DEALER that connects, in a context of its own.

    Args:
        endpoint: Address, ``tcp://host:port``.
        listen: True for the server side; port ``*`` or 0 takes a free one, see :attr:`endpoint`.
        keys: CURVE keys; None only on one machine.
        limits: Bounds.

    Raises:
        ConfigError: If the address is refused or in use.
    """

    def __init__(self, endpoint: str, *, listen: bool, keys: Keys | None, limits: Limits) -> None:
        _check_address(endpoint, listen=listen)
        if listen:
            check_bind(endpoint, keys)
            _check_unused(endpoint)
        _keep_freed_memory()
        self._context = zmq.Context()
        self._authenticator: ThreadAuthenticator | None = None
        self._socket = self._context.socket(zmq.ROUTER if listen else zmq.DEALER)
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._woken, zmq.POLLIN)
        self._limit(limits)
        # Not for names: one that has an address of each kind would be looked for under the new kind alone.
        self._socket.setsockopt(zmq.IPV6, endpoint.startswith("tcp://["))
        try:
            if keys is not None:
                self._lock(keys, listen=listen)
            if listen:
                self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
                self._socket.bind(endpoint)
                self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
            else:
                # Nothing is queued for a peer that is away: what was not sent is known here, and sent after the greeting.
                self._socket.setsockopt(zmq.IMMEDIATE, 1)
                self._socket.connect(endpoint)
                self.endpoint = endpoint
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                f"This address cannot be {'listened on' if listen else 'connected to'}",
                seen=f"{endpoint}: {error}",
                allowed="tcp://HOST:PORT with a free port",
                remedy="Choose another port, or stop the process that holds this one",
            ) from error
        except ConfigError:
            self.close()
            raise

    def wait(self, timeout_s: float) -> bool:
        """Block until a message can be read or ``timeout_s`` have passed; return True where :meth:`wake` cut it short."""
        ready = dict(self._poller.poll(max(0, math.ceil(timeout_s * 1000))))
        if self._woken.fileno() not in ready:
            return False
        self._woken.recv(4096)
        return True

    def wake(self) -> None:
        """End a :meth:`wait` in another thread, or the next one. The only method that any thread may call."""
        with contextlib.suppress(BlockingIOError, OSError):  # full: it will wake anyway; closed: nobody waits
            self._waker.send(b"w")

    def receive(self) -> list[Part] | None:
        """Return the parts of the next message, large ones without a copy, or None where there is none.

        A message of more than ``MAX_PARTS`` parts comes back cut, which no decoder accepts.
        """
        parts: list[Part] = []
        try:
            while True:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
                if len(parts) <= MAX_PARTS + 1:
                    parts.append(frame.buffer if len(frame) >= _COPY_RECEIVED_BELOW_BYTES else frame.bytes)
                if not frame.more:
                    return parts
        except zmq.Again:
            return None

    def send(self, parts: Sequence[Part]) -> bool:
        """Queue a message, large parts without a copy; return False where the peer is gone or its queue full.

        The caller must leave the bytes of large parts unchanged until the peer has answered.
        """
        last = len(parts) - 1
        try:
            for index, part in enumerate(parts):
                flags = zmq.NOBLOCK | (zmq.SNDMORE if index < last else 0)
                self._socket.send(part, flags, copy=len(part) < _COPY_SENT_BELOW_BYTES)
        except (zmq.Again, zmq.ZMQError) as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def close(self) -> None:
        """Drop what is queued and free the address. May be called twice."""
        if self._context.closed:
            return
        self._socket.close(linger=0)
        self._waker.close()
        self._woken.close()
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None
        self._context.term()

    def __del__(self) -> None:
        # A context that is collected while its socket is open waits for ever.
        if hasattr(self, "_poller"):
            self.close()

    def _limit(self, limits: Limits) -> None:
        for option, value in {
            zmq.LINGER: 0,
            zmq.SNDHWM: limits.queue,
            zmq.RCVHWM: limits.queue,
            zmq.MAXMSGSIZE: limits.part_bytes,
            zmq.RECONNECT_IVL: 50,
            zmq.RECONNECT_IVL_MAX: 500,
            zmq.CONNECT_TIMEOUT: 2000,
            zmq.HANDSHAKE_IVL: 5000,
            # A half-open connection is given up when so long nothing that was sent is received, ms; that the other side is
            # dead, the link's own beats tell before.
            zmq.TCP_MAXRT: 5000,
            # Of a peer nothing is heard while a part of a message is under way: 32 MB take half a minute at 10 Mbit/s.
            zmq.HEARTBEAT_IVL: 1000,
            zmq.HEARTBEAT_TIMEOUT: 60_000,
        }.items():
            self._socket.setsockopt(option, value)

    def _lock(self, keys: Keys, *, listen: bool) -> None:
        self._socket.curve_secretkey = keys.secret
        self._socket.curve_publickey = keys.public
        if listen:
            self._socket.curve_server = True
            self._authenticator = ThreadAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback("*", _Guests(frozenset(keys.peers.values())))
        else:
            self._socket.curve_serverkey = keys.server_key()


@functools.cache
def _keep_freed_memory() -> None:
    """Let the C allocator keep what messages leave behind, up to 64 MB.

    By default it gives blocks of that size back to the system, which then hands them out page by page again: that costs
    about as much as the transport of a 200 kB message.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc; elsewhere nothing is done
    if mallopt is not None:
        for option, size in (
            (_M_MMAP_THRESHOLD, 8 << 20),
            (_M_TRIM_THRESHOLD, 64 << 20),
            (_M_TOP_PAD, 4 << 20),
        ):
            mallopt(option, size)


def _check_address(endpoint: str, *, listen: bool) -> None:
    # ZeroMQ takes the port modulo 65,536 without a word.
    port = re.fullmatch(r"tcp://[^\s/]+:(\d+|\*)", endpoint)
    free = port is not None and port[1] in ("*", "0")
    if not (endpoint.startswith("ipc://") or (port and (listen if free else int(port[1]) < 1 << 16))):
        raise ConfigError(
            f"This is no address to {'listen on' if listen else 'connect to'}",
            seen=endpoint,
            allowed="tcp://HOST:PORT with a port below 65536, or ipc://PATH",
            remedy="Correct the endpoint in the configuration",
        )


def _check_unused(endpoint: str) -> None:
    # ZeroMQ takes a path over from whoever listens on it, without a word to either.
    path = endpoint.removeprefix("ipc://")
    if path == endpoint:
        return
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        try:
            caller.connect(path)
        except BlockingIOError:
            pass  # Others wait there to be let in.
        except OSError:
            return  # There is nothing, or what a dead process has left.
    raise ConfigError(
        "This address cannot be listened on",
        seen=f"{endpoint}: another process listens on it",
        allowed="a path that nobody listens on",
        remedy="Choose another path, or stop the process that holds this one",
    )


class _Guests:
    def __init__(self, keys: frozenset[bytes]) -> None:
        self._keys = keys

    def callback(self, domain: str, key: bytes) -> bool:
        """Tell whether ``key`` may enter; called by the authenticator."""
        return key in self._keys
