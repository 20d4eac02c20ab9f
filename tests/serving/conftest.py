"""Both ends of each link on this machine, closed after the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from roborl.serving.handshake import Handshake

LOCAL = "tcp://127.0.0.1:*"


@pytest.fixture
def handshake() -> Handshake:
    return Handshake(cameras={"front": (96, 96), "wrist": (96, 96)}, state_dim=6, action_dim=4, version="b1")


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """Returns what it is given, and closes it after the test."""
    things: list[Any] = []

    def keep(thing: Any) -> Any:
        things.append(thing)
        return thing

    yield keep
    for thing in reversed(things):
        thing.close()


@pytest.fixture
def until() -> Callable[..., None]:
    """Turns both ends until a condition holds; fails where it does not within the time."""

    def turn(condition: Callable[[], object], *turns: Callable[[], object], within_s: float = 5.0) -> None:
        give_up_s = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < give_up_s, "what the test waits for did not happen"
            for one in turns:
                one()

    return turn
