"""Two processes on the two sides of a path that is measured."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from roborl.errors import DeadlineExceeded

_DEADLINE_S = 120.0


class Pair:
    """A server process and a client process that waits to be told to go.

    Args:
        serve: Called in the server process with ``ready(address)``, to be called once, and ``serve_args``.
        serve_args: Picklable.
        ask: Called in the client process with the line to this process, the address and ``ask_args``; answers each
            value it receives on the line with one.
        ask_args: Picklable.
    """

    def __init__(
        self,
        serve: Callable[..., None],
        serve_args: tuple[Any, ...],
        ask: Callable[..., None],
        ask_args: tuple[Any, ...],
    ) -> None:
        context = multiprocessing.get_context("spawn")
        own, servers = context.Pipe()
        self._server = context.Process(target=_serve, args=(serve, servers, serve_args), daemon=True)
        self._server.start()
        servers.close()  # or the end of the process would not be noticed
        self._line, clients = context.Pipe()
        try:
            address = _receive(own)
            self._client = context.Process(target=ask, args=(clients, address, *ask_args), daemon=True)
            self._client.start()
            clients.close()
        except BaseException:
            self._server.kill()
            raise

    def go(self, value: Any) -> Any:
        """Let the client act on ``value`` and return its answer.

        Raises:
            DeadlineExceeded: If there is none within two minutes, or the process ended.
        """
        with contextlib.suppress(BrokenPipeError):
            self._line.send(value)
        return _receive(self._line)

    def close(self) -> None:
        """End both processes."""
        for process in (self._client, self._server):
            process.kill()
            process.join(timeout=5.0)


def _serve(serve: Callable[..., None], line: Connection, args: tuple[Any, ...]) -> None:
    serve(line.send, *args)


def _receive(line: Connection) -> Any:
    seen = "silence"
    try:
        if line.poll(_DEADLINE_S):
            return line.recv()
    except (EOFError, ConnectionResetError):
        seen = "its end"
    raise DeadlineExceeded(
        "A process of the benchmark gave no answer",
        seen=seen,
        allowed=f"an answer within {_DEADLINE_S:g} s",
        remedy="Look for its own error above, or run it again on a machine that is less busy",
    )
