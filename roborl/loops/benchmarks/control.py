"""How late control ticks are under load, beside a bare sleep loop of the same priority under the same load.

The actor runs as it always does: control, inference and I/O on a robot whose cameras and bus answer at once, so that what
is measured is ours. The bare loop does nothing but sleep to its next tick, on the same processor and half a millisecond ahead
of the control loop's, which has long done its work by then: so whatever keeps that processor from both, down to a host that
stops a virtual one for 17 ms, is seen by both, and neither can make the other late. The load: a trainer that multiplies matrices and publishes 12 M weights every second, a disk that
is written and flushed without end, a store and a reward server that stall for seconds, while a process beside control shows
that server what the cameras see.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from roborl.clock import NS, Every, MonotonicClock
from roborl.loops.actor.act import PRELOAD, ActorProcesses
from roborl.loops.actor.act_config import ActConfig, shared_folder
from roborl.loops.actor.live_config import LiveConfig
from roborl.loops.actor.priority import raise_priority
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.ticks import account
from roborl.loops.serve import RewardServer, ServeConfig
from roborl.loops.supervise import Child, ChildSpec, ProcessGroup
from roborl.rewards.fake import BrightnessModel
from roborl.serving.handshake import Handshake
from roborl.serving.steps_receiver import StepsReceiver
from roborl.serving.weights_publisher import WeightsPublisher

_BENCH = """
robot:
  type: stub
model: so101_sim
task: move about
cameras:
  front: {height_px: 240, width_px: 320}
  wrist: {height_px: 240, width_px: 320}
control_hz: 50
policy_hz: 10
max_steps: 100
watchdog: {frozen_frames: 0, tick_deadline_s: 0}  # a late tick is what is measured
if_control_dies: nothing moves
"""
_CONTROL_HZ = 50.0
_AHEAD_NS = 500_000
_QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def run(
    *,
    ticks: int = 30_000,
    load: bool = True,
    weights: int = 12_000_000,
    priority: str = "fifo",
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the lateness of ``ticks`` control ticks and of as many ticks of the bare loop; 50 per second.

    Args:
        ticks: How many to measure.
        load: Whether anything else runs.
        weights: Parameters that the trainer publishes.
        priority: Scheduling of both loops: normal, nice or fifo.
        progress: Called now and then with the ticks done.

    Returns:
        Lateness of both in milliseconds, by quantile and at most; the differences of p99 and maximum; what the
        latest tick's time was spent on, and how long the host kept each virtual processor from running meanwhile.
        Quantiles are upper edges of buckets 6 % wide.

    Raises:
        RoborlError: If a process cannot do its work.
    """
    with tempfile.TemporaryDirectory(prefix="roborl-bench-") as scratch:
        folder = Path(scratch)
        (folder / "bench.yaml").write_text(_BENCH)
        steps, published, scores = (f"ipc://{folder}/{name}.sock" for name in ("steps", "weights", "scores"))
        config = ActConfig(
            bench=str(folder / "bench.yaml"),
            plugins=["roborl.testing.config_stub_robot"],
            run=folder,
            actor="bench",
            steps=steps,
            weights=published if load else "",
            policy_factory="roborl.testing.policies:random_policy",
            operator="none",
            ring_mb=512,
            drain_s=0.0,
            priority=priority,  # type: ignore[arg-type]  # checked by ActConfig
            live=LiveConfig(server=scores),
        )
        shared = shared_folder(folder, "bench")
        others = [
            ChildSpec(name="bare", target=bare_loop, args=(shared, priority)),
            ChildSpec(name="store", target=stalling_store, args=(steps, load)),
            ChildSpec(name="serve", target=stalling_server, args=(scores, load)),
        ]
        if load:
            others += [
                ChildSpec(name="trainer", target=busy_trainer, args=(published, weights)),
                ChildSpec(name="disk", target=busy_disk, args=(folder,)),
            ]
        return _measure(config, shared, ProcessGroup(others, preload=PRELOAD), ticks, progress)


def _measure(
    config: ActConfig, shared: Path, others: ProcessGroup, ticks: int, progress: Callable[[int], None]
) -> dict[str, Any]:
    bare, control = StatusSlot(shared, "bare"), StatusSlot(shared, "control")

    def meanwhile() -> None:
        others.poll(0.0)
        progress(control["ticks"])

    stolen_before_s = stolen_s()
    actor = ActorProcesses(config, lambda: min(control["ticks"], bare["ticks"]) >= ticks, meanwhile)
    others.start()
    try:
        result = actor.run()
    finally:
        others.stop()
    figures: dict[str, Any] = {
        "ticks": control["ticks"],
        "control_ms": _lateness(control),
        "bare_ms": _lateness(bare),
        "priority": config.priority,
        **account(control),
        "stolen_s": {cpu: round(now_s - stolen_before_s[cpu], 2) for cpu, now_s in stolen_s().items()},
        **{
            name: result[name]
            for name in ("steps", "holds", "watchdogs", "policy_version", "restarts", "live")
        },
    }
    for name in ("p99", "max"):
        figures[f"{name}_over_bare_ms"] = figures["control_ms"][name] - figures["bare_ms"][name]
    for path in shared.iterdir():
        path.unlink()
    shared.rmdir()
    return figures


def _lateness(status: StatusSlot) -> dict[str, float]:
    quantiles = {name: status.lateness_ms(quantile) for name, quantile in _QUANTILES.items()}
    return quantiles | {"max": status["late_max_ns"] / 1e6}


def bare_loop(child: Child, shared: Path, priority: str) -> None:
    """Sleep to one tick after the other, each just ahead of one of the control loop's and on its processor."""
    status, control = StatusSlot(shared, "bare"), StatusSlot(shared, "control")
    raise_priority(priority)
    gc.collect()
    gc.freeze()
    gc.disable()
    child.ready()
    while not child.stopping and control["ticks"] == 0:
        time.sleep(0.001)
    clock = MonotonicClock()
    while not child.stopping:
        due_ns = ahead_ns(control["due_ns"], clock.now_ns())
        clock.sleep_until(due_ns - _AHEAD_NS)
        follow(control["pid"])
        clock.sleep_until(due_ns)
        status.record_lateness(clock.now_ns() - due_ns)
        status.add("ticks")


def ahead_ns(tick_ns: int, now_ns: int) -> int:
    """Return the first instant after ``now_ns`` that lies ahead of a tick of the loop that has one at ``tick_ns``."""
    period_ns = int(NS / _CONTROL_HZ)
    return now_ns + period_ns - (now_ns - (tick_ns - _AHEAD_NS)) % period_ns


def follow(pid: int) -> None:
    """Move this process to the processor that another one ran on last, where the system tells."""
    with contextlib.suppress(OSError, AttributeError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        os.sched_setaffinity(0, {int(fields[36])})


def stolen_s() -> dict[str, float]:
    """Return how long the host has kept each virtual processor from running, nothing where the system does not tell."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if line.startswith("cpu") and line[3].isdigit()]
    return {row[0]: int(row[8]) / os.sysconf("SC_CLK_TCK") for row in rows}


def stalling_store(child: Child, endpoint: str, stalls: bool) -> None:
    """Take steps, and stop listening for two of every five seconds."""
    receiver = StepsReceiver(endpoint, handshake=Handshake(), last_sequence=lambda ring: 0)
    child.ready()
    while not child.stopping:
        if stalls and time.monotonic() % 5.0 > 3.0:
            time.sleep(0.05)
            continue
        for ring, seq, _ in receiver.poll(0.05):
            receiver.acknowledge(ring, seq)
    receiver.close()


def stalling_server(child: Child, endpoint: str, stalls: bool) -> None:
    """Judge frames, and stop for the first two of every five seconds."""
    server = RewardServer({"brightness": BrightnessModel()}, ServeConfig(endpoint=endpoint))
    child.ready()
    while not child.stopping:
        if stalls and time.monotonic() % 5.0 < 2.0:
            time.sleep(0.05)
        else:
            server.turn()
    server.close()


def busy_trainer(child: Child, endpoint: str, size: int) -> None:
    """Multiply matrices on one core and publish ``size`` weights every second."""
    publisher = WeightsPublisher(endpoint, handshake=Handshake())
    random = np.random.default_rng(0)
    ballast = random.standard_normal(size, dtype=np.float32)
    left = random.standard_normal((512, 512), dtype=np.float32)
    version, publishing = 0, Every(1.0)
    child.ready()
    while not child.stopping:
        left = left @ left
        left /= np.abs(left).max()
        if publishing.due():
            version += 1
            publisher.publish(version, {"bias": np.zeros(4, np.float32), "ballast": ballast})
    publisher.close()


def busy_disk(child: Child, folder: Path) -> None:
    """Write 8 MB and flush them to the disk, over and over."""
    block = os.urandom(8 << 20)
    child.ready()
    with (folder / "ballast").open("wb") as file:
        while not child.stopping:
            file.seek(0)
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
