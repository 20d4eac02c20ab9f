"""How InternVL sees pictures, and reads them among words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roborl.errors import ShapeError
from roborl.rewards.judges.queries import Clip
from roborl.rewards.judges.sights import Patches, Sight, channels_first
from roborl.types import Image


class InternVlFamily:
    """InternVL: each picture squeezed to one square tile; one position axis, no clips.

    Args:
        model: The network.
        processor: Its processor.
    """

    axes = 1

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor

    @property
    def marks(self) -> frozenset[int]:
        """Token ids that stand for visual tokens."""
        return frozenset((self._model.config.image_token_id,))

    def patches_of_pictures(self, pictures: Sequence[Image], keys: Sequence[bytes]) -> list[Patches]:
        """Preprocess pictures."""
        made = self._processor.image_processor(
            images=[channels_first(picture) for picture in pictures],
            crop_to_patches=False,
            return_tensors="pt",
        )
        tiles = made["pixel_values"].split(1)
        return [self._patches(key, tile) for key, tile in zip(keys, tiles, strict=True)]

    def patches_of_clips(self, clips: Sequence[Clip]) -> list[tuple[Patches, ...]]:
        """Refuse: this family is shown pictures.

        Raises:
            ShapeError: If there is a clip.
        """
        if not clips:
            return []
        raise ShapeError(
            "An InternVL network is shown pictures here, never clips",
            seen=f"a clip of {len(clips[0].frames)} frames",
            remedy="Pass the frames as pictures with words between them",
        )

    def see(self, patches: Sequence[Patches]) -> list[Sight]:
        """Run the vision network over all tiles at once."""
        config = self._model.config
        seen = self._model.model.get_image_features(
            torch.cat([p.pixels for p in patches]).to(self._model.device),
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            return_dict=True,
        ).pooler_output
        return [
            Sight(embeds=embeds.clone(), deep=(), grid=p.grid, cells=p.cells)
            for p, embeds in zip(patches, seen, strict=True)
        ]

    def spell(self, text: str, shown: Sequence[Clip | None]) -> str:
        """Put the marks of a picture's start and end around it."""
        processor = self._processor
        around = f"{processor.start_image_token}{processor.image_token}{processor.end_image_token}"
        return text.replace(processor.image_token, around)

    def runs(self, sights: Sequence[Sequence[Sight]]) -> list[int]:
        """Return the number of visual tokens behind each mark."""
        return [len(part[0].embeds) for part in sights]

    def positions(
        self, ids: Tensor, shown: Sequence[Clip | None], sights: Sequence[Sequence[Sight]]
    ) -> Tensor:
        """Count the tokens."""
        return torch.arange(len(ids))[None]

    def read(
        self,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Any,
        visual: Tensor,
        deep: Sequence[Tensor],
    ) -> Tensor:
        """Run the language network."""
        out = self._model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions[0],
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _patches(self, key: bytes, tile: Tensor) -> Patches:
        patch = self._model.config.vision_config.patch_size
        rows, columns = (int(side) // int(p) for side, p in zip(tile.shape[-2:], patch, strict=True))
        ratio = float(self._model.config.downsample_ratio)
        cells = (int(rows * ratio), int(columns * ratio))
        return Patches(key=key, pixels=tile, grid=(rows, columns), cells=cells)
