from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import roborl.data.reader as reader_module
from roborl.codec import join
from roborl.data.reader import StoreReader
from roborl.data.sealed import read_info, rewrite_info
from roborl.data.spec import check_form, stored_scales
from roborl.data.store import Store
from roborl.errors import DatasetError
from roborl.records import Verdict, pack_record
from roborl.testing.experience import (
    check_arrival,
    episode_records,
    observation,
    store_spec,
)
from roborl.types import EndCause, EpisodeKey, RewardSource

SPEC = store_spec(max_steps=40)
KEY = EpisodeKey(actor="arm", incarnation=1, episode=0)


def test_follows_an_episode_from_its_beginning_through_sealing(tmp_path: Path) -> None:
    records = list(episode_records(KEY, 37))  # More than two chunks.
    with Store(tmp_path, SPEC) as store:
        reader = StoreReader(tmp_path)
        assert reader.episodes() == []
        read = 0
        for n, record in enumerate(records, start=1):
            store.ingest("ring", n, join(pack_record(record)))
            if n == 1 or n % 7 == 0:
                (info,) = reader.episodes()
                assert (info.observations, info.end) == (n - 1, None)
                for seen in reader.observations(KEY, read):
                    np.testing.assert_array_equal(seen.state, observation(KEY, read).state)
                    read += 1
                assert read == n - 1
        assert store.wait_sealed(20)
        (info,) = reader.episodes()
        assert (info.observations, info.end) == (38, EndCause.TIME_LIMIT)
        for start in (0, 15, 16, 17, 37):
            arrivals = list(reader.arrivals(KEY, start))
            assert [a.index for a in arrivals] == list(range(start, 38))
            for a in arrivals:
                check_arrival(a)
        store.ingest(
            "ring",
            len(records) + 1,
            join(pack_record(Verdict(key=KEY, index=9, success=False, source=RewardSource.OPERATOR))),
        )
        (info,) = reader.episodes()
        assert (info.terminal_index, info.success, info.steps) == (9, False, 37)
        episode = reader.episode(KEY)
        assert (episode.success, len(episode.steps)) == (False, 37)


def test_sealed_episodes_are_looked_at_while_young_and_then_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, looks = [0.0], [0]
    look = StoreReader._look_at

    def counted(self: StoreReader, folder: Path, now_ns: int) -> None:
        looks[0] += folder.name != "zarr.json"
        look(self, folder, now_ns)

    monkeypatch.setattr(StoreReader, "_look_at", counted)
    monkeypatch.setattr(reader_module.time, "monotonic_ns", lambda: int(1e9 + now_s[0] * 1e9))
    with Store(tmp_path, SPEC) as store:

        def run(number: int, first: int) -> None:
            key = EpisodeKey(actor="arm", incarnation=1, episode=number)
            for n, record in enumerate(episode_records(key, 3), start=first):
                store.ingest("ring", n, join(pack_record(record)))
            assert store.wait_sealed(20)

        def looked(at_s: float) -> int:
            now_s[0], looks[0] = at_s, 0
            reader.episodes()
            return looks[0]

        run(0, 1)
        reader = StoreReader(tmp_path)
        assert looked(0.0) == 1
        assert looked(1.0) == 1, "it is young"
        assert looked(5.1) == 1, "all are due"
        time.sleep(0.2)  # The file system's clock has to go on.
        assert [looked(5.2), looked(5.3), looked(7.0)] == [0, 0, 0]
        run(1, 7)
        assert looked(7.1) == 1, "the new one alone"
        assert len(reader.episodes()) == 2
        folder = tmp_path / "store.zarr" / "arm-0001-000001"
        verdict = Verdict(
            key=EpisodeKey.parse(folder.name), index=3, success=True, source=RewardSource.OPERATOR
        )
        judged = read_info(folder).with_record(verdict)
        assert judged is not None
        rewrite_info(folder, judged, sync=False)
        assert looked(7.2) == 1
        assert reader.episodes()[1].success is True
        assert looked(13.0) == 2


def test_an_open_episode_is_not_given_as_a_whole_one(tmp_path: Path) -> None:
    with Store(tmp_path, SPEC) as store:
        for n, record in enumerate(list(episode_records(KEY, 5))[:4], start=1):
            store.ingest("ring", n, join(pack_record(record)))
        with pytest.raises(DatasetError, match="has not ended"):
            StoreReader(tmp_path).episode(KEY)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no store"):
        StoreReader(tmp_path)
    with Store(tmp_path, SPEC):
        reader = StoreReader(tmp_path)
        with pytest.raises(DatasetError, match="arm-0001-000000"):
            reader.info(KEY)
        with pytest.raises(DatasetError, match="arm-0001-000000"):
            list(reader.arrivals(KEY))


def test_a_store_that_was_killed_while_it_was_made_has_no_episodes(tmp_path: Path) -> None:
    check_form(tmp_path, SPEC)
    assert StoreReader(tmp_path).episodes() == []


@pytest.mark.parametrize("content", ["", "[1]"])
def test_a_torn_form_is_an_error_of_four_parts(tmp_path: Path, content: str) -> None:
    (tmp_path / "store.json").write_text(content)
    for read in (stored_scales, lambda root: check_form(root, SPEC)):
        with pytest.raises(DatasetError, match=r"form of a store.*store\.json.*Allowed.*Delete"):
            read(tmp_path)


def test_a_torn_recording_is_told_once_and_the_others_are_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [EpisodeKey(actor="arm", incarnation=1, episode=number) for number in range(2)]
    with Store(tmp_path, SPEC) as store:
        records = [record for key in keys for record in episode_records(key, 3)]
        for n, record in enumerate(records, start=1):
            store.ingest("ring", n, join(pack_record(record)))
        assert store.wait_sealed(20)
    (tmp_path / "store.zarr" / str(keys[0]) / "zarr.json").write_bytes(b"")
    with pytest.raises(DatasetError, match="cannot be read"):
        StoreReader(tmp_path).episodes()
    reader = StoreReader(tmp_path, leave_out_torn=True)
    for _ in range(3):
        assert [info.key for info in reader.episodes()] == [keys[1]]
    assert caplog.text.count("cannot be read") == 1
