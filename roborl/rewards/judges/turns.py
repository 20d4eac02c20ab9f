"""From a question to the tokens that a network reads: the chat template, the marks of pictures, choices and prefix."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from roborl.errors import ShapeError
from roborl.rewards.judges.caches import RecentCache
from roborl.rewards.judges.queries import Cells, Clip, Part, VlmQuery
from roborl.rewards.judges.sights import Family, Sight, cells_of

type Ids = tuple[int, ...]

_FORMS_BYTES = 64 << 20  # an episode asks with the same words again and again


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Seen:
    """A picture or clip of a question, as the network sees it.

    Attributes:
        sights: One for a picture, one per instant for a clip.
        keys: Digests of the same.
        clip: The clip, None for a picture.
    """

    sights: tuple[Sight, ...]
    keys: tuple[bytes, ...]
    clip: Clip | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Form:
    """What a question has in common with every other of the same words and the same sizes of pictures.

    Attributes:
        ids: int64 (n,), one per visual token.
        positions: int64 (axes, n).
        visual: Which tokens are visual, bool (n,).
        prefix: How many leading tokens stay the same over an episode, less than n.
        choices: Token of each choice.
        mouth: Tokens of the words put into the reply's mouth, the last of ``ids``.
    """

    ids: Tensor
    positions: Tensor
    visual: Tensor
    prefix: int
    choices: Ids
    mouth: Ids

    @property
    def nbytes(self) -> int:
        """Size in memory, about."""
        return self.ids.numel() * (9 + 8 * len(self.positions))

    @property
    def next_position(self) -> int:
        """Position of the reply's first token, on every axis: one on from the last, which is always a word's."""
        return int(self.positions[:, -1].max()) + 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChatTurn:
    """A question as tokens and pictures.

    Attributes:
        form: The tokens.
        sights: What was made of the pictures, in order.
        prefix_key: Digest of the leading tokens that stay the same, their positions, and the pictures among them.
        cells: What the network sees of each picture and clip.
    """

    form: Form
    sights: tuple[Sight, ...]
    prefix_key: bytes
    cells: tuple[Cells, ...]


class TurnWriter:
    """Writes questions as tokens, by the chat template of a processor.

    Args:
        processor: With a tokeniser and a chat template.
        family: How pictures stand among words.
    """

    def __init__(self, processor: Any, family: Family) -> None:
        self._processor = processor
        self._family = family
        self._marks = torch.tensor(sorted(family.marks))
        added = processor.tokenizer.added_tokens_decoder.values()
        self._reserved = tuple(token.content for token in added if token.special)
        self._forms: RecentCache[Hashable, Form] = RecentCache(_FORMS_BYTES)

    def write(self, query: VlmQuery, seen: Sequence[Seen]) -> ChatTurn:
        """Return the tokens of a question.

        Args:
            query: The question.
            seen: Its pictures and clips, in order.

        Raises:
            ShapeError: If words of the question are marks of the template, or a choice is more than one token.
        """
        likeness = _likeness(query, seen)
        form = self._forms.get(likeness)
        if form is None:
            form = self._form(query, seen)
            self._forms.put(likeness, form)
        shown = sum(not isinstance(part, str) for part in query.parts[: query.prefix])
        return ChatTurn(
            form=form,
            sights=tuple(sight for s in seen for sight in s.sights),
            prefix_key=_prefix_key(form, seen[:shown]) if form.prefix else b"",
            cells=tuple(cells_of(s.sights) for s in seen),
        )

    def _form(self, query: VlmQuery, seen: Sequence[Seen]) -> Form:
        for text in (*query.parts, query.system, query.reply_start, *query.choices):
            if isinstance(text, str):
                self._refuse_marks(text)
        ids, mouth, choices = self._ending(query, self._spelt(query, query.parts))
        counts = self._counts(ids, seen)
        full = torch.tensor(ids).repeat_interleave(counts)
        prefix = 0
        if query.prefix:
            kept = self._encode(self._spelt(query, query.parts[: query.prefix]))
            prefix = min(int(counts[: _shared(kept, ids)].sum()), len(full) - 1)
        return Form(
            ids=full,
            positions=self._family.positions(full, [s.clip for s in seen], [s.sights for s in seen]),
            visual=torch.isin(full, self._marks),
            prefix=prefix,
            choices=choices,
            mouth=mouth,
        )

    def _spelt(self, query: VlmQuery, parts: Sequence[Part]) -> str:
        def content(part: Part) -> dict[str, str]:
            if isinstance(part, str):
                return {"type": "text", "text": part}
            return {"type": "video" if isinstance(part, Clip) else "image"}

        messages = [{"role": "user", "content": [content(part) for part in parts]}]
        if query.system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": query.system}]})
        text: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._family.spell(
            text, [p if isinstance(p, Clip) else None for p in parts if not isinstance(p, str)]
        )

    def _ending(self, query: VlmQuery, turn: str) -> tuple[Ids, Ids, Ids]:
        """Return the tokens of the whole question, those of the reply's start among them, and those of the choices."""
        asked = self._encode(turn)
        ids = self._encode(turn + query.reply_start)
        answers = [self._encode(turn + query.reply_start + choice) for choice in query.choices]
        # Where a choice melts into the end of what stands before it, that end is left for the choice to say.
        ids = ids[: min((_shared(ids, answer) for answer in answers), default=len(ids))]
        begin = _shared(asked, ids)
        choices = tuple(answer[len(ids)] for answer in answers if len(answer) == len(ids) + 1)
        if len(set(choices)) != len(query.choices) or begin < len(asked):
            raise ShapeError(
                "The choices of a question are not one token each behind the reply's start",
                seen=f"{query.choices} behind {query.reply_start!r}",
                allowed="different single tokens of the network's tokeniser",
                remedy="Let the reply start with what the choices share, or read the reply's text instead",
            )
        return ids, ids[begin:], choices

    def _counts(self, ids: Ids, seen: Sequence[Seen]) -> Tensor:
        """Return how many tokens stand for each: one, but as many as the network sees for a picture's mark."""
        marked = torch.isin(torch.tensor(ids), self._marks)
        runs = self._family.runs([s.sights for s in seen])
        if int(marked.sum()) != len(runs):
            raise ShapeError(
                "The chat template drops or adds pictures",
                seen=f"{int(marked.sum())} marks",
                allowed=f"{len(runs)}, one for each picture and instant",
                remedy="Use the chat template that came with the checkpoint",
            )
        counts = torch.ones(len(ids), dtype=torch.long)
        counts[marked] = torch.tensor(runs, dtype=torch.long)
        return counts

    def _refuse_marks(self, text: str) -> None:
        found = [mark for mark in self._reserved if mark in text]
        if found:
            raise ShapeError(
                "Words of a question contain marks of the chat template",
                seen=found,
                allowed="plain words",
                remedy="Leave them out of the task's instruction",
            )

    def _encode(self, text: str) -> Ids:
        return tuple(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def _shared(one: Ids, other: Ids) -> int:
    """Return how many leading tokens are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _likeness(query: VlmQuery, seen: Sequence[Seen]) -> Hashable:
    """Return what two questions of one form have in common."""
    views = iter(seen)
    parts = tuple(
        part
        if isinstance(part, str)
        else ((view := next(views)).clip and view.clip.stamps_s, cells_of(view.sights), view.sights[0].grid)
        for part in query.parts
    )
    return parts, query.system, query.prefix, query.reply_start, query.choices


def _prefix_key(form: Form, seen: Sequence[Seen]) -> bytes:
    digest = xxhash.xxh3_128(form.ids[: form.prefix].numpy().tobytes())
    # Qwen2.5-VL reads the instants of a clip by its positions alone: they are no words.
    digest.update(form.positions[:, : form.prefix].numpy().tobytes())
    for s in seen:
        for key in s.keys:
            digest.update(key)
    return digest.digest()
