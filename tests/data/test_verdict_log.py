"""A verdict reaches the store once, whoever of the two processes is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.codec import join
from roborl.data.log import FIRST_ENTRY
from roborl.data.store import Store
from roborl.data.verdict_log import VerdictLog, VerdictReader
from roborl.records import Verdict, pack_record
from roborl.testing.experience import episode_records, store_spec
from roborl.types import EndCause, EpisodeKey, RewardSource

SPEC = store_spec(max_steps=12)


def verdict(episode: int, index: int = 3) -> Verdict:
    key = EpisodeKey(actor="arm", incarnation=1, episode=episode)
    return Verdict(key=key, index=index, success=True, source=RewardSource.JUDGE)


@settings(max_examples=40)
@given(happenings=st.lists(st.sampled_from(["give", "again", "restart", "read", "reopen", "torn"])))
def test_every_verdict_arrives_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, happenings: list[str]
) -> None:
    root = tmp_path_factory.mktemp("store")
    log, taken = VerdictLog(root), dict[str, int]()
    reader = VerdictReader(root, lambda ring: taken.get(ring, 0))
    arrived: list[bytes] = []
    given: list[Verdict] = []

    def read() -> None:
        for entry in reader.fresh():
            assert entry.sequence == taken.get(entry.ring_id, 0) + 1
            taken[entry.ring_id] = entry.sequence
            arrived.append(bytes(entry.blob))

    for happening in happenings:
        if happening == "give":
            given.append(verdict(len(given)))
            log.give(given[-1])
        if happening == "again" and given:
            log.give(verdict(0, index=9))
        if happening == "restart":
            log.close()
            log = VerdictLog(root)
        if happening == "torn":
            log.close()
            with open(root / "verdicts.log", "ab") as file:
                file.write(b"\x40\0\0\0half of")
            read()
            log = VerdictLog(root)
        if happening == "read":
            read()
        if happening == "reopen":
            reader = VerdictReader(root, lambda ring: taken.get(ring, 0))
    read()
    assert arrived == [join(pack_record(one)) for one in given]
    assert all(log.given(one.key) for one in given)
    log.close()


def test_a_log_that_was_torn_at_its_making_or_deleted_is_made_anew(tmp_path: Path) -> None:
    taken: dict[str, int] = {}
    reader = VerdictReader(tmp_path, lambda ring: taken.get(ring, 0))
    assert not list(reader.fresh()), "nobody has judged yet"
    (tmp_path / "verdicts.log").write_bytes(b"x" * (FIRST_ENTRY - 1))
    assert not list(reader.fresh())
    for episode in (0, 1):
        log = VerdictLog(tmp_path)
        log.give(verdict(episode))
        log.close()
        (entry,) = VerdictReader(tmp_path, lambda ring: taken.get(ring, 0)).fresh()
        taken[entry.ring_id] = entry.sequence
        (tmp_path / "verdicts.log").unlink()
    assert len(taken) == 2


def test_the_store_keeps_a_verdict_over_a_restart(tmp_path: Path) -> None:
    key = verdict(0).key
    with Store(tmp_path, SPEC) as store:
        records = episode_records(key, 8, EndCause.TIME_LIMIT)
        for sequence, record in enumerate(records, start=1):
            store.ingest("ring", sequence, join(pack_record(record)))
    log = VerdictLog(tmp_path)
    log.give(verdict(0))
    for _ in range(2):
        with Store(tmp_path, SPEC) as store:
            for entry in VerdictReader(tmp_path, store.last_sequence).fresh():
                store.ingest(entry.ring_id, entry.sequence, entry.blob)
            (info,) = store.infos()
            assert (info.terminal_index, info.verdict) == (3, verdict(0))
            assert store.counts["duplicates"] == store.counts["refused"] == 0
    log.close()
