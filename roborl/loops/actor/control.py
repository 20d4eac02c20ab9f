"""The control loop: observes, commits, asks for actions and moves the arm, at a fixed rate, waiting for nothing.

Only numpy is used here. What other processes give (chunks, weights, room in the ring) is looked at, never waited for: while
no action is there the arm holds, and after a deadline the episode ends with its cause as data.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from roborl.clock import NS, Clock, Rate
from roborl.data.journal import Journal
from roborl.envs.answering import answers
from roborl.envs.homing import go_home
from roborl.envs.stopping import stop_arm
from roborl.errors import RobotError, SafetyStop
from roborl.loops.actor.control_settings import ControlSettings, WaitReason
from roborl.loops.actor.newest_chunk import NewestChunk
from roborl.loops.actor.orders import Orders
from roborl.loops.actor.remarks import Remarks
from roborl.loops.actor.shared import ChunkSlot, ObservationSlot, Request
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.tally import Tally
from roborl.loops.actor.ticks import TickDeadline, TickTrace
from roborl.loops.actor.turns import Turn, Turns
from roborl.loops.seeds import SCENES, scene_seed
from roborl.records import Arrival, Begin, End, Record
from roborl.roles import Operator, Supervisor
from roborl.types import Command, EndCause, EpisodeKey, Observation, RewardSource

if TYPE_CHECKING:
    # Only for its type: behind it stands lerobot, which loads torch.
    from roborl.envs.arm import Arm

log = logging.getLogger(__name__)

# For verdicts on earlier episodes that may come while one runs.
_SPARE_SLOTS = 8
_FAULTS_IN_A_ROW = 5
_LOOKS_PER_PERIOD = 10
_SILENT = "The operator's keyboard gives no sign of life: the arm stops"


class ControlLoop:
    """Runs episodes on one arm.

    Args:
        arm: The arm.
        operator: Makes scenes ready and gives verdicts.
        supervisor: Decides who commands.
        journal: Where records are committed.
        observations: Where inference finds the newest observation.
        chunks: Where inference leaves actions.
        status: This process's counters.
        clock: Paces the loop.
        settings: The rest.
        blocked: Says why no episode may begin, as far as other processes are concerned.
        orders: What the operator's buttons ask; None where there are none.
        stopping: True once the process must end.
        sign_of_life: Called at every control period.
    """

    def __init__(
        self,
        *,
        arm: Arm,
        operator: Operator,
        supervisor: Supervisor,
        journal: Journal,
        observations: ObservationSlot,
        chunks: ChunkSlot,
        status: StatusSlot,
        clock: Clock,
        settings: ControlSettings,
        blocked: Callable[[], WaitReason] = lambda: WaitReason.NOTHING,
        orders: Orders | None = None,
        stopping: Callable[[], bool] = lambda: False,
        sign_of_life: Callable[[], None] = lambda: None,
    ) -> None:
        self._arm, self._operator = arm, operator
        self._journal, self._observations = journal, observations
        self._status, self._clock, self._settings = status, clock, settings
        self._orders = orders or Orders(None, clock)
        self._orders.on_late = self._commit_late_verdicts
        self._blocked, self._stopping, self._sign_of_life = blocked, stopping, sign_of_life
        self._rate = Rate(settings.control_hz, clock)
        self._trace, self._remarks = TickTrace(status, settings.time_scale), Remarks()
        self._deadline = TickDeadline(settings, self._remarks)
        patience, replan = settings.patience_steps(arm.ticks_per_step), settings.replan_steps
        newest = NewestChunk(chunks, status, self._remarks, replan_steps=replan, patience_steps=patience)
        self._turns = Turns(supervisor, newest, status, self._remarks, arm.action_dim)
        self._key = EpisodeKey(actor=journal.actor, incarnation=journal.incarnation, episode=0)
        self._index, self._faults = -1, 0
        self._tally = Tally(status, evaluates=settings.evaluates)

    def run(self) -> None:
        """Run episodes until there were enough of them, or the process must end.

        Raises:
            RobotError: If the robot stays out of order: the process should start afresh.
        """
        try:
            while not self._stopping() and not self._enough():
                reason = self._reason_to_wait()
                self._status["waiting_for"] = reason
                if reason is WaitReason.NOTHING:
                    self.run_episode()
                    self._remarks.tell()
                else:
                    self._rest()
        except SafetyStop as stop:
            log.warning("%s", stop)
        finally:
            self._commit_late_verdicts()
            self._remarks.tell()

    def run_episode(self) -> EndCause | None:
        """Run one episode and return why it ended; None where robot, stop or another process did not let it begin.

        Raises:
            SafetyStop: If the operator stops the run while the scene is made ready.
            RobotError: If the cameras gave nothing several times running.
        """
        seed = scene_seed(self._settings.purpose, self._settings.seed, self._status["begun"] % SCENES)
        self._status["waiting_for"] = WaitReason.OPERATOR
        self._operator.reset(seed)
        # Making it ready may have taken a person minutes, and what is ready now may not be by the time it may begin.
        reason = self._status["waiting_for"] = self._reason_to_wait()
        if reason is not WaitReason.NOTHING:
            self._remarks.keep("ready", f"The arm stays at rest: {reason.name.lower()}. You are asked again")
            return None
        try:
            self._arm.begin_episode()
            if self._settings.goes_home and not self._go_home():
                return None
            first = self._arm.observe(0)
        except SafetyStop:
            self._stop_arm()
            raise
        except RobotError as error:
            self._fault(error)
            self._rest()
            return None
        self._key, self._index = self._journal.next_key(), -1
        self._turns.begin(self._key)
        self._status.add("begun")
        self._orders.begin(self._key)
        self._status["index"] = -1
        self._status["episode"] = self._key.episode
        fault: RobotError | None = None
        gc.collect()
        gc.disable()
        try:
            self._commit(
                Begin(key=self._key, task=self._settings.task, meta={**self._settings.meta, "seed": seed})
            )
            self._rate = Rate(self._settings.control_hz, self._clock)
            self._trace.restart()
            try:
                cause = self._steps(first)
                self._faults = 0
            except RobotError as error:
                cause, fault = EndCause.WATCHDOG, error
            if cause in (EndCause.WATCHDOG, EndCause.OPERATOR_STOP, EndCause.ESTOP):
                self._stop_arm()
            self._finish(cause)
        finally:
            gc.enable()
        if fault is not None:
            self._fault(fault)
        if cause is EndCause.ESTOP:
            raise SafetyStop("The operator pressed the emergency stop")
        return cause

    def _fault(self, error: RobotError) -> None:
        """Count a failure of the robot; several in a row, a silent arm or a dead or frozen camera are for a fresh process to deal with.

        It connects them anew as soon as they answer; before that, the operator is not asked to reset the scene.
        """
        self._status.add("robot_faults")
        self._faults += 1
        log.warning("The robot failed: %s", error)
        if self._faults >= _FAULTS_IN_A_ROW or not answers(self._arm, self._clock, self._rest, after=error):
            raise error

    def _go_home(self) -> bool:
        """Bring the arm to its home pose; False where it had to stop on its way."""

        def stopped() -> bool:
            self._sign_of_life()
            asked = self._orders.asks_for_stop()
            self._commit_late_verdicts(coming=True)
            return asked or self._stopping()

        self._rate = Rate(self._settings.control_hz, self._clock)
        there = not stopped() and go_home(self._arm, self._rate, stopped)
        if not there:
            if self._orders.silent:
                self._lose_operator(_SILENT)
            self._stop_arm()
        return there

    def _steps(self, observation: Observation) -> EndCause:
        """Run the episode's steps from its first observation on; return why they ended."""
        self._arrive(observation, None)
        while True:
            if self._index >= self._settings.max_steps:
                return EndCause.TIME_LIMIT
            turn = self._await_turn(observation)
            if turn is None:
                return self._orders.end or EndCause.WATCHDOG
            command = self._act(turn)
            if command is None:
                return self._orders.end or EndCause.WATCHDOG
            self._trace.enter("observe")
            observation = self._arm.observe(self._index + 1)
            self._trace.enter("listen")
            # What was pressed meanwhile was pressed with the observation before on the screen.
            self._orders.listen(self._index)
            self._trace.enter("other")
            if self._deadline.overdue(self._rate):
                return self._orders.end or EndCause.WATCHDOG
            verdict = self._operator.verdict()
            self._arrive(observation, command, verdict)
            self._turns.done(command.source, self._index - 1)
            self._status.add("steps")
            if self._orders.end is not None:
                return self._orders.end
            if verdict is not None:
                return EndCause.SUCCESS if verdict else EndCause.FAILURE

    def _arrive(self, observation: Observation, command: Command | None, verdict: bool | None = None) -> None:
        self._index += 1
        self._trace.enter("commit")
        self._commit(
            Arrival(
                key=self._key,
                index=self._index,
                observation=observation,
                command=command,
                reward=1.0 if verdict else 0.0,
                reward_source=RewardSource.NONE if verdict is None else RewardSource.ENV,
            )
        )
        self._status["index"] = self._index

    def _await_turn(self, observation: Observation) -> Turn | None:
        """Hold until somebody acts at this observation; None where the episode must end instead."""
        self._trace.enter("look")
        wanted, heard = self._turns.wanted(self._index), self._turns.heard
        self._trace.enter("publish")
        self._observations.publish(
            Request(
                key=self._key,
                index=self._index,
                wanted=wanted,
                after_person=self._turns.after_person(self._index),
                observation=observation,
            )
        )
        wait_ns = int(self._settings.action_deadline_s * self._settings.time_scale * NS)
        until_ns, busy = self._clock.now_ns() + wait_ns, False
        while True:
            self._trace.enter("look")
            turn = self._turn_within_period(observation)
            if turn is not None:
                return turn
            if self._turns.lost:
                self._lose_operator("The take-over device is silent while the person has the arm: it stops")
                return None
            if self._turns.heard > heard and not busy:
                # Inference was busy with an earlier observation, as when a person gives back: this one has its time from now.
                until_ns, busy = self._clock.now_ns() + wait_ns, True
            if self._clock.now_ns() > until_ns:
                self._remarks.keep(
                    "actions", f"No action within {self._settings.action_deadline_s:g} s: the arm stops"
                )
                return None
            self._status.add("holds")
            self._trace.enter("send")
            if not self._settings.world_waits:
                self._arm.hold()
            if not self._next_tick():
                return None

    def _turn_within_period(self, observation: Observation) -> Turn | None:
        """Ask whose turn it is until most of the control period has passed: sleep that it would sleep anyway.

        Then a person acts without the policy's proposal, unless the world waits for it.
        """
        slice_ns = self._rate.period_ns // _LOOKS_PER_PERIOD
        for looks_left in reversed(range(_LOOKS_PER_PERIOD - 2)):
            last = looks_left == 0 or self._rate.remaining_ns() < 2 * slice_ns
            alone = last and not self._settings.world_waits
            turn = self._turns.take(observation, self._index, alone=alone)
            if turn is not None or last or self._turns.lost:
                return turn
            self._clock.sleep_until(self._clock.now_ns() + slice_ns)
        return None

    def _act(self, turn: Turn) -> Command | None:
        """Execute one policy step; None where it was cut short, and then nothing of it is an experience."""
        overdue = self._rate.remaining_ns() <= 0 and not self._settings.world_waits
        # A look that only took longer than a period costs one: rather that than two set-points at once.
        if overdue and self._deadline.missed(self._trace.wait(self._rate)):
            return None
        if not self._settings.world_waits:
            self._rate.wait_apart()  # The step before may have begun later in its period than this one would.
        self._trace.enter("decide")
        executed = self._arm.begin_step(turn.action)
        if not np.array_equal(executed, turn.action):
            self._status.add("clipped")
        self._rate.begin_now(self._arm.ticks_per_step)  # set-points are planned a period apart, and go out so
        for _ in range(self._arm.ticks_per_step):
            self._trace.enter("send")
            self._arm.tick()
            if not self._next_tick():
                return None
        return Command(
            action=np.array(executed, np.float32),
            proposed=np.array(turn.proposed, np.float32),
            source=turn.source,
            policy_version=turn.policy_version,
        )

    def _next_tick(self) -> bool:
        """Wait for the next control period; False where the episode must end."""
        missed = self._deadline.missed(self._trace.wait(self._rate))
        self._trace.enter("listen")
        self._sign_of_life()
        self._orders.listen(self._index)
        self._commit_late_verdicts()
        if self._stopping():
            self._orders.interrupt()
        self._trace.enter("other")
        return self._orders.end is None and not missed

    def _lose_operator(self, how: str) -> None:
        self._status.add("operator_lost")
        self._remarks.keep("operator", how)

    def _stop_arm(self) -> None:
        error = stop_arm(self._arm, self._rate, self._sign_of_life)
        if error is not None:
            self._remarks.keep("stop", f"The robot does not take the stop: {error}")

    def _finish(self, cause: EndCause) -> None:
        # The verdict first: whoever dies between the two leaves an end that the next start commits, and no verdict.
        if self._orders.verdict is not None:
            self._commit(self._orders.verdict)
        self._commit(End(key=self._key, index=self._index, cause=cause, discarded=self._orders.discard))
        if self._orders.end is EndCause.WATCHDOG:
            self._lose_operator(_SILENT)
        self._turns.finish()
        self._tally.end(
            self._key,
            cause,
            discarded=self._orders.discard,
            interrupted=self._orders.interrupted,
            by_person=self._turns.by_person,
        )
        self._orders.finish(self._index)
        log.debug("%s ended at %d: %s", self._key, self._index, cause)

    def _commit(self, record: Record) -> None:
        self._journal.commit(record)
        self._status.add("committed")

    def _reason_to_wait(self) -> WaitReason:
        if not self._journal.has_room(self._settings.max_steps + _SPARE_SLOTS):
            return WaitReason.RING_FULL
        return self._blocked()

    def _rest(self) -> None:
        """Let one control period of wall time pass between episodes, with the operator's buttons heard."""
        period_ns = int(NS * self._settings.time_scale / self._settings.control_hz)
        self._clock.sleep_until(self._clock.now_ns() + period_ns)
        self._sign_of_life()
        self._orders.rest()
        self._commit_late_verdicts()

    def _commit_late_verdicts(self, *, coming: bool = False) -> None:
        """Commit them as far as the ring has room beside the rest of a running episode, or all of one that is coming."""
        kept = self._settings.max_steps - self._index + 3 if self._orders.running else 0
        kept = self._settings.max_steps + 5 if coming else kept
        while self._orders.late and self._journal.ring.free_slots > kept:
            verdict = self._orders.late.pop(0)
            self._commit(verdict)
            self._tally.judge_late(verdict)

    def _enough(self) -> bool:
        return self._settings.enough(self._status["episodes"], cut_short=self._status["cut_short"])
