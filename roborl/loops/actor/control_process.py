"""The control process: makes the arm and its surroundings, picks up where a predecessor was killed, runs the loop."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from roborl.clock import MonotonicClock
from roborl.codec import MAX_RECORD_BYTES, split
from roborl.data.journal import Journal
from roborl.errors import ConfigError, DatasetError
from roborl.hil.operator import Nobody, PersonOperator, WithoutVerdict
from roborl.hil.presses import Button, Press, Presses
from roborl.hil.supervisor import Intervention, PolicyOnly
from roborl.loops.actor.act_config import ActConfig, Card, shared_folder
from roborl.loops.actor.control import ControlLoop
from roborl.loops.actor.control_settings import ControlSettings, WaitReason
from roborl.loops.actor.judge_stop import JudgeStop, LiveSlot
from roborl.loops.actor.orders import Orders
from roborl.loops.actor.priority import PRIORITIES, raise_priority
from roborl.loops.actor.shared import ChunkSlot, ObservationSlot
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.teleop import ReadingSlot
from roborl.loops.supervise import Child
from roborl.records import End, unpack_record
from roborl.roles import Operator, Supervisor
from roborl.types import EndCause, EpisodeKey

if TYPE_CHECKING:
    from lerobot.robots.robot import Robot

    from roborl.envs.bench import Bench

log = logging.getLogger(__name__)

_RING_WAIT_S = 5.0
_SILENT_S = 5.0


def main(child: Child, config: ActConfig) -> None:
    """Run the control process until there were enough episodes or it is stopped.

    Raises:
        RoborlError: If the bench cannot be used or is another than the process before this one had, or the robot stays out of
            order.
    """
    began = time.monotonic()
    from roborl.envs.arm import Arm
    from roborl.envs.bench import load_bench, make_robot
    from roborl.envs.devices import require_degrees, require_hold
    from roborl.loops.bench_scales import scales

    bench = load_bench(config.bench, config.bench_overrides, config.plugins)
    require_hold(bench)
    config.by_simulator(simulated=bench.simulated)  # Raises where nobody could operate it.
    robot = make_robot(bench)
    require_degrees(bench, robot)
    import_s = time.monotonic() - began
    folder = shared_folder(config.run, config.actor)
    status = StatusSlot(folder, "control")
    status.begin()
    clock = MonotonicClock(bench.time_scale)
    arm = Arm(bench, robot, clock)
    card = Card(
        actor=config.actor,
        bench=config.bench,
        cameras=arm.cameras,
        state_dim=arm.state_dim,
        action_dim=arm.action_dim,
        real_time=bench.time_scale == 1.0,
        task=bench.task,
        simulated=bench.simulated,
        policy_hz=bench.policy_hz,
        control_hz=bench.control_hz,
        max_steps=bench.max_steps,
        image_px=bench.image_px,
        outcome=bench.outcome,
        action_deadline_s=bench.watchdog.action_deadline_s,
        scales=asdict(scales(bench)),
        safety=asdict(bench.safety),
    )
    card.check_restart(folder)
    journal = open_journal(folder / "ring.bin", card, max_steps=bench.max_steps, ring_mb=config.ring_mb)
    if not config.alone:
        log.info("%s", memory_of(journal, bench.policy_hz, config.ring_mb))
    count_lost_episode(journal, status)
    announce(journal, status)
    card.write(folder)

    def alive() -> None:
        child.beat()
        status["heartbeat_ns"] = time.monotonic_ns()

    def stopping() -> bool:
        alive()
        return child.stopping

    presses = Presses(folder)
    supervisor, on_press = make_supervisor(config, folder)
    silence_s = bench.watchdog.operator_silence_s * bench.time_scale
    done = make_judge_stop(config, bench, folder, clock)
    orders = Orders(presses, clock, silence_s=silence_s or None, on_press=on_press, done=done)
    operator = make_operator(config, bench, robot, presses, orders, clock, stopping)
    loop = ControlLoop(
        arm=arm,
        operator=operator,
        supervisor=supervisor,
        journal=journal,
        observations=ObservationSlot(folder, card.cameras, card.state_dim),
        chunks=ChunkSlot(folder),
        status=status,
        clock=clock,
        settings=make_settings(config, bench),
        blocked=gate(folder, supervisor, learner=bool(config.weights)),
        orders=orders,
        stopping=stopping,
        sign_of_life=alive,
    )
    arm.connect()
    try:
        if card.real_time:
            status["priority"] = PRIORITIES.index(raise_priority(config.priority))
        gc.collect()
        gc.freeze()
        status.ready(import_s)
        child.ready(import_s)
        if not bench.simulated:
            log.warning("Should this control process die: %s", bench.if_control_dies)
        loop.run()
    finally:
        try:
            arm.disconnect()
        finally:
            journal.close()


def open_journal(path: Path, card: Card, *, max_steps: int, ring_mb: int) -> Journal:
    """Open the actor's journal, making it where there is none.

    A predecessor that is on its way out may still hold it for a moment.

    Raises:
        DatasetError: If somebody else keeps it, or its ring has another form and is not empty.
        ConfigError: If a step's pictures are more than can be sent.
    """
    slot_bytes = sum(math.prod(shape) for shape in card.cameras.values()) + 4 * card.state_dim + 8192
    if slot_bytes > MAX_RECORD_BYTES:
        pictures = ", ".join(f"{name} {shape[0]} x {shape[1]}" for name, shape in card.cameras.items())
        raise ConfigError(
            "The pictures of one step are more than can be sent",
            seen=f"{slot_bytes / 1e6:.1f} MB: {pictures}",
            allowed=f"{MAX_RECORD_BYTES / 1e6:.1f} MB in all",
            remedy="Record smaller ones: lower height_px and width_px under cameras in the bench file",
        )
    slots = max(ring_mb * 1_000_000 // slot_bytes, 2 * (max_steps + 16))
    until = time.monotonic() + _RING_WAIT_S
    while True:
        try:
            return Journal(path, actor=card.actor, slots=slots, slot_bytes=slot_bytes)
        except DatasetError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def announce(journal: Journal, status: StatusSlot) -> None:
    """Say which start this is. No episode of it is on the screen yet: what is pressed now is no verdict on one of its own."""
    status["index"] = -1
    status["incarnation"] = journal.incarnation


def memory_of(journal: Journal, policy_hz: float, ring_mb: int) -> str:
    """Return what an operator is told of how long the learner may be away."""
    slots = journal.ring.slots
    return (
        f"Memory for {slots} steps, {slots / policy_hz:.0f} s of them: while the learner is away for longer,"
        f" the arm waits between episodes (ring_mb {ring_mb})"
    )


def count_lost_episode(journal: Journal, status: StatusSlot) -> None:
    """Count the episode that the journal has just ended for a killed predecessor, if there was one.

    An incarnation loses its last episode alone, and no other ring has it: that tells an episode that was counted already.
    """
    head = journal.ring.head
    last = unpack_record(split(journal.ring.read(head))) if head else None
    if (
        isinstance(last, End)
        and last.cause is EndCause.ACTOR_LOST
        and last.key.incarnation != status["lost_in"]
    ):
        log.warning("Episode %s was cut short by the end of the process that ran it", last.key)
        status["lost_in"] = last.key.incarnation
        status.add("lost_episodes")
        status.add("cut_short")
        status.add("episodes")


def make_settings(config: ActConfig, bench: Bench) -> ControlSettings:
    """Return the control loop's settings for a bench."""
    world_waits = bench.simulated and config.world_waits
    return ControlSettings(
        task=bench.task,
        meta={
            "bench": config.bench,
            "mode": config.mode,
            **({"outcome": "judge"} if _left_to_judge(config, bench) else {}),
        },
        control_hz=bench.control_hz,
        max_steps=bench.max_steps,
        episodes=config.episodes or None,
        purpose="evaluation" if config.mode == "evaluate" else "online",
        seed=config.seed,
        replan_steps=config.replan_steps,
        action_deadline_s=bench.watchdog.action_deadline_s,
        # A world that waits for the arm loses nothing by a stall of the machine.
        tick_deadline_s=0.0 if world_waits else bench.watchdog.tick_deadline_s,
        time_scale=bench.time_scale,
        world_waits=world_waits,
        goes_home=not bench.simulated,
    )


def make_supervisor(config: ActConfig, folder: Path) -> tuple[Supervisor, Callable[[Press], None]]:
    """Return who decides who commands, and what the take-over buttons do."""
    if not config.teleop:
        return PolicyOnly(), lambda press: None
    intervention = Intervention(ReadingSlot(folder).newest, MonotonicClock(), config.intervention)
    return intervention, lambda press: intervention.force(press.button is Button.TAKE_OVER)


def make_operator(
    config: ActConfig,
    bench: Bench,
    robot: Robot,
    presses: Presses,
    orders: Orders,
    clock: MonotonicClock,
    stopping: Callable[[], bool],
) -> Operator:
    """Return whoever the configuration names."""
    if config.by_simulator(simulated=bench.simulated):
        from roborl.envs.sim_robot import SimOperator

        operator = SimOperator(robot)
        return WithoutVerdict(operator) if _left_to_judge(config, bench) else operator
    if config.operator == "none":
        return Nobody()
    person = PersonOperator(presses, say=log.warning, clock=clock, on_press=orders.hear, stopping=stopping)
    if not bench.simulated:
        return person
    from roborl.envs.sim_robot import PersonInSimulation

    return PersonInSimulation(person, robot)


def make_judge_stop(
    config: ActConfig, bench: Bench, folder: Path, clock: MonotonicClock
) -> Callable[[EpisodeKey], bool]:
    """Return what says whether a reward model that watches calls the task of an episode done; it may say so nowhere else.

    Args:
        config: What the actor is told.
        bench: The bench.
        folder: The actor's shared folder.
        clock: The clock that observations are stamped with.
    """
    if not (config.live.on and config.live.stops and _left_to_judge(config, bench)):
        return lambda key: False
    return JudgeStop(LiveSlot(folder).unseen, clock, stale_s=config.live.stale_s * bench.time_scale)


def _left_to_judge(config: ActConfig, bench: Bench) -> bool:
    """Return whether a reward model judges the episodes: those of training alone, for it is shown no others."""
    return bench.outcome == "judge" and config.mode == "train"


def gate(folder: Path, supervisor: Supervisor, *, learner: bool) -> Callable[[], WaitReason]:
    """Return what says why no episode may begin, from the other processes' counters and the take-over device.

    Args:
        folder: The actor's shared folder.
        supervisor: Who decides who commands.
        learner: Whether there is a learner, which must have been met: it may want the arm to wait. Its newest weights must be
            here, too: what is practised before that is not what was learnt.
    """
    inference, io = StatusSlot(folder, "inference"), StatusSlot(folder, "io")

    def blocked() -> WaitReason:
        if learner and not io["met"]:
            return WaitReason.NO_LEARNER
        if io["paused"]:
            return WaitReason.LEARNER_PAUSED
        if learner and not inference["weights_seen"]:
            return WaitReason.NO_WEIGHTS
        if isinstance(supervisor, Intervention) and not supervisor.connected:
            return WaitReason.NO_DEVICE
        return WaitReason.NOTHING if inference.fresh(_SILENT_S) else WaitReason.NO_POLICY

    return blocked
