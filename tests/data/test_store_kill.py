"""The store's process is killed for real, at random instants and at chosen lines, over and over on one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from roborl.data.arena import ArenaReader
from roborl.data.journal import Journal
from roborl.data.reader import StoreReader
from roborl.data.ring import Ring
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.records import Arrival, Begin, End, Verdict
from roborl.testing.experience import arrival, check_arrival, check_instants
from roborl.types import EndCause, EpisodeKey, RewardSource

# One process imports once and forks a store for each line it is sent: the number of the line of store code to die at, or 0.
_STORES = r"""
import os, signal, sys, threading, time
from pathlib import Path
from roborl.data.ring import Ring
from roborl.data.store import Store, StoreSpec
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM

root, rings = Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
SPEC = StoreSpec(
    cameras=CAMERAS, image_px=8, state_dim=STATE_DIM, action_dim=ACTION_DIM, max_steps=9, capacity_bytes=32 << 20
)

def die_at(line):
    passed = 0
    def trace(frame, event, _):
        nonlocal passed
        if "/roborl/data/" not in frame.f_code.co_filename:
            return None
        passed += event == "line"
        if passed >= line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    threading.settrace(trace)
    sys.settrace(trace)

def work(line):
    readers = [Ring.attach(path) for path in rings]
    if line:
        die_at(line)
    store = Store(root, SPEC)
    for ring in readers:
        if store.last_sequence(ring.id) < ring.acknowledged:
            os._exit(3)  # Something acknowledged is not on the disk.
    idle = time.monotonic()
    while time.monotonic() - idle < 0.3:
        for ring in readers:
            n = store.last_sequence(ring.id) + 1
            # What the last process took and did not acknowledge comes again, as it does from a sender.
            for again in range(ring.acknowledged + 1, min(n, ring.head) + 1):
                store.ingest(ring.id, again, ring.read(again))
                idle = time.monotonic()
            ring.acknowledge(min(store.last_sequence(ring.id), ring.head))
    store.close()
    os._exit(0)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        work(int(line))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass
class Stores:
    process: subprocess.Popen[str]

    def run(self, *, kill_after_s: float | None = None, kill_at_line: int = 0) -> int:
        """Run one store; return its exit code: 0 once it found nothing more to do, minus the signal when killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{kill_at_line}\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline())


@contextmanager
def stores(root: Path, *rings: Path) -> Iterator[Stores]:
    process = subprocess.Popen(
        [sys.executable, "-c", _STORES, str(root), *map(str, rings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Stores(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)


class Actor:
    """Commits made-up episodes; a third of its episodes is judged, some late."""

    def __init__(self, path: Path, name: str, seed: int) -> None:
        self.journal = Journal(path, actor=name, slots=4000, slot_bytes=4000)
        self.rng = np.random.default_rng(seed)
        self.expected: dict[EpisodeKey, tuple[int, EndCause, int | None]] = {}
        self._open: tuple[EpisodeKey, int] | None = None
        self._late: list[Verdict] = []

    def move(self) -> None:
        if self._open is None:
            key = self.journal.next_key()
            self.journal.commit(Begin(key=key, task="t"))
            self.journal.commit(arrival(key, 0))
            self._open = key, 1
            return
        key, index = self._open
        if index <= 9 and self.rng.random() < 0.85:
            self.journal.commit(arrival(key, index))
            self._open = key, index + 1
            return
        self.journal.commit(End(key=key, index=index - 1, cause=EndCause.TIME_LIMIT))
        self.expected[key] = (index, EndCause.TIME_LIMIT, None)
        self._open = None
        if index > 2 and self.rng.random() < 0.4:
            at = int(self.rng.integers(1, index))
            self._late.append(Verdict(key=key, index=at, success=True, source=RewardSource.OPERATOR))
        if self._late and self.rng.random() < 0.5:
            verdict = self._late.pop(0)
            self.journal.commit(verdict)
            self.expected[verdict.key] = (*self.expected[verdict.key][:2], verdict.index)


def check(root: Path, actors: list[Actor]) -> int:
    """Compare a store with what was committed; return how many observations it has."""
    expected = {key: value for actor in actors for key, value in actor.expected.items()}
    reader = StoreReader(root)
    infos = {info.key: info for info in reader.episodes()}
    assert [k for k in infos if infos[k].end is not None] == [k for k in infos if k in expected], (
        "the same episodes are over"
    )
    for key, (observations, cause, verdict) in expected.items():
        info = infos[key]
        assert (info.observations, info.end) == (observations, cause)
        assert (None if info.verdict is None else info.verdict.index) == verdict
        arrivals = list(reader.arrivals(key))
        assert [a.index for a in arrivals] == list(range(observations)), "nothing lost, nothing twice"
        for record in arrivals:
            check_arrival(record)
    assert len({info.ordinal for info in infos.values()}) == len(infos)
    arena = ArenaReader(root)
    assert set(arena.slots()) == set(infos)
    sampler = Sampler(arena, SamplingConfig(n_step=2, shift_px=0, need_labels=False), seed=0)
    wanted = sum((o - 1) if v is None else v for o, _, v in expected.values())
    still_open = [info for info in infos.values() if info.end is None]
    wanted += sum(max(0, info.observations - 2) for info in still_open)
    table = arena.table
    for key, slot in arena.slots().items():
        assert table["observations"][slot] == infos[key].observations, key
        assert bool(table["ended"][slot]) == (infos[key].end is not None)
    assert sampler.count("all") == wanted
    batch = sampler.sample(400)
    check_instants(batch.images, batch.state, batch.action)
    check_instants(batch.next_images, batch.next_state)
    np.testing.assert_array_equal(batch.next_state[:, 2] - batch.state[:, 2], batch.horizon)
    np.testing.assert_array_equal(batch.next_state[:, 1], batch.state[:, 1])
    return sum(info.observations for info in infos.values())


def drive(tmp_path: Path, kills: int, *, by_line: bool) -> None:
    rings = [tmp_path / "left.ring", tmp_path / "right.ring"]
    actors = [
        Actor(path, name, n) for n, (path, name) in enumerate(zip(rings, ("left", "right"), strict=True))
    ]
    rng = np.random.default_rng(5)
    root = tmp_path / "store"
    died = 0
    with stores(root, *rings) as run:
        for number in range(kills):
            for actor in actors:
                for _ in range(int(rng.integers(8, 30))):
                    actor.move()
            if by_line:
                # Some get to the end, or opening what the others left would soon take all the lines they have.
                code = run.run(kill_at_line=int(rng.integers(1, 6000)) if number % 8 else 0)
            else:
                code = run.run(kill_after_s=float(rng.uniform(0.0, 0.25)))
            assert code in (0, -signal.SIGKILL), "the store found everything it had acknowledged"
            died += code == -signal.SIGKILL
        assert run.run() == 0
    for path in rings:
        with Ring.attach(path) as ring:
            assert ring.acknowledged == ring.head
    assert died > kills * 2 // 3
    assert check(root, actors) > kills * 10
    assert not list((root / "logs").glob("*.damaged"))


def test_killed_at_random_instants(tmp_path: Path) -> None:
    drive(tmp_path, 12, by_line=False)


def test_killed_at_random_lines(tmp_path: Path) -> None:
    drive(tmp_path, 15, by_line=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_many_random_lines(tmp_path: Path) -> None:
    drive(tmp_path, 400, by_line=True)


def test_an_arrival_is_checked_for_what_it_shows() -> None:
    key = EpisodeKey(actor="a", incarnation=1, episode=2)
    good = arrival(key, 3)
    check_arrival(good)
    wrong = Arrival(key=key, index=4, observation=good.observation, command=good.command)
    with pytest.raises(AssertionError):
        check_arrival(wrong)
