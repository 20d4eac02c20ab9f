from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from roborl.clock import NS, Deadline, FakeClock
from roborl.errors import ConfigError, DeadlineExceeded
from roborl.loops.score_episodes import ShownEpisode, score_episodes, score_over
from roborl.loops.score_line import ScoreLine, meet
from roborl.loops.score_link import ServedJudge
from roborl.loops.serve import RewardServer, ServeConfig
from roborl.rewards.fake import BrightnessFold, BrightnessJudge, BrightnessModel, Glance
from roborl.rewards.model import References
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.pool_config import PoolConfig
from roborl.serving.handshake import Handshake
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import SessionOpened, SessionRefused
from roborl.serving.weights_publisher import WeightsPublisher
from roborl.types import Frame, Lane, Observation, Score


class Serving:
    """A reward server in a thread, which can be put down and another put in its place."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._stop: threading.Event | None = None

    def start(self, *, pool: PoolConfig | None = None, **models: BrightnessModel) -> None:
        server = RewardServer(models, ServeConfig(endpoint=self.endpoint, pool=pool or PoolConfig()))
        server.check_health()
        self._stop = stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                server.turn(0.01)
            server.close()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._thread.join()
            self._stop = None


@pytest.fixture
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    made = Serving(f"ipc://{tmp_path_factory.mktemp('s') / 'scores.sock'}")
    yield made
    made.stop()


def observation(index: int, value: int) -> Observation:
    frames = {
        name: Frame(rgb=np.full((16, 24, 3), value, np.uint8), camera=name, stamp_ns=index, id=index)
        for name in ("front", "wrist")
    }
    return Observation(frames=frames, state=np.zeros(2, np.float32), stamp_ns=index)


def until[T](line: ScoreLine, found: Callable[[list[tuple[str, Score]], list[str]], T | None]) -> T:
    scores: list[tuple[str, Score]] = []
    lost: list[str] = []
    deadline = Deadline(30.0)
    while (result := found(scores, lost)) is None:
        new, gone = line.poll(0.02)
        scores += new
        lost += gone
        line.judge()
        deadline.check("it")
    return result


def push(line: ScoreLine, session: str, index: int, value: int, *, score: bool = True) -> None:
    until(line, lambda _s, _l: line.push(session, observation(index, value), score=score) or None)


def test_scores_come_back_for_pictures_of_the_models_size(serving: Serving) -> None:
    seen: list[tuple[int, ...]] = []
    model = BrightnessModel(cameras=("wrist",), image_px=8)
    answer = model.judge.answer
    model.judge.answer = lambda queries: (  # type: ignore[method-assign]
        seen.extend(picture.shape for query in queries for picture in query.now) or answer(queries)
    )
    line = ScoreLine(serving.endpoint, ("front", "wrist"))
    line.poll(0.01)
    assert line.judge() is None
    assert line.open("shine") is None
    serving.start(reward=model)
    judge = until(line, lambda _s, _l: line.judge())
    assert judge == ServedJudge(info=model.info)
    assert judge.reply_limit_s == ServeConfig().judge_deadline_s * PoolConfig().most_batches(
        PoolConfig.max_batch
    )
    session = line.open("shine")
    assert session is not None
    push(line, session, 0, 51)
    push(line, session, 1, 255, score=False)
    push(line, session, 2, 102)
    scores = until(line, lambda s, _l: s if len(s) == 2 else None)
    assert [(name, score.frame_id) for name, score in scores] == [(session, 0), (session, 2)]
    assert [round(score.progress, 3) for _, score in scores] == [0.2, 0.4]
    assert set(seen) == {(8, 8, 3)}
    line.close(session)
    line.leave()


def test_a_model_that_is_told_the_time_has_to_count_on_the_recordings_rate(serving: Serving) -> None:
    model = BrightnessModel()
    model.info = replace(model.info, observation_hz=10.0)
    serving.start(reward=model)
    right = ScoreLine(serving.endpoint, ("front",), rate_hz=10.0)
    until(right, lambda _s, _l: right.judge())
    wrong = ScoreLine(serving.endpoint, ("front",), rate_hz=30.0)
    with pytest.raises(ConfigError, match=r"30 Hz in the recording.*observation_hz 10.*observation_hz: 30"):
        until(wrong, lambda _s, _l: wrong.judge())
    right.leave()
    wrong.leave()


def test_a_model_that_learnt_from_another_rate_is_warned_of_once(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    model = BrightnessModel()
    model.info = replace(model.info, trained_hz=30.0)
    serving.start(reward=model)
    line = ScoreLine(serving.endpoint, ("front",), rate_hz=10.0)
    until(line, lambda _s, _l: line.judge())
    serving.stop()
    until(line, lambda _s, _l: True if line.judge() is None else None)
    serving.start(reward=model)
    until(line, lambda _s, _l: line.judge())
    line.leave()
    (said,) = [message for message in caplog.messages if "learnt from" in message]
    assert "30 observations per second, and there are 10 in the recording" in said


class Curt(BrightnessModel):
    """Judges tasks of one word."""

    def start(self, task: str, references: References) -> BrightnessFold:
        if " " in task:
            raise ConfigError("The words are too many", seen=task, allowed="one", remedy="Be brief")
        return super().start(task, references)


def test_a_task_that_is_refused_after_others_were_scored_ends_it_with_the_reason(serving: Serving) -> None:
    serving.start(reward=Curt())
    line = ScoreLine(serving.endpoint, ("front", "wrist"), task="shine")
    shown = [observation(i, 10) for i in range(3)]
    episodes = [
        ShownEpisode(index=index, task=task, observations=shown)
        for index, task in enumerate(["shine", "shine on and on"])
    ]
    scores = score_episodes(line, iter(episodes), deadline_s=3.0, at_once=1)
    assert next(scores)[0] == 0
    with pytest.raises(ConfigError, match=r"refuses.*episode 1.*words are too many.*Allowed: one.*again\.$"):
        next(scores)
    line.leave()


class Once(BrightnessModel):
    """Begins one episode, and refuses all others."""

    begun = 0

    def start(self, task: str, references: References) -> BrightnessFold:
        self.begun += 1
        if self.begun > 1:
            raise ConfigError("Once is enough")
        return super().start(task, references)


class Crowded(BrightnessModel):
    """Finds its card full as the second episode begins."""

    begun = 0

    def start(self, task: str, references: References) -> BrightnessFold:
        self.begun += 1
        if self.begun == 2:
            raise MemoryError("the learner is at its peak")
        return super().start(task, references)


def test_an_episode_that_begins_while_the_card_is_full_is_scored_all_the_same(serving: Serving) -> None:
    model = Crowded()
    serving.start(reward=model)
    line = ScoreLine(serving.endpoint, ("front", "wrist"))
    shown = [observation(i, 10) for i in range(3)]
    episodes = [ShownEpisode(index=index, task="shine", observations=shown) for index in range(3)]
    scored = dict(score_episodes(line, iter(episodes), deadline_s=10.0, at_once=1))
    line.leave()
    assert {index: len(scores) for index, scores in scored.items()} == {0: 3, 1: 3, 2: 3}
    assert model.begun == 4


def test_the_live_lane_sends_the_newest_and_tells_of_every_refusal(serving: Serving) -> None:
    serving.start(reward=Once())
    line = ScoreLine(serving.endpoint, ("front", "wrist"), lane=Lane.LIVE)
    until(line, lambda _s, _l: line.judge())
    session = line.open("shine")
    assert session is not None
    push(line, session, 0, 51)
    for index in (1, 2, 3):
        push(line, session, index, 51 * index)
    scores = until(line, lambda s, _l: s if s and s[-1][1].frame_id == 3 else None)
    assert [score.frame_id for _, score in scores] == [0, 3]
    assert scores[-1][1].progress == pytest.approx(0.6)
    assert line.open("shine") is not None
    with pytest.raises(ConfigError, match=r"refuses.*Once is enough"):
        until(line, lambda _s, lost: None)
    line.leave()


class FromItsBeginning(BrightnessModel):
    """A model of changes, which takes what it sees first for the beginning."""

    def start(self, task: str, references: References) -> BrightnessFold:
        class Remembering(BrightnessFold):
            def skip(self, observation: Observation) -> None:
                self.queries(observation)

        return Remembering(self.info.cameras, self.info.version)


def test_a_live_session_in_mid_episode_goes_by_the_episodes_own_beginning(serving: Serving) -> None:
    serving.start(reward=FromItsBeginning())
    line = ScoreLine(serving.endpoint, ("front", "wrist"), lane=Lane.LIVE)
    until(line, lambda _s, _l: line.judge())
    session = line.open("shine", observation(0, 51))
    assert session is not None
    push(line, session, 60, 204)
    ((_, score),) = until(line, lambda s, _l: s or None)
    assert (score.frame_id, score.raw) == (60, pytest.approx(0.6))
    line.leave()


@pytest.mark.parametrize("told", [math.inf, math.nan, 0.0, "soon"])
def test_a_server_that_names_no_end_is_given_up_after_a_while(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, told: object
) -> None:
    statistics = ScoreClient.statistics

    def spoilt(client: ScoreClient, timeout_s: float) -> dict[str, Any]:
        return statistics(client, timeout_s) | {"reply_limit_s": told}

    monkeypatch.setattr(ScoreClient, "statistics", spoilt)
    serving.start(reward=BrightnessModel())
    line = ScoreLine(serving.endpoint, ("front", "wrist"))
    assert until(line, lambda _s, _l: line.judge()).reply_limit_s == ServedJudge.reply_limit_s
    line.leave()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"version": "v", "calls": 3}, None),
        ({"cameras": ["front"]}, r"version.*Found: None"),
        ({"version": "v", "image_px": "large"}, r"image_px.*Found: 'large'.*Allowed: None or above 0"),
    ],
)
def test_a_server_of_another_release_may_say_less_and_nothing_in_another_form(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], words: str | None
) -> None:
    monkeypatch.setattr(ScoreClient, "statistics", lambda client, timeout_s: {"models": {"reward": said}})
    serving.start(reward=BrightnessModel())
    line = ScoreLine(serving.endpoint, ("front", "wrist"))
    if words is None:
        assert until(line, lambda _s, _l: line.judge()) == ServedJudge(info=ModelInfo(version="v"))
    else:
        with pytest.raises(ConfigError, match=words):
            until(line, lambda _s, _l: line.judge())
    line.leave()


@pytest.mark.parametrize("lane", list(Lane))
def test_a_session_for_which_there_is_no_room_is_asked_for_again(
    serving: Serving, lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
    serving.start(pool=PoolConfig(max_sessions=1), reward=BrightnessModel())
    other = ScoreLine(serving.endpoint, ("front", "wrist"))
    until(other, lambda _s, _l: other.judge())
    taken = other.open("shine")
    assert taken is not None
    push(other, taken, 0, 51)
    line = ScoreLine(serving.endpoint, ("front", "wrist"), lane=lane)
    until(line, lambda _s, _l: line.judge())
    first = line.open("shine")
    assert first is not None
    until(line, lambda _s, lost: True if first in lost else None)
    assert line.open("shine") is None, "the server is left alone for a while"
    assert "no room" in caplog.text
    other.close(taken)
    until(other, lambda _s, _l: True)
    session = until(line, lambda _s, _l: line.open("shine"))
    push(line, session, 0, 51)
    until(line, lambda scores, _l: scores or None)
    line.leave()
    other.leave()


def test_a_server_that_stays_full_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    line = ScoreLine("tcp://127.0.0.1:1", ("front",), clock=clock)
    monkeypatch.setattr(line, "_judge", ServedJudge(info=ModelInfo(version="v")))
    asked_s: list[float] = []

    def poll(timeout_s: float) -> list[object]:
        return [SessionRefused(session=f"s{len(asked_s)}", reason="full", full=True)] * 2

    def open_session(*_args: object, **_options: object) -> str:
        asked_s.append(clock.now_ns() / 1e9 - began_s)
        return f"s{len(asked_s)}"

    monkeypatch.setattr(line._client, "poll", poll)
    monkeypatch.setattr(line._client, "open_session", open_session)
    began_s = clock.now_ns() / 1e9
    while clock.now_ns() / 1e9 < began_s + 40:
        if line.open("shine") is not None:
            line.poll(0.0)
        clock.advance(0.25)
    assert asked_s == pytest.approx([0, 1, 3, 7, 15, 25, 35], abs=0.01)
    monkeypatch.setattr(
        line._client, "poll", lambda timeout_s: [SessionOpened(session="own", version="", credits=1)]
    )
    line.poll(0.0)
    monkeypatch.setattr(line, "_judge", ServedJudge(info=ModelInfo(version="v")))
    line.close("own")
    assert line.open("shine") is not None, "there is room where one's own session has ended"
    line.leave()


def test_a_server_that_speaks_of_something_else_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    endpoint = f"ipc://{tmp_path_factory.mktemp('w') / 'weights.sock'}"
    publisher = WeightsPublisher(endpoint, handshake=Handshake())
    line = ScoreLine(endpoint, ("front", "wrist"))
    with pytest.raises(
        ConfigError, match=r"disagree on link.*'weights' at the server.*'scores'.*Check the address"
    ):
        until(line, lambda _s, _l: None)
    line.leave()
    publisher.close()


def test_a_server_that_died_loses_its_sessions_and_another_model_is_noticed(serving: Serving) -> None:
    serving.start(reward=BrightnessModel(cameras=("wrist",)))
    line = ScoreLine(serving.endpoint, ("front", "wrist"))
    until(line, lambda _s, _l: line.judge())
    session = line.open("shine")
    assert session is not None
    push(line, session, 0, 51)
    serving.stop()
    until(line, lambda _s, _l: True if line.judge() is None else None)
    serving.start(reward=BrightnessModel(cameras=("front", "wrist")))
    until(line, lambda _s, lost: lost if session in lost else None)
    judge = until(line, lambda _s, _l: line.judge())
    assert judge.info.cameras == ("front", "wrist")
    line.leave()


@pytest.mark.parametrize(
    ("models", "wanted", "named"),
    [
        ({"a": BrightnessModel(), "b": BrightnessModel()}, "", "no such model"),
        ({"a": BrightnessModel()}, "other", "no such model"),
        ({"a": BrightnessModel(cameras=("top",))}, "", "cameras that are not recorded"),
    ],
)
def test_a_server_without_what_is_wanted_is_told(
    serving: Serving, models: dict[str, BrightnessModel], wanted: str, named: str
) -> None:
    serving.start(**models)
    line = ScoreLine(serving.endpoint, ("front", "wrist"), model=wanted)
    with pytest.raises(ConfigError, match=named) as caught:
        until(line, lambda _s, _l: line.judge())
    assert caught.value.seen
    assert caught.value.allowed
    line.leave()


class Shaky:
    """A line on which sessions are lost after so many scores; each turn of polling takes a tenth of a second."""

    endpoint = "tcp://there"

    def __init__(self, *lives: int) -> None:
        self.clock = FakeClock()
        self._lives = list(lives)
        self._session, self._left = 0, 0
        self._pushed: list[int] = []
        self.closed: list[str] = []

    def judge(self) -> ServedJudge:
        return ServedJudge(info=ModelInfo(version="v"))

    def open(self, task: str) -> str:
        self._session += 1
        self._left = self._lives.pop(0) if len(self._lives) > 1 else self._lives[0]
        self._pushed = []
        return f"s{self._session}"

    def push(self, session: str, observation: Observation, *, score: bool) -> bool:
        self._pushed.append(observation.frames["front"].id)
        return True

    def poll(self, timeout_s: float) -> tuple[list[tuple[str, Score]], dict[str, None]]:
        self.clock.advance(0.1)
        name = f"s{self._session}"
        if not self._left or not self._pushed:
            return [], {name: None}
        self._left -= 1
        score = Score(frame_id=self._pushed.pop(0), progress=0.5, raw=float(self._session))
        return [(name, score)], {}

    def close(self, session: str) -> None:
        self.closed.append(session)


def test_a_lost_session_is_shown_the_episode_again_from_the_start() -> None:
    line = Shaky(2, 0, 9)
    shown = [observation(i, 10) for i in range(4)]
    scores = score_over(line, "t", shown, deadline_s=5.0, clock=line.clock)  # type: ignore[arg-type]
    assert [(score.frame_id, score.raw) for score in scores] == [(i, 3.0) for i in range(4)]
    assert line.closed == ["s3"]


def test_sessions_that_are_lost_again_and_again_are_given_up() -> None:
    line = Shaky(3)
    shown = [observation(i, 10) for i in range(4)]
    with pytest.raises(DeadlineExceeded, match=r"3 of 4 scores.*tcp://there.*Allowed: 5 s") as caught:
        score_over(line, "t", shown, deadline_s=5.0, clock=line.clock)  # type: ignore[arg-type]
    assert caught.value.remedy
    assert line.clock.now_ns() < 8 * NS


def test_a_server_that_is_away_is_named_with_its_address() -> None:
    line = ScoreLine("tcp://127.0.0.1:9", ("front",))
    with pytest.raises(
        DeadlineExceeded, match=r"away.*Found: .*tcp://127.0.0.1:9.*Allowed: .* 0.1 s"
    ) as caught:
        meet(line, 0.1)
    assert caught.value.remedy
    line.leave()


class SlowJudge(BrightnessJudge):
    def __init__(self, call_s: float) -> None:
        self.call_s = call_s

    def answer(self, queries: Sequence[Glance]) -> list[tuple[float, float]]:
        time.sleep(self.call_s)
        return super().answer(queries)


@pytest.mark.parametrize(
    ("stride", "length", "episodes", "frames", "call_s"),
    [(5, 301, 1, 61, 0.03), (60, 301, 1, 61, 0.03), (700, 1401, 1, 100, 0.2), (300, 601, 3, 200, 0.2)],
)
def test_a_slow_judges_server_has_room_for_long_episodes_at_any_stride(
    serving: Serving, stride: int, length: int, episodes: int, frames: int, call_s: float
) -> None:
    shown = [observation(i, 10) for i in range(length)]
    room = frames * shown[0].frames["front"].rgb.nbytes
    model = BrightnessModel(("front",), judge=SlowJudge(call_s))
    serving.start(pool=PoolConfig(max_bytes=room), reward=model)
    line = ScoreLine(serving.endpoint, ("front",))
    polled, lost = line.poll, list[str]()

    def poll(timeout_s: float) -> Any:
        came, gone = polled(timeout_s)
        lost.extend(gone)
        return came, gone

    several = [
        ShownEpisode(index=i, task="shine", observations=shown, stride=stride) for i in range(episodes)
    ]
    scored = dict(score_episodes(line, iter(several), deadline_s=3.0))
    line.leave()
    assert lost == []
    for index in range(episodes):
        assert [score.frame_id for score in scored[index]] == list(range(0, length, stride))
