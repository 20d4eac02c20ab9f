"""How far a network is from saying known answers: the likelihood of the answer's tokens, and of no others.

Questions are looked at, spelt and read by the judge's own parts, so that what is learnt is what is asked later. The answer
is put into the reply's mouth; the question's tokens bear no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from roborl.errors import DatasetError
from roborl.rewards.judges.queries import VlmQuery
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.rewards.judges.turns import ChatTurn


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lesson:
    """A question with its answer, as tokens.

    Attributes:
        turn: The question, and behind it the answer.
        labels: The answer's tokens and the one that ends a reply, int64 (m + 1,).
    """

    turn: ChatTurn
    labels: Tensor


class Teacher:
    """Asks a judge's network for answers that are known.

    Args:
        judge: Whose network and whose way of reading. From now on it keeps nothing of what it has read, which changes
            as the network learns.
    """

    def __init__(self, judge: TransformersJudge) -> None:
        self._judge = judge
        judge.sights.clear()
        judge.prefixes.clear()
        judge.sights.max_bytes = judge.prefixes.max_bytes = 0
        named = judge.network.model.generation_config.eos_token_id
        first = named[0] if isinstance(named, list) else named
        # A checkpoint that a trainer left may name no end but its tokeniser's.
        self._end: int = judge.network.processor.tokenizer.eos_token_id if first is None else first

    def lessons(self, queries: Sequence[VlmQuery], answers: Sequence[str]) -> list[Lesson]:
        """Look at the pictures of questions, with gradients, and write out question and answer.

        Raises:
            DatasetError: If a picture cannot be shown to the network.
        """
        asked = [
            replace(query, reply_start=answer, choices=(), prefix=0, max_tokens=1)
            for query, answer in zip(queries, answers, strict=True)
        ]
        lessons = []
        for query, seen in zip(asked, self._judge.eyes.look(asked), strict=True):
            if seen is None:
                raise DatasetError(
                    "A picture cannot be shown to the network",
                    seen=[picture.shape for picture in query.pictures],
                    remedy="See the warning above, and leave the camera or the episode out",
                )
            turn = self._judge.turns.write(query, seen)
            lessons.append(Lesson(turn=turn, labels=torch.tensor([*turn.form.mouth, self._end])))
        return lessons

    def losses(self, queries: Sequence[VlmQuery], answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return how unlikely each answer is, and whether it is what the network would write.

        Returns:
            Mean negative log-likelihood of each answer's tokens, float32 (b,); and whether every one of them is the
            likeliest behind those before it, bool (b,).

        Raises:
            DatasetError: As :meth:`lessons`.
        """
        lessons = self.lessons(queries, answers)
        losses, right = [], []
        for lesson, logits in zip(
            lessons, self._judge.reader.follow([lesson.turn for lesson in lessons]), strict=True
        ):
            labels = lesson.labels.to(logits.device)
            losses.append(torch.nn.functional.cross_entropy(logits, labels))
            right.append((logits.argmax(dim=1) == labels).all())
        return torch.stack(losses), torch.stack(right)
