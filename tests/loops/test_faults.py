"""Thirty kills of anything, two actors at work: what was committed is stored once, and the dead are soon back."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from roborl.data.arena import ArenaReader
from roborl.data.columns import ProgressColumns
from roborl.data.reader import StoreReader
from roborl.loops.learn_config import RunFolder, read_lines, read_status

KILLS = 30
ACTORS = ("arm0", "arm1")
VICTIMS = [
    *(f"{name}-{actor}" for name in ("control", "inference", "io") for actor in ACTORS),
    *("store", "labeller", "trainer", "serve"),
]


class Watcher:
    """Follows the events of a launcher that runs elsewhere."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def events(self, child: str) -> list[dict[str, Any]]:
        if not self._run.events.exists():
            return []
        lines = [json.loads(line) for line in self._run.events.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line.get("child") == child and "event" in line]

    def alive(self, child: str) -> int | None:
        """Return the pid of a process that is at work, None while it is not."""
        pid = None
        for event in self.events(child):
            if event["event"] == "started":
                pid, ready = event["pid"], False
            elif event["event"] == "ready":
                ready = True
            elif event["event"] in ("died", "finished"):
                pid = None
        return pid if pid is not None and ready else None

    def replaced(self, child: str, pid: int) -> bool:
        return self.alive(child) not in (None, pid)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    launcher = subprocess.Popen(
        [
            *(sys.executable, "-c", "from roborl.cli.main import main; raise SystemExit(main())"),
            *("train", "--run", str(run.root), "--reward", "brightness", "--actors", "2"),
            *("--bench_overrides", "[--robot.scene=Reach, --time_scale=2]", "--episodes", "160"),
            *("--trainer.budget.start_at", "20", "--trainer.budget.ratio", "0.2", "--finish_s", "60"),
            *("--rlpd.batch_size", "16", "--rlpd.members", "2", "--rlpd.width", "16"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    watcher, dice = Watcher(run), random.Random(3)
    order = [VICTIMS[number % len(VICTIMS)] for number in range(KILLS)]
    dice.shuffle(order)
    detections, backs = [], []
    try:
        for victim in order:
            pid = _await(launcher, partial(watcher.alive, victim))
            time.sleep(dice.uniform(0.0, 0.5))
            before, killed = len(watcher.events(victim)), time.monotonic()
            os.kill(pid, signal.SIGKILL)
            _await(launcher, partial(watcher.replaced, victim, pid))
            since = watcher.events(victim)[before:]
            (died,) = [event for event in since if event["event"] == "died"]
            (ready,) = [event for event in since if event["event"] == "ready"]
            detections.append(died["at_ns"] / 1e9 - killed)
            backs.append(ready["back_s"] - ready["import_s"])
        output, _ = launcher.communicate(timeout=600)
    finally:
        launcher.kill()
    assert launcher.returncode == 0
    result = json.loads(output.splitlines()[-1])
    print(f"detected within {max(detections):.3f} s, back within {max(backs):.2f} s beyond imports")  # noqa: T201
    assert max(detections) <= 1.0
    assert max(backs) <= 3.0

    assert [actor["not_durable"] for actor in result["actors"]] == [0, 0]
    infos = StoreReader(run.store).episodes()
    records: Counter[str] = Counter()
    for info in infos:
        # Begin, T + 1 arrivals in unbroken order, End.
        records[info.key.actor] += info.observations + 2
        assert info.end is not None
    rings = read_status(run.status("store"))["rings"].values()
    durable: Counter[str] = Counter()
    for ring in rings:
        durable[ring["actor"]] += ring["durable"]
    assert records == durable
    reported = [line["key"] for line in read_lines(run.metrics, "episode")]
    assert len(reported) == len(set(reported)) >= 160 - 2 * KILLS
    columns = ProgressColumns(ArenaReader(run.store), "brightness-all")
    for info in infos:
        if info.observations and not info.discarded:
            assert columns.labelled(info.key) == info.observations


def _await(launcher: subprocess.Popen[str], happened: Any, seconds: float = 120.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := happened()):
        assert launcher.poll() is None, "the launcher ended early"
        assert time.monotonic() < until
        time.sleep(0.02)
    return found
