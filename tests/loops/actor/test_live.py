"""An arm that is watched while it moves: what is made of the scores, and a real actor whose reward server dies."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.clock import NS, FakeClock
from roborl.codec import split
from roborl.data.reader import StoreReader
from roborl.data.ring import Ring
from roborl.errors import ConfigError
from roborl.loops.actor import act
from roborl.loops.actor.act import ActorProcesses, folder_of, process_names
from roborl.loops.actor.act_config import ActConfig
from roborl.loops.actor.judge_stop import LiveScore, LiveSlot
from roborl.loops.actor.live import LiveLoop, StuckWatch
from roborl.loops.actor.live_config import LiveConfig
from roborl.loops.actor.shared import Request
from roborl.loops.actor.status import StatusSlot
from roborl.loops.learner import learn
from roborl.loops.learner.learn import form_of, learner_specs
from roborl.loops.learner.learn_config import LearnConfig, RunFolder, StoreConfig
from roborl.loops.score_link import ServedJudge
from roborl.loops.serve import ServeConfig, serving
from roborl.loops.supervise import ProcessGroup
from roborl.records import End, Verdict, unpack_record
from roborl.rewards.model_info import ModelInfo
from roborl.testing.counting_reward import CountingModel
from roborl.types import EndCause, EpisodeKey, Frame, Observation, RewardSource, Score


def key(episode: int) -> EpisodeKey:
    return EpisodeKey(actor="arm", incarnation=1, episode=episode)


class Line:
    """A reward server that says what it is told to."""

    def __init__(self) -> None:
        self.here, self.refuses = True, False
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.pushed: list[tuple[str, int]] = []
        self.began_with: list[tuple[str, int]] = []
        self.scores: list[tuple[str, Score]] = []
        self.lost: dict[str, str | None] = {}

    def judge(self) -> ServedJudge | None:
        return ServedJudge(info=ModelInfo(version="v")) if self.here else None

    def open(self, task: str, first: Observation | None = None) -> str | None:
        self.opened.append(f"s{len(self.opened)}")
        if first is not None:
            self.began_with.append((self.opened[-1], first.frames["front"].id))
        return self.opened[-1]

    def push(self, session: str, observation: Observation, *, score: bool) -> bool:
        self.pushed.append((session, observation.frames["front"].id))
        return True

    def close(self, session: str) -> None:
        self.closed.append(session)

    def poll(self, timeout_s: float) -> tuple[list[tuple[str, Score]], dict[str, str | None]]:
        if self.refuses and self.opened:
            raise ConfigError("The reward server refuses to judge the task", seen="it is too dark")
        scores, lost, self.scores, self.lost = self.scores, self.lost, [], {}
        return scores, lost


class Rig:
    """The loop with its fakes; observation n of an episode is made n tenths of a second after its begin."""

    def __init__(self, folder: Path, *, stuck_s: float = 0.0) -> None:
        self.line, self.clock = Line(), FakeClock(NS)
        self.requests: list[Request] = []
        self.slot = LiveSlot(folder)
        self.status = StatusSlot(folder, "live")
        self.loop = LiveLoop(
            lambda: self.requests.pop(0) if self.requests else None,
            self.line,
            LiveSlot(folder),
            self.status,
            task="reach",
            progress=StuckWatch(stuck_s, 0.02),
            help="press stop",
            clock=self.clock,
        )

    def show(self, episode: int, index: int) -> None:
        frame = Frame(rgb=np.zeros((4, 4, 3), np.uint8), camera="front", stamp_ns=0, id=index)
        observation = Observation(
            frames={"front": frame}, state=np.zeros(1, np.float32), stamp_ns=index * NS // 10
        )
        self.requests.append(Request(key=key(episode), index=index, wanted=True, observation=observation))
        self.loop.turn()

    def say(self, index: int, progress: float = 0.5, **said: Any) -> LiveScore | None:
        score = Score(frame_id=index, progress=progress, raw=0.0, **{"done": False} | said)
        self.line.scores.append((self.line.opened[-1], score))
        self.loop.turn()
        return self.slot.unseen()

    def counts(self, *names: str) -> tuple[int, ...]:
        return tuple(self.status[name] for name in names)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_what_is_said_of_an_observation_stands_for_the_instant_at_which_it_was_made(rig: Rig) -> None:
    rig.show(0, 4)
    rig.say(4)
    rig.show(0, 7)
    assert rig.say(7, 0.9, done=True) == LiveScore(
        key=key(0), index=7, progress=0.9, done=True, valid=True, stamp_ns=7 * NS // 10
    )
    rig.show(0, 8)
    unreadable = rig.say(8, 0.0, done=True, valid=False)
    assert unreadable is not None
    assert (unreadable.done, unreadable.valid) == (False, False)
    assert rig.line.opened == ["s0"]
    assert rig.counts("offered", "scored", "missing") == (3, 2, 1)


def test_a_scene_that_looks_done_from_the_first_picture_on_ends_nothing_and_is_told(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def done(episode: int, index: int, **said: Any) -> bool:
        rig.show(episode, index)
        live = rig.say(index, **{"done": True} | said)
        assert live is not None
        return live.done

    assert not done(0, 0)
    assert not done(0, 1, valid=False)
    assert not done(0, 2)
    assert [r.getMessage() for r in caplog.records] == [
        f"{key(0)} looks done from the first picture on, which ends nothing: is the scene made ready?"
    ]
    assert not done(0, 3, done=False)
    assert done(0, 4)
    assert not done(1, 0)


def test_each_episode_has_a_session_of_its_own_and_the_last_ones_scores_are_dropped(rig: Rig) -> None:
    rig.show(0, 4)
    rig.show(1, 4)
    rig.line.scores.append(("s0", Score(frame_id=4, progress=1.0, raw=0.0, done=True)))
    rig.loop.turn()
    assert rig.slot.unseen() is None
    said = rig.say(4)
    assert said is not None
    assert said.key == key(1)
    assert (rig.line.opened, rig.line.closed) == (["s0", "s1"], ["s0"])


def test_a_session_that_is_lost_is_opened_again_after_a_moment(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.show(0, 1)
    rig.line.lost = {"s0": None}
    rig.show(0, 2)
    rig.show(0, 3)
    assert rig.line.opened == ["s0"]
    for _ in range(2):
        rig.clock.advance(1.0)
        rig.show(0, 3)
        rig.line.lost = dict.fromkeys(rig.line.opened[-1:])
        rig.loop.turn()
    assert rig.line.opened == ["s0", "s1", "s2"]
    assert rig.counts("lost") == (3,)
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1


def test_a_session_that_takes_the_place_of_a_lost_one_is_shown_how_the_episode_began(rig: Rig) -> None:
    """A model takes the first picture that it sees for the beginning, and what it says of later ones goes by that."""
    rig.show(0, 1)
    rig.show(0, 4)
    rig.line.lost = {"s0": None}
    rig.show(0, 6)
    rig.clock.advance(1.0)
    rig.show(0, 9)
    rig.show(1, 0)
    assert rig.line.opened == ["s0", "s1", "s2"]
    assert rig.line.began_with == [("s1", 1)]


def test_a_server_that_refuses_an_episode_is_asked_again_with_the_next_one(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.line.refuses = True
    for index in range(5):
        rig.show(0, index)
        rig.clock.advance(2.0)
    assert rig.line.opened == rig.line.closed == ["s0"]
    assert rig.counts("refused", "silent") == (1, 0)
    assert len(caplog.records) == 1
    assert "it is too dark" in caplog.text
    rig.line.refuses = False
    rig.show(1, 0)
    assert rig.say(0) is not None
    assert rig.counts("refused") == (1,)


def test_silence_of_the_server_is_told_once_an_episode_and_ends_by_itself(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.line.here = False
    for index in range(5):
        rig.show(0, index)
        rig.clock.advance(2.0)
    assert rig.counts("silent", "connected") == (1, 0)
    rig.show(1, 0)
    rig.show(2, 0)
    assert rig.counts("silent") == (2,)
    assert len(caplog.records) == 2
    rig.line.here = True
    rig.show(2, 1)
    assert rig.say(1) is not None
    # While there is nothing to see, nobody has to say anything.
    rig.clock.advance(60.0)
    rig.loop.turn()
    rig.show(2, 2)
    rig.show(3, 0)
    assert rig.counts("silent", "connected") == (2, 1)


@pytest.mark.parametrize(
    ("progress", "stuck"),
    [
        (lambda n: 0.3, True),
        (lambda n: 0.3 - 0.01 * n, True),
        (lambda n: 0.01 * n, False),
        (lambda n: 0.001 * n, True),
    ],
    ids=["still", "falls", "rises", "creeps"],
)
def test_an_episode_that_does_not_come_on_is_counted_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, progress: Callable[[int], float], stuck: bool
) -> None:
    rig = Rig(tmp_path, stuck_s=1.0)
    for episode in range(2):
        for index in range(25):
            rig.show(episode, index)
            rig.say(index, progress(index))
    assert rig.counts("stuck") == (2 * stuck,)
    told = [record.message for record in caplog.records]
    assert len(told) == 2 * stuck
    assert all("press stop" in line and str(key(n)) in line for n, line in enumerate(told))


def test_what_is_done_is_not_stuck_and_neither_is_what_nobody_can_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path, stuck_s=1.0)
    for index in range(25):
        rig.show(0, index)
        rig.say(index, 1.0, done=True)
    for index in range(25):
        rig.show(1, index)
        rig.say(index, 0.0, valid=False)
    assert rig.counts("stuck") == (0,)


def test_nobody_is_told_of_a_simulated_bench_that_is_stuck_unless_asked_to() -> None:
    assert LiveConfig().stuck_after_s(simulated=False) == 8.0
    assert LiveConfig().stuck_after_s(simulated=True) == 0.0
    assert LiveConfig(stuck_s=3.0).stuck_after_s(simulated=True) == 3.0


@pytest.mark.parametrize(
    ("live", "watched"),
    [
        (LiveConfig(), False),
        (LiveConfig(server="tcp://127.0.0.1:1"), True),
        (LiveConfig(server="tcp://127.0.0.1:1", use="always"), True),
        (LiveConfig(server="tcp://127.0.0.1:1", use="never"), False),
    ],
)
def test_an_arm_is_watched_where_a_server_is_named(live: LiveConfig, watched: bool) -> None:
    config = ActConfig(live=live, teleop="pad.yaml")
    names = ("control", "inference", "io", "teleop")
    assert process_names(config) == ((*names, "live") if watched else names)


@pytest.mark.parametrize("wrong", [{"stale_s": 0.0}, {"stuck_s": -1.0}, {"stuck_rise": 0.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"watched with these settings.*Found.*Allowed"):
        LiveConfig(**wrong)


def test_an_arm_that_must_be_watched_needs_a_server() -> None:
    with pytest.raises(ConfigError, match=r"no reward server to watch.*--live\.server"):
        ActConfig(live=LiveConfig(use="always"))


def wait_for(what: str, happened: Callable[[], object], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"not in time: {what}"
        time.sleep(0.01)


@contextmanager
def acting(config: ActConfig) -> Iterator[tuple[ActorProcesses, list[dict[str, Any]]]]:
    """An actor at work in a thread; its figures once it has ended."""
    stop, results = threading.Event(), []
    actor = ActorProcesses(config, stop.is_set)
    thread = threading.Thread(target=lambda: results.append(actor.run()))
    thread.start()
    try:
        yield actor, results
    finally:
        stop.set()
        thread.join(60)
        shutil.rmtree(folder_of(config))


def bench(max_steps: int) -> list[str]:
    return ["--robot.scene=Reach", "--outcome=judge", f"--max_steps={max_steps}", "--time_scale=4"]


def test_an_episode_ends_once_it_is_done_and_the_label_lane_says_how_it_came_out(tmp_path: Path) -> None:
    done_at, limit = 30, 400
    run, ipc = tmp_path / "run", f"ipc://{tmp_path}"
    learning = LearnConfig(
        run=run,
        bench_overrides=bench(limit),
        reward=f"{ipc}/scores",
        steps=f"{ipc}/steps",
        weights=f"{ipc}/weights",
        store=StoreConfig(capacity_bytes=64 << 20),
    )
    acts = ActConfig(
        bench_overrides=bench(limit),
        run=run,
        steps=learning.steps,
        policy_factory="roborl.testing.policies:random_policy",
        live=LiveConfig(server=learning.reward),
        episodes=3,
    )
    specs = [spec for spec in learner_specs(learning, form_of(learning)) if spec.name != "trainer"]
    learner = ProcessGroup(specs, preload=learn.PRELOAD)

    def judged() -> list[Any]:
        return [info for info in StoreReader(RunFolder(run).store).episodes() if info.verdict is not None]

    with serving({"reward": CountingModel(done_at, 32)}, ServeConfig(endpoint=learning.reward)):
        learner.start()
        try:
            with acting(acts) as (actor, results):
                wait_for("three episodes", lambda: learner.poll(0.01) or results)
            wait_for("three verdicts", lambda: learner.poll(0.01) or len(judged()) == 3)
        finally:
            learner.stop()
    # The first may be under way before anybody watches.
    assert [info.end for info in judged()[1:]] == [EndCause.JUDGE_STOP] * 2
    for info in judged():
        assert info.verdict == Verdict(key=info.key, index=done_at, success=True, source=RewardSource.JUDGE)
        assert (info.terminal_index, info.success) == (done_at, True)
        assert info.end is EndCause.TIME_LIMIT or done_at <= info.steps < limit
    (result,) = results
    assert result["judge_stops"] == sum(info.end is EndCause.JUDGE_STOP for info in judged())
    assert result["restarts"] == dict.fromkeys(("control", "inference", "io", "live"), 0)
    assert result["live"]["scored"] >= 2
    assert actor.done


def test_a_reward_server_and_a_watcher_that_are_killed_cost_the_arm_nothing_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(act, "_REPORT_S", 0.2)
    caplog.set_level(logging.INFO, logger=act.log.name)
    limit, endpoint = 40, f"ipc://{tmp_path}/scores"
    config = ActConfig(
        bench_overrides=bench(limit),
        run=tmp_path / "run",
        steps=f"ipc://{tmp_path}/nobody",
        policy_factory="roborl.testing.policies:random_policy",
        live=LiveConfig(server=endpoint, stuck_s=0.3),
        drain_s=0.0,
    )

    def serve(done_at: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "roborl.testing.counting_reward", endpoint, str(done_at)]
        return subprocess.Popen(command)

    # A task that gets to a fiftieth of its end in an episode: nobody would call that progress.
    server = serve(50 * limit)
    try:
        with acting(config) as (actor, results):
            control, live = actor.status["control"], actor.status["live"]
            wait_for("an episode is stuck", lambda: live["stuck"])
            wait_for("an episode begins", lambda: 0 < control["index"] < limit // 4)
            killed_in = control["episode"]
            server.kill()
            server.wait()
            wait_for("two more episodes", lambda: control["episode"] >= killed_in + 3)
            wait_for("it is missed", lambda: not live["connected"])
            os.kill(actor.group.pid("live"), signal.SIGKILL)
            wait_for("whoever watches is back", lambda: actor.group.recoveries_s["live"])
            server = serve(20)
            wait_for("the server is heard", lambda: control["judge_stops"])
            wait_for("its report", lambda: "stuck" in caplog.text)
            ring = Ring.attach(folder_of(config) / "ring.bin")
            with ring:
                records = [unpack_record(split(bytes(ring.read(seq)))) for seq in range(1, ring.head + 1)]
    finally:
        server.kill()
        server.wait()
    ends = {record.key.episode: record for record in records if isinstance(record, End)}
    for episode in range(killed_in, killed_in + 3):
        assert (ends[episode].cause, ends[episode].index) == (EndCause.TIME_LIMIT, limit)
    stopped = [end for end in ends.values() if end.cause is EndCause.JUDGE_STOP]
    assert all(20 <= end.index < limit for end in stopped)
    (result,) = results
    assert result["restarts"] == {"control": 0, "inference": 0, "io": 0, "live": 1}
    assert result["watchdogs"] == 0
    assert result["judge_stops"] >= len(stopped) >= 1
    assert result["live"]["silent"] >= 1
    assert result["live"]["stuck"] >= 1
