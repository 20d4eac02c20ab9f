"""The operator of a real arm: a person who makes the scene ready and says how an episode went."""

from __future__ import annotations

from collections.abc import Callable

from roborl.clock import NS, Clock
from roborl.errors import SafetyStop
from roborl.hil.presses import Button, Press, Presses
from roborl.roles import Operator

ASKS = "Make the scene ready and step back, then press r."
"""What the person is asked before each episode."""

_DEAF_NS = 5 * NS
_DEAF = (
    "No keyboard is heard, so nobody can press r, success or stop: start this in a terminal of its own"
    " (ssh -t, docker run -it), not in the background"
)


class PersonOperator:
    """A :class:`roborl.roles.Operator` behind buttons.

    It reads the buttons between episodes alone. What is pressed during one belongs to whoever runs it: a stop must not
    wait, and a verdict names a frame.

    Args:
        presses: Where the buttons arrive.
        say: Shows the person a line of text.
        clock: For waiting.
        on_press: Gets the presses between episodes that do not concern the scene, such as a late verdict.
        stopping: True once the process must end; a wait for the person ends then.
        poll_s: How often the buttons are looked at while waiting.
    """

    def __init__(
        self,
        presses: Presses,
        *,
        say: Callable[[str], None],
        clock: Clock,
        on_press: Callable[[Press], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
        poll_s: float = 0.02,
    ) -> None:
        self._presses = presses
        self._say = say
        self._clock = clock
        self.on_press = on_press
        self._stopping = stopping
        self._poll_ns = int(poll_s * NS)
        self._heard = False

    def reset(self, seed: int | None) -> None:
        """Wait until the person says that the scene is ready; having said so before does not count.

        Raises:
            SafetyStop: If the person presses the emergency stop instead, or the process must end.
        """
        for press in self._presses.take():
            self._heard = True
            self._pass_on(press)
        self._say(f"{ASKS} Ctrl-C ends the run.")
        asked_ns = self._clock.now_ns()
        while not self._stopping():
            taken = self._presses.take()
            self._heard = self._heard or bool(taken)
            if not self._heard and self._clock.now_ns() - asked_ns > _DEAF_NS:
                self._heard = True
                self._say(_DEAF)
            ready = False
            for press in taken:
                self._pass_on(press)
                if ready and press.button is Button.STOP:  # it came in the same look
                    self._say(f"Stopped before it began. {ASKS}")
                ready = press.button is Button.READY or (ready and press.button is not Button.STOP)
            if ready:
                return
            self._clock.sleep_until(self._clock.now_ns() + self._poll_ns)
        raise SafetyStop("The run was stopped while it waited for the operator")

    def _pass_on(self, press: Press) -> None:
        if press.button is Button.ESTOP:
            raise SafetyStop("The operator pressed the emergency stop")
        if press.button is not Button.READY:
            self.on_press(press)

    def verdict(self) -> bool | None:
        """Return None: this person's verdicts are presses."""
        return None


class Nobody:
    """A :class:`roborl.roles.Operator` for a task that needs no reset and ends by its time limit."""

    def reset(self, seed: int | None) -> None:
        """Leave the scene as it is."""

    def verdict(self) -> bool | None:
        """Return None."""
        return None


class WithoutVerdict:
    """A :class:`roborl.roles.Operator` that makes scenes ready and leaves the judging to somebody else.

    Args:
        operator: Who makes them ready.
    """

    def __init__(self, operator: Operator) -> None:
        self.reset = operator.reset

    def verdict(self) -> bool | None:
        """Return None."""
        return None
