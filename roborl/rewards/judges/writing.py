"""Writing the replies to questions that have been read: token by token, each by its own rules, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from roborl.rewards.judges.queries import Token, VlmQuery
from roborl.rewards.judges.reading import Prefill, Reader
from roborl.rewards.judges.turns import ChatTurn


@dataclass(slots=True, eq=False, kw_only=True)
class Draft:
    """A reply being written.

    Attributes:
        query: What it answers.
        ids: Tokens so far, those put into its mouth among them.
        written: How many of them the network wrote.
        places: What might have stood at each place written.
        probabilities: Of the choices.
        mass: Of the choices together.
        ended: Whether it has come to its end by itself.
        broken: Whether the network gave numbers that are not finite.
        text: What it says so far.
    """

    query: VlmQuery
    ids: list[int]
    written: int = 0
    places: list[Token] = field(default_factory=list)
    probabilities: tuple[float, ...] | None = None
    mass: float = 0.0
    ended: bool = False
    broken: bool = False
    text: str = ""

    @property
    def open(self) -> bool:
        """Whether there is more to write."""
        return not (self.ended or self.broken) and self.written < self.query.max_tokens


class ReplyWriter:
    """Writes replies.

    Args:
        reader: That read the questions.
        tokenizer: Of the network.
        ends: Tokens that end a reply.
    """

    def __init__(self, reader: Reader, tokenizer: Any, ends: frozenset[int]) -> None:
        self._reader = reader
        self._tokenizer = tokenizer
        self._ends = ends

    def write(self, queries: Sequence[VlmQuery], turns: Sequence[ChatTurn], reading: Prefill) -> list[Draft]:
        """Write every reply to its end; those that end early wait for the others."""
        drafts = [Draft(query=q, ids=list(t.form.mouth)) for q, t in zip(queries, turns, strict=True)]
        dice = [torch.Generator().manual_seed(query.seed) for query in queries]
        finite = reading.logits.isfinite().all(dim=1).tolist()
        for draft, turn, logits, sound in zip(drafts, turns, reading.logits, finite, strict=True):
            draft.broken = not sound
            if sound and turn.form.choices:
                _weigh(draft, logits, turn)
        while any(draft.open for draft in drafts):
            tokens = self._choose(drafts, reading.logits, dice)
            if not any(draft.open for draft in drafts):
                break
            self._reader.step(reading, tokens)
            finite = reading.logits.isfinite().all(dim=1).tolist()
            for draft, sound in zip(drafts, finite, strict=True):
                draft.broken = draft.broken or (draft.open and not sound)
        for draft in drafts:
            draft.text = draft.text or self._decode(draft.ids)
        return drafts

    def _choose(self, drafts: Sequence[Draft], logits: Tensor, dice: Sequence[torch.Generator]) -> Tensor:
        """Add a token to every reply that is open; return the tokens, those of the others without meaning."""
        likeliest = logits.argmax(dim=1).tolist()
        chosen = []
        for row, (draft, best) in enumerate(zip(drafts, likeliest, strict=True)):
            token = best
            if draft.open:
                if draft.query.temperature > 0:
                    chances = (logits[row].cpu() / draft.query.temperature).softmax(dim=0)
                    token = int(torch.multinomial(chances, 1, generator=dice[row]))
                self._add(draft, token, logits[row])
            chosen.append(token)
        return torch.tensor(chosen, device=logits.device)

    def _add(self, draft: Draft, token: int, logits: Tensor) -> None:
        draft.written += 1
        if token in self._ends:
            draft.ended = True
            return
        draft.ids.append(token)
        if draft.query.alternatives:
            chances, ids = logits.softmax(dim=0).topk(min(draft.query.alternatives, len(logits)))
            others = zip(ids.tolist(), chances.tolist(), strict=True)
            draft.places.append(
                Token(
                    text=self._decode([token]), alternatives=tuple((self._decode([i]), p) for i, p in others)
                )
            )
        if draft.query.stop:
            draft.text = self._decode(draft.ids)
            said = draft.text[len(draft.query.reply_start) :]
            draft.ended = any(stop in said for stop in draft.query.stop)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def _weigh(draft: Draft, logits: Tensor, turn: ChatTurn) -> None:
    chances = logits.double().softmax(dim=0)[torch.tensor(turn.form.choices, device=logits.device)]
    draft.mass = float(chances.sum())
    # By their logits, so that choices of vanishing mass still have probabilities that add up.
    within = logits[torch.tensor(turn.form.choices, device=logits.device)].double().softmax(dim=0)
    draft.probabilities = tuple(within.tolist())
