"""Features of stored pictures under a frozen encoder: each row of the replay memory is encoded once."""

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


class FeatureCache:
    """Encodes rows when they are first asked for.

    A row that the store has given to another episode since is encoded again.

    Args:
        policy: Whose frozen encoder looks at the pictures.
        arena: The replay memory; its owner refreshes it.

    Raises:
        ConfigError: If the replay memory lacks a camera that the policy looks through.
    """

    def __init__(self, policy: SmallPolicy, arena: ArenaReader) -> None:
        missing = sorted(set(policy.config.cameras) - set(arena.layout.cameras))
        if missing:
            raise ConfigError(
                "The policy looks through cameras that the replay memory does not have",
                seen=missing,
                allowed=list(arena.layout.cameras),
                remedy="Use a policy that was made on this bench",
            )
        self._policy, self._arena = policy, arena
        self._columns: Columns | None = None
        self._table: NDArray[Any] | None = None
        self._adopt()

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of these rows, float32 (b, features)."""
        self._adopt()
        stale = np.unique(rows[self._encoded[rows] != self._owner[rows]])
        for start in range(0, stale.size, _BATCH):
            some = stale[start : start + _BATCH]
            self._features[some] = self._encode(some)
            self._encoded[some] = self._owner[some]
        features: NDArray[np.float32] = self._features[rows]
        return features

    def first_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of the first rows of these rows' episodes, float32 (b, features)."""
        self._adopt()
        return self.rows(self._start[rows])

    def _adopt(self) -> None:
        """Follow the replay memory: which episode owns each row now."""
        arena = self._arena
        if self._columns is not arena.columns:
            self._columns = arena.columns
            count = arena.layout.rows
            self._features = np.zeros((count, self._policy.encoder.output_dim), np.float32)
            self._encoded = np.full(count, -1, np.int64)
        if self._table is not arena.table:
            self._table = table = arena.table
            live = table[table["ordinal"] > 0]
            counts = live["observations"]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            self._owner = np.zeros(arena.layout.rows, np.int64)
            start = np.repeat(live["start"], counts)
            self._owner[start + within] = np.repeat(live["ordinal"], counts)
            self._start = np.zeros(arena.layout.rows, np.int64)
            self._start[start + within] = start

    @torch.inference_mode()
    def _encode(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        side = self._policy.config.image_px
        images = {}
        for camera in self._policy.config.cameras:
            pictures = self._arena.columns.frames[camera][rows][:, PAD:-PAD, PAD:-PAD]
            if pictures.shape[1] != side:
                pictures = np.stack([square(picture, side) for picture in pictures])
            images[camera] = torch.from_numpy(np.ascontiguousarray(pictures))
        features: NDArray[np.float32] = self._policy.encoder(images).numpy()
        return features
