"""How long new weights take from the trainer's arrays to arrays that an actor may use, 12 M parameters.

The way on, through shared memory into the inference process and its policy, is not in it. Ours checks that all values are finite on both sides and compares check sums; the others check nothing. Each side is a
process of its own on this machine, both look at the same monotonic clock, rounds of all paths alternate, medians count.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.loops.benchmarks.peers import PicklePublisher, PickleSubscriber
from roborl.loops.benchmarks.sides import Pair
from roborl.serving.handshake import Handshake
from roborl.serving.weights import WeightsPublisher, WeightsSubscriber
from roborl.whole_files import write_whole

_LAYERS, _ROWS, _COLUMNS = 12, 1000, 1000

OURS = "ours, one machine (ipc)"
OURS_TCP = "ours, tcp"
PICKLE = "pickle+lz4 publish/subscribe"


def run(*, rounds: int = 15) -> dict[str, Any]:
    """Measure all paths.

    Args:
        rounds: How often each is measured; medians count.

    Returns:
        Milliseconds from publication to arrays in use, those of a flat copy and of serialising alone, and the bar.
    """
    with tempfile.TemporaryDirectory() as folder:
        pairs = {
            OURS: Pair(_subscribe, (folder, "ipc"), _publish, ()),
            OURS_TCP: Pair(_subscribe, (folder, "tcp"), _publish, ()),
            PICKLE: Pair(_subscribe_pickle, (folder,), _publish_pickle, ()),
        }
        try:
            return _measure(pairs, rounds)
        finally:
            for pair in pairs.values():
                pair.close()


def _measure(pairs: dict[str, Pair], rounds: int) -> dict[str, Any]:
    weights = _weights()
    flat = np.concatenate([array.reshape(-1) for array in weights.values()])
    target = np.empty_like(flat)
    local: dict[str, Callable[[], object]] = {
        "flat copy": lambda: np.copyto(target, flat),
        "torch.save and load": lambda: _torch_round_trip(weights),
        "safetensors save and load": lambda: _safetensors_round_trip(weights),
    }
    took_ms: dict[str, list[float]] = {name: [] for name in (*local, *pairs)}
    for turn in range(rounds + 2):
        for name, path in local.items():
            begun_s = time.perf_counter()
            path()
            took_ms[name].append(1e3 * (time.perf_counter() - begun_s))
        for name, pair in pairs.items():
            took_ms[name].append(1e3 * pair.go(turn + 1))
    medians = {name: statistics.median(values[2:]) for name, values in took_ms.items()}
    bar_ms = 3 * medians["flat copy"] + 10
    return {
        "parameters": flat.size,
        "ms": {name: round(value, 2) for name, value in medians.items()},
        "bar_ms": round(bar_ms, 2),
        "ratios": {
            f"{name} / {OURS}": round(medians[name] / medians[OURS], 2) for name in medians if name != OURS
        },
    }


def _weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {
        f"layer{i}.weight": rng.standard_normal((_ROWS, _COLUMNS), dtype=np.float32) for i in range(_LAYERS)
    }


def _torch_round_trip(weights: dict[str, NDArray[np.float32]]) -> None:
    import torch  # here, since the sides of our own path need none of it

    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)


def _safetensors_round_trip(weights: dict[str, NDArray[np.float32]]) -> None:
    from safetensors.numpy import load, save

    load(save(dict(weights)))


def _subscribe(ready: Callable[[Any], None], folder: str, transport: str) -> None:
    """Wait for the publisher's address in a file, and write into another when each version was applied."""
    here = Path(folder) / transport
    here.mkdir()
    ready(str(here))
    endpoint = _await_text(here / "endpoint")
    subscriber = WeightsSubscriber(endpoint, name="bench", handshake=Handshake())
    while True:
        new = subscriber.newest(0.5)
        if new is not None:
            applied_ns = time.monotonic_ns()
            write_whole(here / f"applied-{new[0]}", str(applied_ns))


def _publish(line: Connection, folder: str) -> None:
    here = Path(folder)
    endpoint = f"ipc://{here}/weights.sock" if here.name == "ipc" else "tcp://127.0.0.1:*"
    publisher = WeightsPublisher(endpoint, handshake=Handshake())
    write_whole(here / "endpoint", publisher.endpoint)
    weights = _weights()
    while True:
        version = line.recv()
        begun_ns = time.monotonic_ns()
        publisher.publish(version, weights)
        applied_ns = int(_await_text(here / f"applied-{version}"))
        line.send((applied_ns - begun_ns) / 1e9)


def _subscribe_pickle(ready: Callable[[Any], None], folder: str) -> None:
    here = Path(folder) / "pickle"
    here.mkdir()
    ready(str(here))
    subscriber = PickleSubscriber(int(_await_text(here / "port")))
    while True:
        message = subscriber.receive(0.5)
        if message is not None:
            applied_ns = time.monotonic_ns()
            write_whole(here / f"applied-{message['version']}", str(applied_ns))


def _publish_pickle(line: Connection, folder: str) -> None:
    here, publisher, weights = Path(folder), PicklePublisher(), _weights()
    write_whole(here / "port", str(publisher.port))
    time.sleep(0.5)  # its first messages are lost on a subscriber that is still connecting
    while True:
        version = line.recv()
        begun_ns = time.monotonic_ns()
        publisher.publish({"version": version, "weights": weights})
        applied_ns = int(_await_text(here / f"applied-{version}"))
        line.send((applied_ns - begun_ns) / 1e9)


def _await_text(path: Path) -> str:
    while not path.exists():
        time.sleep(0.001)
    return path.read_text()
