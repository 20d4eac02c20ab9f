"""The control process on an emulated SO-101: real time, LeRobot's own driver, and what fails in mid-episode."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.codec import split
from roborl.data.ring import Ring
from roborl.errors import ConfigError, RobotError
from roborl.loops.actor import control_process
from roborl.loops.actor.act import PRELOAD, folder_of
from roborl.loops.actor.act_config import ActConfig
from roborl.loops.actor.shared import Chunk, ChunkSlot, ObservationSlot
from roborl.loops.actor.status import StatusSlot
from roborl.loops.supervise import Child, ChildSpec, ProcessGroup
from roborl.records import Arrival, End, unpack_record
from roborl.testing.desk import DeskArm
from roborl.testing.servo_chain import Instruction
from roborl.types import EndCause

STEPS = 8
CAMERAS = {"front": (48, 64, 3), "wrist": (48, 64, 3)}
WAY = np.float32([[0.5, 0.5, 0.0, -0.5]])
# What can happen to an arm, and to nobody else.
FAILURES: dict[str, Callable[[DeskArm], None]] = {
    "a servo falls silent": lambda desk: setattr(desk.chain.servos["wrist_flex"], "silent", True),
    "the power is cut": lambda desk: desk.chain.power(False),
    "the plug is pulled": lambda desk: desk.chain.unplug(),
}


class Inference:
    """Answers on a thread of its own, as the inference process would, and watches the arm go."""

    def __init__(self, folder: Path, at_index: dict[int, Callable[[], None]]) -> None:
        self._requests = ObservationSlot(folder, CAMERAS, state_dim=9)
        self._chunks, self._status = ChunkSlot(folder), StatusSlot(folder, "inference")
        self._at_index, self._over = at_index, threading.Event()
        self._status.begin()
        self._status.ready(0.0)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(0.002):
            self._status["heartbeat_ns"] = time.monotonic_ns()
            request = self._requests.unseen()
            if request is not None and request.wanted:
                self._at_index.pop(request.index, lambda: None)()
                self._chunks.publish(
                    Chunk(key=request.key, first=request.index, actions=WAY, policy_version=1)
                )


@pytest.fixture
def config(desk: DeskArm, tmp_path: Path) -> Iterator[ActConfig]:
    scheduled = os.sched_getscheduler(0)
    made = ActConfig(
        bench=str(desk.bench()),
        # A busy machine is no fault of the arm's.
        bench_overrides=[
            f"--max_steps={STEPS}",
            "--watchdog.stale_s=10",
            "--watchdog.action_deadline_s=10",
            "--watchdog.tick_deadline_s=10",
        ],
        plugins=["roborl.testing.config_noise_camera"],
        run=tmp_path / "run",
        operator="none",
        episodes=1,
        ring_mb=1,
        priority="normal",  # as root it would keep the tests after this one at that of real time
    )
    yield made
    shutil.rmtree(folder_of(made))
    gc.unfreeze()
    assert os.sched_getscheduler(0) == scheduled, "the tests after this one run as those before it"


def run(config: ActConfig, at_index: dict[int, Callable[[], None]]) -> list[Any]:
    """Run the control process in this one; return the records of its episodes."""
    inference = Inference(folder_of(config), at_index)
    try:
        control_process.main(Child("control", None, ctypes.c_int64(0)), config)
    finally:
        inference.close()
    return records(config)


def records(config: ActConfig) -> list[Any]:
    ring = Ring(folder_of(config) / "ring.bin")
    return [unpack_record(split(ring.read(n))) for n in range(1, ring.head + 1)]


def test_a_policy_steps_the_arm_at_its_rate_and_it_goes_where_it_is_told(
    desk: DeskArm, config: ActConfig
) -> None:
    desk.let_hold()
    began = time.monotonic()
    _, *arrivals, end = run(config, {})
    assert time.monotonic() - began > STEPS / 10
    assert (end.cause, end.index) == (EndCause.TIME_LIMIT, STEPS)
    assert not any(servo.was_limp for servo in desk.chain.servos.values())
    moved = arrivals[-1].observation.state - arrivals[0].observation.state
    # 12 mm a step at half of it, scaled to the workspace; the gripper closes.
    assert moved[6] == pytest.approx(0.5 * 0.012 * STEPS / 0.09, rel=0.3)
    assert moved[7] == pytest.approx(0.5 * 0.012 * STEPS / 0.15, rel=0.3)
    assert moved[5] < -0.5
    assert desk.chain.asked[Instruction.SYNC_WRITE] >= 5 * STEPS
    assert all(desk.holds), "the bench says so"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("failure", FAILURES)
def test_an_arm_that_fails_in_mid_episode_ends_it_with_its_cause_and_the_process_in_words(
    desk: DeskArm, config: ActConfig, failure: str
) -> None:
    with pytest.raises(RobotError, match="Check power, cables and ports"):
        run(config, {3: lambda: FAILURES[failure](desk)})
    *_, end = records(config)
    assert isinstance(end, End)
    assert end.cause is EndCause.WATCHDOG
    assert 2 <= end.index < STEPS


def test_an_arm_that_would_drop_once_it_is_disconnected_is_refused_before_it_is_connected(
    desk: DeskArm, config: ActConfig
) -> None:
    desk.let_hold()
    lets_go = [*config.bench_overrides, "--robot.disable_torque_on_disconnect=true"]
    with pytest.raises(ConfigError, match=r"would drop.*disable_torque_on_disconnect: false"):
        control_process.main(
            Child("control", None, ctypes.c_int64(0)), replace(config, bench_overrides=lets_go)
        )
    assert all(desk.holds)


def test_packets_that_get_lost_end_no_episode(desk: DeskArm, config: ActConfig) -> None:
    desk.chain.lose_every = 40
    *arrivals, end = run(config, {})
    assert end.cause is EndCause.TIME_LIMIT
    assert len([record for record in arrivals if isinstance(record, Arrival)]) == STEPS + 1


@pytest.mark.slow
def test_a_pulled_plug_never_reaches_the_supervisor_and_the_arm_is_back_once_it_is_in_again(
    desk: DeskArm, config: ActConfig
) -> None:
    events: list[tuple[Any, Any]] = []
    spec = ChildSpec(name="control", target=control_process.main, args=(config,), hang_s=5.0)
    group = ProcessGroup(
        [spec], preload=PRELOAD, on_event=lambda event: events.append((event["event"], event.get("error")))
    )
    inference = Inference(folder_of(config), {3: desk.chain.unplug})

    def wait_for(event: str, number: int, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while [name for name, _ in events].count(event) < number:
            assert time.monotonic() < until, events
            group.poll(0.1)

    try:
        group.start()
        wait_for("died", 2, 60)
        assert all("Check power, cables and ports" in why for name, why in events if name == "died")
        desk.chain.plug_in()
        wait_for("ready", 2, 30)
    finally:
        group.stop()
        inference.close()
