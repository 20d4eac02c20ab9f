"""What a network makes of pictures, and what differs between families of networks.

Pictures are read apart from words, so that one that stands in several questions is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from roborl.rewards.judges.queries import Cells, Clip
from roborl.types import Image


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Patches:
    """A picture, or the two frames of one instant of a clip, as the network's preprocessing leaves it.

    Attributes:
        key: Digest of everything that bears on what the network makes of it.
        pixels: Input of the vision network.
        grid: Rows and columns of patches before merging.
        cells: Rows and columns of visual tokens.
    """

    key: bytes
    pixels: Tensor
    grid: tuple[int, int]
    cells: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sight:
    """What a network made of patches.

    Attributes:
        embeds: Visual tokens, (n, d).
        deep: What is added to them after the first layers, (n, d) each; empty for most families.
        grid: Rows and columns of patches before merging.
        cells: Rows and columns of visual tokens.
    """

    embeds: Tensor
    deep: tuple[Tensor, ...]
    grid: tuple[int, int]
    cells: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return sum(t.numel() * t.element_size() for t in (self.embeds, *self.deep))


class Family(Protocol):
    """What differs between the families of networks."""

    axes: int
    """Number of position axes."""

    def patches_of_pictures(self, pictures: Sequence[Image], keys: Sequence[bytes]) -> list[Patches]:
        """Preprocess pictures, each by itself; an impossible one fails them all."""
        ...

    def patches_of_clips(self, clips: Sequence[Clip]) -> list[tuple[Patches, ...]]:
        """Preprocess clips, each into one element per instant that the network tells apart; an impossible one fails them all."""
        ...

    def see(self, patches: Sequence[Patches]) -> list[Sight]:
        """Run the vision network."""
        ...

    def spell(self, text: str, shown: Sequence[Clip | None]) -> str:
        """Turn the marks of a rendered turn into those of the network, one mark per visual token run.

        Args:
            text: The turn, as the chat template writes it.
            shown: For each picture or clip in order the clip, None for a picture.
        """
        ...

    def runs(self, sights: Sequence[Sequence[Sight]]) -> list[int]:
        """Return the number of visual tokens behind each mark of a spelt turn, in order."""
        ...

    @property
    def marks(self) -> frozenset[int]:
        """Token ids that stand for visual tokens."""
        ...

    def positions(
        self, ids: Tensor, shown: Sequence[Clip | None], sights: Sequence[Sequence[Sight]]
    ) -> Tensor:
        """Return where each token of a question stands, int64 (axes, n), on the CPU."""
        ...

    def read(
        self,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Any,
        visual: Tensor,
        deep: Sequence[Tensor],
    ) -> Tensor:
        """Run the language network over tokens behind what the cache holds.

        Args:
            embeds: (b, s, d).
            mask: Which of the cached and new tokens are no padding, int64 (b, p + s).
            positions: int64 (axes, b, s).
            cache: Keys and values of the p tokens before; grows by s.
            visual: Which tokens are visual, bool (b, s).
            deep: What is added to the visual tokens after the first layers.

        Returns:
            Hidden states, (b, s, d).
        """
        ...


def cells_of(sights: Sequence[Sight] | Sequence[Patches]) -> Cells:
    """Return what a network sees of a picture or clip: instants, rows and columns."""
    return (len(sights), *sights[0].cells)


def channels_first(picture: Image) -> Tensor:
    """Return a picture as the library's preprocessing takes it, uint8 (3, h, w); a copy, since frames are read-only."""
    return torch.tensor(picture).permute(2, 0, 1)
