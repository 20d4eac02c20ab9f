"""The benchmark's second scoring makes the labels that the labeller makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from roborl.codec import join
from roborl.data.reader import StoreReader
from roborl.data.store import Store
from roborl.loops.benchmarks import labels as bench_labels
from roborl.loops.benchmarks.labels import LabelWatch
from roborl.loops.learner.episode_labels import EpisodeLabels
from roborl.loops.learner.label_store import StoredEpisodes
from roborl.records import pack_record
from roborl.rewards.fake import BrightnessJudge, BrightnessModel, Glance
from roborl.rewards.model import score_episode
from roborl.testing.experience import episode_records, store_spec
from roborl.types import EpisodeKey

SPEC = store_spec(max_steps=20)
STEPS = 9


class Forgetful(BrightnessJudge):
    """Leaves every third question without a reply that can be read."""

    def answer(self, queries: Sequence[Glance]) -> list[tuple[float, float]]:
        replies = super().answer(queries)
        return [(np.nan, np.nan) if n % 3 == 2 else reply for n, reply in enumerate(replies)]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_label_that_was_held_over_a_missing_reply_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    model = BrightnessModel(judge=Forgetful())
    key = EpisodeKey(actor="left", incarnation=1, episode=0)
    with Store(tmp_path, SPEC) as store:
        for number, record in enumerate(episode_records(key, STEPS)):
            store.ingest("ring", number + 1, join(pack_record(record)))
        episodes = StoredEpisodes(tmp_path)
        (info,) = episodes.episodes()
        labels = EpisodeLabels(stride)
        for index in range(STEPS + 1):
            labels.send(index, score=labels.scored(index, STEPS + 1, ended=True))
        observations = list(StoreReader(tmp_path).observations(key))
        for score in score_episode(model, info.task, observations, stride=stride):
            labels.receive(score)
        rows = labels.complete()
        assert rows is not None
        assert labels.missing
        column = episodes.column(model.info.version)
        column.set_stride(key, stride)
        column.write(key, rows)
        column.activate()
        monkeypatch.setattr(bench_labels, "load_reward_model", lambda name: model)
        counts = LabelWatch(tmp_path).compare()
        assert (counts["labelled"], counts["wrong"]) == (STEPS + 1, 0)
        assert counts["strided"] == (stride > 1)
        slot = episodes.arena.slot(key)
        assert slot is not None
        column.columns.progress[int(episodes.arena.table["start"][slot]) + 4] += 0.1
        assert LabelWatch(tmp_path).compare()["wrong"] == 1
