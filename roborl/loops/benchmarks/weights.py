"""How long new weights take from the trainer's arrays into the policy of an actor, 12 M parameters.

Two instants are noted. *Received*: the actor's I/O process has arrays that it may hand on; with this the others are
compared, for they go no further. *Applied*: ours has handed them on in shared memory to the inference process, and its
policy has loaded them; in a run it does so between two chunks.

Ours checks that all values are finite, in the trainer, in the I/O process and in the policy, and compares check sums; the
others check nothing. Each side is a process of its own on this machine, all look at the same monotonic clock, rounds of all
paths alternate, medians count.
"""

from __future__ import annotations

import io
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.loops.actor.act_config import shared_folder
from roborl.loops.actor.inference import InferenceLoop, LearningPolicy
from roborl.loops.actor.shared import ChunkSlot, ObservationSlot, inference_bell
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.weights_slot import WeightsSlot
from roborl.loops.benchmarks.peers import PicklePublisher, PickleSubscriber
from roborl.loops.benchmarks.sides import Pair, Side
from roborl.serving.handshake import Handshake
from roborl.serving.weights_publisher import WeightsPublisher
from roborl.serving.weights_subscriber import WeightsSubscriber
from roborl.whole_files import write_whole

_LAYERS, _SIDE = 12, 1000
_WAIT_S = 1.0

OURS = "ours, one machine (ipc)"
OURS_TCP = "ours, tcp"
PICKLE = "pickle+lz4 publish/subscribe"
RECEIVED, APPLIED = "received", "applied"


def run(*, rounds: int = 15) -> dict[str, Any]:
    """Measure all paths.

    Args:
        rounds: How often each is measured; medians count.

    Returns:
        Milliseconds from publication to arrays received and to weights applied, by path; those of a flat copy and of
        serialising alone; and the bar.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_:
        pairs = {}
        for name, transport in ((OURS, "ipc"), (OURS_TCP, "tcp")):
            shared = shared_folder(Path(folder), transport)
            open_.callback(shutil.rmtree, shared, ignore_errors=True)
            applier = Side(_apply, (str(shared),))
            open_.callback(applier.close)
            applier.go("are you ready?")
            pairs[name] = Pair(_subscribe, (folder, transport, str(shared)), _publish, (str(shared),))
            open_.callback(pairs[name].close)
        pairs[PICKLE] = Pair(_subscribe_pickle, (folder,), _publish_pickle, ())
        open_.callback(pairs[PICKLE].close)
        return _measure(pairs, rounds)


def _measure(pairs: dict[str, Pair], rounds: int) -> dict[str, Any]:
    weights = _weights()
    flat = np.concatenate([array.reshape(-1) for array in weights.values()])
    target = np.empty_like(flat)
    local: dict[str, Callable[[], object]] = {
        "flat copy": lambda: np.copyto(target, flat),
        "torch.save and load": lambda: _torch_round_trip(weights),
        "safetensors save and load": lambda: _safetensors_round_trip(weights),
    }
    took_ms: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds + 2):
        for name, path in local.items():
            begun_s = time.perf_counter()
            path()
            took_ms[name].append(1e3 * (time.perf_counter() - begun_s))
        for name, pair in pairs.items():
            for what, took_s in pair.go(turn + 1).items():
                took_ms[f"{name}, {what}"].append(1e3 * took_s)
    medians = {name: statistics.median(values[2:]) for name, values in took_ms.items()}
    bar_ms = 3 * medians["flat copy"] + 10
    ours = f"{OURS}, {RECEIVED}"
    return {
        "parameters": flat.size,
        "ms": {name: round(value, 2) for name, value in medians.items()},
        "bar_ms": round(bar_ms, 2),
        "ratios": {
            f"{name} / {ours}": round(medians[name] / medians[ours], 2) for name in medians if name != ours
        },
    }


def _weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {f"layer{i}.weight": rng.standard_normal((_SIDE, _SIDE), dtype=np.float32) for i in range(_LAYERS)}


def _torch_round_trip(weights: dict[str, NDArray[np.float32]]) -> None:
    import torch  # here, since the sides of our own path need none of it

    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)


def _safetensors_round_trip(weights: dict[str, NDArray[np.float32]]) -> None:
    from safetensors.numpy import load, save

    load(save(dict(weights)))


def _subscribe(ready: Callable[[Any], None], folder: str, transport: str, shared: str) -> None:
    """Wait for the publisher's address in a file, hand each version on as the I/O process does, and say when it was received."""
    here = Path(folder) / transport
    here.mkdir()
    ready(str(here))
    endpoint = _await_text(here / "endpoint")
    weights, status, bell = (
        WeightsSlot(Path(shared)),
        StatusSlot(Path(shared), "io"),
        inference_bell(Path(shared)),
    )
    subscriber = WeightsSubscriber(endpoint, name="bench", handshake=Handshake(), memory=weights)
    while True:
        new = subscriber.newest(0.5)
        if new is not None:
            received_ns = time.monotonic_ns()
            weights.write(new)
            status.add("weights_received")
            bell.ring()
            write_whole(here / f"{RECEIVED}-{new.version}", str(received_ns))


def _apply(line: Connection, shared: str) -> None:
    """Load each version into a policy as the inference process does, and write into a file when that was done."""
    import torch  # here, as above

    torch.set_num_threads(1)  # as in the inference process
    folder = Path(shared)
    status, io_status = StatusSlot(folder, "inference"), StatusSlot(folder, "io")
    loop = InferenceLoop(
        _policy,
        action_dim=1,
        observations=ObservationSlot(folder, {}, 1),
        chunks=ChunkSlot(folder),
        weights=WeightsSlot(folder).read,
        received=lambda: io_status["weights_received"],
        status=status,
    )
    line.send(line.recv())
    version = 0
    while True:
        loop.turn(_WAIT_S)
        if status["policy_version"] != version:
            applied_ns, version = time.monotonic_ns(), status["policy_version"]
            write_whole(folder / f"{APPLIED}-{version}", str(applied_ns))


def _policy() -> LearningPolicy:
    """Return a policy of the usual kind whose actor is as large as what is published."""
    from torch import nn

    from roborl.policies.small import SmallPolicy, SmallPolicyConfig

    policy = SmallPolicy(SmallPolicyConfig(cameras=("front",), image_px=32, state_dim=1, action_dim=1))
    layers = {f"layer{i}": nn.Linear(_SIDE, _SIDE, bias=False) for i in range(_LAYERS)}
    policy.actor = nn.ModuleDict(layers)  # type: ignore[assignment]  # never asked to act
    return policy


def _publish(line: Connection, folder: str, shared: str) -> None:
    here = Path(folder)
    endpoint = f"ipc://{here}/weights.sock" if here.name == "ipc" else "tcp://127.0.0.1:*"
    publisher = WeightsPublisher(endpoint, handshake=Handshake())
    write_whole(here / "endpoint", publisher.endpoint)
    weights = _weights()
    while True:
        version = line.recv()
        begun_ns = time.monotonic_ns()
        publisher.publish(version, weights)
        received_ns = int(_await_text(here / f"{RECEIVED}-{version}"))
        applied_ns = int(_await_text(Path(shared) / f"{APPLIED}-{version}"))
        line.send({RECEIVED: (received_ns - begun_ns) / 1e9, APPLIED: (applied_ns - begun_ns) / 1e9})


def _subscribe_pickle(ready: Callable[[Any], None], folder: str) -> None:
    here = Path(folder) / "pickle"
    here.mkdir()
    ready(str(here))
    subscriber = PickleSubscriber(int(_await_text(here / "port")))
    while True:
        message = subscriber.receive(0.5)
        if message is not None:
            received_ns = time.monotonic_ns()
            write_whole(here / f"{RECEIVED}-{message['version']}", str(received_ns))


def _publish_pickle(line: Connection, folder: str) -> None:
    here, publisher, weights = Path(folder), PicklePublisher(), _weights()
    write_whole(here / "port", str(publisher.port))
    time.sleep(0.5)  # its first messages are lost on a subscriber that is still connecting
    while True:
        version = line.recv()
        begun_ns = time.monotonic_ns()
        publisher.publish({"version": version, "weights": weights})
        received_ns = int(_await_text(here / f"{RECEIVED}-{version}"))
        line.send({RECEIVED: (received_ns - begun_ns) / 1e9})


def _await_text(path: Path) -> str:
    while not path.exists():
        time.sleep(0.001)
    return path.read_text()
