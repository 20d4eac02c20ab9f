from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from roborl.clock import FakeClock
from roborl.codec import join
from roborl.data.arena import ArenaReader
from roborl.data.columns import ProgressColumns, switch
from roborl.data.reader import StoreReader
from roborl.data.sealed import episode_of
from roborl.data.store import Store
from roborl.errors import ConfigError, DatasetError
from roborl.learning.batch import Batch
from roborl.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from roborl.learning.mixing import Schedule, split_batch
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.loops.learner.replay import MixConfig, ReplaySource
from roborl.records import Arrival, Verdict, pack_record
from roborl.testing.experience import (
    check_instants,
    episode_records,
    store_spec,
)
from roborl.types import EndCause, EpisodeKey, RewardSource, Source

SPEC = store_spec(max_steps=20)


class Rig:
    """A store written to by hand, and the trainer's view of it."""

    def __init__(self, root: Path, **spec: int) -> None:
        self.root = root
        self.store = Store(root, replace(SPEC, **spec))
        self._sequence = 0

    def run(
        self,
        number: int,
        steps: int,
        end: EndCause = EndCause.TIME_LIMIT,
        *,
        mode: str = "train",
        actor: str = "left",
    ) -> EpisodeKey:
        key = EpisodeKey(actor=actor, incarnation=1, episode=number)
        for record in episode_records(key, steps, end, mode=mode):
            self.ingest(record)
        return key

    def ingest(self, record: object) -> None:
        self._sequence += 1
        self.store.ingest("ring", self._sequence, join(pack_record(record)))  # type: ignore[arg-type]

    def source(
        self,
        *,
        reported: dict[str, bool] | None = None,
        mix: MixConfig | None = None,
        need_labels: bool = False,
        imported: bool = True,
        ahead: bool = False,
        clock: FakeClock | None = None,
        look_up: Callable[[Batch], None] | None = None,
    ) -> ReplaySource:
        sampler = Sampler(ArenaReader(self.root), SamplingConfig(need_labels=need_labels), 0, clock)
        shares = (mix or MixConfig()).shares(0.5)
        info = StoreReader(self.root).info
        return ReplaySource(
            sampler,
            shares,
            8,
            images=True,
            look_up=look_up,
            info=info,
            reported=reported,
            imported=lambda: imported,
            ahead=lambda: ahead,
        )


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.store.close()


def test_new_experience_is_told_once(rig: Rig) -> None:
    source = rig.source()
    assert source.refresh().sampleable == 0
    key = rig.run(0, 10, EndCause.SUCCESS)
    first = source.refresh()
    assert first.sampleable == 10
    (episode,) = first.finished
    assert (episode.key, episode.steps, episode.reward, episode.success, episode.end) == (
        str(key),
        10,
        1.0,
        True,
        "success",
    )
    assert episode.policy_version == first.policy_version == 1
    again = source.refresh()
    assert again.finished == []
    assert (again.sampleable, again.committed) == (first.sampleable, first.committed)
    rig.run(1, 5)
    later = source.refresh()
    assert later.sampleable == 15
    assert later.committed > first.committed


def test_what_is_looked_up_by_row_is_asked_for_before_a_batch_is_handed_out(rig: Rig) -> None:
    rig.run(0, 10)
    asked: list[Batch] = []
    batch = rig.source(look_up=asked.append).sample()
    assert batch is not None
    assert asked == [batch]


def test_a_process_that_goes_on_counts_the_rest_of_an_episode_and_nothing_twice(rig: Rig) -> None:
    first = rig.source()
    rig.run(0, 10)
    records = list(episode_records(EpisodeKey(actor="left", incarnation=1, episode=1), 8))
    for record in records[:6]:
        rig.ingest(record)
    assert first.refresh().sampleable == 10 + 4
    source = rig.source()
    source.load_state_dict(first.state_dict())
    assert source.refresh().sampleable == 10 + 4
    for record in records[6:]:
        rig.ingest(record)
    assert source.refresh().sampleable == 10 + 8
    rig.run(2, 4)
    assert source.refresh().sampleable == 10 + 8 + 4


def test_labels_of_another_version_count_nothing_again(rig: Rig) -> None:
    source = rig.source(need_labels=True)
    key = rig.run(0, 10)
    for version in ("first", "second"):
        column = ProgressColumns(ArenaReader(rig.root), version, write=True)
        switch(rig.root, version)
        column.write(key, 0, np.zeros(4, np.float32), np.zeros(4, np.float32))
        assert source.refresh().sampleable == {"first": 3, "second": 10}[version]
        column.write(key, 4, np.zeros(7, np.float32), np.zeros(7, np.float32))
        assert source.refresh().sampleable == 10


def test_a_memory_that_is_filled_again_is_not_drawn_from_before_it_is_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for number in range(3):
        rig.run(number, 10, EndCause.SUCCESS, mode="demo")
    assert rig.store.wait_sealed(20)
    rig.store.close()
    before, seen = rig.source(), []

    def look() -> None:
        with pytest.raises(DatasetError, match="no replay memory"):
            rig.source()
        assert before.refresh().recorded
        assert before.sample() is not None
        seen.append(before._sampler.counts()["demo"])

    with Store(tmp_path, replace(SPEC, capacity_bytes=2 << 20), alive=look):
        assert seen == [30, 30, 30], "of the memory that was there"
        assert rig.source().refresh().recorded
        assert before.refresh().recorded


def test_what_an_earlier_process_reported_is_not_reported_again(rig: Rig) -> None:
    key, other = rig.run(0, 4), rig.run(1, 4)
    source = rig.source(reported={str(key): False})
    assert [episode.key for episode in source.refresh().finished] == [str(other)]


def test_demonstrations_and_evaluations_earn_no_updates_and_are_no_results(rig: Rig) -> None:
    rig.run(0, 6, EndCause.SUCCESS, mode="demo")
    rig.run(1, 6, EndCause.SUCCESS, mode="evaluate")
    found = rig.source().refresh()
    assert found.sampleable == 0
    assert found.finished == []


def test_recorded_episodes_stand_there_whole_once_they_have_come_in_and_are_labelled(rig: Rig) -> None:
    rig.run(0, 6)
    assert not rig.source().refresh().recorded
    rig.run(1, 6, EndCause.SUCCESS, mode="demo")
    assert rig.source().refresh().recorded
    assert not rig.source(imported=False).refresh().recorded
    assert not rig.source(need_labels=True).refresh().recorded


def test_a_head_start_is_not_spent_on_what_no_reward_model_has_scored_yet(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.run(0, 6, EndCause.SUCCESS, mode="demo")
    clock = FakeClock()
    source = rig.source(need_labels=True, clock=clock)
    source.refresh()
    clock.advance(60.0)
    with caplog.at_level(logging.INFO):
        assert not source.refresh().recorded
    assert "waits for a reward model" in caplog.text
    assert source.sample() is not None, "drawn without labels, whoever is late"


def test_a_set_that_the_store_empties_between_two_looks_leaves_its_part_to_the_others(tmp_path: Path) -> None:
    rig = Rig(tmp_path, capacity_bytes=150_000)
    rig.run(0, 18, EndCause.SUCCESS)
    rig.run(1, 18)
    source = rig.source()
    source.refresh()
    number = 2
    while not rig.store.health()["evicted"]:
        rig.run(number, 18)
        number += 1
    drawn = source.sample()
    assert drawn is not None
    assert len(drawn) == 8
    rig.store.close()


def test_nothing_from_online_is_drawn_while_the_head_start_lasts(rig: Rig) -> None:
    rig.run(0, 6, EndCause.SUCCESS)
    rig.run(1, 6, EndCause.SUCCESS, mode="demo")
    ahead, later = rig.source(ahead=True), rig.source()
    assert ahead.sample().demo.all()
    assert not later.sample().demo.all()


def test_nothing_is_drawn_where_nothing_has_labels_yet(rig: Rig) -> None:
    rig.run(0, 6)
    rig.run(1, 6, EndCause.SUCCESS, mode="demo")
    for ahead in (False, True):
        waiting = rig.source(need_labels=True, ahead=ahead)
        waiting.refresh()
        assert waiting.sample() is None
        assert rig.source(ahead=ahead).sample() is not None


def test_draws_before_labels_were_there_are_counted_also_after_a_resume(rig: Rig) -> None:
    clock = FakeClock()
    source = rig.source(need_labels=True, clock=clock)
    rig.run(0, 10)
    source.refresh()
    clock.advance(31.0)
    assert (source.refresh().held, source.refresh().held_draws) == (10, 0)
    assert source.sample() is not None
    assert source.refresh().held_draws == 8
    resumed = rig.source(need_labels=True, clock=clock)
    resumed.load_state_dict(source.state_dict())
    assert resumed.refresh().held_draws == 8


def test_a_verdict_that_moves_the_end_moves_the_return(rig: Rig) -> None:
    key = rig.run(0, 8)
    rig.ingest(Verdict(key=key, index=5, success=True, source=RewardSource.OPERATOR))
    (episode,) = rig.source().refresh().finished
    assert episode.success is True
    assert episode.reward == 1.0


def test_successes_are_counted_by_their_newest_verdicts_whenever_these_come_also_after_a_resume(
    rig: Rig,
) -> None:
    rig.run(0, 8, EndCause.SUCCESS)
    late, wrong = rig.run(1, 8), rig.run(2, 8, EndCause.SUCCESS)
    rig.run(3, 8, EndCause.SUCCESS, mode="demo")
    source = rig.source()
    assert source.refresh().unaided == 2
    rig.ingest(Verdict(key=late, index=8, success=True, source=RewardSource.OPERATOR))
    assert source.refresh().unaided == 3
    rig.ingest(Verdict(key=wrong, index=8, success=False, source=RewardSource.OPERATOR))
    assert source.refresh().unaided == 2
    resumed = rig.source()
    resumed.load_state_dict(source.state_dict())
    assert resumed.refresh().unaided == 2
    # What was counted stays where the replay memory does not hold it any more.
    state = source.state_dict()
    elsewhere = Rig(rig.root / "elsewhere")
    emptied = elsewhere.source()
    emptied.load_state_dict(state)
    assert emptied.refresh().unaided == 2


def test_a_verdict_that_comes_after_an_episode_was_reported_counts_also_after_a_resume(rig: Rig) -> None:
    late, wrong = rig.run(0, 8), rig.run(1, 8, EndCause.SUCCESS)
    rig.run(2, 8, EndCause.SUCCESS)
    source = rig.source()
    first = source.refresh()
    told = {episode.key: episode.success is True for episode in first.finished}
    assert (list(told.values()), first.successes) == ([False, True, True], 2)
    verdict = Verdict(key=late, index=8, success=True, source=RewardSource.OPERATOR)
    rig.ingest(verdict)
    assert (source.refresh().finished, source.refresh().successes) == ([], 3)
    rig.ingest(replace(verdict, key=wrong, success=False))
    rig.ingest(replace(verdict, success=False))
    assert source.refresh().successes == 1
    for state in (rig.source().state_dict(), source.state_dict()):
        resumed = rig.source(reported=told)
        resumed.load_state_dict(state)
        assert (resumed.refresh().finished, resumed.refresh().successes) == ([], 1)
    # What the replay memory does not hold any more stays what it was.
    assert rig.source(reported={"left-0001-000099": True, **told}).refresh().successes == 2


def test_an_episode_that_no_judge_judges_is_reported_once_it_is_given_up_on(rig: Rig) -> None:
    silent, dropped = (EpisodeKey(actor="left", incarnation=1, episode=number) for number in range(2))
    source = rig.source()
    for key in (silent, dropped):
        begin, *others, end = episode_records(key, 8)
        rig.ingest(replace(begin, meta={"mode": "train", "outcome": "judge"}))
        for record in others:
            rig.ingest(record)
        rig.ingest(replace(end, discarded=key == dropped))
    assert [(episode.key, episode.success) for episode in source.refresh().finished] == [(str(dropped), None)]
    ProgressColumns(ArenaReader(rig.root), "v", write=True).mark_deadline(silent, verdict=True)
    switch(rig.root, "v")
    found = source.refresh()
    assert [(episode.key, episode.success) for episode in found.finished] == [(str(silent), None)]
    assert (found.sampleable, found.successes) == (8, 0)
    rig.ingest(Verdict(key=silent, index=8, success=True, source=RewardSource.JUDGE))
    assert (source.refresh().finished, source.refresh().successes) == ([], 1)
    rig.ingest(Verdict(key=dropped, index=8, success=True, source=RewardSource.OPERATOR))
    assert source.refresh().successes == 1


def test_a_success_that_a_person_helped_with_is_none_of_the_policys(rig: Rig) -> None:
    key = EpisodeKey(actor="left", incarnation=1, episode=0)
    for record in episode_records(key, 8, EndCause.SUCCESS):
        command = getattr(record, "command", None)
        if command is not None and record.index == 4:
            record = replace(record, command=replace(command, source=Source.PERSON))
        rig.ingest(record)
    rig.run(1, 8, EndCause.SUCCESS)
    assert rig.source().refresh().unaided == 1


def test_batches_follow_the_mix(rig: Rig) -> None:
    rig.run(0, 10, actor="demo", mode="demo")
    rig.run(1, 10)
    rig.run(2, 10, EndCause.SUCCESS)
    source = rig.source()
    source.refresh()
    batches = [source.sample() for _ in range(20)]
    assert {len(batch) for batch in batches} == {8}
    for batch in batches:
        check_instants(batch.images, batch.state, batch.action)
        # Half comes from all online episodes; the other from demonstrations and what succeeded.
        assert not batch.demo[:4].any()
        episodes = batch.state[4:, 1]
        assert set(episodes.tolist()) <= {0.0, 2.0}
    assert any(batch.demo.any() for batch in batches)
    plain = rig.source(mix=MixConfig(with_successes=False))
    plain.refresh()
    assert all(plain.sample().demo[4:].all() for _ in range(5))


def test_recorded_failures_are_a_set_of_their_own_and_never_demonstrations(rig: Rig) -> None:
    rig.run(0, 8)
    for number, success in enumerate((True, False)):
        key = EpisodeKey(actor="demo", incarnation=1, episode=number)
        arrivals = [
            replace(r, command=r.command and replace(r.command, source=Source.PERSON))
            for r in episode_records(key, 8, EndCause.TIME_LIMIT)
            if isinstance(r, Arrival)
        ]
        info = replace(StoreReader(rig.root).episodes()[0], key=key)
        rig.store.import_episode(replace(episode_of(info, arrivals), success=success))
    sampler = Sampler(ArenaReader(rig.root), SamplingConfig(need_labels=False), 0)
    assert {name: sampler.count(name) for name in ("demo", "failure", "online")} == {
        "demo": 8,
        "failure": 8,
        "online": 8,
    }
    # What a person did in them is no example either.
    failures, shown = sampler.sample(16, "failure"), sampler.sample(16, "demo")
    assert not (failures.demo | failures.person).any()
    assert (shown.demo & shown.person).all()


def test_the_share_of_demonstrations_can_follow_a_schedule() -> None:
    shares = MixConfig(kind="linear", final=0.1, over_updates=100).shares(0.5)
    demo = next(share for name, share in shares.items() if "demo" in name)
    assert [round(demo.at(update, 0.0), 3) for update in (0, 50, 100, 900)] == [0.5, 0.3, 0.1, 0.1]
    assert [round(shares["online"].at(update, 0.0), 3) for update in (0, 50, 100)] == [0.5, 0.7, 0.9]
    assert set(MixConfig().shares(0.0)) == {"online"}
    mixed = MixConfig(failure_share=0.2).shares(0.5, failures=True)
    assert [round(mixed[name].at(0, 0.0), 3) for name in ("online", "failure")] == [0.3, 0.2]
    with pytest.raises(ConfigError, match="no place"):
        MixConfig().shares(0.8, failures=True)
    for kind in get_args(Schedule):
        with pytest.raises(ConfigError, match=r"no place.*Found: 1 of demonstrations.*Lower.*demo_fraction"):
            MixConfig(kind=kind).shares(1.0)
    with pytest.raises(ConfigError, match="final"):
        MixConfig(final=1.5)


@pytest.mark.parametrize(
    ("online", "demos", "failures", "parts"),
    [
        (100, 100, None, {"online": 50, "demo": 50}),
        (100, 900, None, {"online": 10, "demo": 90}),
        (900, 100, None, {"online": 50, "demo": 50}),
        (200, 800, 60, {"online": 15, "demo": 60, "failure": 25}),
        (200, 800, 9000, {"online": 15, "demo": 60, "failure": 25}),
        (900, 100, 60, {"online": 25, "demo": 50, "failure": 25}),
        (100, 900, 0, {"online": 10, "demo": 90}),
        (0, 10, None, {"demo": 100}),
        (10, 0, None, {"online": 100}),
    ],
)
def test_a_proportional_share_is_what_there_is_of_demonstrations(
    online: int, demos: int, failures: int | None, parts: dict[str, int]
) -> None:
    mix = MixConfig(kind="proportional", with_successes=False).shares(0.5, failures=failures is not None)
    counts = {"online": online, "demo": demos} | ({"failure": failures} if failures is not None else {})
    assert split_batch(100, mix, counts, 0) == parts


def test_a_source_that_goes_on_from_a_checkpoint_draws_what_it_would_have_drawn(
    rig: Rig, tmp_path: Path
) -> None:
    rig.run(0, 20)
    rig.run(1, 20, mode="demo")
    straight = rig.source()
    straight.refresh()
    drawn = [straight.sample() for _ in range(3)]
    checkpoint = Checkpoint(step=3, identity={}, parts={"source": straight.state_dict()})
    saved = load_checkpoint(save_checkpoint(tmp_path / "saved", checkpoint), {}).parts["source"]
    resumed = rig.source()
    resumed.load_state_dict(saved)
    resumed.refresh()
    for _ in range(3):
        wanted, found = straight.sample(), resumed.sample()
        assert wanted is not None
        assert found is not None
        np.testing.assert_array_equal(found.rows, wanted.rows)
        for camera, pictures in wanted.images.items():
            np.testing.assert_array_equal(found.images[camera], pictures)
        assert not any((found.rows == batch.rows).all() for batch in drawn if batch is not None)
    # Checkpoints of earlier releases say nothing of draws.
    rig.source().load_state_dict({"counted": saved["counted"]})


def test_eviction_takes_nothing_back_from_what_was_earned(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "small")
    rig.store.close()
    rig.store = Store(tmp_path / "tiny", replace(SPEC, capacity_bytes=90_000))
    rig.root = tmp_path / "tiny"
    source = rig.source()
    earned = 0
    for number in range(30):
        rig.run(number, 10)
        found = source.refresh()
        assert found.sampleable >= earned
        earned = found.sampleable
    assert rig.store.health()["evicted"] > 0
    rig.store.close()


def test_the_imported_episode_is_a_demonstration(rig: Rig) -> None:
    key = EpisodeKey(actor="demo.1", incarnation=1, episode=3)
    records = list(episode_records(key, 5, EndCause.SUCCESS, mode="demo"))
    reader = StoreReader(rig.root)
    rig.run(0, 5, EndCause.SUCCESS)
    info = replace(reader.episodes()[0], key=key)
    episode = episode_of(info, [record for record in records if isinstance(record, Arrival)])
    assert rig.store.import_episode(episode)
    assert not rig.store.import_episode(episode)
    source = rig.source()
    found = source.refresh()
    assert [result.key for result in found.finished] == ["left-0001-000000"]
    assert np.any([source.sample().demo.any() for _ in range(5)])
