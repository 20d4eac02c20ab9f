"""What a language network takes in memory beside its weights: keys and values, and what it computes on the way.

Formulas alone: nothing here loads a tensor library. Keys and values are exact. The others are fits: peaks of live tensors,
and tensors saved for the backward pass, counted on a CPU with small Qwen3-VL networks of seven shapes in bfloat16 (fused
attention, transformers 5.5); the first is met from above, the second to 2 %. A GPU's kernels may need more or less.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

_HALF, _SINGLE = 2, 4  # bytes of a number
_ADAM = 2  # running averages per number that learns
# Positions, sines and cosines of a token, in numbers.
_POSITION = 512


class Kept(StrEnum):
    """How the weights of a network are kept in memory."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    NF4 = "nf4"

    @property
    def number_bytes(self) -> int:
        """Size of a number that is computed with, and of a weight that is not quantised."""
        return 4 if self is Kept.FP32 else 2

    @property
    def quantised(self) -> bool:
        """Whether most weights are packed."""
        return self in (Kept.INT8, Kept.NF4)


class Learning(Enum):
    """What learns, and so how many hidden states, intermediates, queries and keys wait per token and layer."""

    FULL = (6, 3, 7, 3)
    """All weights, in half precision."""
    MIXED = (8, 3, 7, 3)
    """All weights, in single precision, computed with in half."""
    LORA = (10, 3, 8, 2)
    """Small matrices in single precision beside the four projections of attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """The shape of a language network.

    Attributes:
        layers: Its number of layers.
        hidden: Size of the hidden states.
        intermediate: Size between the two halves of a feed-forward part.
        heads: Heads that ask.
        kv_heads: Heads that answer, each for several of those.
        head_dim: Numbers per head.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int

    def cache_bytes(self, tokens: int, questions: int, number_bytes: int = _HALF) -> int:
        """Return the size of keys and values of so many questions of so many tokens each; exact.

        Example:
            >>> qwen3_8b = Decoder(
            ...     layers=36, hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128
            ... )
            >>> qwen3_8b.cache_bytes(1, 1)
            147456
        """
        return 2 * self.layers * self.kv_heads * self.head_dim * number_bytes * tokens * questions

    def reading_bytes(self, tokens: int, questions: int, number_bytes: int = _HALF) -> int:
        """Return the most that reading takes beside weights, keys and values: the larger half of one layer.

        In the feed-forward half three intermediates and three hidden states live, in the other the queries in several
        forms and the keys and values spread over all heads; beside them the embeddings that went in.
        """
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        numbers = max(3 * self.intermediate, 5 * q + 2 * kv) + 4 * self.hidden + _POSITION
        return numbers * number_bytes * tokens * questions

    def saved_bytes(
        self, tokens: int, questions: int, learning: Learning, *, checkpointing: bool = False
    ) -> int:
        """Return what is saved for the backward pass.

        Args:
            tokens: Tokens of a question.
            questions: Questions read at once.
            learning: What learns.
            checkpointing: Whether only the states between layers are saved, and one layer at a time is computed again.
        """
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = (self.hidden, self.intermediate, q, kv)
        layer = sum(times * size for times, size in zip(learning.value, sizes, strict=True))
        numbers = layer + self.layers * self.hidden if checkpointing else self.layers * layer
        return numbers * _HALF * tokens * questions


def learning_bytes(numbers: int) -> int:
    """Return what numbers that learn take besides themselves: gradients and Adam's two averages, single precision.

    Source: Rajbhandari et al., ZeRO (SC 2020), section 3.1, for a gradient kept in single precision, as torch keeps it
        where the weights are.
    """
    return (1 + _ADAM) * _SINGLE * numbers
