"""What the operator's buttons, and a reward model that watches, ask of the episode that runs, and of those before."""

from __future__ import annotations

from collections.abc import Callable

from roborl.clock import NS, Clock
from roborl.errors import SafetyStop
from roborl.hil.presses import Button, Press, Presses
from roborl.loops.actor.remarks import Remarks
from roborl.records import Verdict
from roborl.types import EndCause, EpisodeKey, RewardSource

_URGENCY = {EndCause.OPERATOR_STOP: 1, EndCause.ESTOP: 2}


class Orders:
    """Turns presses into ends and verdicts. The only reader of the buttons while an episode runs.

    Whatever else ends an episode goes before a task that a reward model calls done: what that is worth is not known yet.

    Args:
        presses: The buttons, None where there are none.
        clock: For the silence of the operator's device.
        silence_s: Clock seconds without a sign of life that end an episode, counted once there was one: a device that
            sends presses alone is not missed; and that stop the arm on its way home. None for no limit.
        on_press: Gets the presses that mean nothing here, such as taking over.
        done: Says whether somebody who watches calls the task of an episode done; must not wait.

    Attributes:
        running: Whether an episode runs.
        end: Why the episode must end, None while it may go on.
        interrupted: Whether it ends only because the process must.
        discard: Whether the operator wants it kept out of training.
        verdict: The operator's judgement of it.
        late: Judgements of earlier episodes, to be committed and taken off this list.
        on_late: Called with the arm at rest where there are some: the next episode may be minutes off.
    """

    def __init__(
        self,
        presses: Presses | None,
        clock: Clock,
        *,
        silence_s: float | None = None,
        on_press: Callable[[Press], None] = lambda _: None,
        done: Callable[[EpisodeKey], bool] = lambda _: False,
    ) -> None:
        self._presses, self._clock, self._on_press, self._done = presses, clock, on_press, done
        self._remarks = Remarks()
        self._silence_ns = None if silence_s is None else int(silence_s * NS)
        self._heard_ns = clock.now_ns()
        self._shows_life = False
        self._key: EpisodeKey | None = None
        self._index = -1
        self.running = False
        self.end: EndCause | None = None
        self.interrupted = self.discard = False
        self.verdict: Verdict | None = None
        self.late: list[Verdict] = []
        self.on_late: Callable[[], None] = lambda: None

    def begin(self, key: EpisodeKey) -> None:
        """Listen for episode ``key`` from now on; what was to be said on the way to it is said now, with the arm at rest."""
        self._remarks.tell()
        self._key, self._index, self.running = key, -1, True
        self._heard_ns = self._clock.now_ns()
        self.end, self.verdict = None, None
        self.interrupted = self.discard = False

    def finish(self, index: int) -> None:
        """The episode is over at observation ``index``: verdicts on it are late ones. What was to be said is said."""
        self._index, self.running = index, False
        self._remarks.tell()

    def interrupt(self) -> None:
        """End the episode because the process must end, unless it ends for another reason already."""
        if self.end is None:
            self.end, self.interrupted = EndCause.OPERATOR_STOP, True

    def listen(self, index: int) -> None:
        """Take in what was pressed while observation ``index`` was the newest, and what is said of it. Never waits."""
        self._index = index
        for press in self._presses.take() if self._presses is not None else ():
            self._heard_ns = self._clock.now_ns()
            self._obey(press)
        if self.silent:
            self.end = self.end or EndCause.WATCHDOG
        if self._key is not None and self._done(self._key):
            self.end = self.end or EndCause.JUDGE_STOP

    def rest(self) -> None:
        """Take in what was pressed between episodes.

        Raises:
            SafetyStop: On an emergency stop.
        """
        if self._presses is not None:
            for press in self._presses.take():
                self.hear(press)

    def asks_for_stop(self) -> bool:
        """Take in what was pressed while the arm moves between episodes; True where it must stop, or the device is silent.

        Raises:
            SafetyStop: On an emergency stop.
        """
        stop = False
        for press in self._presses.take() if self._presses is not None else ():
            self._hear(press)
            stop = stop or press.button is Button.STOP
        return stop or self.silent

    @property
    def silent(self) -> bool:
        """Whether the operator's device has shown life, and none for too long."""
        if self._silence_ns is None or not self._shows_life:
            return False
        return self._clock.now_ns() - self._heard_ns > self._silence_ns

    def hear(self, press: Press) -> None:
        """Obey one press that came between episodes, with the arm at rest.

        A stop has nothing to stop, unless it is the emergency stop. A discard comes too late, which is said.

        Raises:
            SafetyStop: On an emergency stop.
        """
        self._hear(press)
        if self.late:
            self.on_late()
        self._remarks.tell()

    def _hear(self, press: Press) -> None:
        self._heard_ns = self._clock.now_ns()
        if press.button is Button.ESTOP:
            raise SafetyStop("The operator pressed the emergency stop")
        if press.button is Button.DISCARD:
            self._remarks.keep(
                "discard", "No episode runs: discard has no effect, what is recorded stays as it is"
            )
        elif press.button is not Button.STOP:
            self._obey(press)

    def _obey(self, press: Press) -> None:
        match press.button:
            case Button.SUCCESS | Button.FAILURE | Button.DISCARD if (
                press.index is not None and press.index < 0
            ):
                self._remarks.keep(
                    "verdict", "No picture of the coming episode was there yet: the verdict has no effect"
                )
            case Button.SUCCESS | Button.FAILURE:
                self._judge(press)
            case Button.DISCARD if press.episode not in (None, self._key):
                self._remarks.keep(
                    "discard", "That episode was over already: discard has no effect, it stays as it is"
                )
            case Button.DISCARD:
                self.discard = True
                self._end(EndCause.OPERATOR_STOP)
            case Button.STOP:
                self._end(EndCause.OPERATOR_STOP)
            case Button.ESTOP:
                self._end(EndCause.ESTOP)
            case Button.ALIVE:
                self._shows_life = True
            case Button.READY:
                pass
            case _:
                self._on_press(press)

    def _end(self, cause: EndCause) -> None:
        """End the episode; of several causes the most urgent counts, of two equals the later."""
        if self.end is None or _URGENCY.get(cause, 0) >= _URGENCY.get(self.end, 0):
            self.end = cause

    def _judge(self, press: Press) -> None:
        """Give the verdict to the observation that was on the screen, be it of this episode or of one before."""
        key = press.episode or self._key
        if key is None:
            self._remarks.keep("verdict", "No episode has begun since this start: the verdict has no effect")
            return
        present = key == self._key
        newest = (
            self._index if press.index is None or (present and press.index > self._index) else press.index
        )
        verdict = Verdict(
            key=key,
            index=max(newest, 0),
            success=press.button is Button.SUCCESS,
            source=RewardSource.OPERATOR,
        )
        if present and self.running:
            self.verdict = verdict
            self._end(EndCause.SUCCESS if verdict.success else EndCause.FAILURE)
        else:
            self.late.append(verdict)
