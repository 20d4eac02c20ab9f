"""The stand-alone monitor: shows a video, a recorded episode or a bench's cameras to a reward server, and follows its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from roborl.envs.ranges import check_number
from roborl.errors import ConfigError, DeadlineExceeded
from roborl.loops.references import ReferencesConfig, read_demonstration
from roborl.loops.score_episodes import read_ahead
from roborl.loops.score_line import ROUND_TRIP, ScoreLine, meet
from roborl.loops.score_link import ScoreLink
from roborl.loops.serve import serving
from roborl.loops.video import beside, draw_progress, write_video
from roborl.loops.watch_sources import View, WatchSource, open_source, renamed
from roborl.rewards.metrics import value_order_correlation
from roborl.rewards.model import observation_id
from roborl.rewards.registry import load_reward_model
from roborl.rewards.shaping import held
from roborl.serving.security import SecurityConfig
from roborl.types import Frame, Lane, Observation, Score
from roborl.whole_files import as_json, require_writable, write_whole

WhichLane = Literal["auto", "live", "label"]

_POLL_S = 0.02
_LIVE_POLL_S = 0.005  # so late may a live picture be sent
# A slow model judges in one call what is under way: a monitor shows the next scores soon rather than many together.
_MOST_UNDER_WAY = 8
_FEW_LOSSES = 3  # a server that is started again now and then is no reason to give up


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What ``roborl watch`` is told."""

    # What to watch: a video, a folder of videos named after their cameras, a LeRobotDataset, or a bench.
    source: str = ""
    # Python modules to import first: they register cameras of your own with LeRobot.
    plugins: list[str] = field(default_factory=list)
    # Which episode of a dataset.
    episode: int = 0
    # Observations per second; 0 for every recorded one, and on a bench for its policy_hz.
    rate_hz: float = 0.0
    # The instruction in words; empty for the source's own.
    task: str = ""
    # A model's name for a view to the source's; empty where they agree.
    cameras: dict[str, str] = field(default_factory=dict)
    # The demonstration that the reward model is shown, for one that compares with it.
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    # Address of the reward server.
    server: str = "tcp://127.0.0.1:5560"
    # Keys for a server on another machine.
    security: SecurityConfig = field(default_factory=SecurityConfig)
    # Name of the model there; empty for its only one.
    model: str = ""
    # Instead of a server: a reward model to load into this process, named as for roborl serve.
    reward_model: str = ""
    # live: newest first, may skip; a recording is played in real time, and where it cannot be decoded so fast, the ages
    # of the scores say so. label: every observation. auto: live on a bench, label elsewhere.
    lane: WhichLane = "auto"
    # How long to wait for the server, and for each score that is under way, s; the label lane has up to 8 under way, and
    # they may come all at once.
    deadline_s: float = 30.0
    # Stop after so many observations; 0 for all, on a bench until Ctrl-C.
    count: int = 0
    # Folder for progress.json, and of a recording also progress.mp4, as far as it came before a fault; empty for none.
    out: str = ""

    def __post_init__(self) -> None:
        if not self.source:
            raise ConfigError(
                "There is nothing to watch",
                seen="no source",
                allowed="a video, a folder of videos, a LeRobotDataset, or a bench",
                remedy="Name it: roborl watch video.mp4",
            )
        for name in ("rate_hz", "count"):
            check_number(
                name, getattr(self, name), at_least=0, remedy=f"Set --{name}, 0 for every observation"
            )
        check_number("deadline_s", self.deadline_s, above=0.0, finite=False, remedy="Set --deadline_s")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Watched:
    """What was seen.

    Attributes:
        scores: In the order in which they came.
        times_s: When each was taken, since the beginning.
        round_trips_ms: From sending to score.
        ages_ms: From the instant that was to be seen to its score, of what was watched live.
        shown: Observations read from the source.
    """

    scores: list[Score] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    round_trips_ms: list[float] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    shown: int = 0

    def figures(self) -> dict[str, Any]:
        """Return counts, the course of progress and waiting times as plain values."""
        valid = [score.progress for score in self.scores if score.valid]
        return {
            "version": self.scores[-1].version if self.scores else "",
            "observations": self.shown,
            "scored": len(valid),
            "missing": len(self.scores) - len(valid),
            "first": valid[0] if valid else None,
            "last": valid[-1] if valid else None,
            "highest": max(valid, default=None),
            "value_order_correlation": value_order_correlation(valid) if len(valid) > 1 else None,
            "round_trip_ms": float(np.median(self.round_trips_ms)) if self.round_trips_ms else None,
            "age_ms": float(np.median(self.ages_ms)) if self.ages_ms else None,
            "age_ms_max": max(self.ages_ms, default=None),
        }


type OnScore = Callable[[Score, float], None]


def watch(
    config: WatchConfig,
    *,
    on_score: OnScore = lambda score, time_s: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Watched:
    """Watch a source to its end, or until told to stop; what was scored until a fault is written as well.

    Args:
        config: What, and who judges.
        on_score: Called with each score and the time of its observation, as they come.
        stopping: Ends it early.

    Raises:
        ConfigError: If there is no such source, the server refuses the session, or its model looks at a view that the
            source lacks or counts on observations at another rate than the source's.
        DatasetError: If the source or the demonstration cannot be read.
        RobotError: If a camera of the bench gives no picture.
        DeadlineExceeded: If server or scores do not come in time.
    """
    if config.out:
        require_writable(Path(config.out) / "progress.json")
    source = renamed(
        open_source(config.source, rate_hz=config.rate_hz, episode=config.episode), config.cameras
    )
    references = read_demonstration(config.references, source.cameras, config.task or source.task)
    lane = Lane.LIVE if config.lane == "live" or (config.lane == "auto" and source.live) else Lane.LABEL
    with ExitStack() as stack:
        endpoint = config.server
        if config.reward_model:
            endpoint = stack.enter_context(serving({"own": load_reward_model(config.reward_model)})).endpoint
        line = ScoreLine(
            endpoint,
            source.cameras,
            model=config.model,
            references=references,
            rate_hz=source.rate_hz,
            where="source",
            lane=lane,
            name="watch",
            keys=None if config.reward_model else config.security.load(),
        )
        stack.callback(line.leave)
        judge = meet(line, config.deadline_s)
        watching = _Watch(config, source, line, lane, on_score, stopping)
        try:
            watching.run()
        except Exception as error:
            if config.out and watching.watched.scores:
                _write(config, source, watching.watched, judge.info.about, fault=str(error))
            raise
    if config.out:
        _write(config, source, watching.watched, judge.info.about)
    return watching.watched


class _Lost(Exception):
    """The session is gone, in a lane in which nothing may be skipped."""


class _Watch:
    """One pass over a source; a session that is lost is rebuilt, from the beginning where nothing may be skipped."""

    def __init__(
        self,
        config: WatchConfig,
        source: WatchSource,
        line: ScoreLink,
        lane: Lane,
        on_score: OnScore,
        stopping: Callable[[], bool],
    ) -> None:
        self._config, self._source, self._line, self._lane = config, source, line, lane
        self._on_score, self._stopping = on_score, stopping
        # A camera does not wait, so a recording that stands for one does not either.
        self._paced = lane is Lane.LIVE and not source.live
        self._times_s: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._watched = self._before = Watched()
        self._heard = time.monotonic()  # the last score or loss, or the instant from which one is waited for
        # Losses since a pass last came further than any before it, and when the first of them was.
        self._losing_since: float | None = None
        self._losses, self._furthest = 0, -1
        self._away_since: float | None = None

    @property
    def watched(self) -> Watched:
        """What was seen, in the pass that brought the most scores."""
        return max(self._watched, self._before, key=lambda watched: len(watched.scores))

    def run(self) -> None:
        while True:
            self._session: str | None = None
            self._waiting: Observation | None = None
            self._sent: int | None = None  # the last that was sent, until its score is here
            self._first: Observation | None = None
            self._scored = -1
            self._watched, self._before = Watched(), self.watched
            with suppress(_Lost):
                return self._show_all()

    def _show_all(self) -> None:
        """Show one observation after the other, until the last is scored or it is told to stop."""
        shown, began = 0, time.monotonic()
        with self._views() as views:
            for seen in views:
                if self._stopping() or (self._config.count and shown >= self._config.count):
                    break
                if seen is None:
                    self._turn(_LIVE_POLL_S)
                    continue
                read_s, view = seen
                due = began + view.time_s if self._paced else read_s
                while (early_s := due - time.monotonic()) > 0 and not self._stopping():
                    self._turn(min(early_s, _POLL_S))
                self._times_s[shown], self._due[shown] = view.time_s, due
                self._watched = replace(self._watched, shown=shown + 1)
                self._show(_observation(view, shown))
                shown += 1
            while self._waits and not self._stopping():
                self._turn(_POLL_S)
        if self._session is not None:
            self._line.close(self._session)

    @contextmanager
    def _views(self) -> Iterator[Iterator[tuple[float, View] | None]]:
        """Read each view with the time at which it was read; None while a live source has no new one, and scores may come."""
        views = ((time.monotonic(), view) for view in self._source.read())
        if self._source.live:
            with read_ahead(views) as ahead:
                yield ahead
        else:
            yield views

    @property
    def _waits(self) -> bool:
        return self._waiting is not None or self._sent is not None

    @property
    def _under_way(self) -> int:
        """How many scores are still to come of what was sent; in the live lane that of the newest."""
        if self._sent is None:
            return 0
        return self._sent - self._scored if self._lane is Lane.LABEL else 1

    def _show(self, observation: Observation) -> None:
        """Send it, in the live lane as soon as the line takes it and if no newer one is there by then."""
        if not self._waits:
            self._heard = time.monotonic()
        self._waiting = observation
        self._turn(0.0)
        while self._lane is Lane.LABEL and self._waiting is not None and not self._stopping():
            self._turn(_POLL_S)

    def _turn(self, timeout_s: float) -> None:
        # What came first: a server that was not listened to for a second would count as away.
        scores, lost = self._line.poll(timeout_s)
        for session, score in scores:
            if session == self._session:
                self._take(score)
        there = self._line.judge() is not None
        self._keep_patience(there, self._session in lost)
        if self._session in lost:
            if self._lane is Lane.LABEL:
                raise _Lost
            self._session = self._sent = None
        if there and self._session is None:
            self._session = self._line.open(self._config.task or self._source.task, self._first)
        if (
            self._waiting is not None
            and self._session is not None
            and (self._lane is Lane.LIVE or self._under_way < _MOST_UNDER_WAY)
            and self._line.push(self._session, self._waiting, score=True)
        ):
            self._first = self._first or self._waiting
            self._sent, self._waiting = observation_id(self._waiting), None

    def _keep_patience(self, there: bool, lost: bool) -> None:
        """Raise where the server is away, or there and silent, or loses one session after the other, for too long."""
        now, patience_s = time.monotonic(), self._config.deadline_s * max(1, self._under_way)
        away_s = now - max(self._away_since or now, self._heard)
        self._away_since = None if there else self._away_since or now
        if lost:
            self._heard, self._losing_since = now, self._losing_since or now
            self._losses += 1
            came = "only lost sessions"
            waited_s = now - self._losing_since if self._losses >= _FEW_LOSSES else 0.0
        elif there:
            self._heard += away_s  # an absence is no silence
            came, waited_s = "none", now - self._heard
        else:
            came, waited_s, patience_s = "no sign of life", away_s, self._config.deadline_s
        if (lost or self._waits) and waited_s > patience_s:
            raise self._silence(came, waited_s, patience_s)

    def _silence(self, came: str, waited_s: float, patience_s: float) -> DeadlineExceeded:
        own = bool(self._config.reward_model)
        return DeadlineExceeded(
            f"The reward {'model' if own else 'server'} gives no scores",
            seen=f"{len(self._watched.scores)}, then {came} for {waited_s:.3g} s with {self._under_way} under way",
            allowed=f"{patience_s:g} s at --deadline_s {self._config.deadline_s:g}",
            remedy=("" if own else f"Look at the log of roborl serve at {self._config.server}; ")
            + "--deadline_s gives a slow model more time",
        )

    def _take(self, score: Score) -> None:
        self._heard = time.monotonic()
        index, watched = score.frame_id, self._watched
        if self._lane is Lane.LIVE or index > self._furthest:
            self._losing_since, self._losses, self._furthest = None, 0, index
        self._on_score(score, self._times_s[index])
        watched.scores.append(score)
        watched.times_s.append(self._times_s[index])
        watched.round_trips_ms.append(score.timings_ms[ROUND_TRIP])
        if self._lane is Lane.LIVE:
            watched.ages_ms.append((self._heard - self._due[index]) * 1e3)
        self._scored = index
        if index == self._sent:
            self._sent = None


def _observation(view: View, index: int) -> Observation:
    # A recording has no capture stamps; the index is what a fold goes by.
    frames = {name: Frame(rgb=rgb, camera=name, stamp_ns=0, id=index) for name, rgb in view.images.items()}
    return Observation(frames=frames, state=view.state, stamp_ns=0)


def _write(
    config: WatchConfig,
    source: WatchSource,
    watched: Watched,
    about: Mapping[str, Any],
    *,
    fault: str | None = None,
) -> None:
    folder = Path(config.out)
    rows = [
        {
            "observation": score.frame_id,
            "time_s": time_s,
            "progress": score.progress if score.valid else None,
            "spread": score.spread,
            "stage": score.stage,
            "done": score.done,
            "reply": score.reply,
        }
        for score, time_s in zip(watched.scores, watched.times_s, strict=True)
    ]
    document = {
        "source": config.source,
        **watched.figures(),
        "fault": fault,
        "about": about,
        "scores": rows,
    }
    write_whole(folder / "progress.json", as_json(document, indent=1) + "\n")
    valid = [score for score in watched.scores if score.valid]
    if source.live or not valid:
        return
    ids = np.array([score.frame_id for score in valid])
    curve = held(np.array([score.progress for score in valid]), ids, watched.shown)
    # Thinned out, so that a long recording is drawn in a time that grows with its length and no faster.
    length = watched.shown
    pictures = (
        draw_progress(
            beside(view.images), curve[: i + 1 : max(1, length // 200)].tolist(), length=min(length, 200)
        )
        for i, view in zip(range(length), source.read(), strict=False)
    )
    write_video(folder / "progress.mp4", pictures, fps=min(max(source.rate_hz, 1.0), 60.0))
