"""The live process: shows a reward model what the arm does now, and leaves what it says where control looks.

It reads the observations that inference gets and writes one small slot, so nothing that happens here or at the reward
server reaches the arm: without scores an episode goes on to its time limit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from roborl.clock import NS, Clock, Every, MonotonicClock
from roborl.errors import ConfigError, WireError
from roborl.loops.actor.act_config import ActConfig, shared_folder
from roborl.loops.actor.inference import await_card
from roborl.loops.actor.judge_stop import LiveScore, LiveSlot
from roborl.loops.actor.shared import ObservationSlot, Request
from roborl.loops.actor.status import StatusSlot
from roborl.loops.score_link import ScoreLink
from roborl.loops.supervise import Child
from roborl.types import EpisodeKey, Lane, Observation, Score

log = logging.getLogger(__name__)

_TURN_S = 0.02
_RETRY_S = 0.5
_SILENT_S = 5.0


class StuckWatch:
    """Follows the progress of one episode, to notice that it does not rise.

    Args:
        stuck_s: Seconds of the bench's time without a rise after which it is stuck; 0 for never.
        rise: What counts as a rise.
    """

    def __init__(self, stuck_s: float, rise: float) -> None:
        self._stuck_ns, self._rise = int(stuck_s * NS), rise
        self._mark: float | None = None
        self._since_ns = 0
        self._stuck = False

    def begin(self) -> None:
        """Start over with another episode."""
        self._mark, self._stuck = None, False

    def stuck(self, score: LiveScore) -> bool:
        """Take in a valid score; return whether the episode turns out to be stuck, which is said of it once."""
        if self._mark is None or score.done or score.progress >= self._mark + self._rise:
            self._mark, self._since_ns = score.progress, score.stamp_ns
        elif self._stuck_ns and not self._stuck and score.stamp_ns - self._since_ns >= self._stuck_ns:
            self._stuck = True
            return True
        return False


@dataclass
class _Watched:
    """What is known of the episode that runs."""

    key: EpisodeKey
    heard_ns: int
    asking: Every
    session: str | None = None
    # What the first session began with: one that takes its place begins with it, too.
    first: Observation | None = None
    # Nothing is asked of a server that refuses this episode, until the next one.
    refused: bool = False
    scored: int = 0
    # A scene that was finished before the arm moved was not made ready, and says nothing of the arm.
    unfinished: bool = False
    silent: bool = False
    told: bool = False


class LiveLoop:
    """Watches episode after episode, each in a session of its own.

    Args:
        unseen: Returns the newest observation where it is new, else None.
        line: The line to the reward server, in the live lane.
        scores: Where control finds what it says.
        status: This process's counters.
        task: The instruction in words.
        progress: Notices an episode that does not come on.
        help: What the person at the bench can do about that.
        clock: Paces what is tried again.
    """

    def __init__(
        self,
        unseen: Callable[[], Request | None],
        line: ScoreLink,
        scores: LiveSlot,
        status: StatusSlot,
        *,
        task: str,
        progress: StuckWatch,
        help: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._unseen, self._line, self._scores, self._status = unseen, line, scores, status
        self._task, self._progress, self._help = task, progress, help
        self._clock: Clock = clock or MonotonicClock()
        self._watched: _Watched | None = None
        self._waiting: Request | None = None
        self._stamps: dict[int, int] = {}

    def turn(self, timeout_s: float = _TURN_S) -> None:
        """Show the newest observation and take in what came; sleep up to ``timeout_s`` where there is nothing to do."""
        self._status["heartbeat_ns"] = time.monotonic_ns()
        request = self._unseen()
        if request is not None:
            if self._watched is None or request.key != self._watched.key:
                self._begin(request.key)
            self._waiting = request
        try:
            self._show()
            scores, lost = self._line.poll(timeout_s)
        except (ConfigError, WireError) as error:
            # What a person has to set right ends no run in which an arm moves.
            self._refuse(str(error))
            self._clock.sleep_until(self._clock.now_ns() + int(timeout_s * NS))
            return
        self._take(scores, lost)

    def _begin(self, key: EpisodeKey) -> None:
        before = self._watched
        if before is not None:
            if before.session is not None:
                self._line.close(before.session)
            if not (before.scored or before.refused):
                self._miss(before, f"The reward server said nothing of {before.key} while it ran")
        self._watched = _Watched(key, self._clock.now_ns(), Every(_RETRY_S, self._clock))
        self._stamps.clear()
        self._progress.begin()

    def _show(self) -> None:
        watched = self._watched
        here = self._line.judge() is not None
        self._status["connected"] = here
        if watched is None or watched.refused:
            return
        now_ns = self._clock.now_ns()
        if here and watched.session is None and watched.asking.due():
            watched.session = self._line.open(self._task, watched.first)
        request = self._waiting
        if (
            request is not None
            and watched.session is not None
            and self._line.push(watched.session, request.observation, score=True)
        ):
            watched.first = watched.first or request.observation
            self._stamps[request.index] = request.observation.stamp_ns
            self._waiting = None
            self._status.add("offered")
        if not (self._waiting or self._stamps):
            # Between episodes nobody has anything to say.
            watched.heard_ns = now_ns
        elif now_ns - watched.heard_ns > _SILENT_S * NS:
            self._miss(
                watched,
                f"The reward server has said nothing of {watched.key} for {_SILENT_S:g} s: it goes on to its time limit",
            )

    def _take(self, scores: Sequence[tuple[str, Score]], lost: Collection[str]) -> None:
        watched = self._watched
        if watched is None or watched.session is None:
            return
        for session, score in scores:
            if session == watched.session and score.frame_id in self._stamps:
                self._publish(watched, score)
        if watched.session in lost:
            self._status.add("lost")
            self._tell(watched, f"The reward server lost the session in which it watched {watched.key}")
            watched.session = None
            self._stamps.clear()

    def _publish(self, watched: _Watched, score: Score) -> None:
        stamp_ns = self._stamps[score.frame_id]
        # Those before it were passed over, and get no score any more.
        self._stamps = {index: stamp for index, stamp in self._stamps.items() if index > score.frame_id}
        watched.heard_ns = self._clock.now_ns()
        watched.scored += score.valid
        self._status.add("scored" if score.valid else "missing")
        done = score.valid and score.done is True
        watched.unfinished |= score.valid and score.done is False
        if done and not watched.unfinished:
            self._tell(
                watched,
                f"{watched.key} looks done from the first picture on, which ends nothing: is the scene made ready?",
            )
        live = LiveScore(
            key=watched.key,
            index=score.frame_id,
            progress=score.progress,
            done=done,
            valid=score.valid,
            stamp_ns=stamp_ns,
        )
        self._scores.publish(replace(live, done=done and watched.unfinished))
        if live.valid and self._progress.stuck(live):
            self._status.add("stuck")
            log.warning(
                "%s does not come on (progress %.2f at observation %d): %s",
                watched.key,
                live.progress,
                live.index,
                self._help,
            )

    def _refuse(self, why: str) -> None:
        watched, self._waiting = self._watched, None
        if watched is not None and not watched.refused:
            if watched.session is not None:
                self._line.close(watched.session)
            watched.refused, watched.session = True, None
            self._stamps.clear()
            self._status.add("refused")
            self._tell(watched, f"Nobody watches {watched.key}: {why}")

    def _miss(self, watched: _Watched, what: str) -> None:
        if not watched.silent:
            watched.silent = True
            self._status.add("silent")
            self._tell(watched, what)

    def _tell(self, watched: _Watched, line: str) -> None:
        """Log the first thing that goes wrong with the watching of an episode; the rest is counted alone."""
        if not watched.told:
            watched.told = True
            log.warning("%s", line)


def main(child: Child, config: ActConfig) -> None:
    """Watch the arm until stopped.

    Raises:
        ConfigError: If the demonstration cannot be shown, or the keys cannot be used.
        DatasetError: If the demonstration cannot be read.
    """
    began = time.monotonic()
    from roborl.loops.references import read_demonstration
    from roborl.loops.score_line import ScoreLine

    import_s = time.monotonic() - began
    folder = shared_folder(config.run, config.actor)
    status = StatusSlot(folder, "live")
    status.begin()
    card = await_card(folder, child)
    if card is None:
        return
    live = config.live
    line = ScoreLine(
        live.server,
        tuple(card.cameras),
        model=live.model,
        references=read_demonstration(live.references, tuple(card.cameras), card.task),
        lane=Lane.LIVE,
        name=config.actor,
        keys=live.security.load(),
    )
    loop = LiveLoop(
        ObservationSlot(folder, card.cameras, card.state_dim).unseen,
        line,
        LiveSlot(folder),
        status,
        task=card.task,
        progress=StuckWatch(live.stuck_after_s(simulated=card.simulated), live.stuck_rise),
        help="take over, or press stop" if config.teleop else "press stop, or let it go on",
    )
    status.ready(import_s)
    child.ready(import_s)
    while not child.stopping:
        loop.turn()
        child.beat()
    line.leave()
