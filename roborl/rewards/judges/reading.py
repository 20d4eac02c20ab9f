"""Reading many questions at once: left padding, and prefixes that were read before.

Padding is a matter of the question alone: its prefix and the rest are each padded to a multiple of so many tokens, in
whatever company. Half-precision networks round otherwise at other lengths, by about a hundredth in a probability, and a
label must not depend on how busy the judge was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from roborl.rewards.judges.caches import RecentCache
from roborl.rewards.judges.sights import Family
from roborl.rewards.judges.turns import ChatTurn


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prefix:
    """What the language network made of leading tokens: keys and values of each layer, (heads, p, d) each."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return int(self.layers[0][0].shape[1])

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer)


@dataclass(slots=True, eq=False, kw_only=True)
class Prefill:
    """Questions as read, ready for replies to be written.

    Attributes:
        logits: Of the next token, float32 (b, v).
        cache: Keys and values so far.
        mask: Which of them are no padding, int64 (b, n).
        positions: Of the next token, int64 (b,).
        reused: How many tokens of each question had been read before.
    """

    logits: Tensor
    cache: Any
    mask: Tensor
    positions: Tensor
    reused: tuple[int, ...]


class Reader:
    """Runs a language network over questions.

    Args:
        model: The network.
        family: How it is called.
        prefixes: Prefixes read before.
        pad_to: Lengths are padded to a multiple of this.
    """

    def __init__(self, model: Any, family: Family, prefixes: RecentCache[bytes, Prefix], pad_to: int) -> None:
        self._model = model
        self._family = family
        self._prefixes = prefixes
        self._pad_to = pad_to
        self._embed = model.get_input_embeddings()

    def shape(self, turn: ChatTurn) -> tuple[int, int]:
        """Return the padded lengths of a question's prefix and of its rest; questions of one shape are read together."""
        prefix = turn.form.prefix if self._prefixes.max_bytes else 0
        return self._padded(prefix), self._padded(len(turn.form.ids) - prefix)

    def read(self, turns: Sequence[ChatTurn]) -> Prefill:
        """Read questions of one shape, each behind its own prefix."""
        begins, prefixes, reused = self._find_prefixes(turns)
        spans = [(turn, begin, len(turn.form.ids)) for turn, begin in zip(turns, begins, strict=True)]
        hidden, cache, mask = self._read_spans(spans, prefixes)
        return Prefill(
            logits=self._logits(hidden[:, -1]),
            cache=cache,
            mask=mask,
            positions=torch.tensor([turn.form.next_position for turn in turns], device=mask.device),
            reused=reused,
        )

    def follow(self, turns: Sequence[ChatTurn]) -> list[Tensor]:
        """Read questions together with the words put into the reply's mouth; gradients flow through it.

        Nothing is kept and nothing that was kept is used.

        Returns:
            For each question the logits of every one of those words' m tokens, and of what comes behind the last,
            float32 (m + 1, v).
        """
        spans = [(turn, 0, len(turn.form.ids)) for turn in turns]
        hidden, _, _ = self._read_spans(spans, [None] * len(turns))
        return [
            self._logits(row[-len(turn.form.mouth) - 1 :]) for row, turn in zip(hidden, turns, strict=True)
        ]

    def step(self, reading: Prefill, tokens: Tensor) -> None:
        """Go on by one token per question, int64 (b,); changes the reading."""
        reading.mask = torch.cat([reading.mask, reading.mask.new_ones(len(tokens), 1)], dim=1)
        hidden = self._family.read(
            self._embed(tokens[:, None]),
            reading.mask,
            reading.positions[None, :, None].expand(self._family.axes, -1, 1),
            reading.cache,
            torch.zeros(len(tokens), 1, dtype=torch.bool, device=tokens.device),
            (),
        )
        reading.positions = reading.positions + 1
        reading.logits = self._logits(hidden[:, -1])

    def _find_prefixes(
        self, turns: Sequence[ChatTurn]
    ) -> tuple[list[int], list[Prefix | None], tuple[int, ...]]:
        """Return for each question where its reading begins, what stands before, and how much of that was known."""
        if not self._prefixes.max_bytes:
            return [0] * len(turns), [None] * len(turns), (0,) * len(turns)
        wanted = {turn.prefix_key: turn for turn in turns if turn.form.prefix}
        known = {key: kept for key in wanted if (kept := self._prefixes.get(key)) is not None}
        fresh = [turn for key, turn in wanted.items() if key not in known]
        made: dict[bytes, Prefix] = {}
        if fresh:
            _, cache, _ = self._read_spans([(t, 0, t.form.prefix) for t in fresh], [None] * len(fresh))
            for row, turn in enumerate(fresh):
                # Copies, so that one prefix does not hold the memory of the whole batch.
                layers = tuple(
                    (keys[row, :, -turn.form.prefix :].clone(), values[row, :, -turn.form.prefix :].clone())
                    for keys, values in _layers(cache)
                )
                made[turn.prefix_key] = Prefix(layers=layers)
                self._prefixes.put(turn.prefix_key, made[turn.prefix_key])
        reused = tuple(turn.form.prefix if turn.prefix_key in known else 0 for turn in turns)
        found = [(known | made)[turn.prefix_key] if turn.form.prefix else None for turn in turns]
        return [turn.form.prefix for turn in turns], found, reused

    def _read_spans(
        self, spans: Sequence[tuple[ChatTurn, int, int]], prefixes: Sequence[Prefix | None]
    ) -> tuple[Tensor, Any, Tensor]:
        """Run the network over part of each question; return hidden states, keys and values, and the mask."""
        device = self._model.device
        before = self._padded(max((p.length for p in prefixes if p is not None), default=0))
        longest = self._padded(max(end - begin for _, begin, end in spans))
        layers = max((len(turn.sights[0].deep) for turn, _, _ in spans if turn.sights), default=0)
        embeds, positions, visual, deep = [], [], [], []
        mask = torch.zeros(len(spans), before + longest, dtype=torch.long)
        for row, ((turn, begin, end), prefix) in enumerate(zip(spans, prefixes, strict=True)):
            pad = longest - (end - begin)
            e, d = self._embedded(turn, begin, end, layers)
            embeds.append(torch.nn.functional.pad(e, (0, 0, pad, 0)))
            positions.append(torch.nn.functional.pad(turn.form.positions[:, begin:end], (pad, 0)))
            visual.append(torch.nn.functional.pad(turn.form.visual[begin:end], (pad, 0)))
            deep.append(d)
            mask[row, before + pad :] = 1
            if prefix is not None:
                mask[row, before - prefix.length : before] = 1
        mask = mask.to(device)
        cache = DynamicCache(_side_by_side(prefixes, before)) if before else DynamicCache()
        hidden = self._family.read(
            torch.stack(embeds),
            mask,
            torch.stack(positions, dim=1).to(device),
            cache,
            torch.stack(visual).to(device),
            [torch.cat(layer) for layer in zip(*deep, strict=True)],
        )
        return hidden, cache, mask

    def _embedded(self, turn: ChatTurn, begin: int, end: int, layers: int) -> tuple[Tensor, list[Tensor]]:
        """Return the embeddings of part of a question, and what is added to its visual tokens after the first layers."""
        visual = turn.form.visual[begin:end]
        first = int(turn.form.visual[:begin].sum())
        last = first + int(visual.sum())
        device = self._model.device
        embeds: Tensor = self._embed(turn.form.ids[begin:end].to(device))
        if first == last:
            return embeds, [embeds[:0]] * layers
        seen = torch.cat([sight.embeds for sight in turn.sights])[first:last]
        # Not in place: under activation checkpointing the embeddings are a leaf that takes a gradient.
        embeds = embeds.masked_scatter(visual[:, None].to(device), seen.to(embeds))
        deep = [
            torch.cat([sight.deep[i] for sight in turn.sights])[first:last].to(embeds) for i in range(layers)
        ]
        return embeds, deep

    def _padded(self, length: int) -> int:
        return -(-length // self._pad_to) * self._pad_to

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._model.lm_head(hidden)
        return logits.float()


def _layers(cache: Any) -> Iterable[tuple[Tensor, Tensor]]:
    return ((layer.keys, layer.values) for layer in cache.layers)


def _side_by_side(prefixes: Sequence[Prefix | None], length: int) -> list[tuple[Tensor, Tensor]]:
    """Pad prefixes on the left to one length and stack them, layer by layer."""
    some = next(p for p in prefixes if p is not None)

    def padded(prefix: Prefix | None, layer: int, which: int) -> Tensor:
        if prefix is None:
            like = some.layers[layer][which]
            return like.new_zeros(like.shape[0], length, like.shape[2])
        kept = prefix.layers[layer][which]
        return torch.nn.functional.pad(kept, (0, 0, length - kept.shape[1], 0))

    def stacked(layer: int, which: int) -> Tensor:
        return torch.stack([padded(p, layer, which) for p in prefixes])

    return [(stacked(i, 0), stacked(i, 1)) for i in range(len(some.layers))]
