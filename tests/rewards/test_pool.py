"""Lanes, batching, fairness and faults of the session pool, on a fake clock and without sockets."""

import math
import threading
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.clock import FakeClock
from roborl.errors import ConfigError
from roborl.rewards.batching import BatchAsker
from roborl.rewards.fake import BrightnessFold, BrightnessJudge, BrightnessModel
from roborl.rewards.model import Judge, JudgeDown, JudgeSilent, missing, score_episode
from roborl.rewards.pool import SessionPool
from roborl.rewards.pool_config import PoolConfig
from roborl.rewards.sessions import ServerFull, UnknownSession
from roborl.types import Frame, Lane, Observation


def observation(index, level, cameras=("front",), px=4):
    image = np.full((px, px, 3), level, np.uint8)
    frames = {name: Frame(rgb=image, camera=name, stamp_ns=index, id=index) for name in cameras}
    return Observation(frames=frames, state=np.zeros(2, np.float32), stamp_ns=index)


def episode(seed, length):
    levels = np.random.default_rng(seed).integers(0, 256, length)
    return [observation(i, level) for i, level in enumerate(levels)]


class Script(BrightnessJudge):
    """A judge that counts the sizes of its batches and fails as told."""

    def __init__(self, fail=lambda call, queries: None):
        self.sizes, self._fail = [], fail

    def answer(self, queries):
        self.sizes.append(len(queries))
        outcome = self._fail(len(self.sizes), queries)
        return super().answer(queries) if outcome is None else outcome


def raising(error, when=lambda call, queries: True):
    def fail(call, queries):
        if when(call, queries):
            raise error

    return fail


def pool_of(judge=None, clock=None, **settings_):
    return SessionPool(
        {"m": BrightnessModel(judge=judge)}, PoolConfig(**settings_), clock=clock or FakeClock()
    )


def open_(pool, name, lane=Lane.LABEL, model="m"):
    return pool.open(name, model=model, task="task", cameras=["front"], lane=lane)


def run_dry(pool, clock=None, model="m"):
    if clock is not None:
        clock.advance(1.0)
    while pool.step(model):
        pass
    return pool.collect()


def of(outcomes, name):
    return [o.score for o in outcomes if o.session_id == name]


def facts(scores):
    return [(s.frame_id, s.progress, s.raw, s.valid, s.version) for s in scores]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    strides=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    max_batch=st.integers(1, 9),
    memory=st.integers(1, 9),
    room=st.integers(1, 40),
    live=st.booleans(),
)
def test_same_frames_same_labels_whatever_the_load_the_batches_and_a_lost_server(
    seed, strides, max_batch, memory, room, live
):
    """Frames of several episodes come interleaved and repeated, memory is short, and the server is lost in between."""
    rng = np.random.default_rng(seed)
    clock = FakeClock()

    def new_pool():
        judge = Script(raising(MemoryError("card is full"), lambda call, queries: len(queries) > memory))
        return pool_of(judge, clock, max_batch=max_batch, max_bytes=room * 48)

    episodes = [episode(seed + i, int(rng.integers(1, 25))) for i in range(len(strides))]
    expected = [
        facts(score_episode(BrightnessModel(), "task", frames, stride=stride))
        for frames, stride in zip(episodes, strides, strict=True)
    ]
    pool, outcomes = new_pool(), []
    lost_at = int(rng.integers(0, 60))
    sent = [0] * len(episodes)
    complete = [False] * len(episodes)
    for turn in range(2000):
        if turn == lost_at:
            pool = new_pool()
        i = int(rng.integers(len(episodes)))
        last = len(episodes[i]) - 1
        try:
            if complete[i]:
                pass
            else:
                at = min(last, max(0, sent[i] - int(rng.integers(0, 3))))
                scored = at % strides[i] == 0 or at == last
                if live:
                    pool.push(f"live {i}", episodes[i][at])
                sent[i] = pool.push(str(i), episodes[i][at], score=scored).next_id
        except UnknownSession:
            open_(pool, str(i))
            open_(pool, f"live {i}", Lane.LIVE)
            outcomes = [o for o in outcomes if o.session_id != str(i)]
            sent[i] = 0
        clock.advance(float(rng.random()) * 0.01)
        if rng.random() < 0.4 or turn > 1000:
            pool.step("m")
            outcomes += [o for o in pool.collect() if "live" not in o.session_id]
            done = {
                o.session_id for o in outcomes if o.score.frame_id == len(episodes[int(o.session_id)]) - 1
            }
            complete = [str(i) in done for i in range(len(episodes))]
            if all(complete):
                break
    assert [facts(of(outcomes, str(i))) for i in range(len(episodes))] == expected


def test_a_prefix_of_an_episode_has_the_labels_of_the_whole():
    frames = episode(3, 12)
    changed = [*frames[:8], *episode(4, 12)[8:]]
    whole, other = (facts(score_episode(BrightnessModel(), "task", f)) for f in (frames, changed))
    assert whole[:8] == other[:8]
    assert whole[8:] != other[8:]


def test_only_what_the_client_asks_for_is_scored_and_the_rest_is_shown():
    pool = pool_of()
    open_(pool, "a")
    for i, frame in enumerate(episode(0, 7)):
        pool.push("a", frame, score=i % 4 == 0 or i == 6)
    assert [s.frame_id for s in of(run_dry(pool), "a")] == [0, 4, 6]


def test_a_gap_is_not_accepted_and_says_what_is_lacking():
    pool = pool_of()
    open_(pool, "a")
    frames = episode(0, 4)
    pool.push("a", frames[0])
    receipt = pool.push("a", frames[2])
    assert (receipt.accepted, receipt.next_id) == (False, 1)


def test_live_is_the_newest_one_at_a_time_while_labels_are_complete():
    clock = FakeClock()
    pool = pool_of(clock=clock, max_batch=2)
    open_(pool, "a")
    open_(pool, "live", Lane.LIVE)
    outcomes, ages = [], []
    for i, frame in enumerate(episode(0, 60)):  # frames come three times as fast as they are judged
        pool.push("a", frame)
        pool.push("live", frame)
        clock.advance(0.1)
        if i % 3 == 2:
            pool.step("m")
            new = pool.collect()
            ages += [i - s.frame_id for s in of(new, "live") if s.valid]
            outcomes += new
    assert ages == [0] * 20
    assert [s.frame_id for s in of(outcomes, "live")] == list(range(60))
    assert pool.statistics()["models"]["m"]["passed_over"] == 40
    assert pool.statistics()["models"]["m"]["label_behind_s"] > 3.0
    outcomes += run_dry(pool)
    assert [s.frame_id for s in of(outcomes, "a")] == list(range(60))


def test_sessions_share_batches_and_one_busy_session_does_not_starve_the_others():
    judge, clock = Script(), FakeClock()
    pool = pool_of(judge, clock, max_batch=4)
    for name in "abc":
        open_(pool, name)
    for frame in episode(0, 50):
        pool.push("a", frame)
    pool.push("b", episode(1, 1)[0])
    pool.push("c", episode(2, 1)[0])
    pool.step("m")
    assert {o.session_id for o in pool.collect()} == {"a", "b", "c"}
    assert judge.sizes == [4]


def test_live_of_many_robots_leaves_labels_their_share():
    pool = pool_of(max_batch=4)
    for name in "abcdef":
        open_(pool, name, Lane.LIVE)
        pool.push(name, observation(0, 5))
    open_(pool, "label")
    for frame in episode(0, 20):
        pool.push("label", frame)
    pool.step("m")
    assert [o.session_id for o in pool.collect()].count("label") == 2


@pytest.mark.parametrize("limit", ["its own", "its memory's"])
@pytest.mark.parametrize("at_once", [1, 8])
def test_a_live_score_waits_for_one_call_besides_its_own_whatever_labels_wait(limit, at_once):
    clock = FakeClock()

    class Small(BrightnessJudge):
        def answer(self, queries):
            if len(queries) > at_once:
                raise MemoryError
            clock.advance(1.0)
            return super().answer(queries)

    if limit == "its own":
        Small.at_once = at_once
    pool = pool_of(Small(), clock)
    open_(pool, "label")
    open_(pool, "live", Lane.LIVE)
    for index in range(64):
        pool.push("label", observation(index, 9))
    pool.step("m")  # finds out what fits
    pool.collect()
    ages, labels = [], count(64)
    for turn in range(40):
        pool.push("live", observation(turn, 9))
        pool.step("m")
        for outcome in pool.collect():
            if outcome.session_id == "live":
                ages.append(outcome.age_s)
            else:
                pool.push("label", observation(next(labels), 9))
    assert max(ages) <= 2
    assert len(ages) >= 20
    assert next(labels) - 64 >= 15 * at_once


def test_a_lone_session_never_waits_for_company_and_others_wait_no_longer_than_the_bound():
    clock = FakeClock()
    pool = pool_of(clock=clock, max_wait_s=0.01)
    open_(pool, "a")
    pool.push("a", observation(0, 1))
    assert pool.step("m")

    open_(pool, "b")
    pool.push("a", observation(1, 1))
    assert not pool.step("m")
    clock.advance(0.0101)
    assert pool.step("m")
    pool.push("a", observation(2, 1))
    pool.push("b", observation(0, 1))
    assert pool.step("m")
    assert max(o.age_s for o in pool.collect()) < 0.011


def test_a_full_batch_waits_for_nobody():
    pool = pool_of(max_batch=4)
    for name in "ab":
        open_(pool, name)
    for frame in episode(0, 4):
        assert not pool.step("m")
        pool.push("a", frame)
    assert pool.step("m")


def test_reasons_of_missing_scores_are_counted_without_end():
    class Babble(BrightnessModel):
        def start(self, task, references):
            return BabbleFold((), self.info.version)

    class BabbleFold(BrightnessFold):
        def fold(self, observation_id, replies):
            return missing(observation_id, f"unreadable: {observation_id}", version=self._version)

    pool = SessionPool({"m": Babble()}, clock=FakeClock())
    open_(pool, "a")
    for frame in episode(0, 100):
        pool.push("a", frame)
    run_dry(pool)
    counted = pool.statistics()["models"]["m"]["missing"]
    assert sum(counted.values()) == 100
    assert len(counted) <= 33


@pytest.mark.parametrize(
    ("fail", "fault"),
    [
        (raising(RuntimeError("kernel")), "RuntimeError"),
        (raising(JudgeSilent("The endpoint says nothing")), "JudgeDown"),
        (raising(MemoryError()), "out of memory"),
        (raising(torch.AcceleratorError("CUDA error: out of memory")), "out of memory"),
        (lambda call, queries: [], "wrong number of replies"),
        (lambda call, queries: [(0.5, 0.0)] * (len(queries) + 1), "wrong number of replies"),
        (lambda call, queries: [(math.nan, 0.0)] * len(queries), None),
        (lambda call, queries: ["garbage"] * len(queries), None),
    ],
)
def test_a_failing_judge_costs_scores_that_are_counted_and_never_the_server(fail, fault):
    broken = True
    judge = Script(lambda call, queries: fail(call, queries) if broken else None)
    pool = pool_of(judge, silent_s=0.0)
    open_(pool, "a")
    frames = episode(0, 6)
    for frame in frames[:3]:
        pool.push("a", frame)
    lost = of(run_dry(pool), "a")
    assert [(s.frame_id, s.valid) for s in lost] == [(0, False), (1, False), (2, False)]
    broken = False
    for frame in frames[3:]:
        pool.push("a", frame)
    assert [(s.frame_id, s.valid) for s in of(run_dry(pool), "a")] == [(3, True), (4, True), (5, True)]
    statistics = pool.statistics()["models"]["m"]
    assert sum(statistics["missing"].values()) == 3
    assert fault is None or statistics["faults"][fault] >= 1


def test_a_judge_that_loses_its_device_ends_its_thread_and_leaves_no_score():
    judge = Script(raising(torch.AcceleratorError("CUDA error: unknown error")))
    pool = pool_of(judge)
    open_(pool, "a")
    for frame in episode(0, 3):
        pool.push("a", frame)
    with pytest.raises(torch.AcceleratorError):
        pool.step("m")
    assert judge.sizes == [3]
    assert pool.collect() == []


def test_a_model_that_finds_its_device_lost_as_an_episode_starts_refuses_nothing():
    class Lost(BrightnessModel):
        def start(self, task, references):
            raise torch.AcceleratorError("CUDA error: unknown error")

    pool = SessionPool({"m": Lost()}, PoolConfig(), clock=FakeClock())
    with pytest.raises(torch.AcceleratorError):
        open_(pool, "a")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
        MemoryError(),
    ],
)
def test_a_model_that_has_no_memory_as_an_episode_starts_has_no_room_for_it_now(error):
    class Crowded(BrightnessModel):
        def start(self, task, references):
            raise error

    with pytest.raises(ServerFull) as caught:
        open_(SessionPool({"m": Crowded()}, PoolConfig(), clock=FakeClock()), "a")
    assert caught.value.seen
    assert caught.value.allowed
    assert caught.value.remedy


def outage(clock, pool, away, frames):
    """Show a label and a live session frames while a judge may be away; return the outcomes and what health says of it."""
    outcomes, told = [], []
    for i, frame in enumerate(frames):
        for name in ("a", "live"):
            pool.push(name, frame)
        clock.advance(1.0)
        away["now"] = 5 <= i < 65
        while pool.step("m"):
            pass
        outcomes += pool.collect()
        told.append(pool.statistics()["models"]["m"]["away_s"])
    return outcomes, told


def test_a_judge_that_is_away_for_a_minute_costs_no_label_and_they_catch_up_in_order():
    clock, away = FakeClock(), {"now": False}
    judge = Script(raising(JudgeDown("The endpoint is away"), lambda call, queries: away["now"]))
    pool = pool_of(judge, clock, max_batch=8)
    open_(pool, "a")
    open_(pool, "live", Lane.LIVE)
    frames = episode(0, 80)
    outcomes, told = outage(clock, pool, away, frames)
    assert facts(of(outcomes, "a")) == facts(score_episode(BrightnessModel(), "task", frames))
    assert [s.frame_id for s in of(outcomes, "live")] == list(range(80))
    assert {s.valid for s in of(outcomes, "live")[5:65]} == {False}
    assert [told[i] > 0 for i in (4, 5 + 10, 64, 65)] == [False, True, True, False]
    assert told[64] == pytest.approx(59.0)


def test_without_a_live_lane_a_judge_that_is_away_is_asked_ever_more_seldom_and_what_is_closed_is_let_go():
    clock, judge = FakeClock(), Script(raising(JudgeDown("The endpoint is away")))
    pool = pool_of(judge, clock, max_batch=4)
    for name in "ab":
        open_(pool, name)
        for frame in episode(0, 10):
            pool.push(name, frame)
    asked = []
    for second in range(200):
        while pool.step("m"):
            asked.append(second)
        clock.advance(1.0)
    assert asked == [0, 1, 3, 7, 15, 31, 61, 91, 121, 151, 181]
    assert set(judge.sizes) == {4}
    assert pool.collect() == []
    assert pool.statistics()["models"]["m"]["label_behind_s"] == 200.0
    pool.close("a")
    clock.advance(60.0)
    pool.step("m")
    assert judge.sizes[-1] == 2


def test_a_judge_that_is_there_and_answers_nothing_costs_its_labels_after_a_while():
    clock, judge = FakeClock(), Script(raising(JudgeSilent("too late"), lambda call, queries: True))
    pool = pool_of(judge, clock, max_batch=4, silent_s=10.0)
    open_(pool, "a")
    for frame in episode(0, 3):
        pool.push("a", frame)
    outcomes, seconds = [], 0
    while not outcomes:
        pool.step("m")
        outcomes = pool.collect()
        clock.advance(1.0)
        seconds += 1
    assert [(s.frame_id, s.valid) for s in of(outcomes, "a")] == [(0, False), (1, False), (2, False)]
    assert 10 <= seconds <= 17


def test_a_thread_whose_judge_is_away_stops_at_once():
    pool = pool_of(Script(raising(JudgeDown("away"))), retry_s=20.0)
    stop = threading.Event()
    worker = threading.Thread(target=pool.work, args=("m", stop))
    open_(pool, "a")
    pool.push("a", observation(0, 1))
    worker.start()
    stop.set()
    worker.join(2.0)
    assert not worker.is_alive()


class Several(BrightnessModel):
    """A model that asks five queries of each observation, as several views and pairs make."""

    def start(self, task, references):
        return SeveralFold((), self.info.version)


class SeveralFold(BrightnessFold):
    def queries(self, observation):
        return super().queries(observation) * 5

    def fold(self, observation_id, replies):
        return super().fold(observation_id, replies[:1])


@pytest.mark.parametrize(("room", "calls"), [(32, 5), (1, 160)])
def test_how_long_a_judge_is_at_a_call_is_told_and_how_many_calls_a_batch_takes(room, calls):
    clock, seen = FakeClock(), []

    class Steady(BrightnessJudge):
        def answer(self, queries):
            if len(queries) > room:
                raise MemoryError
            clock.advance(10.0)
            seen.append(pool.statistics()["models"]["m"]["in_call_s"])
            return super().answer(queries)

    pool = SessionPool({"m": Several(judge=Steady())}, PoolConfig(max_batch=32), clock=clock)
    open_(pool, "a")
    for frame in episode(0, 32):
        pool.push("a", frame)
    pool.step("m")
    assert len(pool.collect()) == 32
    assert seen == [10.0] * calls
    figures = pool.statistics()["models"]["m"]
    assert figures["in_call_s"] == 0.0
    assert calls <= figures["calls_at_once"] <= 2 * calls
    assert figures["busy_s"] == pytest.approx(10.0 * calls)


def test_one_poisonous_query_does_not_take_its_batch_with_it():
    poison = observation(0, 66)
    judge = Script(
        raising(ValueError("boom"), lambda call, queries: any(q.now[0][0, 0, 0] == 66 for q in queries))
    )
    pool = pool_of(judge, max_batch=16)
    for i in range(8):
        open_(pool, str(i))
    for i in range(8):
        pool.push(str(i), poison if i == 5 else observation(0, 7))
    valid = {o.session_id: o.score.valid for o in run_dry(pool)}
    assert valid == {str(i): i != 5 for i in range(8)}


def test_out_of_memory_shrinks_later_batches():
    judge = Script(raising(MemoryError(), lambda call, queries: len(queries) > 3))
    pool = pool_of(judge, max_batch=8)
    open_(pool, "a")
    for frame in episode(0, 32):
        pool.push("a", frame)
    scores = of(run_dry(pool), "a")
    assert len(scores) == 32
    assert all(s.valid for s in scores)
    assert pool.statistics()["models"]["m"]["max_batch"] <= 3
    assert max(judge.sizes[-4:]) <= 3


class Card(Judge):
    """A judge with room for so many queries, which says them back."""

    def __init__(self, room):
        self.room = room

    def answer(self, queries):
        if len(queries) > self.room:
            raise MemoryError
        return list(queries)


def test_a_card_that_is_full_for_a_moment_costs_no_batching_afterwards():
    card = Card(room=0)
    asker = BatchAsker(card, 8)
    assert asker.ask(range(8)) == [None] * 8
    card.room = 8
    assert asker.ask(range(8)) == list(range(8))
    assert asker.max_batch == 8


def test_larger_batches_are_tried_again_after_a_while():
    card = Card(room=3)
    asker = BatchAsker(card, 8)
    assert asker.ask(range(8)) == list(range(8))
    assert asker.max_batch == 2
    card.room = 8
    asker.ask(range(2 * 100))
    assert asker.max_batch == 4
    asker.ask(range(4 * 100))
    assert asker.max_batch == 8


def test_a_view_that_drops_out_is_missing_and_one_that_never_comes_is_refused():
    pool = SessionPool({"m": BrightnessModel(("front", "wrist"))}, clock=FakeClock())
    with pytest.raises(ConfigError, match="wrist"):
        open_(pool, "a")
    pool.open("a", model="m", task="t", cameras=["front", "wrist"])
    pool.push("a", observation(0, 9, ("front", "wrist")))
    pool.push("a", observation(1, 9))
    assert [s.valid for s in of(run_dry(pool), "a")] == [True, False]


def test_two_models_at_once_answer_for_themselves():
    models = {"one": BrightnessModel(), "two": BrightnessModel(("front",))}
    pool = SessionPool(models, clock=FakeClock())
    for name in models:
        assert open_(pool, name, model=name) == models[name].info.version
        pool.push(name, observation(0, 100))
    outcomes = run_dry(pool, model="one") + run_dry(pool, model="two")
    assert {o.session_id: o.score.version for o in outcomes} == {n: m.info.version for n, m in models.items()}
    with pytest.raises(ConfigError, match="no such reward model"):
        open_(pool, "x", model="three")
    with pytest.raises(ConfigError, match="no such reward model"):
        open_(pool, "x", model="")


def test_waiting_pictures_are_bounded_in_bytes_and_labels_wait_for_room_instead_of_being_dropped():
    clock = FakeClock()
    pool = pool_of(clock=clock, max_bytes=10 * 48, max_batch=4)
    for name in "ab":
        open_(pool, name)
        open_(pool, "live " + name, Lane.LIVE)
    refused, next_id = 0, dict.fromkeys("ab", 0)
    frames, outcomes = episode(0, 40), []
    while min(next_id.values()) < 40:
        for name in "ab":
            if next_id[name] < 40:
                pool.push("live " + name, frames[next_id[name]])
                receipt = pool.push(name, frames[next_id[name]])
                refused += not receipt.accepted
                next_id[name] = receipt.next_id
        assert pool.statistics()["waiting_bytes"] <= 12 * 48
        if refused % 3 == 2:
            pool.step("m")
            outcomes += pool.collect()
    assert refused >= 5
    outcomes += run_dry(pool, clock)
    for name in "ab":
        assert [s.frame_id for s in of(outcomes, name)] == list(range(40))


def test_a_stride_of_any_length_is_scored_in_a_room_of_any_size():
    shown = []

    class Fold(BrightnessFold):
        def skip(self, observation):
            shown.append(observation.frames["front"].id)

    class Model(BrightnessModel):
        def start(self, task, references):
            return Fold(self.info.cameras, self.info.version)

    pool = SessionPool({"m": Model()}, PoolConfig(max_bytes=10 * 48), clock=FakeClock())
    open_(pool, "a")
    for index, frame in enumerate(episode(0, 500)):
        assert pool.push("a", frame, score=index == 499).accepted
        pool.step("m")
    assert [s.frame_id for s in of(pool.collect(), "a")] == [499]
    assert shown == list(range(499))


def test_what_gets_no_score_counts_as_under_way_while_it_fills_the_room():
    pool = pool_of(max_bytes=10 * 48, max_batch=1)
    open_(pool, "a")
    open_(pool, "live", Lane.LIVE)
    frames = episode(0, 20)
    assert not pool.push("live", frames[0], score=False).crowding, "newer ones take its place"
    crowding = [pool.push("a", frame, score=frame.frames["front"].id == 2).crowding for frame in frames[:9]]
    assert crowding == [False] * 5 + [True] * 4
    assert pool.collect_left() == []
    assert not pool.push("a", frames[8], score=False).crowding, "it waits for one place only"
    pool.step("m")
    assert pool.collect_left() == []
    pool.step("m")
    assert pool.collect_left() == [("a", 5), ("a", 6), ("a", 7), ("a", 8)]
    assert pool.collect_left() == []


def test_a_replaced_or_closed_session_sends_nothing_more():
    pool = pool_of()
    open_(pool, "a")
    pool.push("a", observation(0, 1))
    open_(pool, "a")
    assert run_dry(pool) == []
    pool.push("a", observation(0, 1))
    pool.close("a")
    pool.close("a")
    assert run_dry(pool) == []
    with pytest.raises(UnknownSession, match="from the first"):
        pool.push("a", observation(1, 1))


@pytest.mark.parametrize(("max_batch", "max_sessions"), [(1, 4), (2, 5), (4, 9), (8, 20)])
def test_a_label_session_that_waits_is_answered_within_so_many_batches(max_batch, max_sessions):
    pool = pool_of(max_batch=max_batch, max_sessions=max_sessions)
    live = max(1, max_batch // 2)
    names = [str(i) for i in range(max_sessions - live)]
    for name in names:
        open_(pool, name)
        for index in range(3):
            pool.push(name, observation(index, 9))
    for i in range(live):
        open_(pool, f"live {i}", Lane.LIVE)
    answered = dict.fromkeys(names, 0)
    for batch in range(1, 3 * pool.config.most_batches(max_batch)):
        for i in range(live):
            pool.push(f"live {i}", observation(batch, 9))
        pool.step("m")
        for outcome in pool.collect():
            if outcome.session_id in answered:
                answered[outcome.session_id] = batch
                pool.push(outcome.session_id, observation(outcome.score.frame_id + 3, 9))
        assert all(batch - last < pool.config.most_batches(max_batch) for last in answered.values())


def test_forgotten_and_surplus_sessions():
    clock = FakeClock()
    pool = pool_of(clock=clock, max_sessions=2, idle_s=5.0)
    open_(pool, "a")
    open_(pool, "b")
    with pytest.raises(ConfigError, match="full"):
        open_(pool, "c")
    clock.advance(6.0)
    open_(pool, "c")
    assert pool.statistics()["forgotten"] == 2


class Choking(BrightnessModel):
    def start(self, task, references):
        raise ValueError("No words")


@pytest.mark.parametrize(
    ("model", "cameras"), [("other", ["front"]), ("m", []), ("wrist", ["front"]), ("choking", ["front"])]
)
def test_who_is_refused_is_told_what_is_allowed_and_what_to_do(model, cameras):
    models = {"m": BrightnessModel(), "wrist": BrightnessModel(("wrist",)), "choking": Choking()}
    with pytest.raises(ConfigError) as caught:
        SessionPool(models, clock=FakeClock()).open("a", model=model, task="t", cameras=cameras)
    assert caught.value.seen
    assert caught.value.allowed
    assert caught.value.remedy


def test_without_end_a_server_forgets_no_session_and_waits_for_its_judge():
    clock = FakeClock()
    pool = pool_of(clock=clock, idle_s=math.inf, silent_s=math.inf)
    open_(pool, "a")
    clock.advance(1e6)
    open_(pool, "b")
    assert pool.statistics()["forgotten"] == 0


@pytest.mark.parametrize("name", ["max_wait_s", "idle_s", "retry_s", "silent_s"])
def test_times_that_are_none_are_refused(name: str):
    with pytest.raises(ConfigError, match=f"{name} nan"):
        PoolConfig(**{name: math.nan})


def test_a_session_with_frames_that_wait_is_never_forgotten_and_who_forgets_says_so():
    clock = FakeClock()
    pool = pool_of(clock=clock, max_batch=8, idle_s=600.0)
    names = [f"s{i}" for i in range(8)]
    for name in names:
        open_(pool, name)
        for frame in episode(0, 32):
            pool.push(name, frame)
    open_(pool, "quiet")
    answered = dict.fromkeys(names, 0)
    for turn in range(32):
        assert pool.step("m")
        clock.advance(32.0)
        for outcome in pool.collect():
            answered[outcome.session_id] += 1
        open_(pool, f"another {turn}")
        pool.close(f"another {turn}")
    assert set(answered.values()) == {32}
    assert pool.collect_forgotten() == ["quiet"]
    assert pool.collect_forgotten() == []
    # What was answered just now is not idle either.
    assert pool.statistics()["sessions"] == 8
    clock.advance(601.0)
    open_(pool, "later")
    assert pool.collect_forgotten() == names


def test_where_one_lane_fills_a_batch_they_take_turns():
    pool = pool_of(max_batch=1)
    for name in ("one", "two"):
        open_(pool, name, Lane.LIVE)
    open_(pool, "label")
    for frame in episode(0, 20):
        pool.push("label", frame)
    served = []
    for turn in range(20):
        for name in ("one", "two"):
            pool.push(name, observation(turn, 9))
        pool.step("m")
        served += [o.session_id for o in pool.collect() if o.score.valid]
    assert served == ["one", "label", "two", "label"] * 5


def test_a_thread_per_model_delivers_and_stops():
    told = threading.Event()
    pool = SessionPool({"m": BrightnessModel()}, on_outcome=told.set)
    stop = threading.Event()
    worker = threading.Thread(target=pool.work, args=("m", stop))
    worker.start()
    try:
        open_(pool, "a")
        pool.push("a", observation(0, 51))
        assert told.wait(5.0)
        assert of(pool.collect(), "a")[0].progress == pytest.approx(0.2)
    finally:
        stop.set()
        worker.join(5.0)
    assert not worker.is_alive()
