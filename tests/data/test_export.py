"""What a store recorded goes out as a LeRobotDataset and comes back the same."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.rewards.sarm.rabc import RABCWeights

from roborl.codec import join
from roborl.data.arena import ArenaReader
from roborl.data.columns import save_labels
from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.demos import DemoSpec, load_demos
from roborl.data.export import export_store, import_dataset, records_of
from roborl.data.lerobot_info import describe
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_writer import DatasetWriter
from roborl.data.progress import progress_about, progress_path, read_progress
from roborl.data.reader import StoreReader
from roborl.data.scales import Scales
from roborl.data.store import Store, StoreSpec
from roborl.errors import DatasetError
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.records import Arrival, End, Record, Verdict, pack_record
from roborl.testing.episodes import (
    ACTION,
    CAMERAS,
    STATE,
    lerobot_recording,
    random_episode,
    write_episodes,
)
from roborl.types import EndCause, EpisodeKey, RewardSource

SPEC = StoreSpec(
    cameras=dict(CAMERAS), image_px=12, state_dim=6, action_dim=4, max_steps=20, capacity_bytes=4 << 20
)


def fill(root: Path) -> None:
    """A store with a success, a time-out judged later, a discarded failure, an empty and an open episode."""
    judged = Verdict(
        key=EpisodeKey.parse(random_episode(1).key),
        index=4,
        success=True,
        source=RewardSource.JUDGE,
        reward=0.9,
    )
    committed: list[Record] = [
        *records_of(random_episode(0)),
        *_without_verdict(random_episode(1, end=EndCause.TIME_LIMIT)),
        judged,
        *_without_verdict(random_episode(2, success=False, end=EndCause.FAILURE, discarded=True)),
        *_first(3),
        End(key=EpisodeKey.parse(random_episode(3).key), index=0, cause=EndCause.OPERATOR_STOP),
        *_first(4),
    ]
    with Store(root, SPEC) as store:
        for sequence, record in enumerate(committed, start=1):
            store.ingest("ring", sequence, join(pack_record(record)))
        assert store.wait_sealed(20)
        assert "refused" not in store.counts


def _first(seed: int) -> list[Record]:
    """An episode that has only begun."""
    return list(records_of(random_episode(seed)))[:2]


def _without_verdict(episode: DatasetEpisode) -> list[Record]:
    return [record for record in records_of(episode) if not isinstance(record, Verdict)]


def export(store: Path, out: Path, **options: Any) -> object:
    return export_store(store, out, fps=10, state_names=STATE, action_names=ACTION, **options)


def test_out_and_back_loses_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    result = export(tmp_path / "a", tmp_path / "d")
    assert (result.episodes, result.open, result.empty) == (3, 1, 1)  # type: ignore[attr-defined]
    with Store(tmp_path / "b", SPEC) as store:
        assert import_dataset(tmp_path / "d", store) == 3
        assert import_dataset(tmp_path / "d", store) == 0
        assert store.wait_sealed(20)
        assert "refused" not in store.counts
    a, b = StoreReader(tmp_path / "a"), StoreReader(tmp_path / "b")
    ended = [info for info in a.episodes() if info.end is not None and info.steps]
    assert len(ended) == len(b.episodes()) == 3
    for info in ended:
        other = b.info(info.key)
        for field in ("task", "kind", "meta", "observations", "end", "discarded", "verdict", "success"):
            assert getattr(info, field) == getattr(other, field), field
        for x, y in zip(a.arrivals(info.key), b.arrivals(info.key), strict=True):
            assert b"".join(map(bytes, pack_record(x))) == b"".join(map(bytes, pack_record(y)))
    assert b.info(EpisodeKey.parse(random_episode(1).key)).terminal_index == 4


def test_rewards_come_back_as_learners_draw_them(tmp_path: Path) -> None:
    """A tenth has no end in binary: the store has more of it than a dataset, and than replay memory."""
    paid = [
        replace(record, reward=0.1) if isinstance(record, Arrival) and record.index else record
        for record in records_of(random_episode(0))
    ]
    with Store(tmp_path / "a", SPEC) as store:
        for sequence, record in enumerate(paid, start=1):
            store.ingest("ring", sequence, join(pack_record(record)))
        assert store.wait_sealed(20)
    export(tmp_path / "a", tmp_path / "d")
    with Store(tmp_path / "b", SPEC) as store:
        assert import_dataset(tmp_path / "d", store) == 1
        assert store.wait_sealed(20)
    key = EpisodeKey.parse(random_episode(0).key)
    rewards = [arrival.reward for arrival in StoreReader(tmp_path / "b").arrivals(key)]
    assert rewards == [0.0] + [float(np.float32(0.1))] * 6
    assert _transitions(tmp_path / "a") == _transitions(tmp_path / "b")


def test_episodes_of_a_store_are_demonstrations_up_to_the_frame_that_was_judged(tmp_path: Path) -> None:
    """A person presses success while the next step is under way, and judges a time-out; no step was paid by the arm itself."""
    unpaid = {"reward": np.zeros(6, np.float32)}
    pressed, late = random_episode(0, **unpaid), random_episode(1, end=EndCause.TIME_LIMIT, **unpaid)
    committed: list[Record] = []
    for episode, index in ((pressed, 5), (late, 3)):
        key = EpisodeKey.parse(episode.key)
        committed += [*_without_verdict(episode)]
        committed += [Verdict(key=key, index=index, success=True, source=RewardSource.OPERATOR)]
    with Store(tmp_path / "a", SPEC) as store:
        for sequence, record in enumerate(committed, start=1):
            store.ingest("ring", sequence, join(pack_record(record)))
        assert store.wait_sealed(20)
    export(tmp_path / "a", tmp_path / "d")
    wanted = DemoSpec(cameras=dict(CAMERAS), state_dim=6, action_dim=4, policy_hz=10)
    demos = load_demos(tmp_path / "d", wanted)
    assert [(len(e.steps), e.success, e.end) for e in demos] == [
        (5, True, EndCause.SUCCESS),
        (3, True, EndCause.SUCCESS),
    ]
    assert [[step.reward for step in e.steps] for e in demos] == [[0.0] * 4 + [1.0], [0.0] * 2 + [1.0]]
    np.testing.assert_array_equal(demos[1].observations[-1].state, late.state[3])


@pytest.mark.parametrize("end", [EndCause.TIME_LIMIT, EndCause.FAILURE])
@pytest.mark.parametrize("paid", [None, 0.25])
@pytest.mark.parametrize("by_arm", [False, True])
def test_what_a_judge_did_not_see_done_is_sampled_as_before_when_it_comes_back(
    tmp_path: Path, end: EndCause, paid: float | None, by_arm: bool
) -> None:
    plain = random_episode(0, end=end, reward=np.linspace(0.1, 0.6, 6, dtype=np.float32))
    assert plain.provenance is not None
    giver = RewardSource.ENV if by_arm else RewardSource.NONE
    episode = replace(plain, provenance=replace(plain.provenance, reward_source=(giver,) * 6))
    key = EpisodeKey.parse(episode.key)
    judged = Verdict(key=key, index=5, success=False, source=RewardSource.JUDGE, reward=paid)
    with Store(tmp_path / "a", SPEC) as store:
        for sequence, record in enumerate([*_without_verdict(episode), judged], start=1):
            store.ingest("ring", sequence, join(pack_record(record)))
        assert store.wait_sealed(20)
    export(tmp_path / "a", tmp_path / "d")
    wanted = DemoSpec(cameras=dict(CAMERAS), state_dim=6, action_dim=4, policy_hz=10)
    with Store(tmp_path / "b", SPEC) as store:
        assert [store.import_episode(demo) for demo in load_demos(tmp_path / "d", wanted)] == [True]
        assert [info.kind for info in store.infos()] == ["failure"]
    assert _transitions(tmp_path / "a") == _transitions(tmp_path / "b")


def _transitions(store: Path) -> dict[float, tuple[float, bool, int]]:
    """Return reward, end and horizon of each transition of a store by what stands in its first state."""
    sampler = Sampler(ArenaReader(store), SamplingConfig(n_step=2, need_labels=False, shift_px=0), seed=0)
    batch = sampler.sample(200)
    values = zip(batch.reward.tolist(), batch.terminated.tolist(), batch.horizon.tolist(), strict=True)
    return dict(zip(batch.state[:, 0].tolist(), values, strict=True))


def test_an_export_that_is_killed_goes_on(tmp_path: Path) -> None:
    """Behind ten episodes LeRobot has begun a table that has no end yet."""
    with Store(tmp_path / "a", SPEC) as store:
        committed = [record for seed in range(13) for record in records_of(random_episode(seed))]
        for sequence, record in enumerate(committed, start=1):
            store.ingest("ring", sequence, join(pack_record(record)))
        assert store.wait_sealed(20)
    killed = f"""
import os
from pathlib import Path
from roborl.data.export import DatasetWriter, export_store
append = DatasetWriter.append
def append_and_die(writer, episode):
    append(writer, episode)
    if writer.episodes == 12:
        os._exit(9)
DatasetWriter.append = append_and_die
export_store(Path({str(tmp_path / "a")!r}), Path({str(tmp_path / "d")!r}), fps=10, state_names={STATE}, action_names={ACTION})
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == 9
    export(tmp_path / "a", tmp_path / "d")
    keys = [e.key for e in read_episodes(tmp_path / "d", with_images=False)]
    assert sorted(keys) == sorted(random_episode(seed).key for seed in range(13))


def test_an_export_names_the_scales_that_its_store_names(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    export(tmp_path / "a", tmp_path / "plain")
    assert describe(tmp_path / "plain").scales is None
    scales = Scales(
        model="arm", state_low=(-90.0,) * 6, state_high=(90.0,) * 6, action_unit=(0.012, 0.012, 0.012, 25.0)
    )
    Store(tmp_path / "a", replace(SPEC, scales=scales)).close()
    export(tmp_path / "a", tmp_path / "d")
    assert describe(tmp_path / "d").scales == scales


def test_an_export_goes_on_and_writes_nothing_twice(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    export(tmp_path / "a", tmp_path / "d")
    result = export(tmp_path / "a", tmp_path / "d")
    assert (result.episodes, result.present) == (0, 3)  # type: ignore[attr-defined]
    assert len(LeRobotDataset("local/d", root=tmp_path / "d")) == 21


def test_an_episode_whose_judge_has_not_spoken_goes_out_once_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = random_episode(1).provenance
    assert known is not None
    left = replace(known, meta={"mode": "train", "outcome": "judge"})
    left_to_judge = random_episode(1, end=EndCause.TIME_LIMIT, provenance=left)
    key = EpisodeKey.parse(left_to_judge.key)

    def ingest(store: Store, *records: Record) -> None:
        for sequence, record in enumerate(records, start=store.last_sequence("ring") + 1):
            store.ingest("ring", sequence, join(pack_record(record)))
        assert store.wait_sealed(20)

    with Store(tmp_path / "a", SPEC) as store:
        ingest(store, *_without_verdict(random_episode(0)), *_without_verdict(left_to_judge))
        early = export(tmp_path / "a", tmp_path / "d")
        assert (early.episodes, early.unjudged) == (1, 1)  # type: ignore[attr-defined]
        as_it_is = export(tmp_path / "a", tmp_path / "all", unjudged=True)
        assert (as_it_is.episodes, as_it_is.unjudged) == (2, 0)  # type: ignore[attr-defined]
        said = Verdict(key=key, index=3, success=True, source=RewardSource.JUDGE)
        ingest(store, said)
        late = export(tmp_path / "a", tmp_path / "d")
        assert (late.episodes, late.present, late.outdated) == (1, 1, ())  # type: ignore[attr-defined]
        assert "judged otherwise" not in caplog.text
        again = export(tmp_path / "a", tmp_path / "all")
        assert (again.present, again.outdated) == (2, (str(key),))  # type: ignore[attr-defined]
        assert "judged otherwise" in caplog.text
    assert [e.success for e in read_episodes(tmp_path / "d", with_images=False)] == [True, True]


def test_a_verdict_that_comes_while_an_export_is_written_goes_out_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = [random_episode(seed, end=EndCause.TIME_LIMIT) for seed in range(2)]
    said = Verdict(key=EpisodeKey.parse(episodes[1].key), index=4, success=True, source=RewardSource.OPERATOR)
    append = DatasetWriter.append
    with Store(tmp_path / "a", SPEC) as store:
        committed = [record for episode in episodes for record in _without_verdict(episode)]
        for sequence, record in enumerate(committed, start=1):
            store.ingest("ring", sequence, join(pack_record(record)))
        assert store.wait_sealed(20)

        def append_while_judged(writer: DatasetWriter, episode: DatasetEpisode) -> int:
            store.ingest("button", store.last_sequence("button") + 1, join(pack_record(said)))
            return append(writer, episode)

        monkeypatch.setattr(DatasetWriter, "append", append_while_judged)
        export(tmp_path / "a", tmp_path / "d")
    first, second = read_episodes(tmp_path / "d", with_images=False)
    assert (first.success, first.verdict) == (None, None)
    assert (second.success, second.verdict) == (True, said)


def test_an_import_leaves_episodes_alone_that_the_store_knows(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    export(tmp_path / "a", tmp_path / "d")
    with Store(tmp_path / "a", SPEC) as store:
        assert import_dataset(tmp_path / "d", store) == 0
        assert "refused" not in store.counts


def test_an_import_that_is_killed_goes_on_in_a_dataset_that_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = [random_episode(seed) for seed in range(3)]
    write_episodes(tmp_path / "d", *episodes[:2])
    with Store(tmp_path / "a", SPEC) as store, monkeypatch.context() as patch:
        ingest = store.ingest

        def killed(ring: str, sequence: int, blob: bytes) -> None:
            if len(store.infos()) == 2 and sequence == 4:
                raise KeyboardInterrupt
            ingest(ring, sequence, blob)

        patch.setattr(store, "ingest", killed)
        with pytest.raises(KeyboardInterrupt):
            import_dataset(tmp_path / "d", store)
    write_episodes(tmp_path / "d", episodes[2])
    with Store(tmp_path / "a", SPEC) as store:
        assert import_dataset(tmp_path / "d", store) == 2
        assert [(info.steps, info.end) for info in store.infos()] == [(6, EndCause.SUCCESS)] * 3
        assert {"refused", "actors_lost"}.isdisjoint(store.counts)


def test_an_import_and_an_actor_of_the_same_name_leave_each_others_episodes_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Datasets of several runs of one arm: the import is killed within its first episode, and the arm begins another."""
    write_episodes(tmp_path / "d", *(random_episode(seed) for seed in range(2)))
    here = [list(records_of(replace(random_episode(n), key=f"arm-0777-{n:06d}"))) for n in (5, 6)]
    with Store(tmp_path / "a", SPEC) as store:
        ingest = store.ingest

        def act(*records: Record) -> None:
            for sequence, record in enumerate(records, start=store.last_sequence("arm's ring") + 1):
                ingest("arm's ring", sequence, join(pack_record(record)))

        def killed(ring: str, sequence: int, blob: bytes) -> None:
            if sequence == 4:
                raise KeyboardInterrupt
            ingest(ring, sequence, blob)

        act(*here[0][:4])
        with monkeypatch.context() as patch:
            patch.setattr(store, "ingest", killed)
            with pytest.raises(KeyboardInterrupt):
                import_dataset(tmp_path / "d", store)
        act(*here[0][4:], *here[1][:4])
        assert import_dataset(tmp_path / "d", store) == 2
        act(*here[1][4:])
        assert store.wait_sealed(20)
        assert [(info.steps, info.end) for info in store.infos()] == [(6, EndCause.SUCCESS)] * 4
        assert {"refused", "actors_lost"}.isdisjoint(store.counts)


def test_progress_goes_along_and_lerobot_weighs_by_it(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    rising = np.linspace(0, 1, 7, dtype=np.float32)
    key = EpisodeKey.parse(random_episode(1).key)
    save_labels(tmp_path / "a", key, "v1", rising, np.zeros(7, np.float32), {})
    result = export(tmp_path / "a", tmp_path / "d", version="v1", about={"words": "how far?"})
    assert result.labelled == 1  # type: ignore[attr-defined]
    found = read_progress(tmp_path / "d", "v1")
    assert list(found) == [1]
    assert progress_about(progress_path(tmp_path / "d", "v1")) == {"words": "how far?"}
    np.testing.assert_array_equal(found[1][0], rising)
    frame = pd.read_parquet(progress_path(tmp_path / "d", "v1"))
    assert list(frame.columns[:4]) == ["index", "episode_index", "frame_index", "progress_sparse"]
    assert frame["index"].tolist() == list(range(21))
    weights = RABCWeights(progress_path(tmp_path / "d", "v1"), chunk_size=2, device="cpu")
    assert len(weights.progress_lookup) == 7
    assert weights.progress_lookup[7 + 6] == 1.0


def test_progress_of_a_run_says_which_rows_its_labeller_scored(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    held = np.float32([0.0, 0.0, 0.0, 0.0, 0.8, 0.8, 1.0])
    for seed, details in ((0, {}), (1, {"stride": 4})):
        key = EpisodeKey.parse(random_episode(seed).key)
        save_labels(tmp_path / "a", key, "v1", held, np.zeros(7, np.float32), details)
    export(tmp_path / "a", tmp_path / "d", version="v1")
    found = read_progress(tmp_path / "d", "v1")
    assert found[0].scored.all()
    assert np.flatnonzero(found[1].scored).tolist() == [0, 4, 6]
    np.testing.assert_array_equal([found[0].values, found[1].values], [held, held])


def test_a_score_that_a_run_could_not_read_is_missing_up_to_the_next(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    held = np.float32([0.5, 0.5, 0.5, 0.5, 0.8, 0.8, 0.8])
    key, details = EpisodeKey.parse(random_episode(1).key), {"stride": 2, "missing": [2, 6]}
    save_labels(tmp_path / "a", key, "v1", held, np.zeros(7, np.float32), details)
    export(tmp_path / "a", tmp_path / "d", version="v1")
    values, spread, scored = read_progress(tmp_path / "d", "v1")[1]
    np.testing.assert_array_equal(values, np.float32([0.5, 0.5, np.nan, np.nan, 0.8, 0.8, np.nan]))
    np.testing.assert_array_equal(np.isnan(spread), np.isnan(values))
    assert np.flatnonzero(scored).tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("version", [None, "v1"])
def test_a_store_in_which_nothing_has_ended_goes_out_as_nothing(
    tmp_path: Path, version: str | None, begun: bool
) -> None:
    with Store(tmp_path / "a", SPEC) as store:
        for sequence, record in enumerate(_first(4) if begun else [], start=1):
            store.ingest("ring", sequence, join(pack_record(record)))
    result = export(tmp_path / "a", tmp_path / "d", version=version)
    assert (result.episodes, result.labelled, result.open) == (0, 0, begun)  # type: ignore[attr-defined]
    assert not (tmp_path / "d").exists()


def test_progress_of_a_part_of_an_episode_goes_along_as_far_as_it_is_known(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    rising = np.linspace(0, 1, 5, dtype=np.float32)
    key = EpisodeKey.parse(random_episode(1).key)
    save_labels(tmp_path / "a", key, "v1", rising, np.zeros(5, np.float32))
    export(tmp_path / "a", tmp_path / "d", version="v1")
    values, spread, scored = read_progress(tmp_path / "d", "v1")[1]
    np.testing.assert_array_equal(values, [*rising, np.nan, np.nan])
    np.testing.assert_array_equal(spread, [0.0] * 5 + [np.nan] * 2)
    assert scored.tolist() == [True] * 5 + [False] * 2


def test_foreign_episodes_are_no_experience(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [4])
    with (
        Store(tmp_path / "a", SPEC) as store,
        pytest.raises(DatasetError, match="did not come from a store"),
    ):
        import_dataset(tmp_path / "f", store)
