from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.codec import join, split
from roborl.data import store as store_module
from roborl.data.arena import FAILURE, ONLINE, ArenaReader
from roborl.data.episodes import EpisodeInfo
from roborl.data.reader import StoreReader
from roborl.data.scales import Scales
from roborl.data.sealed import CHUNK, create_root, read_arrivals, rewrite_info, seal
from roborl.data.store import Store
from roborl.errors import ConfigError, DatasetError, RoborlError
from roborl.learning.batch import Batch
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.records import Arrival, Begin, End, Record, Verdict, pack_record, unpack_record
from roborl.testing.experience import (
    ACTION_DIM,
    STATE_DIM,
    arrival,
    check_arrival,
    check_instants,
    episode_records,
    store_spec,
)
from roborl.types import EndCause, EpisodeKey, RewardSource

SPEC = store_spec(max_steps=12)


SCALES = Scales(
    model="arm",
    state_low=(0.0,) * STATE_DIM,
    state_high=(1.0,) * STATE_DIM,
    action_unit=(0.012,) * ACTION_DIM,
)


def key(episode: int, actor: str = "arm", incarnation: int = 1) -> EpisodeKey:
    return EpisodeKey(actor=actor, incarnation=incarnation, episode=episode)


class Feed:
    """Numbers records as a ring does."""

    def __init__(self, store: Store, ring_id: str = "ring") -> None:
        self.store, self.ring_id = store, ring_id

    def __call__(self, *records: Record) -> None:
        for record in records:
            sequence = self.store.last_sequence(self.ring_id) + 1
            self.store.ingest(self.ring_id, sequence, join(pack_record(record)))


def sampler(root: Path, **config: object) -> Sampler:
    settings = {"n_step": 1, "shift_px": 0, "need_labels": False, **config}
    return Sampler(ArenaReader(root), SamplingConfig(**settings), seed=0)  # type: ignore[arg-type]


def steps_in(batch: Batch, episode: int) -> set[int]:
    return {int(t) for e, t in batch.state[:, 1:3] if e == episode}


def test_interleaved_actors_give_whole_episodes(tmp_path: Path) -> None:
    streams = {
        actor: [*episode_records(key(0, actor), 6), *episode_records(key(1, actor), 4)] for actor in "abc"
    }
    with Store(tmp_path, SPEC) as store:
        feeds = {actor: Feed(store, f"ring-{actor}") for actor in streams}
        for turn in range(max(map(len, streams.values()))):
            for actor, records in streams.items():
                if turn < len(records):
                    feeds[actor](records[turn])
        assert store.wait_sealed(20)
        reader = StoreReader(tmp_path)
        assert [str(info.key) for info in reader.episodes()] == [
            f"{a}-0001-00000{e}" for e in (0, 1) for a in "abc"
        ]
        for info in reader.episodes():
            assert info.observations == (7, 5)[info.key.episode], "T + 1"
            arrivals = list(reader.arrivals(info.key))
            for record in arrivals:
                check_arrival(record)
            assert [a.index for a in arrivals] == list(range(info.observations))
            assert [a.index for a in reader.arrivals(info.key, 3)] == list(range(3, info.observations))
            episode = reader.episode(info.key)
            assert (len(episode.steps), len(episode.observations)) == (info.steps, info.observations)
        draws = sampler(tmp_path, n_step=3)
        assert draws.count("all") == 30
        batch = draws.sample(300)
        check_instants(batch.images, batch.state, batch.action)
        check_instants(batch.next_images, batch.next_state)
    assert not list((tmp_path / "logs").glob("*-*.log"))


def test_a_record_is_taken_once_and_only_in_order(tmp_path: Path) -> None:
    blobs = [join(pack_record(record)) for record in episode_records(key(0), 5)]
    with Store(tmp_path, SPEC) as store:
        for n, blob in enumerate(blobs, start=1):
            for again in range(max(1, n - 2), n + 1):
                store.ingest("r", again, blobs[again - 1])
            store.ingest("r", n, blob)
            with pytest.raises(DatasetError, match="not the next"):
                store.ingest("r", n + 2, blob)
        assert store.last_sequence("r") == len(blobs)
        assert store.health()["duplicates"] > len(blobs)
        assert store.health().get("refused", 0) == 0
    assert [a.index for a in StoreReader(tmp_path).arrivals(key(0))] == list(range(6))


@settings(max_examples=25)
@given(data=st.data())
def test_a_log_torn_at_any_byte_goes_on_without_loss(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("torn")
    records = list(episode_records(key(0), 5))
    sent = data.draw(st.integers(1, 6))
    with Store(root, SPEC) as store:
        Feed(store)(*records[:sent])
    path = root / "logs" / f"{key(0)}.log"
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    (root / "sequences.json").unlink()
    with Store(root, SPEC) as store:
        kept = store.last_sequence("ring")
        assert kept <= sent
        Feed(store)(*records[kept:])
        assert store.wait_sealed(20)
        assert store.health().get("refused", 0) == 0
        for record in StoreReader(root).arrivals(key(0)):
            check_arrival(record)
        batch = sampler(root).sample(50)
        check_instants(batch.images, batch.state, batch.action)
    assert StoreReader(root).info(key(0)).observations == 6


@pytest.mark.parametrize("cause", list(EndCause))
def test_only_success_and_failure_are_terminations(tmp_path: Path, cause: EndCause) -> None:
    with Store(tmp_path, SPEC) as store:
        Feed(store)(*episode_records(key(0), 4, cause))
        batch = sampler(tmp_path).sample(100)
    last = batch.state[:, 2] == 3
    assert last.any()
    assert not batch.terminated[~last].any()
    assert (batch.terminated[last] == (cause in (EndCause.SUCCESS, EndCause.FAILURE))).all()
    assert StoreReader(tmp_path).info(key(0)).end is cause
    np.testing.assert_array_equal(batch.next_state[last][:, 2], 4)  # What a time-out bootstraps from.


@pytest.mark.parametrize("when", ["open", "ended", "sealed", "reopened"])
@pytest.mark.parametrize("env_reward", [False, True])
def test_a_late_verdict_makes_its_observation_terminal(tmp_path: Path, when: str, env_reward: bool) -> None:
    begin, *arrivals, end = episode_records(key(0), 8)
    if env_reward:
        arrivals[5] = arrival(key(0), 5, reward=0.25, reward_source=RewardSource.ENV)
    verdict = Verdict(key=key(0), index=5, success=True, source=RewardSource.OPERATOR)
    store = Store(tmp_path, SPEC)
    feed = Feed(store)
    if when == "open":
        feed(begin, *arrivals[:7], verdict, *arrivals[7:], end)
    else:
        feed(begin, *arrivals, end)
        if when in ("sealed", "reopened"):
            assert store.wait_sealed(20)
        if when == "reopened":
            store.close()
            store = Store(tmp_path, SPEC)
            feed = Feed(store)
        feed(verdict)
    assert store.wait_sealed(20)
    for _ in range(2):
        info = StoreReader(tmp_path).info(key(0))
        assert (info.terminal_index, info.success) == (5, True)
        assert info.observations == 9, "later steps are kept"
        batch = sampler(tmp_path, n_step=2, discount=0.5).sample(200)
        assert steps_in(batch, 0) == {0, 1, 2, 3, 4}, "and leave TD sampling"
        reaching = batch.state[:, 2] + batch.horizon == 5
        np.testing.assert_array_equal(batch.terminated, reaching)
        value = 0.25 if env_reward else 1.0
        np.testing.assert_allclose(batch.reward[reaching], value * 0.5 ** (batch.horizon[reaching] - 1))
        assert not batch.reward[~reaching].any()
        store.close()
        store = Store(tmp_path, SPEC)
    store.close()


def test_the_last_verdict_counts(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        feed = Feed(store)
        feed(*episode_records(key(0), 8))
        for index, success in ((3, True), (6, False)):
            feed(Verdict(key=key(0), index=index, success=success, source=RewardSource.OPERATOR))
        batch = sampler(tmp_path).sample(200)
        assert steps_in(batch, 0) == set(range(6))
        assert not batch.reward.any(), "the first verdict's reward went with it"


@pytest.mark.parametrize("reward", [None, 0.25])
def test_a_judge_that_saw_nothing_done_leaves_a_time_out_as_it_is_unless_it_pays(
    tmp_path: Path, reward: float | None
) -> None:
    begin, *rest = episode_records(key(0), 8, EndCause.TIME_LIMIT)
    assert isinstance(begin, Begin)
    with Store(tmp_path, SPEC) as store:
        feed = Feed(store)
        feed(replace(begin, meta={"outcome": "judge"}), *rest)
        assert sampler(tmp_path).count("all") == 0
        feed(Verdict(key=key(0), index=8, success=False, source=RewardSource.JUDGE, reward=reward))
        batch = sampler(tmp_path).sample(200)
        last = batch.state[:, 2] == 7
        assert steps_in(batch, 0) == set(range(8))
        assert (batch.terminated[last] == (reward is not None)).all()
        assert not batch.terminated[~last].any()
        np.testing.assert_allclose(batch.reward[last], reward or 0.0)
        assert not batch.reward[~last].any()
        assert store.wait_sealed(20)
        assert StoreReader(tmp_path).info(key(0)).success is False


@pytest.mark.parametrize("person_first", [True, False])
@pytest.mark.parametrize("reopened", [True, False])
def test_a_judge_does_not_outvote_a_person(tmp_path: Path, person_first: bool, reopened: bool) -> None:
    votes = [
        Verdict(key=key(0), index=5, success=False, source=RewardSource.OPERATOR),
        Verdict(key=key(0), index=3, success=True, source=RewardSource.JUDGE),
    ]
    with Store(tmp_path, SPEC) as store:
        Feed(store)(*episode_records(key(0), 8, EndCause.TIME_LIMIT))
        assert store.wait_sealed(20)
        Feed(store, "votes")(*(votes if person_first else reversed(votes)))
        assert "refused" not in store.counts
    if reopened:
        Store(tmp_path, SPEC).close()
    info = StoreReader(tmp_path).info(key(0))
    assert (info.terminal_index, info.success) == (5, False)


def test_an_episode_that_a_judge_decides_waits_for_the_verdict(tmp_path: Path) -> None:
    begin, *rest = episode_records(key(0), 8)
    assert isinstance(begin, Begin)
    with Store(tmp_path, SPEC) as store:
        feed = Feed(store)
        feed(replace(begin, meta={"outcome": "judge"}), *rest)
        draws = sampler(tmp_path)
        assert draws.count("all") == 0
        feed(Verdict(key=key(0), index=8, success=True, source=RewardSource.JUDGE))
        draws.refresh()
        assert draws.count("all") == 8


def test_discarded_and_evaluation_episodes_are_kept_and_not_sampled(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        feed = Feed(store)
        *records, end = episode_records(key(0), 5)
        assert isinstance(end, End)
        feed(*records)
        draws = sampler(tmp_path)
        assert draws.count("all") == 5
        feed(replace(end, discarded=True))
        feed(*episode_records(key(1), 5, mode="evaluate"))
        draws.refresh()
        assert draws.count("all") == 0
        assert store.wait_sealed(20)
        reader = StoreReader(tmp_path)
        assert [(i.discarded, i.kind, i.observations) for i in reader.episodes()] == [
            (True, "online", 6),
            (False, "evaluation", 6),
        ]
        assert len(reader.episode(key(1)).steps) == 5


def test_a_new_episode_of_an_actor_ends_the_one_it_left_open(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        Feed(store, "old ring")(*list(episode_records(key(0), 5))[:4])
        Feed(store, "other actor")(*list(episode_records(key(0, "b"), 5))[:4])
        Feed(store, "new ring")(*list(episode_records(key(0, incarnation=2), 5))[:3])
        assert store.wait_sealed(20)
        ends = {info.key: info.end for info in StoreReader(tmp_path).episodes()}
        assert ends == {key(0): EndCause.ACTOR_LOST, key(0, "b"): None, key(0, incarnation=2): None}
        batch = sampler(tmp_path).sample(100)
        assert not batch.terminated.any()
        # What the dead actor still had in flight is kept aside.
        Feed(store, "old ring")(list(episode_records(key(0), 5))[4])
        assert store.health()["refused"] == 1
    with Store(tmp_path, SPEC) as store:
        assert store.last_sequence("old ring") == 5
        assert StoreReader(tmp_path).info(key(0)).observations == 3


def test_an_episode_is_gone_on_with_by_the_ring_it_began_on_alone(tmp_path: Path) -> None:
    records = list(episode_records(key(0), 5))
    strange = [arrival(key(0), index, reward=1.0) for index in range(6)]
    with Store(tmp_path, SPEC) as store:
        Feed(store, "left")(*records[:3])
        Feed(store, "right")(records[0], *strange, records[-1])
        assert store.health()["refused"] == 8
    with Store(tmp_path, SPEC) as store:
        assert store.last_sequence("right") == 8
        right = Feed(store, "right")
        right(Verdict(key=key(0), index=2, success=True, source=RewardSource.OPERATOR))
        right(strange[2])
        Feed(store, "left")(*records[3:])
        right(records[-1])
        assert store.health()["refused"] == 2
        assert store.wait_sealed(20)
    info = StoreReader(tmp_path).info(key(0))
    assert (info.ring_id, info.observations, info.end) == ("left", 6, EndCause.TIME_LIMIT)
    assert info.terminal_index == 2, "who judges may do so through any ring"
    assert not any(a.reward for a in StoreReader(tmp_path).arrivals(key(0)))


def test_what_makes_no_sense_is_kept_counted_and_acknowledged(tmp_path: Path) -> None:
    begin, *arrivals, end = episode_records(key(0), 4)
    first = arrivals[0]
    assert isinstance(first, Arrival)
    small = replace(first.observation, state=np.zeros(2, np.float32))
    blind = replace(first.observation, frames={})
    nan = replace(first.observation, state=np.full(STATE_DIM, np.nan, np.float32))
    bad: list[Record] = [replace(first, observation=o) for o in (small, blind, nan)]
    with Store(tmp_path, SPEC) as store:
        feed = Feed(store)
        feed(arrivals[0], begin, begin, *bad, arrivals[0], arrivals[2], arrivals[1], arrivals[1])
        feed(*arrivals[2:], end, end, arrivals[3])
        store.ingest("ring", store.last_sequence("ring") + 1, b"garbage")
        assert store.health()["refused"] == 10
        sequence = store.last_sequence("ring")
        assert store.wait_sealed(20)
    with Store(tmp_path, SPEC) as store:
        assert store.last_sequence("ring") == sequence
    assert [a.index for a in StoreReader(tmp_path).arrivals(key(0))] == list(range(5))


def test_memory_is_bounded_and_demonstrations_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = replace(SPEC, capacity_bytes=150_000)
    source = tmp_path / "source"
    with Store(source, SPEC) as store:
        Feed(store)(*episode_records(key(7, "teacher"), 9, EndCause.SUCCESS))
        assert store.wait_sealed(20)
    demo = StoreReader(source).episode(key(7, "teacher"))
    root = tmp_path / "store"
    with Store(root, spec) as store:
        assert store.import_episode(demo)
        assert not store.import_episode(demo), "once"
        feed = Feed(store)
        draws = sampler(root)
        for episode in range(25):
            for record in episode_records(key(episode), 3 + episode % 9):
                feed(record)
                draws.refresh()
                batch = draws.sample(20)
                check_instants(batch.images, batch.state, batch.action)
        assert store.health()["evicted"] > 10
        (told,) = [r.getMessage() for r in caplog.records if "replay memory is full" in r.getMessage()]
        assert "from arm-0001-000000 on" in told
        assert "--store.capacity_bytes" in told
        size = sum(path.stat().st_size for path in (root / "arena").glob("*.*"))
        assert size <= spec.capacity_bytes + 1000
        held = sorted(k.episode for k in draws.reader.slots() if k.actor == "arm")
        assert held == list(range(held[0], 25)), "the oldest went first"
        assert len(held) >= 4
        assert draws.count("demo") == 9
        assert sampler(root).sample(50, "demo").demo.all()
        assert store.wait_sealed(60)
        before = {slot: k for k, slot in draws.reader.slots().items()}
    assert len(StoreReader(root).episodes()) == 26, "the recording keeps all"
    with Store(root, spec) as store:
        again = sampler(root)
        assert {slot: k for k, slot in again.reader.slots().items()} == before, (
            "evicted ones do not come back"
        )
    shutil.rmtree(root / "arena")
    with Store(root, spec) as store:
        rebuilt = sampler(root)
        assert key(24) in rebuilt.reader.slots()
        assert rebuilt.count("demo") == 9
        batch = rebuilt.sample(100)
        check_instants(batch.images, batch.state, batch.action)


def test_recorded_failures_stay_when_memory_is_rebuilt_and_what_finds_no_room_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, capacity_bytes=150_000)

    def kinds() -> tuple[int, int]:
        table = ArenaReader(tmp_path).table
        held = table["kind"][table["ordinal"] > 0].tolist()
        return held.count(FAILURE), held.count(ONLINE)

    with Store(tmp_path, spec) as store:
        feed = Feed(store)
        for episode in range(4):
            feed(*episode_records(key(episode), 8, EndCause.FAILURE, mode="failure"))
        for episode in range(4, 24):
            feed(*episode_records(key(episode), 8))
        feed(*episode_records(key(24), 8, mode="evaluate"))
        assert store.wait_sealed(60)
        failures, online = kinds()
        assert failures == 4
        assert 0 < online < 20
        assert store.health()["evicted"] == 20 - online
    monkeypatch.setattr("roborl.data.arena.boot_id", lambda: "another run of the machine")
    with Store(tmp_path, spec) as store:
        failures, again = kinds()
        assert failures == 4
        assert online <= again < 20
        assert store.health()["episodes_not_in_memory"] == 20 - again


def test_demonstrations_that_would_leave_no_room_for_what_happens_online_are_refused(tmp_path: Path) -> None:
    spec = replace(SPEC, max_steps=20, capacity_bytes=263_000)
    with Store(tmp_path / "source", replace(SPEC, max_steps=80)) as store:
        for episode in range(4):
            Feed(store)(*episode_records(key(episode, "teacher"), 79, EndCause.SUCCESS))
        assert store.wait_sealed(20)
    source = StoreReader(tmp_path / "source")
    with Store(tmp_path / "store", spec) as store:
        store.import_episode(source.episode(key(0, "teacher")))
        with pytest.raises(
            DatasetError,
            match=r"fill the replay memory.*Found: 160 of its 162.*Allowed: at most 120.*capacity",
        ):
            store.import_episode(source.episode(key(1, "teacher")))
        for episode in range(6):
            Feed(store)(*episode_records(key(episode), 20))
        draws = sampler(tmp_path / "store")
        assert (draws.count("demo"), draws.count("online")) == (79, 60)
        assert store.health()["episodes_not_in_memory"] == 0
        assert store.wait_sealed(20)
    with Store(tmp_path / "store", spec) as store:
        assert len(store.infos()) == 7, "what was refused is not recorded either"


def test_what_finds_no_room_beside_recorded_episodes_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(tmp_path, replace(SPEC, max_steps=20, capacity_bytes=263_000)) as store:
        for episode in range(8):
            Feed(store)(*episode_records(key(episode), 20, mode="failure"))
        assert "not_in_memory" not in caplog.text
        for episode in range(8, 14):
            Feed(store)(*episode_records(key(episode), 20))
        health = store.health()
        assert health["episodes_not_in_memory"] == 7
        assert store.wait_sealed(20)
    told = [record.getMessage() for record in caplog.records if "no room" in record.getMessage()]
    assert len(told) == 1
    assert "arm-0001-000007" in told[0]
    assert "store.capacity_bytes" in told[0]


def test_too_little_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too small"):
        Store(tmp_path, replace(SPEC, capacity_bytes=1000))


def test_imports_keep_order_end_and_content(tmp_path: Path) -> None:
    with Store(tmp_path / "a", SPEC) as store:
        feed = Feed(store)
        for episode, cause in enumerate((EndCause.SUCCESS, EndCause.TIME_LIMIT)):
            feed(*episode_records(key(episode), 5, cause))
        assert store.wait_sealed(20)
    source = StoreReader(tmp_path / "a")
    with Store(tmp_path / "b", SPEC) as store:
        for info in source.episodes():
            store.import_episode(source.episode(info.key), meta={"from": "a"})
        copied = StoreReader(tmp_path / "b")
        for info in copied.episodes():
            assert (info.kind, info.meta) == ("demo", {"from": "a"})
            assert info.end is source.info(info.key).end
            for record in copied.arrivals(info.key):
                check_arrival(record)
        batch = sampler(tmp_path / "b").sample(100, "demo")
        check_instants(batch.images, batch.state, batch.action)
        np.testing.assert_array_equal(batch.reward, batch.terminated.astype(np.float32))
        wrong = source.episode(key(0))
        steps = tuple(
            replace(
                s,
                command=replace(s.command, action=np.zeros(9, np.float32), proposed=np.zeros(9, np.float32)),
            )
            for s in wrong.steps
        )
        with pytest.raises(DatasetError, match="action_dim is 9, the store's is 3"):
            store.import_episode(replace(wrong, key=key(8), steps=steps))
        first, *others = wrong.steps
        with pytest.raises(DatasetError, match="its reward is not finite"):
            store.import_episode(
                replace(wrong, key=key(8), steps=(replace(first, reward=float("inf")), *others))
            )


def test_a_store_is_closed_once(tmp_path: Path) -> None:
    store = Store(tmp_path, SPEC)
    store.close()
    with (tmp_path / "store.json").open() as other:  # It has the number of a file that was the store's.
        store.close()
        assert other.read()


def test_one_process_at_a_time_and_one_form(tmp_path: Path) -> None:
    store = Store(tmp_path, SPEC)
    with pytest.raises(DatasetError, match="another process"):
        Store(tmp_path, SPEC)
    store.close()
    for change in ({"state_dim": 5}, {"action_dim": 1}, {"cameras": {"front": (12, 16)}}):
        with pytest.raises(DatasetError, match=next(iter(change))):
            Store(tmp_path, replace(SPEC, **change))  # type: ignore[arg-type]
    Store(tmp_path, replace(SPEC, image_px=6, capacity_bytes=2 << 20)).close()


def test_memory_is_rebuilt_after_the_machine_restarted_or_its_form_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path, SPEC) as store:
        Feed(store)(*episode_records(key(0), 6), *list(episode_records(key(1), 6))[:5])
    (tmp_path / "arena" / "state.f32").write_bytes(bytes((tmp_path / "arena" / "state.f32").stat().st_size))
    monkeypatch.setattr("roborl.data.arena.boot_id", lambda: "another run of the machine")
    for spec in (SPEC, replace(SPEC, image_px=4)):
        with Store(tmp_path, spec) as store:
            draws = sampler(tmp_path)
            assert draws.count("all") == 6 + 3
            batch = draws.sample(100)
            check_instants(batch.images, batch.state, batch.action)
            assert batch.images["wrist"].shape[1] == spec.image_px
    with Store(tmp_path, replace(SPEC, image_px=4)) as store:
        Feed(store)(*list(episode_records(key(1), 6))[5:])
        draws = sampler(tmp_path)
        assert draws.count("all") == 12, "an open episode goes on"


def test_a_slow_or_failing_seal_neither_stops_records_nor_loses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, real = threading.Event(), store_module.seal
    failures = [OSError("No space left on device")]

    def slow(*args: object, **kwargs: object) -> Path:
        assert release.wait(20)
        if failures:
            raise failures.pop()
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "seal", slow)
    with Store(tmp_path, SPEC) as store:
        feed = Feed(store)
        feed(*episode_records(key(0), 5))
        start = time.monotonic()
        feed(*episode_records(key(1), 5))
        feed(Verdict(key=key(0), index=3, success=True, source=RewardSource.OPERATOR))
        assert time.monotonic() - start < 5
        assert store.health()["unsealed"] == 2
        release.set()
        assert not store.wait_sealed(20)
        assert store.health()["seal_failures"] == 1
        feed(*episode_records(key(2), 5))
        assert store.wait_sealed(20)
    reader = StoreReader(tmp_path)
    assert [info.observations for info in reader.episodes()] == [6, 6, 6]
    assert reader.info(key(0)).terminal_index == 3


@pytest.mark.parametrize("when", ["sealed", "while sealing", "killed before it is noted"])
def test_a_late_verdict_is_on_the_disk_before_it_has_its_name_where_the_store_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    taken, real, flushed = threading.Event(), store_module.seal, list[Path]()

    def slow(*args: object, **kwargs: object) -> Path:
        assert taken.wait(20)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    verdict = Verdict(key=key(0), index=3, success=True, source=RewardSource.OPERATOR)
    if when == "while sealing":
        monkeypatch.setattr(store_module, "seal", slow)
    with Store(tmp_path, SPEC, sync=True) as store:
        feed = Feed(store)
        feed(*episode_records(key(0), 5))
        assert when == "while sealing" or store.wait_sealed(20)
        monkeypatch.setattr("os.fsync", lambda fd: flushed.append(Path(os.readlink(f"/proc/self/fd/{fd}"))))
        if when == "killed before it is noted":
            with monkeypatch.context() as dying:
                dying.setattr(store_module, "rewrite_info", killed)
                with pytest.raises(KeyboardInterrupt):
                    feed(verdict)
        else:
            feed(verdict)
        taken.set()
        assert store.wait_sealed(20)
    if when == "killed before it is noted":
        Store(tmp_path, SPEC, sync=True).close()
    assert StoreReader(tmp_path).info(key(0)).terminal_index == 3
    (draft,) = [path.name for path in flushed if path.parent == tmp_path / "store.zarr" / str(key(0))]
    assert draft.startswith(".zarr.json.")


def test_a_seal_that_the_disk_refuses_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had written would otherwise hold the last of a full disk, against whatever has to be written next."""
    real, refused = zarr.Group.create_array, list[str]()

    def full(group: zarr.Group, name: str, **form: object) -> object:
        if name == "policy_version":
            refused.append(name)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(group, name, **form)  # type: ignore[arg-type]

    with Store(tmp_path, SPEC) as store:
        feed = Feed(store)
        with monkeypatch.context() as disk:
            disk.setattr(zarr.Group, "create_array", full)
            feed(*episode_records(key(0), 5))
            assert not store.wait_sealed(20)
            assert store.health()["seal_failures"] == len(refused) == 1
            assert list((tmp_path / "staging").iterdir()) == []
        feed(*episode_records(key(1), 5))
        assert store.wait_sealed(20)
    assert [len(StoreReader(tmp_path).episode(key(episode)).steps) for episode in range(2)] == [5, 5]


def test_an_episode_that_cannot_be_sealed_is_counted_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store_module.seal

    def choosy(root: Path, staging: Path, info: EpisodeInfo, *args: object, **kwargs: object) -> Path:
        if info.key == key(0):
            raise OverflowError("Python int too large to convert to C long")
        return real(root, staging, info, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "seal", choosy)
    with Store(tmp_path, SPEC) as store:
        feed = Feed(store)
        for episode in range(3):
            feed(*episode_records(key(episode), 3))
        assert not store.wait_sealed(20)
        health = store.health()
        assert (health["unsealed"], health["seal_failures"]) == (1, 1)
    assert sorted(path.name for path in (tmp_path / "store.zarr").glob("arm-*")) == [str(key(1)), str(key(2))]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_store_whose_sealing_has_ended_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ending(*_: object, **__: object) -> Path:
        raise SystemExit

    monkeypatch.setattr(store_module, "seal", ending)
    with Store(tmp_path, SPEC) as store:
        feed = Feed(store)
        feed(*episode_records(key(0), 3))
        deadline = time.monotonic() + 20
        while any(thread.name == "sealer" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(RoborlError, match="not sealed any more"):
            store.health()
        with pytest.raises(RoborlError, match="1 of them wait"):
            feed(*episode_records(key(1), 3))


def test_a_deleted_store_does_not_wait_for_what_was_acknowledged(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        store.adopt("ring", 41)
        Feed(store)(*episode_records(key(0), 3))
        assert store.last_sequence("ring") == 47
        assert store.health()["acknowledged_elsewhere"] == 41
        store.adopt("ring", 12)
        assert store.last_sequence("ring") == 47
        assert store.wait_sealed(20)
    shutil.rmtree(tmp_path / "store.zarr" / str(key(0)))
    with Store(tmp_path, SPEC) as store:
        assert store.last_sequence("ring") == 47, "though nothing of the episode is left"
        assert sampler(tmp_path).count("all") == 0


def test_a_store_of_other_scales_is_refused_and_one_that_names_none_is_opened(tmp_path: Path) -> None:
    scaled = replace(SPEC, scales=SCALES)
    other = replace(SPEC, scales=replace(SCALES, action_unit=(0.015,) * ACTION_DIM))
    Store(tmp_path / "older", SPEC).close()
    for spec in (scaled, SPEC, scaled):
        Store(tmp_path / "older", spec).close()
    with pytest.raises(
        DatasetError, match=r"another action_unit.*Found: \[0\.015.*Allowed: \[0\.012.*steps back"
    ):
        Store(tmp_path / "older", other)
    # From before there were any.
    form = tmp_path / "older" / "store.json"
    form.write_text(
        json.dumps({name: value for name, value in json.loads(form.read_text()).items() if name != "scales"})
    )
    Store(tmp_path / "older", other).close()


def test_a_full_disk_does_not_use_up_the_files_that_a_process_may_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError("No space left on device")

    with Store(tmp_path, SPEC) as store:
        feed, records = Feed(store), list(episode_records(key(0), 3))
        with monkeypatch.context() as disk:
            disk.setattr(os, "writev", full)
            held = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                with pytest.raises(DatasetError):
                    feed(records[0])
            assert len(os.listdir("/proc/self/fd")) == held
        feed(*records)
        assert store.wait_sealed(20)
        assert len(StoreReader(tmp_path).episode(key(0)).steps) == 3


def test_a_log_is_not_given_up_for_a_torn_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Path:
        raise OSError("No space left on device")

    with monkeypatch.context() as disk, Store(tmp_path, SPEC) as store:
        disk.setattr(store_module, "seal", full)
        Feed(store)(*episode_records(key(0), 4))
    torn = tmp_path / "store.zarr" / str(key(0))
    torn.mkdir()
    (torn / "zarr.json").touch()
    with Store(tmp_path, SPEC) as store:
        assert store.wait_sealed(20)
    for record in StoreReader(tmp_path).arrivals(key(0)):
        check_arrival(record)
    assert len(StoreReader(tmp_path).episode(key(0)).steps) == 4


@pytest.mark.parametrize("torn", [None, b"", b'{"attrib'])
def test_a_store_whose_description_is_gone_or_torn_keeps_its_episodes(
    tmp_path: Path, torn: bytes | None
) -> None:
    with Store(tmp_path, SPEC) as store:
        for episode in range(2):
            Feed(store)(*episode_records(key(episode), 4))
        assert store.wait_sealed(20)
    described = tmp_path / "store.zarr" / "zarr.json"
    if torn is None:
        described.unlink()
    else:
        described.write_bytes(torn)
    with Store(tmp_path, SPEC):
        assert [len(StoreReader(tmp_path).episode(key(episode)).steps) for episode in range(2)] == [4, 4]
    group = zarr.open_group(tmp_path / "store.zarr", mode="r")
    assert set(group.group_keys()) == {str(key(0)), str(key(1))}


@pytest.mark.parametrize("gone", ["frames/front", "state", "action", "reward"])
def test_a_recording_that_lacks_a_file_is_told_and_one_of_zeros_is_read(tmp_path: Path, gone: str) -> None:
    def arrivals() -> Iterator[Arrival]:
        for index in range(2 * CHUNK):
            record = arrival(key(0), index)
            frames = {
                name: replace(frame, rgb=np.zeros_like(frame.rgb))
                for name, frame in record.observation.frames.items()
            }
            yield replace(record, observation=replace(record.observation, frames=frames))

    create_root(tmp_path / "store.zarr")
    (tmp_path / "staging").mkdir()
    info = EpisodeInfo(key=key(0), ordinal=1, task="t", observations=2 * CHUNK, end=EndCause.TIME_LIMIT)
    folder = seal(tmp_path / "store.zarr", tmp_path / "staging", info, arrivals())
    assert len(list(read_arrivals(folder))) == 2 * CHUNK
    rewrite_info(folder, replace(info, task="u"), sync=False)
    files = sorted(path for path in (folder / gone / "c").rglob("*") if path.is_file())
    files[-1].unlink()
    with pytest.raises(DatasetError, match=f"{gone}/c/.* is gone"):
        list(read_arrivals(folder))
    for described in folder.rglob("zarr.json"):
        described.write_text(described.read_text().replace('"whole": true', '"whole": false'))
    assert len(list(read_arrivals(folder))) == 2 * CHUNK, "without the mark nothing is known of what lacks"


def test_sealing_holds_a_chunk_of_pictures_in_memory_and_not_the_episode(tmp_path: Path) -> None:
    side, count = 96, 12 * CHUNK

    def arrivals() -> Iterator[Arrival]:
        for index in range(count):
            record = arrival(key(0), index)
            rgb = np.full((side, side, 3), index, np.uint8)
            frames = {"front": replace(record.observation.frames["front"], rgb=rgb)}
            record = replace(record, observation=replace(record.observation, frames=frames))
            taken = unpack_record(split(join(pack_record(record))))
            assert isinstance(taken, Arrival)
            yield taken

    create_root(tmp_path / "store.zarr")
    (tmp_path / "staging").mkdir()
    info = EpisodeInfo(key=key(0), ordinal=1, task="t", observations=count, end=EndCause.TIME_LIMIT)
    tracemalloc.start()
    seal(tmp_path / "store.zarr", tmp_path / "staging", info, arrivals())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * side * side * 3 / 2


def test_a_store_gives_signs_of_life_while_its_memory_is_filled(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        for episode in range(3):
            Feed(store)(*episode_records(key(episode), 4))
        assert store.wait_sealed(20)
    (tmp_path / "arena" / "boot").unlink()
    signs: list[int] = []
    with Store(tmp_path, SPEC, alive=lambda: signs.append(1)):
        assert len(signs) == 3
        assert sampler(tmp_path).count("all") == 12
