"""A line to the reward server, over the wire: the labeller's, and that of whoever watches an arm live."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from roborl.clock import NS, Clock, Deadline, MonotonicClock
from roborl.errors import ConfigError, DeadlineExceeded, HandshakeMismatch, WireError
from roborl.images import square
from roborl.loops.score_link import ServedJudge
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.observation_rate import check_rate, warn_of_rate
from roborl.rewards.references import Pictures, digest, of_cameras, told
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import Scored, SessionLost, SessionOpened, SessionRefused
from roborl.serving.security import Keys
from roborl.types import Image, Lane, Observation, Score

log = logging.getLogger(__name__)

ROUND_TRIP = "round_trip"
"""In a score's ``timings_ms``: from sending its frame to having it."""

_ASK_EVERY_S = 1.0
_LONGEST_PAUSE_S = 10.0
_POLL_S = 0.05


class ScoreLine:
    """Implements :class:`roborl.loops.score_link.ScoreLink` over ZeroMQ.

    Pictures are brought to the model's size here, so that no larger ones travel than the model looks at. Every session
    brings the references of the views that the model looks at, and they are part of the version, of judge and scores.

    Args:
        endpoint: Address of the reward server.
        cameras: The recording's cameras.
        model: Name of the model at that server; empty for its only one.
        references: What the model is told besides the task.
        task: An instruction to try a session with as soon as the server is met, before there is an episode; empty for
            no trial.
        rate_hz: Observations per second, which a model that is told the time has to count on, and one that counts
            observations should have learnt from; None where it is not known.
        where: What has that rate, in a word or two.
        lane: What the scores are for. In the live lane a newer observation takes the place of one that was not sent yet.
        name: What to call this side in the server's log.
        keys: CURVE keys; None only on one machine.
        clock: The clock.

    Attributes:
        endpoint: The address, as given.
    """

    def __init__(
        self,
        endpoint: str,
        cameras: Sequence[str],
        *,
        model: str = "",
        references: Mapping[str, Pictures] | None = None,
        task: str = "",
        rate_hz: float | None = None,
        where: str = "recording",
        lane: Lane = Lane.LABEL,
        name: str = "labeller",
        keys: Keys | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._clock: Clock = clock or MonotonicClock()
        self._client = ScoreClient(endpoint, name=name, keys=keys, clock=self._clock)
        self._cameras, self._model, self._lane = tuple(cameras), model, lane
        self._references, self._task = references or {}, task
        self._rate_hz, self._where = rate_hz, where
        self._judge: ServedJudge | None = None
        self._served = self._version = ""  # The judge's version without and with what sessions bring.
        self._tried: ServedJudge | None = None
        self._trial: str | None = None
        self._accepted = False
        self._ask_ns = self._room_ns = 0
        self._pause_s = _ASK_EVERY_S
        self._open: set[str] = set()

    def judge(self) -> ServedJudge | None:
        """Return who is judging, None while the server is away.

        Raises:
            ConfigError: If the server has no such model or does not fit this side, or the model wants a camera that is not
                recorded or counts on another rate of observations.
        """
        if not (self._client.connected and self._client.alive):
            self._judge = None
        elif self._judge is None and self._clock.now_ns() >= self._ask_ns:
            self._ask_ns = self._clock.now_ns() + int(_ASK_EVERY_S * NS)
            try:
                with _telling():
                    statistics = self._client.statistics(_ASK_EVERY_S)
            except DeadlineExceeded:
                log.warning("The reward server does not say what it judges with; it is asked again")
                return None
            self._judge = self._read(statistics)
            self._try(self._judge)
        return self._judge

    def open(self, task: str, first: Observation | None = None) -> str | None:
        """Ask for a session; None while the server is away, and for a while after it had no room: longer each time in a row."""
        if self._judge is None or self._clock.now_ns() < self._room_ns:
            return None
        views = self._views(self._judge.info)
        session = self._client.open_session(
            task,
            views,
            model=self._model,
            lane=self._lane,
            references=of_cameras(self._references, views),
        )
        if first is not None:
            self._send(session, first, self._judge, score=False)
        return session

    def push(self, session: str, observation: Observation, *, score: bool) -> bool:
        """Send the next observation, if the session is open and has credit."""
        if session not in self._open or self._judge is None:
            return False
        return self._send(session, observation, self._judge, score=score)

    def _send(self, session: str, observation: Observation, to: ServedJudge, *, score: bool) -> bool:
        frame_id = max(frame.id for frame in observation.frames.values())
        images = {name: self._sized(observation.images[name]) for name in self._views(to.info)}
        return self._client.push_frame(session, frame_id, images, state=observation.state, score=score)

    def close(self, session: str) -> None:
        """Forget a session."""
        self._leave(session)
        self._client.close_session(session)

    def poll(self, timeout_s: float) -> tuple[list[tuple[str, Score]], dict[str, str | None]]:
        """Take in what came.

        Returns:
            The (session, score) pairs, and the sessions that are over with the reasons of those that were refused.

        Raises:
            ConfigError: If the server does not fit this side, or a judge refuses the first session that it is asked for: it
                would refuse all others. In the live lane, if it refuses any: there is but one at a time.
        """
        scores: list[tuple[str, Score]] = []
        lost: dict[str, str | None] = {}
        with _telling():
            events = self._client.poll(timeout_s)
        for event in events:
            match event:
                case SessionOpened():
                    self._open.add(event.session)
                    self._accepted, self._pause_s = True, _ASK_EVERY_S
                    if event.session == self._trial:
                        self.close(event.session)
                    if event.version != self._served:
                        self._judge = None  # The model was exchanged since we asked.
                case Scored():
                    scores.append((event.session, self._stamped(event)))
                case SessionLost():
                    self._leave(event.session)
                    lost[event.session] = None
                case SessionRefused(full=True):
                    self._wait_for_room(event.reason)
                    lost[event.session] = None
                case SessionRefused() if self._lane is Lane.LIVE or not self._accepted:
                    raise ConfigError(
                        "The reward server refuses to judge the task",
                        seen=event.reason.rstrip("."),
                        remedy="Do what it says, and start again",
                    )
                case SessionRefused():
                    log.warning("The reward server refuses a session: %s", event.reason)
                    lost[event.session] = event.reason
        return scores, lost

    def _leave(self, session: str) -> None:
        """Note that a session is over; where it had one of the places, there is room now."""
        if session in self._open:
            self._open.remove(session)
            self._room_ns, self._pause_s = 0, _ASK_EVERY_S

    def _wait_for_room(self, reason: str) -> None:
        now_ns = self._clock.now_ns()
        if now_ns < self._room_ns:  # asked for before the last answer was here
            return
        log.warning(
            "The reward server has no room for a session, asked again in %g s: %s", self._pause_s, reason
        )
        self._room_ns = now_ns + int(self._pause_s * NS)
        # What is watched live goes by meanwhile.
        self._pause_s = _ASK_EVERY_S if self._lane is Lane.LIVE else min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def leave(self) -> None:
        """Close the connection."""
        self._client.close()

    def _try(self, judge: ServedJudge) -> None:
        """Ask another judge than before for a session, to hear a refusal now."""
        if judge != self._tried:
            self._tried, self._accepted = judge, False
            self._trial = self.open(self._task) if self._task else None

    def _stamped(self, event: Scored) -> Score:
        score = event.score
        timings = {**score.timings_ms, ROUND_TRIP: event.round_trip_ms}
        # Also while the judge is away: what it said before that is as good as ever.
        version = self._version if score.version == self._served else score.version
        return replace(score, version=version, timings_ms=timings)

    def _views(self, info: ModelInfo) -> tuple[str, ...]:
        return info.cameras or self._cameras

    def _sized(self, image: Image) -> Image:
        assert self._judge is not None
        side = self._judge.info.image_px
        return image if side is None else square(image, side)

    def _read(self, statistics: Mapping[str, Any]) -> ServedJudge:
        models = statistics.get("models", {})
        name = self._model or (next(iter(models)) if len(models) == 1 else "")
        if name not in models:
            raise ConfigError(
                "The reward server has no such model",
                seen=self._model or "none named",
                allowed=sorted(models),
                remedy="Name one of its models",
            )
        try:
            info = ModelInfo.from_wire(models[name])
        except WireError as error:
            raise ConfigError(str(error)) from error
        if self._rate_hz is not None:
            check_rate(info.observation_hz, self._rate_hz, self._where)
            if self._served != info.version:
                warn_of_rate(info.trained_hz, self._rate_hz, self._where)
        require_cameras(info.cameras, self._cameras)
        self._served = info.version
        self._version = told(info.version, digest(of_cameras(self._references, self._views(info))))
        return ServedJudge(
            info=replace(info, version=self._version),
            reply_limit_s=_limit_s(statistics.get("reply_limit_s")),
        )


def meet(line: ScoreLine, deadline_s: float) -> ServedJudge:
    """Wait until the server says who is judging there, and return it.

    Raises:
        ConfigError: If it has no such model, or that wants a view which is not recorded.
        DeadlineExceeded: If it is away.
    """
    deadline = Deadline(deadline_s)
    while (judge := line.judge()) is None:
        if deadline.passed:
            raise DeadlineExceeded(
                "The reward server is away",
                seen=f"nothing from {line.endpoint}",
                allowed=f"an answer within {deadline_s:g} s",
                remedy="See that roborl serve runs at that address, unless the model is one of this process; a larger"
                " deadline_s waits longer",
            )
        line.poll(_POLL_S)
    return judge


def _limit_s(told: object) -> float:
    """Return how long a server may go without a reply, in seconds, where it says so in earnest."""
    fits = isinstance(told, int | float) and 0 < told < math.inf
    return float(told) if fits else ServedJudge.reply_limit_s  # type: ignore[arg-type]


@contextmanager
def _telling() -> Iterator[None]:
    """Raise a server that does not fit as what it is, another release or another address: no new start would help."""
    try:
        yield
    except HandshakeMismatch as error:
        raise ConfigError(str(error)) from error


def require_cameras(wanted: Sequence[str], recorded: Sequence[str]) -> None:
    """See whether all views that a reward model looks at are recorded.

    Raises:
        ConfigError: If one is not.
    """
    if missing := sorted(set(wanted) - set(recorded)):
        raise ConfigError(
            "The reward model wants cameras that are not recorded",
            seen=missing,
            allowed=list(recorded),
            remedy="Serve a model made for this bench's cameras (roborl train-reward learns under their names with"
            " --camera_map), or record them; or name the views as it knows them: for roborl watch --cameras '{MODEL: SOURCE}',"
            " for roborl label --camera_map '{MODEL: DATASET}'",
        )
