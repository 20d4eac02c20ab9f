from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roborl.clock import Deadline, FakeClock, MonotonicClock
from roborl.data.episodes import EpisodeInfo, Kind
from roborl.errors import ConfigError
from roborl.loops.learner.episode_labels import EpisodeLabels, LabelConfig, LabelledRows
from roborl.loops.learner.judging import Verdicts
from roborl.loops.learner.labeller import Labeller
from roborl.loops.score_line import ScoreLine
from roborl.loops.score_link import ServedJudge
from roborl.loops.serve import ServeConfig, serving
from roborl.records import Verdict
from roborl.rewards.fake import BrightnessJudge, BrightnessModel, Glance
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.verdicts import InARow
from roborl.types import EndCause, EpisodeKey, Frame, Observation, RewardSource, Score


def observation(index: int, value: int) -> Observation:
    picture = np.full((4, 4, 3), value, np.uint8)
    frame = Frame(rgb=picture, camera="front", stamp_ns=index, id=index)
    return Observation(frames={"front": frame}, state=np.zeros(2, np.float32), stamp_ns=index)


@dataclass
class FakeColumn:
    """A progress column in plain lists; its ``wrote`` shows the order in which rows came."""

    progress: dict[EpisodeKey, list[float]] = field(default_factory=dict)
    strides: dict[EpisodeKey, int] = field(default_factory=dict)
    held: list[EpisodeKey] = field(default_factory=list)
    unjudged: set[EpisodeKey] = field(default_factory=set)
    finished: list[EpisodeKey] = field(default_factory=list)
    active: bool = False

    def labelled(self, key: EpisodeKey) -> int:
        return len(self.progress.get(key, []))

    def write(self, key: EpisodeKey, rows: LabelledRows) -> None:
        stored = self.progress.setdefault(key, [])
        assert rows.start == len(stored), "rows must follow those before"
        stored += rows.progress.tolist()

    def agrees(self, key: EpisodeKey, rows: LabelledRows) -> bool:
        stored = self.progress[key][rows.start : rows.start + len(rows.progress)]
        return bool(np.allclose(stored, rows.progress[: len(stored)]))

    def stride(self, key: EpisodeKey) -> int:
        return self.strides.get(key, 0)

    def set_stride(self, key: EpisodeKey, stride: int) -> bool:
        self.strides[key] = stride
        return True

    def hold(self, key: EpisodeKey, *, verdict: bool = False) -> bool:
        if verdict:
            self.unjudged.add(key)
        if key in self.held:
            return False
        self.held.append(key)
        return True

    def finish(self, key: EpisodeKey) -> None:
        self.finished.append(key)

    def activate(self) -> None:
        self.active = True


class FakeStore:
    """Episodes of pictures that are one grey value each."""

    def __init__(self) -> None:
        self.values: dict[EpisodeKey, list[int]] = {}
        self.infos: dict[EpisodeKey, EpisodeInfo] = {}
        self.columns: dict[str, FakeColumn] = {}

    def begin(self, number: int, kind: Kind = "online", **meta: str) -> EpisodeKey:
        key = EpisodeKey(actor="left", incarnation=1, episode=number)
        self.infos[key] = EpisodeInfo(
            key=key, ordinal=len(self.infos) + 1, task="reach", kind=kind, meta=meta
        )
        self.values[key] = []
        return key

    def grow(self, key: EpisodeKey, values: Sequence[int], end: EndCause | None = None) -> None:
        self.values[key] += values
        self.infos[key] = replace(self.infos[key], observations=len(self.values[key]), end=end)

    def episodes(self) -> list[EpisodeInfo]:
        return list(self.infos.values())

    def observations(self, key: EpisodeKey, start: int) -> Iterator[Observation]:
        for index in range(start, len(self.values[key])):
            yield observation(index, self.values[key][index])

    def column(self, version: str) -> FakeColumn:
        return self.columns.setdefault(version, FakeColumn())

    def active(self) -> str | None:
        return next((version for version in reversed(self.columns) if self.columns[version].active), None)


class FakeServer:
    """A reward server whose progress depends on every frame that a session was shown, in order."""

    def __init__(self, version: str = "v1") -> None:
        self.version = version
        self.reply_limit_s = 5.0
        self.away = False
        self.answering = True
        self.garbled: set[int] = set()
        self.done_from = 2.0
        self.readings = 1  # finished ones in a row, of those that it was asked for, make it say done
        self.says_done = True
        self.most = 1_000_000  # scores that a poll brings
        self.pushes: list[tuple[str, int]] = []
        self.closed: list[str] = []
        self._sessions: dict[str, list[int]] = {}
        self._finished: dict[str, InARow] = {}
        self._out: list[tuple[str, Score]] = []
        self._lost: dict[str, str | None] = {}
        self._count = 0
        self.refused: set[str] = set()  # tasks

    def judge(self) -> ServedJudge | None:
        if self.away:
            return None
        return ServedJudge(
            info=ModelInfo(version=self.version, says_done=self.says_done, about={"prompt": self.version}),
            reply_limit_s=self.reply_limit_s,
        )

    def open(self, task: str) -> str | None:
        if self.away:
            return None
        self._count += 1
        name = f"s{self._count}"
        if task in self.refused:
            self._lost[name] = "The words are too many"
        else:
            self._sessions[name] = []
        return name

    def push(self, session: str, observation: Observation, *, score: bool) -> bool:
        if self.away:
            return False
        if session in self._lost:
            return False
        if session not in self._sessions:
            self._lost[session] = None
            return True
        seen, index = self._sessions[session], observation.frames["front"].id
        assert index == len(seen), "frames come in order, each once"
        seen.append(int(observation.images["front"][0, 0, 0]))
        self.pushes.append((session, index))
        if score:
            finished = self._finished.setdefault(session, InARow(self.readings))
            self._out.append((session, self._score(index, seen, finished)))
        return True

    def _score(self, frame_id: int, seen: list[int], finished: InARow) -> Score:
        progress, valid = judged(seen), frame_id not in self.garbled
        return Score(
            frame_id=frame_id,
            progress=progress if valid else 0.0,
            raw=progress,
            done=finished.read(progress >= self.done_from),
            valid=valid,
            version=self.version,
        )

    def close(self, session: str) -> None:
        self.closed.append(session)

    def poll(self, timeout_s: float) -> tuple[list[tuple[str, Score]], dict[str, str | None]]:
        if self.away or not self.answering:
            return [], {}
        out, lost, self._out, self._lost = self._out[: self.most], self._lost, self._out[self.most :], {}
        return out, lost

    def crash(self) -> None:
        self._sessions.clear()
        self._out.clear()


def judged(seen: Sequence[int]) -> float:
    """Progress after these frames: a recurrence, so any frame lost, repeated or out of order shows."""
    progress = 0.0
    for value in seen:
        progress = 0.7 * progress + 0.3 * value / 255
    return progress


def expected(values: Sequence[int], stride: int = 1, garbled: Sequence[int] = ()) -> NDArray[np.float64]:
    """The label of each frame by the definition, offline."""
    labels, held = [], 0.0
    for index in range(len(values)):
        scored = index % stride == 0 or index == len(values) - 1
        if scored and index not in garbled:
            held = judged(values[: index + 1])
        labels.append(held)
    return np.asarray(labels)


class FakeBook:
    """Remembers every verdict, as a file does over restarts."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []

    def given(self, key: EpisodeKey) -> bool:
        return any(verdict.key == key for verdict in self.verdicts)

    def give(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)


class Rig:
    """A labeller on a fake clock between a fake store and a fake server."""

    def __init__(self, **settings: Any) -> None:
        self.store, self.server, self.clock = FakeStore(), FakeServer(), FakeClock()
        self.events: list[dict[str, Any]] = []
        self.config = LabelConfig(**settings)
        self.book = FakeBook()
        self.labeller = self.fresh()

    def fresh(self) -> Labeller:
        return Labeller(
            self.store,
            self.server,
            self.config,
            events=self.events.append,
            verdicts=Verdicts(self.book, self.config.verdict),
            clock=self.clock,
        )

    def turns(self, count: int = 30, seconds: float = 0.01) -> None:
        for _ in range(count):
            self.clock.advance(seconds)
            self.labeller.turn()

    def labels(self, key: EpisodeKey, version: str = "v1") -> list[float]:
        return self.store.columns[version].progress.get(key, [])

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line["event"] == event]


VALUES = [10, 60, 110, 40, 200, 250, 30, 90, 120, 180, 220]


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_labels_are_those_of_the_offline_definition(stride: int) -> None:
    rig = Rig(stride=stride)
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.turns()
    np.testing.assert_allclose(rig.labels(key), expected(VALUES, stride), atol=1e-6)
    assert rig.store.columns["v1"].finished == [key]


@settings(max_examples=60)
@given(data=st.data())
def test_same_frames_give_the_same_labels_whatever_happens_on_the_way(data: st.DataObject) -> None:
    rig = Rig(stride=data.draw(st.integers(1, 4)), window=data.draw(st.integers(8, 12)), sessions=2)
    chunks = data.draw(st.lists(st.lists(st.integers(0, 255), max_size=6), min_size=1, max_size=8))
    keys = [rig.store.begin(number) for number in range(3)]
    for number, chunk in enumerate(chunks):
        for key in keys:
            last = number == len(chunks) - 1
            rig.store.grow(key, chunk, EndCause.TIME_LIMIT if last else None)
        happening = data.draw(st.sampled_from(["turns", "crash", "away", "mute", "restart", "nothing"]))
        if happening == "crash":
            rig.server.crash()
        if happening == "restart":
            rig.labeller = rig.fresh()
        rig.server.away, rig.server.answering = happening == "away", happening != "mute"
        if happening != "nothing":
            rig.turns(data.draw(st.integers(1, 4)), seconds=data.draw(st.sampled_from([0.01, 6.0])))
    rig.server.away, rig.server.answering = False, True
    rig.turns(40)
    rig.turns(40, seconds=6.0)
    values = [value for chunk in chunks for value in chunk]
    for key in keys:
        np.testing.assert_allclose(rig.labels(key), expected(values, rig.config.stride), atol=1e-6)
    assert rig.labeller.counters["changed"] == 0


def test_labels_never_depend_on_later_frames() -> None:
    rig = Rig(stride=3)
    key = rig.store.begin(0)
    seen: list[list[float]] = []
    for value in VALUES:
        rig.store.grow(key, [value])
        rig.turns(3)
        seen.append(list(rig.labels(key)))
    for earlier, later in itertools.pairwise(seen):
        assert later[: len(earlier)] == earlier


def test_an_unreadable_reply_holds_the_progress_and_is_counted() -> None:
    rig = Rig()
    rig.server.garbled = {0, 1, 4}
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.turns()
    labels = rig.labels(key)
    assert labels[:2] == [0.0, 0.0]
    assert labels[4] == labels[3]
    np.testing.assert_allclose(labels, expected(VALUES, garbled=[0, 1, 4]), atol=1e-6)
    assert rig.labeller.counters["missing"] == 3


def test_a_dead_server_costs_the_deadline_once_per_episode_and_labels_catch_up_in_order() -> None:
    rig = Rig(deadline_s=10.0)
    first, second = rig.store.begin(0), rig.store.begin(1)
    rig.store.grow(first, VALUES[:4])
    rig.turns()
    rig.server.away = True
    rig.store.grow(first, VALUES[4:], EndCause.TIME_LIMIT)
    rig.store.grow(second, VALUES, EndCause.TIME_LIMIT)
    rig.turns(60, seconds=1.0)
    assert sorted(rig.store.columns["v1"].held) == [first, second]
    assert len(rig.named("held")) == 2
    assert len(rig.labels(first)) == 4

    rig.server.away = False
    rig.server.crash()  # it came back as a new process
    rig.turns(60)
    for key in (first, second):
        np.testing.assert_allclose(rig.labels(key), expected(VALUES), atol=1e-6)
    assert rig.labeller.counters["held"] == 2
    assert rig.labeller.counters["rebuilt"] >= 1


def test_an_episode_whose_labels_follow_close_behind_is_never_late_however_long_it_runs() -> None:
    rig = Rig(deadline_s=10.0)
    rig.server.most = 0
    key = rig.store.begin(0)
    for second in range(100):
        rig.store.grow(key, [second])
        rig.server.most = int(second >= 2)  # what comes is what was asked two seconds before
        rig.turns(1, seconds=1.0)
    assert len(rig.labels(key)) == 98
    assert not rig.labeller.counters["held"]
    rig.server.most = 0
    rig.turns(22, seconds=1.0)
    assert rig.store.columns["v1"].held == [key]
    assert not rig.store.columns["v1"].unjudged, "the judge is there, and so the verdict is waited for"
    rig.server.away = True
    rig.turns(9, seconds=1.0)
    assert not rig.store.columns["v1"].unjudged
    rig.turns(2, seconds=1.0)
    assert rig.store.columns["v1"].unjudged == {key}
    assert rig.labeller.counters["held"] == 1


@pytest.mark.parametrize("stride", [1, 4])
def test_an_open_episode_to_which_nothing_comes_is_not_late_once_its_labels_are_there(stride: int) -> None:
    """Whether the newest frame is the last one, and so scored at any stride, shows only later."""
    rig = Rig(stride=stride, deadline_s=10.0)
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES[:10])
    rig.turns(60, seconds=1.0)
    assert not rig.labeller.counters["held"]
    assert rig.labeller.report()["backlog_frames"] == 0, (
        "what a lost actor left open keeps no run from its end"
    )
    rig.server.most = 0
    rig.store.grow(key, VALUES[10:])
    rig.turns(5, seconds=1.0)
    assert rig.labeller.report()["backlog_frames"] == (1 if stride == 1 else 0)
    rig.store.grow(key, VALUES)
    rig.turns(5, seconds=1.0)
    assert not rig.labeller.counters["held"]
    rig.turns(12, seconds=1.0)
    assert rig.store.columns["v1"].held == [key]


def test_a_recorded_episode_is_waited_for_while_the_judge_answers() -> None:
    rig = Rig(deadline_s=10.0)
    rig.server.most = 1
    key = rig.store.begin(0, "demo")
    rig.store.grow(key, [5] * 50, EndCause.SUCCESS)
    rig.turns(30, seconds=1.0)
    assert len(rig.labels(key)) == 30
    assert not rig.store.columns["v1"].held
    rig.server.away = True
    rig.turns(12, seconds=1.0)
    assert rig.store.columns["v1"].held == [key]


def test_a_labeller_that_starts_without_its_judge_lets_go_of_what_waits_for_it() -> None:
    rig = Rig(deadline_s=10.0)
    rig.turns(5)
    rig.server.away = True
    rig.labeller = rig.fresh()
    demo, judged = rig.store.begin(0, "demo"), rig.store.begin(1, outcome="judge")
    for key in (demo, judged):
        rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.turns(9, seconds=1.0)
    column = rig.store.columns["v1"]
    assert not column.held
    rig.turns(4, seconds=1.0)
    assert (sorted(column.held), column.unjudged) == ([demo, judged], {demo, judged})
    assert len(rig.named("held")) == 2
    rig.server.away = False
    rig.turns(40)
    np.testing.assert_allclose(rig.labels(demo), expected(VALUES), atol=1e-6)


@pytest.mark.parametrize("known", [False, True])
def test_what_waits_while_another_version_catches_up_is_let_go_in_the_column_that_is_read(
    known: bool,
) -> None:
    """Whether or not the other version has labelled it."""
    rig = Rig(deadline_s=10.0)
    earlier = [rig.store.begin(number) for number in range(2)]
    for key in earlier:
        rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.turns()
    rig.server.crash()
    rig.server.version, rig.server.most = "v2", 0
    demo, judged = rig.store.begin(2, "demo"), rig.store.begin(3, outcome="judge")
    for key in (demo, judged):
        rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    if known:
        rig.store.columns["v2"] = FakeColumn()
        for key in (demo, judged):
            rig.store.columns["v2"].progress[key] = expected(VALUES).tolist()
    rig.turns(15, seconds=1.0)
    read, new = rig.store.columns["v1"], rig.store.columns["v2"]
    assert (read.held, read.unjudged) == ([judged], set()), "the judge is there"
    rig.server.away = True
    rig.turns(12, seconds=1.0)
    assert (sorted(read.held), read.unjudged) == ([demo, judged], {demo, judged})
    assert (new.held, new.active) == ([], False)
    assert rig.labeller.counters["held"] == 2, "what the column that is read has labels of is not late"


def test_a_server_that_says_nothing_for_longer_than_it_may_loses_its_session() -> None:
    rig = Rig()
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.server.answering = False
    rig.turns(2)
    rig.turns(4, seconds=1.0)
    assert not rig.named("session_lost")
    rig.turns(2, seconds=1.0)
    assert rig.named("session_lost")[0]["reason"] == "no reply for 5 s"
    rig.server.answering = True
    rig.turns()
    np.testing.assert_allclose(rig.labels(key), expected(VALUES), atol=1e-6)


class SlowJudge(BrightnessJudge):
    """Takes so long for each batch."""

    def __init__(self, batch_s: float) -> None:
        self.batch_s = batch_s

    def answer(self, queries: Sequence[Glance]) -> list[tuple[float, float]]:
        time.sleep(self.batch_s)
        return super().answer(queries)


def test_a_judge_that_takes_ten_seconds_a_batch_labels_everything_once() -> None:
    """The labeller's clock runs twenty times as fast as the server's."""
    store, events = FakeStore(), []
    keys = [store.begin(number) for number in range(2)]
    for key in keys:
        store.grow(key, VALUES * 4, EndCause.TIME_LIMIT)
    model = BrightnessModel(judge=SlowJudge(0.5))
    with serving({"slow": model}, ServeConfig(endpoint="tcp://127.0.0.1:*")) as server:
        line = ScoreLine(server.endpoint, ("front",))
        labeller = Labeller(
            store, line, LabelConfig(), events=events.append, clock=MonotonicClock(scale=20.0)
        )
        deadline = Deadline(30.0)
        while not all(key in store.column(model.info.version).finished for key in keys):
            labeller.turn()
            deadline.check("it")
        line.leave()
    for key in keys:
        labels = store.columns[model.info.version].progress[key]
        np.testing.assert_allclose(labels, np.array(VALUES * 4) / 255, atol=1e-6)
    assert labeller.counters["rebuilt"] == 0
    assert labeller.counters["scored"] == 2 * len(VALUES * 4)


def test_a_labeller_that_was_kept_from_listening_does_not_take_that_for_silence() -> None:
    rig = Rig()
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.server.answering = False
    rig.turns(1)
    rig.turns(2, seconds=60.0)
    rig.server.answering = True
    rig.turns(3)
    assert rig.labeller.counters["rebuilt"] == 0
    np.testing.assert_allclose(rig.labels(key), expected(VALUES), atol=1e-6)


def test_a_recording_is_opened_once_however_often_the_server_has_no_room() -> None:
    rig = Rig()
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    opened: list[int] = []
    read, push = rig.store.observations, rig.server.push
    rig.store.observations = lambda key, start: opened.append(start) or read(key, start)  # type: ignore[method-assign, func-returns-value]
    rooms = iter([False, False, True, False, True, True] + [False] * 5 + [True] * 100)
    rig.server.push = lambda *args, score: next(rooms) and push(*args, score=score)  # type: ignore[method-assign]
    rig.turns()
    assert opened == [0]
    np.testing.assert_allclose(rig.labels(key), expected(VALUES), atol=1e-6)


def test_each_frame_goes_out_once_per_session_and_within_the_window() -> None:
    rig = Rig(window=8)
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.server.answering = False
    rig.turns(3)
    assert [frame for _, frame in rig.server.pushes] == list(range(8))
    rig.server.answering = True
    rig.turns()
    assert [frame for _, frame in rig.server.pushes] == list(range(len(VALUES)))
    assert rig.server.closed == ["s1"]


def test_the_stride_grows_at_an_episode_boundary_and_is_recorded() -> None:
    rig = Rig(stride=1, max_stride=4, behind_frames=50, sessions=2, window=8)
    rig.turns(1)
    for number in range(12):
        rig.store.grow(rig.store.begin(number), VALUES, EndCause.TIME_LIMIT)
    rig.turns(200)
    strides = rig.store.columns["v1"].strides
    assert max(strides.values()) == 4
    late = rig.store.begin(12)
    rig.store.grow(late, VALUES, EndCause.TIME_LIMIT)
    rig.turns()
    assert strides[late] == 2
    for key, stride in strides.items():
        np.testing.assert_allclose(rig.labels(key), expected(VALUES, stride), atol=1e-6)
    noted = {line["episode"]: line["stride"] for line in rig.named("stride")}
    assert noted == {str(key): stride for key, stride in strides.items() if stride != 1}


def test_recorded_episodes_do_not_make_the_stride_of_what_the_robot_does_grow() -> None:
    rig = Rig(behind_frames=50)
    for number in range(20):
        rig.store.grow(rig.store.begin(number, "demo"), VALUES, EndCause.SUCCESS)
    rig.server.most = 1
    rig.turns(1)
    online = rig.store.begin(20)
    rig.store.grow(online, VALUES[:3])
    rig.turns(1)
    assert rig.labeller.report()["backlog_frames"] > 200
    assert rig.store.columns["v1"].strides[online] == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_the_first_version_labels_what_was_done_before_at_the_stride_that_was_asked_for(
    restarted: bool,
) -> None:
    rig = Rig(behind_frames=50)
    rig.server.away = True
    earlier = [rig.store.begin(number) for number in range(20)]
    for key in earlier:
        rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.turns(3)
    rig.server.away = False
    rig.server.most = 2
    rig.turns(10)
    assert rig.store.columns["v1"].active
    if restarted:
        rig.labeller = rig.fresh()
    rig.turns(200)
    assert rig.store.columns["v1"].strides == dict.fromkeys(earlier, 1)


@pytest.mark.parametrize("restarted", [False, True])
def test_another_version_labels_what_was_done_before_at_the_stride_that_was_asked_for(
    restarted: bool,
) -> None:
    rig = Rig(behind_frames=50)
    earlier = [rig.store.begin(number) for number in range(20)]
    for key in earlier:
        rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
        rig.turns(3)
    rig.server.crash()
    rig.server.version = "v2"
    if restarted:
        rig.labeller = rig.fresh()
    rig.server.most = 2
    live = rig.store.begin(20)
    for value in VALUES:
        rig.store.grow(live, [value])
        rig.turns(1)
    assert len(rig.labels(live, "v2")) == len(VALUES), "what the robot does now comes first"
    assert rig.labeller.report()["backlog_frames"] > 200
    rig.store.grow(live, VALUES, EndCause.TIME_LIMIT)
    rig.turns(150)
    for key in earlier:
        np.testing.assert_allclose(rig.labels(key, "v2"), expected(VALUES), atol=1e-6)
    assert rig.store.columns["v2"].strides == dict.fromkeys([live, *earlier], 1)
    assert rig.store.columns["v2"].active


def test_a_restarted_labeller_keeps_the_stride_an_episode_began_with() -> None:
    rig = Rig(stride=2)
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES[:5])
    rig.turns(3)
    rig.config = LabelConfig(stride=1)
    rig.labeller = rig.fresh()
    rig.store.grow(key, VALUES[5:], EndCause.TIME_LIMIT)
    rig.turns()
    np.testing.assert_allclose(rig.labels(key), expected(VALUES, 2), atol=1e-6)


def test_another_version_gets_its_own_column_and_takes_over_when_it_has_caught_up() -> None:
    rig = Rig(window=8)
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.turns()
    assert rig.store.columns["v1"].active
    rig.server.crash()
    rig.server.version = "v2"
    rig.labeller.turn()
    rig.turns(1)
    assert not rig.store.columns["v2"].active
    live = rig.store.begin(1)
    for _ in range(3):
        rig.store.grow(live, [7])  # somebody is always a frame behind
        rig.turns(1)
    assert rig.store.columns["v2"].active
    assert len(rig.labels(key, "v2")) == len(rig.labels(key, "v1")) == len(VALUES)
    assert [line["version"] for line in rig.named("column")] == ["v1", "v2"]
    assert [line["about"] for line in rig.named("judge")] == [{"prompt": "v1"}, {"prompt": "v2"}]


def test_an_episode_whose_task_is_refused_is_left_out_once_and_stands_in_nobodys_way() -> None:
    rig = Rig()
    rig.store.column("older").activate()
    rig.server.refused = {"a task of too many words"}
    good, bad = rig.store.begin(0), rig.store.begin(1, "demo")
    rig.store.infos[bad] = replace(rig.store.infos[bad], task="a task of too many words")
    for key in (good, bad):
        rig.store.grow(key, VALUES, EndCause.SUCCESS)
    rig.turns(100, seconds=0.1)
    assert [(line["episode"], line["reason"]) for line in rig.named("refused")] == [
        (str(bad), "The words are too many")
    ]
    assert rig.named("session_lost") == []
    column = rig.store.columns["v1"]
    assert (column.held, column.unjudged, column.active) == ([bad], {bad}, True)
    assert rig.labeller.report()["refused"] == 1
    rig.server.version, rig.server.refused = "v2", set()
    rig.turns()
    assert len(rig.labels(bad, "v2")) == len(VALUES), "another model may judge it"


def test_a_restarted_labeller_has_another_version_take_over_no_sooner() -> None:
    rig = Rig(window=8)
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    rig.turns()
    rig.server.crash()
    rig.server.version = "v2"
    rig.labeller = rig.fresh()
    rig.labeller.turn()
    assert not rig.store.columns["v2"].active
    rig.turns()
    assert rig.store.columns["v2"].active
    assert len(rig.labels(key, "v2")) == len(VALUES)
    rig.labeller = rig.fresh()
    rig.turns()
    assert [line["version"] for line in rig.named("column")] == ["v1", "v2"], "what is active stays so"


def test_a_score_of_another_version_is_not_written() -> None:
    rig = Rig()
    key = rig.store.begin(0)
    rig.store.grow(key, VALUES[:3])
    rig.server.judge = lambda: ServedJudge(info=ModelInfo(version="v1"))  # type: ignore[method-assign]
    rig.server.version = "v9"
    rig.turns()
    assert rig.labels(key) == [0.0, 0.0, 0.0]
    assert rig.labeller.counters["foreign"] == 3


def test_demonstrations_are_labelled_and_give_way_to_what_the_robot_does_now() -> None:
    rig = Rig(window=8, sessions=3)
    demos = [rig.store.begin(number, "demo") for number in range(4)]
    for key in demos:
        rig.store.grow(key, VALUES, EndCause.SUCCESS)
    online = rig.store.begin(9)
    rig.store.grow(online, VALUES[:2])
    rig.labeller.turn()
    assert rig.server.pushes[0] == ("s1", 0)
    assert len(rig.labels(online)) == 2
    rig.turns()
    for key in demos:
        np.testing.assert_allclose(rig.labels(key), expected(VALUES), atol=1e-6)


def test_a_place_stays_free_of_what_is_recorded_and_its_frames_wait_while_an_online_one_has_some() -> None:
    rig = Rig(window=16, sessions=3)
    for number in range(4):
        rig.store.grow(rig.store.begin(number, "demo"), [3] * 100, EndCause.SUCCESS)
    rig.server.most = 1
    rig.turns(3)
    assert {name for name, _ in rig.server.pushes} == {"s1", "s2"}
    online = rig.store.begin(9)
    for value in VALUES:
        rig.store.grow(online, [value])
        before = len(rig.server.pushes)
        rig.turns(1)
        assert {name for name, _ in rig.server.pushes[before:]} == {"s3"}
    rig.server.most = 1000
    rig.turns(3)
    assert len(rig.labels(online)) == len(VALUES)
    assert rig.server.pushes[-1][0] != "s3"


def test_unsent_frames_are_not_skipped_when_a_push_is_turned_down() -> None:
    labels = EpisodeLabels(1)
    due = labels.due(5, False, 32)
    labels.send(0, score=True)
    assert list(labels.due(5, False, 32)) == list(due)[1:]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"stride": 9, "max_stride": 4}, "stride=9 max_stride=4"),
        ({"retry_s": -1.0}, "retry_s=-1"),
        ({"deadline_s": -1.0}, "deadline_s=-1"),
        ({"deadline_s": float("nan")}, "deadline_s=nan"),
        ({"behind_frames": -1}, "behind_frames=-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LabelConfig(**settings)
    assert LabelConfig(deadline_s=0.0, retry_s=0.0, behind_frames=0)


def judge(rig: Rig, values: Sequence[int], end: EndCause | None = EndCause.TIME_LIMIT) -> Verdict | None:
    """Return the verdict on one episode."""
    key = rig.store.begin(0, outcome="judge")
    rig.store.grow(key, values, end)
    rig.turns()
    assert len(rig.book.verdicts) <= 1
    return rig.book.verdicts[0] if rig.book.verdicts else None


def verdict(index: int, success: bool, reward: float | None = None) -> Verdict:
    key = EpisodeKey(actor="left", incarnation=1, episode=0)
    return Verdict(key=key, index=index, success=success, source=RewardSource.JUDGE, reward=reward)


def test_the_first_frame_that_is_called_done_is_a_success_while_the_episode_runs() -> None:
    rig = Rig()
    rig.server.done_from = 0.5
    at = next(index for index, value in enumerate(expected(VALUES)) if value >= 0.5)
    assert 0 < at < len(VALUES) - 2
    assert judge(rig, VALUES[: at + 1], end=None) == verdict(at, True)
    rig.store.grow(rig.store.episodes()[0].key, VALUES[at + 1 :], EndCause.TIME_LIMIT)
    rig.turns()
    assert rig.book.verdicts == [verdict(at, True)]
    assert len(rig.labels(verdict(0, True).key)) == len(VALUES), "what came after is labelled all the same"
    assert rig.labeller.counters["verdicts"] == 1
    assert rig.named("verdict")[0]["index"] == at


@pytest.mark.parametrize("frames", range(6, 14))
def test_a_model_that_says_done_after_readings_in_a_row_gets_them_at_any_stride(frames: int) -> None:
    """The live lane scores every frame, and stops the arm at the last reading that the model wants."""
    rig = Rig(stride=4)
    rig.server.done_from, rig.server.readings = 0.5, 3
    values = [0] * (frames - 4) + [255] * 4
    assert [value >= 0.5 for value in expected(values)].count(True) == 3
    assert judge(rig, values, EndCause.JUDGE_STOP) == verdict(frames - 1, True)
    assert set(rig.store.columns["v1"].strides.values()) == {1}
    rig.store.grow(other := rig.store.begin(1), VALUES, EndCause.TIME_LIMIT)
    rig.turns()
    np.testing.assert_allclose(rig.labels(other), expected(VALUES, 4), atol=1e-6)


def test_an_episode_that_is_graded_by_its_last_score_keeps_the_stride() -> None:
    rig = Rig(stride=4, verdict="terminal01")
    assert judge(rig, VALUES) is not None
    assert set(rig.store.columns["v1"].strides.values()) == {4}


def test_a_scene_that_is_done_from_the_first_frame_on_is_not_judged_and_that_is_told() -> None:
    rig = Rig()
    rig.server.done_from = 0.0
    assert judge(rig, VALUES) is None
    assert [line["reason"] for line in rig.named("unjudged")] == [
        "it looks done from the first picture on: was the scene made ready?"
    ]
    assert rig.labeller.counters["unjudged"] == 1
    assert rig.store.columns["v1"].finished


def test_a_verdict_that_will_never_come_is_not_waited_for_once_all_labels_are_there() -> None:
    rig = Rig()
    rig.server.garbled = {len(VALUES) - 1}
    held: list[int] = []
    column = rig.store.column("v1")
    hold = column.hold

    def seen(key: EpisodeKey, *, verdict: bool = False) -> bool:
        held.append(column.labelled(key))
        return hold(key, verdict=verdict)

    column.hold = seen  # type: ignore[method-assign]
    assert judge(rig, VALUES) is None
    assert column.unjudged == {verdict(0, False).key}
    assert held == [len(VALUES)]
    rig = Rig()
    assert judge(rig, VALUES) is not None
    assert not rig.store.columns["v1"].held


def test_done_counts_after_a_frame_that_was_read_and_was_not_done() -> None:
    values = [255, 255, 0, 0, 0, 255, 255, 255]
    labels = expected(values)
    assert [index for index, value in enumerate(labels) if value >= 0.45] == [1, 6, 7]
    rig = Rig()
    rig.server.done_from, rig.server.garbled = 0.45, {0}
    assert judge(rig, values) == verdict(6, True)
    rig = Rig()
    rig.server.done_from, rig.server.garbled = 0.45, {0, 2, 3, 4, 5}
    assert judge(rig, values) is None


def test_a_served_judge_that_never_says_done_is_refused_once_an_episode_waits_for_that() -> None:
    rig = Rig()
    rig.server.says_done = False
    rig.store.grow(rig.store.begin(1), VALUES, EndCause.SUCCESS)
    rig.turns()
    with pytest.raises(ConfigError, match=r"never says it.*v1.*terminal01"):
        judge(rig, VALUES)
    rig = Rig(verdict="terminal01")
    rig.server.says_done = False
    assert judge(rig, VALUES) is not None


@pytest.mark.parametrize("end", list(EndCause))
def test_an_episode_that_was_never_done_is_a_failure_that_ends_nothing(end: EndCause) -> None:
    rig = Rig()
    found = judge(rig, VALUES, end)
    assert found == verdict(len(VALUES) - 1, False)
    assert not found.ends


def test_that_the_frames_before_the_first_done_one_cannot_be_read_is_told() -> None:
    rig = Rig()
    rig.server.done_from, rig.server.garbled = 0.0, {0, 1}
    assert judge(rig, VALUES) is None
    assert [line["reason"] for line in rig.named("unjudged")] == [
        "no frame before the first done one could be read"
    ]


def test_another_reward_model_judges_what_the_one_before_could_not() -> None:
    rig = Rig()
    rig.server.garbled = {len(VALUES) - 1}
    assert judge(rig, VALUES) is None
    rig.server.crash()
    rig.server.version, rig.server.garbled = "v2", set()
    rig.turns()
    assert rig.book.verdicts == [verdict(len(VALUES) - 1, False)]


def test_an_end_that_comes_after_the_last_label_brings_the_verdict() -> None:
    rig = Rig()
    assert judge(rig, VALUES, end=None) is None
    rig.store.grow(verdict(0, False).key, [], EndCause.TIME_LIMIT)
    rig.turns()
    assert rig.book.verdicts == [verdict(len(VALUES) - 1, False)]


@pytest.mark.parametrize("values", [[], [255]])
def test_an_episode_without_a_step_is_not_judged_and_not_waited_for(values: list[int]) -> None:
    rig = Rig()
    rig.server.done_from = 0.0
    assert judge(rig, values) is None
    assert rig.store.columns["v1"].finished
    assert not rig.labeller.counters["unjudged"]


@pytest.mark.parametrize("rule", ["done", "terminal01"])
def test_an_unreadable_last_frame_leaves_no_verdict_and_is_told(rule: str) -> None:
    rig = Rig(verdict=rule)
    rig.server.garbled = {len(VALUES) - 1}
    assert judge(rig, VALUES) is None
    assert [line["reason"] for line in rig.named("unjudged")] == [
        "the score of its last frame cannot be read"
    ]
    assert rig.labeller.counters["unjudged"] == 1
    assert rig.store.columns["v1"].finished, "and is not shown for ever"


@pytest.mark.parametrize(
    ("end", "last", "paid", "success"),
    [
        (EndCause.TIME_LIMIT, 255, True, True),
        (EndCause.TIME_LIMIT, 90, True, False),
        (EndCause.JUDGE_STOP, 90, True, False),
        (EndCause.WATCHDOG, 90, False, False),
        (EndCause.ACTOR_LOST, 255, True, True),
    ],
)
def test_a_grade_pays_for_the_whole_episode_unless_it_was_cut_short(
    end: EndCause, last: int, paid: bool, success: bool
) -> None:
    rig = Rig(verdict="terminal01")
    rig.server.done_from = 0.0
    values = [last] * 9
    found = judge(rig, values, end)
    grade = expected(values)[-1]
    assert (grade >= 0.875) == success
    assert found is not None
    assert (found.index, found.success, found.ends) == (8, success, paid)
    assert found.reward == (pytest.approx(grade) if paid else None)


def test_only_episodes_that_are_left_to_a_judge_are_judged() -> None:
    rig = Rig()
    rig.server.done_from = 0.5
    plain, told = rig.store.begin(0), rig.store.begin(1, outcome="judge")
    for key in (plain, told):
        rig.store.grow(key, VALUES, EndCause.TIME_LIMIT)
    person = Verdict(key=told, index=4, success=False, source=RewardSource.OPERATOR)
    rig.store.infos[told] = replace(rig.store.infos[told], verdict=person)
    rig.turns()
    assert not rig.book.verdicts


@settings(max_examples=60)
@given(data=st.data())
def test_an_episode_is_judged_once_and_the_same_whatever_happens_on_the_way(data: st.DataObject) -> None:
    rig = Rig(stride=data.draw(st.integers(1, 3)), sessions=2)
    rig.server.done_from = 0.5
    chunks = data.draw(
        st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=6), min_size=1, max_size=6)
    )
    values = [0, *(value for chunk in chunks for value in chunk)]
    keys = [rig.store.begin(number, outcome="judge") for number in range(3)]
    for key in keys:
        rig.store.grow(key, [0])
    for number, chunk in enumerate(chunks):
        for key in keys:
            rig.store.grow(key, chunk, EndCause.TIME_LIMIT if number == len(chunks) - 1 else None)
        happening = data.draw(st.sampled_from(["turns", "crash", "mute", "restart", "killed"]))
        if happening == "crash":
            rig.server.crash()
        if happening == "killed":  # between the verdict and the labels that it is read off
            write, FakeColumn.write = FakeColumn.write, killed
            with contextlib.suppress(KeyboardInterrupt):
                rig.turns(3)
            FakeColumn.write = write
        if happening in ("restart", "killed"):
            rig.labeller = rig.fresh()
        rig.server.answering = happening != "mute"
        rig.turns(data.draw(st.integers(1, 4)), seconds=data.draw(st.sampled_from([0.01, 6.0])))
    rig.server.answering = True
    rig.turns(40)
    rig.turns(40, seconds=6.0)
    labels = expected(values)
    done = next((index for index in range(1, len(values)) if labels[index] >= 0.5), None)
    index = len(values) - 1 if done is None else done
    assert sorted((v.key, v.index, v.success) for v in rig.book.verdicts) == [
        (key, index, done is not None) for key in keys
    ]


def killed(column: FakeColumn, key: EpisodeKey, rows: LabelledRows) -> None:
    raise KeyboardInterrupt
