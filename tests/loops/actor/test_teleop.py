"""A person's device as a process of its own, beside a real actor."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from roborl.clock import NS, FakeClock
from roborl.codec import encode, split
from roborl.data.ring import Ring
from roborl.envs.bench import load_bench
from roborl.envs.robot_model import load_robot_model
from roborl.errors import ConfigError
from roborl.hil.supervisor import DeviceReading, Intervention, InterventionConfig, PolicyOnly, Trigger
from roborl.loops.actor.act import ActorProcesses, folder_of
from roborl.loops.actor.act_config import ActConfig
from roborl.loops.actor.control_process import gate
from roborl.loops.actor.control_settings import WaitReason
from roborl.loops.actor.shared import Slot
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.teleop import ReadingSlot, check_rest, make_map, warn_without_clutch
from roborl.loops.actor.teleoperators import read_teleoperator
from roborl.records import Arrival, End, unpack_record
from roborl.testing import config_stub_teleoperator
from roborl.types import EndCause, Source

PLUGIN = config_stub_teleoperator.__name__


def test_who_has_no_clutch_is_told_how_to_take_over(caplog: pytest.LogCaptureFixture) -> None:
    leader = SimpleNamespace(name="so_leader")
    warn_without_clutch(leader, Trigger.MOTION)
    warn_without_clutch(SimpleNamespace(name="gamepad", get_teleop_events=dict), Trigger.CLUTCH)
    assert not caplog.messages
    warn_without_clutch(leader, Trigger.CLUTCH)
    assert "so_leader has no clutch: press t to take over and g to give back" in caplog.text


def test_a_person_takes_over_and_gives_back_and_a_dead_device_stops_the_arm(tmp_path: Path) -> None:
    (tmp_path / "pad.yaml").write_text("type: stub_pad\ndelta_x: -1.0\nengaged_after: 30\n")
    config = ActConfig(
        bench_overrides=["--robot.scene=Reach", "--time_scale=2"],
        plugins=[PLUGIN],
        run=tmp_path,
        steps="ipc:///" + str(tmp_path / "nobody"),
        policy_factory="roborl.testing.policies:random_policy",
        teleop=str(tmp_path / "pad.yaml"),
        ring_mb=16,
        drain_s=0.0,
    )
    stop = threading.Event()
    actor = ActorProcesses(config, stop.is_set)
    thread = threading.Thread(target=actor.run)
    thread.start()
    until = time.monotonic() + 60
    control = actor.status["control"]
    # Twelve steps are more than one take-over gives. Then the device dies as the person takes over in mid-episode; once
    # more where the person gave back, or the episode ended, before it was dead.
    before, fresh, kills = 0, False, 0
    while not control["operator_lost"] and time.monotonic() < until:
        while (control["person_steps"] < 12 or not fresh) and time.monotonic() < until:
            fresh = control["takeovers"] > before and control["index"] > 0
            before = control["takeovers"]
            time.sleep(0.01)
        os.kill(actor.group.pid("teleop"), signal.SIGKILL)
        kills, fresh = kills + 1, False
        while len(actor.group.recoveries_s["teleop"]) < kills and time.monotonic() < until:
            time.sleep(0.02)
    lost, begun = control["operator_lost"], control["begun"]
    while control["begun"] == begun and time.monotonic() < until:
        time.sleep(0.02)
    stop.set()
    thread.join(30)
    with Ring.attach(folder_of(config) / "ring.bin") as ring:
        records = [unpack_record(split(bytes(ring.read(seq)))) for seq in range(1, ring.head + 1)]
    commands = [record.command for record in records if isinstance(record, Arrival) and record.command]
    causes = [record.cause for record in records if isinstance(record, End)]
    assert 1 <= lost <= causes.count(EndCause.WATCHDOG) == control["watchdogs"]
    assert control["begun"] > begun
    by_person = [command.source is Source.PERSON for command in commands]
    assert sum(by_person) >= 12
    assert len(set(by_person)) == 2
    for command in commands:
        assert np.abs(command.proposed).max() <= 0.5
        if command.source is Source.PERSON:
            # What was executed, after limits and safety: along x alone, never forward.
            assert command.action[0] <= 1e-3
            assert abs(command.action[3]) < 1e-3
    assert actor.group.restarts == {"control": 0, "inference": 0, "io": 0, "teleop": kills}
    shutil.rmtree(folder_of(config))


def test_no_episode_begins_while_the_take_over_device_is_silent(tmp_path: Path) -> None:
    clock = FakeClock(NS)
    slot = ReadingSlot(tmp_path)
    supervisor = Intervention(slot.newest, clock, InterventionConfig(stale_s=0.2))
    inference = StatusSlot(tmp_path, "inference")
    inference.begin()
    inference.ready(0.0)
    blocked = gate(tmp_path, supervisor, learner=False)
    assert blocked() is WaitReason.NO_DEVICE
    slot.publish(DeviceReading(action=np.zeros(4, np.float32), clutch=False, stamp_ns=clock.now_ns()))
    assert blocked() is WaitReason.NOTHING
    clock.advance(0.3)
    assert blocked() is WaitReason.NO_DEVICE
    assert gate(tmp_path, PolicyOnly(), learner=False)() is WaitReason.NOTHING


def test_a_device_that_leaves_no_readings_cannot_be_heard(tmp_path: Path) -> None:
    clock = FakeClock(NS)
    slot = ReadingSlot(tmp_path)
    supervisor = Intervention(slot.newest, clock, InterventionConfig(stale_s=0.2))
    slot.publish(DeviceReading(action=np.zeros(4, np.float32), clutch=True, stamp_ns=clock.now_ns()))
    observation: Any = None
    assert supervisor.decide(observation, np.ones(4, np.float32)) is not None
    assert supervisor.engaged
    Slot(tmp_path / "device.slot", 4096).write(encode({"clutch": True}))
    assert not supervisor.connected
    assert supervisor.decide(observation, np.ones(4, np.float32)) is None


def test_a_leader_arm_of_the_same_kind_fits_a_bench() -> None:
    bench = load_bench("so101_sim", ["--robot.scene=Reach"])
    joints = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    to_action = make_map(bench, {f"{name}.pos": float for name in joints})
    rest = dict.fromkeys((f"{name}.pos" for name in joints), 20.0)
    to_action(rest, 0)
    np.testing.assert_allclose(to_action(rest, 50_000_000), np.zeros(4), atol=1e-6)
    opened = to_action(rest | {"gripper.pos": 30.0}, 100_000_000)
    assert opened[3] > 0
    np.testing.assert_allclose(opened[:3], 0, atol=1e-6)


def test_a_leader_that_would_take_over_by_its_encoders_flicker_is_refused() -> None:
    """One count of each joint is more than rest where the largest step is small."""
    motion = InterventionConfig(trigger=Trigger.MOTION)
    pad = {"names": {"delta_x": 0, "delta_y": 1, "delta_z": 2}}
    leader = dict.fromkeys(load_robot_model("so101_sim").position_keys, float)
    fine = load_bench("so101_sim", ["--robot.scene=Reach", "--action.step_m=0.005"])
    with pytest.raises(
        ConfigError, match=r"nobody moves would take over.*Allowed: .*rest of 0\.11 or more.*rest.*clutch"
    ):
        check_rest(fine, make_map(fine, leader), motion)
    check_rest(fine, make_map(fine, leader), replace(motion, rest=0.11))
    check_rest(fine, make_map(fine, leader), InterventionConfig())
    check_rest(fine, make_map(fine, pad), motion)
    for name in ("so101_sim", "so101_desk"):
        shipped = load_bench(name)
        check_rest(shipped, make_map(shipped, leader), motion)


def test_a_device_that_does_not_fit_is_refused() -> None:
    bench = load_bench("so101_sim", ["--robot.scene=Reach", "--action.kind=joint_delta"])
    with pytest.raises(ConfigError, match="does not fit"):
        make_map(bench, {"names": {"delta_x": 0, "delta_y": 1, "delta_z": 2}})


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pad.yaml").write_text("type: crystal_ball\n")
    with pytest.raises(ConfigError, match="crystal_ball"):
        read_teleoperator(tmp_path / "pad.yaml")
