from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roborl.codec import join
from roborl.data.reader import StoreReader
from roborl.data.store import Store, StoreSpec
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.data.arena import ArenaReader
from roborl.records import Record, pack_record
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM, episode_records
from roborl.types import EpisodeKey

SPEC = StoreSpec(
    cameras=CAMERAS,
    image_px=8,
    state_dim=STATE_DIM,
    action_dim=ACTION_DIM,
    max_steps=20,
    capacity_bytes=2 << 20,
)


def blob(record: Record) -> bytes:
    return join(pack_record(record))


def key(episode: int, actor: str = "arm") -> EpisodeKey:
    return EpisodeKey(actor=actor, incarnation=1, episode=episode)


def test_smoke(tmp_path: Path) -> None:
    n = 0
    with Store.open(tmp_path, SPEC) as store:
        for episode in range(5):
            for record in episode_records(key(episode), 10):
                n += 1
                store.ingest("r", n, blob(record))
        assert store.wait_sealed(20)
        sampler = Sampler(ArenaReader(tmp_path), SamplingConfig(n_step=3, need_labels=False), 0)
        batch = sampler.sample(64)
        np.testing.assert_array_equal(batch.images["front"][:, 0, 0, 1], batch.state[:, 1])
    reader = StoreReader(tmp_path)
    assert len(reader.episodes()) == 5
    assert len(reader.episode(key(3)).steps) == 10
