"""Processes on the two sides of a path that is measured, and such as measure one path alone."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from roborl.errors import DeadlineExceeded

_DEADLINE_S = 120.0


class Side:
    """A process of its own that answers each value it is told.

    Args:
        answer: Called in that process with the line to this one and ``args``; answers each value that it receives on the
            line with one.
        args: Picklable.
    """

    def __init__(self, answer: Callable[..., None], args: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, others = context.Pipe()
        self._process = context.Process(target=answer, args=(others, *args), daemon=True)
        self._process.start()
        others.close()  # or the end of the process would not be noticed

    def go(self, value: Any) -> Any:
        """Let the process act on ``value`` and return its answer.

        Raises:
            DeadlineExceeded: If there is none within two minutes, or the process ended.
        """
        with contextlib.suppress(BrokenPipeError):
            self._line.send(value)
        return _receive(self._line)

    def close(self) -> None:
        """End the process."""
        _end(self._process)


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
        servers.close()
        try:
            self._client = Side(ask, (_receive(own), *ask_args))
        except BaseException:
            self._server.kill()
            raise

    def go(self, value: Any) -> Any:
        """Let the client act on ``value`` and return its answer.

        Raises:
            DeadlineExceeded: If there is none within two minutes, or a process ended.
        """
        return self._client.go(value)

    def close(self) -> None:
        """End both processes."""
        self._client.close()
        _end(self._server)


def _end(process: BaseProcess) -> None:
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
