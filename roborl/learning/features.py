"""Features of stored pictures under a frozen encoder: each row of the replay memory is encoded a fixed number of times."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roborl.data.arena import PAD, ArenaReader, Columns
from roborl.errors import ConfigError
from roborl.images import square
from roborl.policies.small import SmallPolicy

# Rows per call of the encoder: beyond this a batch no longer gets cheaper per picture.
_BATCH = 64
# How far a shifted copy looks aside at most, px. More costs the sharpness that grasping needs.
_SHIFT_PX = 2


class FeatureCache:
    """Encodes rows when they are first asked for.

    A row that the store has given to another episode since is encoded again.

    Args:
        policy: Whose frozen encoder looks at the pictures.
        arena: The replay memory; its owner refreshes it.
        copies: How many versions of a row there are: the picture itself, and others shifted by up to two pixels. A draw
            takes one at random, which stands in for augmenting pictures where the encoder does not learn.
        seed: Of shifts and draws.

    Raises:
        ConfigError: If the replay memory lacks a camera that the policy looks through.
    """

    def __init__(self, policy: SmallPolicy, arena: ArenaReader, *, copies: int = 1, seed: int = 0) -> None:
        missing = sorted(set(policy.config.cameras) - set(arena.layout.cameras))
        if missing:
            raise ConfigError(
                "The policy looks through cameras that the replay memory does not have",
                seen=missing,
                allowed=list(arena.layout.cameras),
                remedy="Use a policy that was made on this bench",
            )
        self._policy, self._arena, self._copies = policy, arena, copies
        self._random = np.random.default_rng(seed)
        self._columns: Columns | None = None
        self._table: NDArray[Any] | None = None
        self._adopt()

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of these rows, float32 (b, features)."""
        self._adopt()
        stale = np.unique(rows[self._encoded[rows] != self._owner[rows]])
        for start in range(0, stale.size, _BATCH):
            some = stale[start : start + _BATCH]
            for copy in range(self._copies):
                self._features[copy, some] = self._encode(some, shifted=copy > 0)
            self._encoded[some] = self._owner[some]
        drawn = self._random.integers(self._copies, size=rows.size) if self._copies > 1 else 0
        features: NDArray[np.float32] = self._features[drawn, rows]
        return features

    def _adopt(self) -> None:
        """Follow the replay memory: which episode owns each row now."""
        arena = self._arena
        if self._columns is not arena.columns:
            self._columns = arena.columns
            count = arena.layout.rows
            self._features = np.zeros((self._copies, count, self._policy.encoder.output_dim), np.float32)
            self._encoded = np.full(count, -1, np.int64)
        if self._table is not arena.table:
            self._table = table = arena.table
            live = table[table["ordinal"] > 0]
            counts = live["observations"]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            self._owner = np.zeros(arena.layout.rows, np.int64)
            self._owner[np.repeat(live["start"], counts) + within] = np.repeat(live["ordinal"], counts)

    @torch.inference_mode()
    def _encode(self, rows: NDArray[np.int64], *, shifted: bool) -> NDArray[np.float32]:
        side = self._policy.config.image_px
        images = {}
        for camera in self._policy.config.cameras:
            padded = self._arena.columns.frames[camera][rows]
            pictures = padded[:, PAD:-PAD, PAD:-PAD]
            if shifted:
                height, width = pictures.shape[1:3]
                places = PAD + self._random.integers(-_SHIFT_PX, _SHIFT_PX + 1, size=(rows.size, 2))
                pictures = np.stack(
                    [
                        picture[down : down + height, right : right + width]
                        for picture, (down, right) in zip(padded, places, strict=True)
                    ]
                )
            if pictures.shape[1] != side:
                pictures = np.stack([square(picture, side) for picture in pictures])
            images[camera] = torch.from_numpy(np.ascontiguousarray(pictures))
        features: NDArray[np.float32] = self._policy.encoder(images).numpy()
        return features
