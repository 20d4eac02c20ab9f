"""The reward server: camera frames come in over the wire, scores go out; the judging happens in a thread per model."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from roborl.errors import ConfigError, DeadlineExceeded, RoborlError, WireError
from roborl.loops.reward_gate import RewardGate
from roborl.loops.supervise import Child
from roborl.rewards.model import RewardModel
from roborl.rewards.pool import SessionPool
from roborl.rewards.pool_config import PoolConfig
from roborl.rewards.registry import find_loader
from roborl.rewards.sessions import ServerFull, UnknownSession
from roborl.serving.score_events import FramePushed, ServerEvent, SessionAsked, SessionGone
from roborl.serving.scores import ScoreServer
from roborl.serving.security import SecurityConfig
from roborl.types import Frame, Lane, Observation

log = logging.getLogger(__name__)

_POLL_S = 0.1
_HEALTH_S = 1.0
_JOIN_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What ``roborl serve`` is told."""

    # Reward models by the name that clients ask for: a folder that train-reward wrote, roboreward:CHECKPOINT or
    # roboreward:SETTINGS.yaml for a published one, or "brightness" for a dry run; calibrated:RESULT:MODEL puts any of
    # them behind the calibration that roborl bench-reward fitted to it and wrote into RESULT.
    models: dict[str, str] = field(default_factory=dict)
    # What every one of them must have shown in roborl bench-reward before it is served.
    gate: RewardGate = field(default_factory=RewardGate)
    # Address to listen on.
    endpoint: str = "tcp://127.0.0.1:5560"
    # Keys for clients on other machines.
    security: SecurityConfig = field(default_factory=SecurityConfig)
    # How sessions share the judges.
    pool: PoolConfig = field(default_factory=PoolConfig)
    # Frames of one label session that may be under way; a live session has one.
    credits: int = 32
    # Threads of the tensor library.
    threads: int = 1
    # A judge that needs longer for one call counts as hung, and the server ends to be started again, s.
    judge_deadline_s: float = 120.0
    # How often a line of statistics is logged, s; 0 for never.
    report_s: float = 60.0

    def __post_init__(self) -> None:
        fits = min(self.credits, self.threads) >= 1 and 0 < self.judge_deadline_s < math.inf
        if not fits or not self.report_s >= 0:
            raise ConfigError(
                "The reward server's settings cannot be used",
                seen=f"credits {self.credits}, threads {self.threads}, judge_deadline_s {self.judge_deadline_s},"
                f" report_s {self.report_s}",
                allowed="credits ≥ 1, threads ≥ 1, judge_deadline_s > 0 and finite, report_s ≥ 0",
                remedy="Correct them; for a judge that may take its time, give a large number of seconds",
            )


class RewardServer:
    """Serves reward models on one address. One thread owns it and calls :meth:`turn`.

    Args:
        models: The models by name.
        config: Address, keys and sharing; its ``models`` are not read.

    Attributes:
        endpoint: The address bound.
        pool: The sessions.
        stale: Scores that came too late for their session.

    Raises:
        ConfigError: If the address is refused or in use.
    """

    def __init__(self, models: Mapping[str, RewardModel[Any, Any]], config: ServeConfig) -> None:
        self._config = config
        self._link = ScoreServer(config.endpoint, keys=config.security.load())
        self.endpoint = self._link.endpoint
        self.pool = SessionPool(models, config.pool, on_outcome=self._link.wake)
        self.stale = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self.pool.work, args=(name, self._stop), name=f"judge {name}", daemon=True
            )
            for name in models
        ]
        self._published = -math.inf
        for thread in self._threads:
            thread.start()

    def turn(self, timeout_s: float = _POLL_S) -> None:
        """Take in what came, send out what is judged; wait ``timeout_s`` where there is neither."""
        if time.monotonic() - self._published >= _HEALTH_S:
            self._link.set_statistics(self.statistics())
            self._published = time.monotonic()
        for event in self._link.poll(timeout_s):
            self._handle(event)
        for outcome in self.pool.collect():
            timings = {**outcome.score.timings_ms, "server": outcome.age_s * 1e3}
            try:
                self._link.send_score(outcome.session_id, replace(outcome.score, timings_ms=timings))
            except WireError:  # the client closed the session meanwhile and opened another under its name
                self.stale += 1
        for session, frame_id in self.pool.collect_left():
            self._link.take(session, frame_id)
        for session in self.pool.collect_forgotten():
            self._link.drop(session, f"nobody touched it for {self._config.pool.idle_s:g} s")

    def statistics(self) -> dict[str, Any]:
        """Return what clients that ask are told, as of the last second: counts, ages, and what models say of themselves.

        ``reply_limit_s`` is the longest that a label session may go without a reply while frames of it are under way and
        the judge is there, as far as can be told from how large batches are and how many calls they have lately taken.
        """
        statistics = self.pool.statistics() | {"stale": self.stale}
        models = statistics["models"].values()
        calls = max((figures["most_batches"] * figures["calls_at_once"] for figures in models), default=1)
        statistics["reply_limit_s"] = self._config.judge_deadline_s * calls
        return statistics

    def check_health(self) -> dict[str, Any]:
        """Return the statistics of a healthy server.

        Raises:
            DeadlineExceeded: If a judge hangs.
            RoborlError: If a model's thread has ended.
        """
        statistics = self.statistics()
        for name, figures in statistics["models"].items():
            if figures["in_call_s"] > self._config.judge_deadline_s:
                raise DeadlineExceeded(
                    f"The judge of {name!r} did not answer in time",
                    seen=f"{figures['in_call_s']:.0f} s",
                    allowed=f"{self._config.judge_deadline_s:g} s",
                    remedy="If it only needs longer, start roborl serve again with a larger --judge_deadline_s; if it hangs, start"
                    " it again as it was. Clients rebuild their sessions",
                )
        if not self._stop.is_set() and not all(thread.is_alive() for thread in self._threads):
            raise RoborlError("A thread of the reward server has ended", remedy="See its traceback above")
        return statistics

    def close(self) -> None:
        """Let the batches under way finish for a few seconds, then free the address."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._link.close()

    def _handle(self, event: ServerEvent) -> None:
        match event:
            case SessionAsked(session=session):
                try:
                    version = self.pool.open(
                        session,
                        model=event.model,
                        task=event.task,
                        cameras=event.cameras,
                        lane=event.lane,
                        references=event.references,
                    )
                except RoborlError as error:
                    log.warning("a session is refused: %s", error)
                    self._link.refuse(session, str(error), full=isinstance(error, ServerFull))
                else:
                    credits = 1 if event.lane is Lane.LIVE else self._config.credits
                    self._link.accept(session, version=version, credits=credits)
            case FramePushed(session=session):
                try:
                    receipt = self.pool.push(session, _observation(event), score=event.score)
                    lost = (
                        ""
                        if receipt.accepted
                        else f"observation {receipt.next_id} is lacking, or there is no room"
                    )
                    taken = not event.score and not receipt.crowding
                except UnknownSession as error:
                    lost = str(error)
                if lost:
                    self.pool.close(session)
                    self._link.drop(session, lost)
                elif taken:
                    self._link.take(session, event.frame_id)
            case SessionGone(session=session):
                self.pool.close(session)


def serve(child: Child, config: ServeConfig) -> dict[str, Any]:
    """Serve until told to stop; return the statistics.

    Raises:
        ConfigError: If no model is named, one does not pass its gate, or the address cannot be used.
        ModelLoadError: If a model cannot be used.
        DeadlineExceeded: If a judge hangs.
    """
    if not config.models:
        raise ConfigError(
            "The reward server has no model to serve",
            remedy="Name a folder that train-reward wrote: roborl serve FOLDER",
        )
    began = time.monotonic()
    loaders = {name: find_loader(place) for name, place in config.models.items()}
    import_s = time.monotonic() - began
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(config.threads)
    models = {name: load() for name, load in loaders.items()}
    for model in models.values():
        config.gate.check(model.info.version)
    server = RewardServer(models, config)
    try:
        child.ready(import_s=import_s)
        for name, model in models.items():
            log.info("serving %s (%s) on %s", name, model.info.version, server.endpoint)
        checked = reported = time.monotonic()
        while not child.stopping:
            server.turn()
            now = time.monotonic()
            if now - checked >= _HEALTH_S:
                server.check_health()
                checked = now
            if config.report_s and now - reported >= config.report_s:
                log.info("%s", summary(server.statistics()))
                reported = now
            child.beat()
        return server.statistics() | {"endpoint": server.endpoint}
    finally:
        server.close()


@contextmanager
def serving(
    models: Mapping[str, RewardModel[Any, Any]], config: ServeConfig | None = None
) -> Iterator[RewardServer]:
    """Serve from a thread of this process, on a free port of this machine unless told otherwise."""
    server = RewardServer(models, config or ServeConfig(endpoint="tcp://127.0.0.1:*"))
    stop = threading.Event()

    def turn() -> None:
        while not stop.is_set():
            server.turn()
        server.close()

    thread = threading.Thread(target=turn, name="reward server")
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        thread.join()


def summary(statistics: Mapping[str, Any]) -> str:
    """Return the statistics of a reward server as one line for people."""
    parts = [f"{statistics['sessions']} sessions, {statistics['waiting_bytes'] / 1e6:.1f} MB waiting"]
    for name, figures in statistics["models"].items():
        scored, missing = sum(figures["scored"].values()), sum(figures["missing"].values())
        parts.append(
            f"{name}: {scored} scored, {missing} missing, {figures['mean_batch']:.1f} a batch,"
            f" labels {figures['label_behind_s']:.1f} s behind"
            + (f", its judge is away for {figures['away_s']:.0f} s" if figures["away_s"] else "")
        )
    return "; ".join(parts)


def _observation(event: FramePushed) -> Observation:
    # Stamps mean nothing on another machine; the index is what the fold goes by.
    frames = {
        name: Frame(rgb=rgb, camera=name, stamp_ns=0, id=event.frame_id) for name, rgb in event.images.items()
    }
    return Observation(frames=frames, state=event.state, stamp_ns=0)
