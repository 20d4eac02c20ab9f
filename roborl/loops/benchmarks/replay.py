"""How fast a batch leaves replay memory, and what a step costs on its way in, beside what others offer.

All buffers hold the same transitions: two 128 px cameras, a state, an action. All are asked for the same number of them with
observation and next observation, 50 MB of pixels for 256. Ours also shifts each picture, sums three steps of reward,
reads two potentials and shapes the reward by them; the others do none of that. Each buffer has a process to itself: in a shared one, whoever allocates next
pays for the thousands of small blocks that another has freed. Rounds alternate, and medians are taken, so that a busy machine
slows all alike. Ours, LeRobot's and TorchRL's use as many threads as torch takes by itself.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.codec import join
from roborl.data.arena import ArenaLayout, ArenaReader
from roborl.data.arena_writer import ArenaWriter
from roborl.data.columns import ProgressColumns, switch
from roborl.data.episodes import EpisodeInfo
from roborl.data.ring import Ring
from roborl.data.store import Store, StoreSpec
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.loops.benchmarks.sides import Side
from roborl.records import Arrival, Begin, pack_record
from roborl.rewards.shaping import shaped_reward
from roborl.types import Command, EndCause, EpisodeKey, Frame, Observation, Source

_CAMERAS = ("front", "wrist")
_BURST = 4
"""Draws in a row, as a learner makes them: threads that were just woken may have to share a processor at first."""
_REST_S = 0.05
"""Between two bursts: threads of the side before spin on for up to 20 ms, waiting for more work, and would take its processor."""
_PX, _STATE_DIM, _ACTION_DIM, _STEPS = 128, 7, 4, 49
type Pixels = NDArray[np.uint8]
type Filled = tuple[Callable[[], object], list[float]]
"""What draws a batch, and the seconds that each insertion took."""
type Fill = Callable[[Path, Pixels, int, int], Filled]


def run(*, transitions: int = 2000, batch_size: int = 256, rounds: int = 15) -> dict[str, Any]:
    """Measure all buffers.

    Args:
        transitions: How many each holds; they should not fit into the processor's cache.
        batch_size: Transitions per draw.
        rounds: How often each is measured, with some draws in a row.

    Returns:
        Median milliseconds per draw, by the clock and of processor time, their ratios, and microseconds per
        insertion, by path.
    """
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            name: Side(_answer, (path, folder, transitions, batch_size)) for name, path in _PATHS.items()
        }
        try:
            inserts = {name: side.go("insert") for name, side in sides.items()}
            walls, busy = _alternate(sides, rounds)
        finally:
            for side in sides.values():
                side.close()
        inserts["replay memory"] = inserts.pop("ours")
        inserts["ring"] = _fill_ring(Path(folder), _pixels())
        inserts["store, durable"] = _fill_store(Path(folder), _pixels())
    drawn = {name: round(1e3 * statistics.median(values), 3) for name, values in walls.items()}
    worked = {name: round(1e3 * statistics.median(values), 3) for name, values in busy.items()}
    inserted = {name: round(1e6 * statistics.median(values), 1) for name, values in inserts.items() if values}
    return {
        "batch_size": batch_size,
        "pixels_mb": round(4 * batch_size * _PX * _PX * 3 / 1e6, 1),
        "sample_ms": drawn,
        "sample_cpu_ms": worked,
        "insert_us": inserted,
        "ratios": _ratios(drawn),
        "ratios of processor time": _ratios(worked),
    }


def _ratios(times: dict[str, float]) -> dict[str, float]:
    return {
        "ours / numpy.take": round(times["ours"] / times["numpy.take"], 2),
        "lerobot / ours": round(times["lerobot"] / times["ours"], 1),
        "torchrl / ours": round(times["torchrl"] / times["ours"], 1),
    }


def _alternate(sides: dict[str, Side], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return seconds by the clock, and seconds of processor time in all threads, which others' work touches less."""
    walls: dict[str, list[float]] = {name: [] for name in sides}
    busy: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            time.sleep(_REST_S)
            burst = side.go("draw")
            if turn:  # The first draws of each pay for page faults and lazy set-up.
                walls[name] += [wall for wall, _ in burst]
                busy[name] += [worked for _, worked in burst]
    return walls, busy


def _answer(line: Connection, path: Fill, folder: str, transitions: int, batch_size: int) -> None:
    """Fill one path's buffer when told to insert, and draw from it whenever told to."""
    draw, inserts = path(Path(folder), _pixels(), transitions, batch_size)
    while True:
        match line.recv():
            case "insert":
                line.send(inserts)
            case "draw":
                line.send([_time(draw) for _ in range(_BURST)])


def _time(draw: Callable[[], object]) -> tuple[float, float]:
    """Return seconds by the clock and of processor time."""
    worked, start = time.process_time(), time.perf_counter()
    draw()
    return time.perf_counter() - start, time.process_time() - worked


def _pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (64, 2, _PX, _PX, 3), dtype=np.uint8)


def _arrival(key: EpisodeKey, index: int, pixels: Pixels) -> Arrival:
    pictures = pixels[(key.episode * 7 + index) % len(pixels)]
    frames = {
        name: Frame(rgb=pictures[n], camera=name, stamp_ns=index, id=index) for n, name in enumerate(_CAMERAS)
    }
    command = Command(
        action=np.zeros(_ACTION_DIM, np.float32),
        proposed=np.zeros(_ACTION_DIM, np.float32),
        source=Source.POLICY,
        policy_version=1,
    )
    return Arrival(
        key=key,
        index=index,
        observation=Observation(frames=frames, state=np.zeros(_STATE_DIM, np.float32), stamp_ns=index),
        command=command if index else None,
    )


def _key(episode: int) -> EpisodeKey:
    return EpisodeKey(actor="bench", incarnation=1, episode=episode)


def _fill_arena(root: Path, pixels: Pixels, episodes: int) -> list[float]:
    layout = ArenaLayout(
        cameras=_CAMERAS,
        image_px=_PX,
        state_dim=_STATE_DIM,
        action_dim=_ACTION_DIM,
        rows=episodes * (_STEPS + 1),
        episodes=episodes,
    )
    writer = ArenaWriter(root / "arena", layout)
    writer.mark_complete()
    times = []
    for n in range(episodes):
        info = EpisodeInfo(key=_key(n), ordinal=n + 1, task="bench")
        writer.place(info, _STEPS + 1)
        for index in range(_STEPS + 1):
            arrival = _arrival(info.key, index, pixels)
            start = time.perf_counter()
            writer.write(arrival)
            times.append(time.perf_counter() - start)
        writer.update(replace(info, observations=_STEPS + 1, end=EndCause.TIME_LIMIT))
    columns = ProgressColumns(ArenaReader(root), "bench", write=True)
    for n in range(episodes):
        progress = np.linspace(0, 1, _STEPS + 1, dtype=np.float32)
        columns.write(_key(n), 0, progress, np.full_like(progress, 0.05))
    switch(root, "bench")
    return times


def _ours(root: Path, pixels: Pixels, transitions: int, batch_size: int) -> Filled:
    times = _fill_arena(root, pixels, -(-transitions // _STEPS))
    config = SamplingConfig(n_step=3, shift_px=4, potential_doubt=0.1, reuse_arrays=True)
    sampler = Sampler(ArenaReader(root), config, seed=0)

    def draw() -> NDArray[Any]:
        batch = sampler.sample(batch_size)
        return shaped_reward(
            batch.reward,
            batch.potential,
            batch.next_potential,
            batch.terminated,
            discount=config.discount,
            horizon=batch.horizon,
        )

    return draw, times


def _take(root: Path, pixels: Pixels, transitions: int, batch_size: int) -> Filled:
    """Copy the same bytes with one ``numpy.take`` per array into arrays that exist: the least that can be done."""
    rng = np.random.default_rng(0)
    frames = [np.resize(pixels[:, n], (transitions, _PX, _PX, 3)) for n in range(2)]
    outs = [np.empty((batch_size, _PX, _PX, 3), np.uint8) for _ in range(4)]

    def draw() -> None:
        rows = rng.integers(0, transitions - 1, batch_size)
        for n, out in enumerate(outs):
            np.take(frames[n % 2], rows + n // 2, axis=0, out=out, mode="clip")

    return draw, []


def _lerobot(root: Path, pixels: Pixels, transitions: int, batch_size: int) -> Filled:
    """LeRobot's buffer as its learner makes it, without the random shift, which needs a compiler and 0.6 s more."""
    import torch
    from lerobot.rl.buffer import ReplayBuffer

    names = [f"observation.images.{name}" for name in _CAMERAS]
    buffer = ReplayBuffer(
        transitions,
        device="cpu",
        storage_device="cpu",
        state_keys=[*names, "observation.state"],
        use_drq=False,
        optimize_memory=True,
    )
    times = []
    for n in range(transitions):
        picture = torch.from_numpy(pixels[n % len(pixels)]).permute(0, 3, 1, 2)
        state = {name: picture[i : i + 1] for i, name in enumerate(names)}
        state["observation.state"] = torch.zeros(1, _STATE_DIM)
        action = torch.zeros(1, _ACTION_DIM)
        start = time.perf_counter()
        buffer.add(state, action, 0.0, state, False, False)
        times.append(time.perf_counter() - start)
    return lambda: buffer.sample(batch_size), times


def _torchrl(root: Path, pixels: Pixels, transitions: int, batch_size: int) -> Filled:
    """TorchRL's tensor buffer, observation and next observation each stored as uint8."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(transitions), batch_size=batch_size)
    times = []
    for n in range(transitions):
        now, after = (torch.from_numpy(pixels[(n + later) % len(pixels)]) for later in (0, 1))
        step = TensorDict(
            {
                **{name: now[i] for i, name in enumerate(_CAMERAS)},
                "state": torch.zeros(_STATE_DIM),
                "action": torch.zeros(_ACTION_DIM),
                "next": TensorDict(
                    {
                        **{name: after[i] for i, name in enumerate(_CAMERAS)},
                        "state": torch.zeros(_STATE_DIM),
                        "reward": torch.zeros(1),
                        "done": torch.zeros(1, dtype=torch.bool),
                    }
                ),
            }
        )
        start = time.perf_counter()
        buffer.add(step)
        times.append(time.perf_counter() - start)
    return buffer.sample, times


_PATHS: dict[str, Fill] = {"ours": _ours, "numpy.take": _take, "lerobot": _lerobot, "torchrl": _torchrl}


def _fill_ring(root: Path, pixels: Pixels) -> list[float]:
    arrivals = [_arrival(_key(0), index, pixels) for index in range(64)]
    times = []
    with Ring.create(root / "ring.bin", slots=256, slot_bytes=110_000) as ring:
        for n in range(1000):
            start = time.perf_counter()
            ring.append(pack_record(arrivals[n % 64]))
            times.append(time.perf_counter() - start)
            ring.acknowledge(ring.head)
    return times


def _fill_store(root: Path, pixels: Pixels) -> list[float]:
    spec = StoreSpec(
        cameras=dict.fromkeys(_CAMERAS, (_PX, _PX)),
        image_px=_PX,
        state_dim=_STATE_DIM,
        action_dim=_ACTION_DIM,
        max_steps=400,
        capacity_bytes=200 << 20,
    )
    times = []
    with Store(root / "store", spec) as store:
        store.ingest("bench", 1, join(pack_record(Begin(key=_key(0), task="bench"))))
        for index in range(400):
            blob = join(pack_record(_arrival(_key(0), index, pixels)))
            start = time.perf_counter()
            store.ingest("bench", index + 2, blob)
            times.append(time.perf_counter() - start)
    return times
