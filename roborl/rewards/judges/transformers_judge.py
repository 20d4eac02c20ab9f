"""A vision-language network in this process as a judge: pictures seen once, prefixes read once, questions in batches."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import xxhash

from roborl.errors import RoborlError
from roborl.rewards.judges.caches import RecentCache
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.internvl import InternVlFamily
from roborl.rewards.judges.queries import Cells, Clip, VlmQuery, VlmReply, picture_key
from roborl.rewards.judges.qwen import QwenFamily
from roborl.rewards.judges.reading import Prefix, Reader
from roborl.rewards.judges.seeing import AT_ONCE, Eyes
from roborl.rewards.judges.sights import Family, Sight, cells_of
from roborl.rewards.judges.turns import ChatTurn, Seen, TurnWriter
from roborl.rewards.judges.weights import Network, load_network
from roborl.rewards.judges.writing import Draft, ReplyWriter
from roborl.rewards.model import Judge

log = logging.getLogger(__name__)

_MB = 1 << 20


class TransformersJudge(Judge[VlmQuery, VlmReply | None]):
    """Answers with a network of the transformers library. Used by one thread.

    Args:
        network: The network and its processor.
        config: How it runs.
        min_pixels: Least pixels of a frame as a Qwen network sees it; 0 leaves the checkpoint's own limit.
        max_pixels: Most pixels of the same, however many frames a clip has.

    Attributes:
        network: The network and its processor.
        sights: Pictures seen before.
        prefixes: Prefixes read before.
        eyes: What runs the vision network.
        turns: What writes questions as tokens.
        reader: What runs the language network.
        ends: Tokens that end a reply.
    """

    def __init__(
        self,
        network: Network,
        config: JudgeConfig,
        *,
        min_pixels: int = 0,
        max_pixels: int = 0,
    ) -> None:
        self.network = network
        self.sights: RecentCache[bytes, Sight] = RecentCache(config.vision_cache_mb * _MB)
        self.prefixes: RecentCache[bytes, Prefix] = RecentCache(config.prefix_cache_mb * _MB)
        self._family = _family(network, (min_pixels, max_pixels))
        self.eyes = Eyes(self._family, self.sights, 1 if config.one_at_a_time else AT_ONCE)
        self.turns = TurnWriter(network.processor, self._family)
        self.reader = Reader(network.model, self._family, self.prefixes, config.pad_to)
        self.ends = _ends(network)
        self._writer = ReplyWriter(self.reader, network.processor.tokenizer, self.ends)
        self._one_at_a_time = config.one_at_a_time
        self._identity = _identity(network, config, (min_pixels, max_pixels))

    @classmethod
    def load(
        cls,
        config: JudgeConfig,
        checkpoint: str,
        *,
        min_pixels: int = 0,
        max_pixels: int = 0,
    ) -> TransformersJudge:
        """Read a checkpoint from a folder, or from the hub's cache by its name; arguments as above.

        Raises:
            ModelLoadError: If it cannot be used.
        """
        network = load_network(config, checkpoint)
        return cls(network, config, min_pixels=min_pixels, max_pixels=max_pixels)

    @property
    def identity(self) -> str:
        """Hash of weights, processor, adapter and of every setting that bears on a reply."""
        return self._identity

    @property
    def at_once(self) -> int | None:
        """1 where questions are read one at a time: of more in one call the first reply would wait for the last."""
        return 1 if self._one_at_a_time else None

    def cells(self, query: VlmQuery) -> tuple[Cells, ...]:
        """Return what the network would see of each picture and clip.

        Raises:
            ShapeError: If there is a clip and the network is not shown any.
        """
        return tuple(
            cells_of(
                self._family.patches_of_clips([part])[0]
                if isinstance(part, Clip)
                else self._family.patches_of_pictures([part], [picture_key(part)])
            )
            for part in query.parts
            if not isinstance(part, str)
        )

    @torch.inference_mode()
    def answer(self, queries: Sequence[VlmQuery]) -> list[VlmReply | None]:
        """Return one reply per query; None for one that cannot be asked, or whose logits are not finite.

        Raises:
            OutOfMemoryError: Torch's own, with everything kept let go; asking again with fewer helps.
        """
        try:
            return self._answer(queries)
        except torch.OutOfMemoryError:
            self.sights.clear()
            self.prefixes.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise

    def _answer(self, queries: Sequence[VlmQuery]) -> list[VlmReply | None]:
        began = time.perf_counter()
        seen = self.eyes.look(queries)
        turns = {
            row: turn
            for row, (query, views) in enumerate(zip(queries, seen, strict=True))
            if (turn := self._turn(query, views)) is not None
        }
        looked_ms = (time.perf_counter() - began) * 1e3
        replies: list[VlmReply | None] = [None] * len(queries)
        for rows in self._batches(turns):
            batch = [turns[row] for row in rows]
            began = time.perf_counter()
            reading = self.reader.read(batch)
            read = time.perf_counter()
            drafts = self._writer.write([queries[row] for row in rows], batch, reading)
            timings = {
                "seeing": looked_ms,
                "reading": (read - began) * 1e3,
                "writing": (time.perf_counter() - read) * 1e3,
            }
            for row, draft, turn, reused in zip(rows, drafts, batch, reading.reused, strict=True):
                replies[row] = _reply(draft, turn, reused, timings)
        return replies

    def _turn(self, query: VlmQuery, views: list[Seen] | None) -> ChatTurn | None:
        if views is None:
            return None
        try:
            return self.turns.write(query, views)
        except RoborlError as error:
            log.warning("a question cannot be asked: %s", error)
            return None

    def _batches(self, turns: Mapping[int, ChatTurn]) -> Iterator[list[int]]:
        """Yield the rows of questions of one shape, which are read together, or each by itself."""
        if self._one_at_a_time:
            yield from ([row] for row in turns)
            return
        groups: dict[tuple[int, int], list[int]] = {}
        for row, turn in turns.items():
            groups.setdefault(self.reader.shape(turn), []).append(row)
        yield from groups.values()


def _reply(draft: Draft, turn: ChatTurn, reused: int, timings: Mapping[str, float]) -> VlmReply | None:
    if draft.broken:
        log.warning("the network gives numbers that are not finite")
        return None
    return VlmReply(
        text=draft.text,
        probabilities=draft.probabilities,
        mass=draft.mass,
        tokens=tuple(draft.places),
        ended=draft.ended,
        prompt_tokens=len(turn.form.ids),
        reused_tokens=reused,
        cells=turn.cells,
        timings_ms=timings,
    )


def _family(network: Network, pixels: tuple[int, int]) -> Family:
    if network.model_type == "internvl":
        return InternVlFamily(network.model, network.processor)
    least, most = pixels
    return QwenFamily(network.model, network.processor, min_pixels=least, max_pixels=most)


def _ends(network: Network) -> frozenset[int]:
    """Return the tokens that end a reply, as the checkpoint and its tokeniser name them."""
    named: Any = network.model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    return frozenset(i for i in (*ends, network.processor.tokenizer.eos_token_id) if i is not None)


def _identity(network: Network, config: JudgeConfig, pixels: tuple[int, int]) -> str:
    bearing = {
        "weights": network.digest,
        "dtype": str(network.model.dtype),
        "attention": config.attention,
        "quantisation": str(config.quantisation),
        # The last: no picture is cut into tiles. It keeps the identities that judges have had.
        "pixels": [*pixels, False],
        # Where a question is cut and padded bears on rounding.
        "shape": [config.pad_to, config.prefix_cache_mb > 0],
        "processor": {
            name: part.to_dict()
            for name in ("image_processor", "video_processor")
            if (part := getattr(network.processor, name, None)) is not None
        },
    }
    text = json.dumps(bearing, sort_keys=True, default=str)
    return f"{network.model_type}-{xxhash.xxh3_128(text.encode()).hexdigest()[:16]}"
