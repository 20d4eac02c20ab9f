"""How Qwen2.5-VL and Qwen3-VL see pictures and clips, and read them among words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roborl.rewards.judges.queries import Clip, picture_key
from roborl.rewards.judges.sights import Patches, Sight, channels_first
from roborl.types import Image

_HELD = "\x00clip\x00"  # stands for a clip whose instants are written out, until all of them are


class QwenFamily:
    """Qwen2.5-VL and Qwen3-VL: pictures of any shape, three position axes, clips.

    Args:
        model: The network.
        processor: Its processor.
        min_pixels: Least pixels of a picture, and per frame of a clip; 0 for the checkpoint's own limit, which it has
            one of for pictures and another for clips.
        max_pixels: Most pixels, likewise. The checkpoint's own least gives way to it.
    """

    axes = 3

    def __init__(self, model: Any, processor: Any, *, min_pixels: int, max_pixels: int) -> None:
        self._model = model
        self._processor = processor
        self._stamped = model.config.model_type == "qwen3_vl"
        self._merge: int = model.config.vision_config.spatial_merge_size
        self._min_pixels = min_pixels
        self._max_pixels = max_pixels
        self._image, self._video = model.config.image_token_id, model.config.video_token_id

    @property
    def marks(self) -> frozenset[int]:
        """Token ids that stand for visual tokens."""
        return frozenset((self._image, self._video))

    def patches_of_pictures(self, pictures: Sequence[Image], keys: Sequence[bytes]) -> list[Patches]:
        """Preprocess pictures."""
        made = self._processor.image_processor(
            images=[channels_first(picture) for picture in pictures],
            size=self._limits(self._processor.image_processor, 1),
            return_tensors="pt",
        )
        grids = made["image_grid_thw"][:, 1:].tolist()
        pixels = made["pixel_values"].split([rows * columns for rows, columns in grids])
        return [self._patches(*one) for one in zip(keys, pixels, grids, strict=True)]

    def patches_of_clips(self, clips: Sequence[Clip]) -> list[tuple[Patches, ...]]:
        """Preprocess clips: one element per two frames, the last one doubled where their number is odd."""
        made: dict[int, tuple[Patches, ...]] = {}
        for length in {len(clip.frames) for clip in clips}:
            alike = [index for index, clip in enumerate(clips) if len(clip.frames) == length]
            made |= zip(alike, self._patches_of_alike([clips[index] for index in alike]), strict=True)
        return [made[index] for index in range(len(clips))]

    def _patches_of_alike(self, clips: Sequence[Clip]) -> list[tuple[Patches, ...]]:
        """Preprocess clips of as many frames each in one call: to check what it is given takes the library longer."""
        processor = self._processor.video_processor
        each, length = processor.temporal_patch_size, len(clips[0].frames)
        count = -(-length // each) * each
        doubled = [[*clip.frames, *[clip.frames[-1]] * (count - length)] for clip in clips]
        # The library doubles a last frame too, but counts it not when it shrinks a clip to limits: they would be exceeded.
        # Without limits of ours a clip is seen as the library has it, which is what checkpoints are trained with.
        limited = self._min_pixels or self._max_pixels
        shown = doubled if limited else [list(clip.frames) for clip in clips]
        made = processor(
            videos=[torch.stack([channels_first(frame) for frame in frames]) for frames in shown],
            # The limits of Qwen3-VL's clips are for all frames together, those of Qwen2.5-VL's for each.
            size=self._limits(processor, count if self._stamped else 1),
            do_sample_frames=False,
            return_tensors="pt",
        )
        grids = made["video_grid_thw"].tolist()
        pixels = made["pixel_values_videos"].split([math.prod(grid) for grid in grids])
        return [
            tuple(
                self._patches(
                    picture_key(*frames[each * i : each * (i + 1)]) + f"{rows}x{columns}".encode(),
                    instant,
                    (rows, columns),
                )
                for i, instant in enumerate(pixels_of_clip.split(rows * columns))
            )
            for frames, pixels_of_clip, (_, rows, columns) in zip(doubled, pixels, grids, strict=True)
        ]

    def see(self, patches: Sequence[Patches]) -> list[Sight]:
        """Run the vision network over all of them at once."""
        device = self._model.device
        grids = torch.tensor([[1, *p.grid] for p in patches], device=device)
        pixels = torch.cat([p.pixels for p in patches]).to(device)
        seen = self._model.model.get_image_features(pixels, grids, return_dict=True)
        sizes = [p.cells[0] * p.cells[1] for p in patches]
        deep = [layer.split(sizes) for layer in getattr(seen, "deepstack_features", None) or ()]
        return [
            # Copies, so that what is kept of one picture does not hold the memory of its company.
            Sight(
                embeds=embeds.clone(),
                deep=tuple(layer[i].clone() for layer in deep),
                grid=p.grid,
                cells=p.cells,
            )
            for i, (p, embeds) in enumerate(zip(patches, seen.pooler_output, strict=True))
        ]

    def spell(self, text: str, shown: Sequence[Clip | None]) -> str:
        """Write the instants of clips out, where the family reads them as words."""
        if not self._stamped:
            return text
        processor = self._processor
        mark = f"{processor.vision_start_token}{processor.video_token}{processor.vision_end_token}"
        each = processor.video_processor.temporal_patch_size
        for clip in shown:
            if clip is not None:
                stamps = [*clip.stamps_s, *[clip.stamps_s[-1]] * (-len(clip.stamps_s) % each)]
                middles = [(stamps[i] + stamps[i + each - 1]) / 2 for i in range(0, len(stamps), each)]
                spelt = "".join(f"<{middle:.1f} seconds>{_HELD}" for middle in middles)
                text = text.replace(mark, spelt, 1)
        return text.replace(_HELD, mark)

    def runs(self, sights: Sequence[Sequence[Sight]]) -> list[int]:
        """Return the number of visual tokens behind each mark."""
        counts = [[len(sight.embeds) for sight in part] for part in sights]
        if self._stamped:
            return [count for part in counts for count in part]
        return [sum(part) for part in counts]

    def positions(
        self, ids: Tensor, shown: Sequence[Clip | None], sights: Sequence[Sequence[Sight]]
    ) -> Tensor:
        """Ask the network's own code, which counts rows and columns of visual tokens along axes of their own."""
        if not sights:
            return torch.arange(len(ids)).expand(3, -1)
        pictures = [[1, *part[0].grid] for clip, part in zip(shown, sights, strict=True) if clip is None]
        clips = [
            (clip, [len(part), *part[0].grid])
            for clip, part in zip(shown, sights, strict=True)
            if clip is not None
        ]
        kinds = (ids == self._image).long() + 2 * (ids == self._video).long()
        each = self._processor.video_processor.temporal_patch_size
        options: dict[str, Any] = {}
        if clips and not self._stamped:
            options["second_per_grid_ts"] = torch.tensor([each * _interval_s(clip) for clip, _ in clips])
        positions, _ = self._model.model.get_rope_index(
            ids[None],
            mm_token_type_ids=kinds[None],
            image_grid_thw=torch.tensor(pictures) if pictures else None,
            video_grid_thw=torch.tensor([grid for _, grid in clips]) if clips else None,
            **options,
        )
        found: Tensor = positions[:, 0]
        return found

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
        options: dict[str, Any] = {}
        if deep:
            options = {"visual_pos_masks": visual, "deepstack_visual_embeds": list(deep)}
        out = self._model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **options,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _patches(self, key: bytes, pixels: Tensor, grid: Sequence[int]) -> Patches:
        rows, columns = grid
        return Patches(
            key=key, pixels=pixels, grid=(rows, columns), cells=(rows // self._merge, columns // self._merge)
        )

    def _limits(self, processor: Any, frames: int) -> dict[str, int]:
        """Return least and most pixels of so many frames together: those set, else the processor's own."""
        own = processor.size
        most = self._max_pixels * frames or int(own["longest_edge"])
        least = self._min_pixels * frames or min(int(own["shortest_edge"]), most)
        return {"shortest_edge": least, "longest_edge": most}


def _interval_s(clip: Clip) -> float:
    return (clip.stamps_s[-1] - clip.stamps_s[0]) / max(1, len(clip.stamps_s) - 1)
