from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roborl.codec import join
from roborl.data.arena import PAD, ArenaReader
from roborl.data.store import Store, StoreSpec
from roborl.errors import ConfigError
from roborl.learning.algorithm import LooksUp
from roborl.learning.batch import Batch
from roborl.learning.features import FeatureCache
from roborl.learning.rlpd import Rlpd, RlpdConfig
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.records import pack_record
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM, episode_records
from roborl.types import EndCause, EpisodeKey


def fill(store: Store, episodes: range, steps: int, sequence: int = 0) -> int:
    for number in episodes:
        key = EpisodeKey(actor="left", incarnation=1, episode=number)
        for record in episode_records(key, steps, EndCause.TIME_LIMIT):
            sequence += 1
            store.ingest("ring", sequence, join(pack_record(record)))
    return sequence


def small(cameras: tuple[str, ...], image_px: int, **shape: Any) -> SmallPolicy:
    torch.manual_seed(0)
    return SmallPolicy(
        SmallPolicyConfig(
            cameras=cameras,
            image_px=image_px,
            state_dim=STATE_DIM,
            action_dim=ACTION_DIM,
            keypoints=2,
            width=8,
            **shape,
        )
    )


def cached(policy: SmallPolicy, arena: ArenaReader) -> FeatureCache:
    shape = policy.config
    return FeatureCache(policy.encoder, arena, cameras=shape.cameras, image_px=shape.image_px)


def spec(capacity_bytes: int) -> StoreSpec:
    return StoreSpec(
        cameras=CAMERAS,
        image_px=16,
        state_dim=STATE_DIM,
        action_dim=ACTION_DIM,
        max_steps=12,
        capacity_bytes=capacity_bytes,
    )


@torch.inference_mode()
def truth(policy: SmallPolicy, arena: ArenaReader, rows: np.ndarray) -> np.ndarray:
    images = {
        camera: torch.from_numpy(np.array(arena.columns.frames[camera][rows][:, PAD:-PAD, PAD:-PAD]))
        for camera in policy.config.cameras
    }
    return np.asarray(policy.encoder(images))


def test_features_stay_those_of_the_picture_while_rows_are_used_again(tmp_path: Path) -> None:
    store = Store(tmp_path, spec(170_000))
    policy, arena = small(("front", "wrist"), 16), ArenaReader(tmp_path)
    cache = cached(policy, arena)
    calls: list[int] = []
    policy.encoder.register_forward_hook(lambda _m, _a, out: calls.append(len(out)))
    sequence = 0
    for number in range(12):
        sequence = fill(store, range(number, number + 1), 10, sequence)
        arena.refresh()
        live = arena.table[arena.table["ordinal"] > 0]
        rows = np.concatenate([np.arange(e["start"], e["start"] + e["observations"]) for e in live])
        np.testing.assert_allclose(cache.rows(rows), truth(policy, arena, rows), atol=1e-5)
        first = np.concatenate([np.full(e["observations"], e["start"]) for e in live])
        np.testing.assert_array_equal(cache.first_rows(rows), cache.rows(first))
        calls.clear()
        cache.rows(rows[::-1].copy())
        assert calls == []
    assert store.health()["evicted"] > 0
    store.close()


def test_each_row_is_encoded_once_in_batches(tmp_path: Path) -> None:
    store = Store(tmp_path, spec(4 << 20))
    fill(store, range(10), 12)
    policy, arena = small(("wrist",), 16), ArenaReader(tmp_path)
    cache = cached(policy, arena)
    calls: list[int] = []
    policy.encoder.register_forward_hook(lambda _m, _a, out: calls.append(len(out)))
    rows = np.concatenate(
        [np.arange(e["start"], e["start"] + 13) for e in arena.table[arena.table["ordinal"] > 0]]
    )
    assert cache.rows(np.concatenate([rows, rows])).shape == (260, 6)
    assert sum(calls) == 130
    assert max(calls) <= 64
    store.close()


def test_a_batch_is_drawn_anew_where_its_rows_go_while_they_are_looked_up(tmp_path: Path) -> None:
    store = Store(tmp_path, spec(170_000))
    sequence = fill(store, range(8), 10)
    arena = ArenaReader(tmp_path)
    sampler = Sampler(arena, SamplingConfig(need_labels=False), seed=0)
    policy = small(("front", "wrist"), 16, from_first=True)
    learner = Rlpd(RlpdConfig(width=8), policy, arena, seed=0)
    assert isinstance(learner, LooksUp)
    looked_up: list[Batch] = []

    def look_up(batch: Batch) -> None:
        if not looked_up:
            fill(store, range(8, 14), 10, sequence)
        looked_up.append(batch)
        learner.look_up(batch)

    batch = sampler.sample_parts({"online": 200}, images=False, look_up=look_up)
    assert len(looked_up) > 1, "else nothing was overtaken"
    assert store.health()["evicted"] > 0
    calls: list[int] = []
    policy.encoder.register_forward_hook(lambda _m, _a, out: calls.append(len(out)))
    features = learner.features
    for rows in (batch.rows, batch.next_rows):
        np.testing.assert_allclose(features.rows(rows), truth(policy, arena, rows), atol=1e-5)
        features.first_rows(rows)
    assert len(calls) == 2, "those of the truth; all else was looked up"
    gone = np.setdiff1d(looked_up[0].rows, batch.rows)
    np.testing.assert_allclose(features.rows(gone), truth(policy, arena, gone), atol=1e-5)
    store.close()


def test_a_policy_with_a_camera_that_is_not_stored_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, spec(1 << 20))
    with pytest.raises(ConfigError, match="cameras") as caught:
        cached(small(("front", "top"), 16), ArenaReader(tmp_path))
    assert caught.value.seen == ["top"]
    store.close()
