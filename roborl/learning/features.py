"""Features of stored pictures under a frozen encoder: each row of the replay memory is encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roborl.data.arena import PAD, ArenaReader, Columns
from roborl.errors import ConfigError
from roborl.images import square
from roborl.rewards.training.encoders import FrameEncoder

# Rows per call of the encoder: beyond this a batch no longer gets cheaper per picture.
_BATCH = 64


class PictureEncoder(Protocol):
    """A frozen network that looks at one picture of each camera.

    Attributes:
        output_dim: Size of what it makes of them.
    """

    output_dim: int

    def __call__(self, images: Mapping[str, Tensor]) -> Tensor:
        """Encode uint8 pictures (b, h, w, 3) by camera into float32 (b, output_dim)."""
        ...


class EachCamera:
    """Looks at each camera's picture with the same frame encoder.

    Args:
        encoder: The frame encoder; its weights stay as they are.
        cameras: The cameras, in order.
    """

    def __init__(self, encoder: FrameEncoder, cameras: Sequence[str]) -> None:
        self.encoder, self._cameras = encoder.eval().requires_grad_(False), tuple(cameras)
        self.output_dim = encoder.dim * len(self._cameras)

    def __call__(self, images: Mapping[str, Tensor]) -> Tensor:
        """Encode as :class:`PictureEncoder` says: a vector per camera, one after the other."""
        return torch.cat([self.encoder(images[camera]) for camera in self._cameras], dim=1)


class FeatureCache:
    """Encodes rows when they are first asked for.

    A row that the store has given to another episode since is encoded again.

    Args:
        encoder: What looks at the pictures.
        arena: The replay memory; its owner refreshes it.
        cameras: The cameras that the encoder looks through.
        image_px: Side of the square pictures that it is shown.

    Raises:
        ConfigError: If the replay memory lacks one of those cameras.
    """

    def __init__(
        self, encoder: PictureEncoder, arena: ArenaReader, *, cameras: Sequence[str], image_px: int
    ) -> None:
        missing = sorted(set(cameras) - set(arena.layout.cameras))
        if missing:
            raise ConfigError(
                "The policy looks through cameras that the replay memory does not have",
                seen=missing,
                allowed=list(arena.layout.cameras),
                remedy="Use a policy that was made on this bench",
            )
        self._encoder, self._cameras, self._side = encoder, tuple(cameras), image_px
        self._arena = arena
        self._columns: Columns | None = None
        self._table: NDArray[Any] | None = None
        self._adopt()

    def look_up(self, rows: NDArray[np.int64], *, first: bool = False) -> None:
        """Encode those of these rows that were not yet; see :class:`roborl.learning.algorithm.LooksUp`.

        Args:
            rows: Rows of the replay memory, (b,).
            first: Whether the first rows of their episodes are encoded too.
        """
        self._adopt()
        if first:
            rows = np.concatenate((rows, self._start[rows]))
        stale = np.unique(rows[self._encoded[rows] != self._owner[rows]])
        for begin in range(0, stale.size, _BATCH):
            some = stale[begin : begin + _BATCH]
            self._features[some], owner = self._encode(some), self._owner[some]
            # Else the store has given one of them away meanwhile, and the picture may be another episode's.
            if self._arena.holds(self._slot[some], owner):
                self._encoded[some] = owner

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of these rows, float32 (b, features)."""
        self.look_up(rows)
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
            self._features = np.zeros((count, self._encoder.output_dim), np.float32)
            self._encoded = np.full(count, -1, np.int64)
        if self._table is not arena.table:
            self._table = table = arena.table
            slots = np.flatnonzero(table["ordinal"] > 0)
            live = table[slots]
            counts = live["observations"]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            self._owner = np.zeros(arena.layout.rows, np.int64)
            start = np.repeat(live["start"], counts)
            self._owner[start + within] = np.repeat(live["ordinal"], counts)
            self._start = np.zeros(arena.layout.rows, np.int64)
            self._start[start + within] = start
            self._slot = np.zeros(arena.layout.rows, np.int64)
            self._slot[start + within] = np.repeat(slots, counts)

    @torch.inference_mode()
    def _encode(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        images = {}
        for camera in self._cameras:
            pictures = self._arena.columns.frames[camera][rows][:, PAD:-PAD, PAD:-PAD]
            if pictures.shape[1] != self._side:
                pictures = np.stack([square(picture, self._side) for picture in pictures])
            images[camera] = torch.from_numpy(np.ascontiguousarray(pictures))
        features: NDArray[np.float32] = self._encoder(images).numpy()
        return features
