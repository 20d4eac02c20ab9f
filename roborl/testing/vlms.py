"""Judges without a network: one that answers as a test says, and one whose noise and bias are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import xxhash

from roborl.rewards.judges.queries import Cells, Clip, VlmQuery, VlmReply, picture_key
from roborl.rewards.model import Judge


class ScriptedVlm(Judge[VlmQuery, VlmReply | None]):
    """Answers as a function says.

    Args:
        reply: Takes a query; returns its reply, or the text of it, or None; what it raises is raised.
        identity: What it says about itself.

    Attributes:
        asked: Every query so far, in order.
    """

    def __init__(
        self, reply: Callable[[VlmQuery], VlmReply | str | None], *, identity: str = "scripted"
    ) -> None:
        self._reply = reply
        self.identity = identity
        self.asked: list[VlmQuery] = []

    def answer(self, queries: Sequence[VlmQuery]) -> list[VlmReply | None]:
        """Return one reply per query."""
        self.asked += queries
        replies = [self._reply(query) for query in queries]
        return [VlmReply(text=r) if isinstance(r, str) else r for r in replies]

    def cells(self, query: VlmQuery) -> tuple[Cells, ...] | None:
        """Return nothing: it sees no pictures."""
        return None


class NoisyVlm(ScriptedVlm):
    """Answers with a known truth, off by a known bias and a noise of known size.

    The noise of a query is a function of the query and the judge's seed, so that neither order nor company matters;
    the same question with another ``seed`` is an independent vote.

    Args:
        truth: Takes a query; returns the true value in [0, 1].
        form: Turns a value in [0, 1] into the words of a reply.
        noise: Standard deviation of the value before it is cut to [0, 1].
        bias: Added to the truth.
        width: Standard deviation of the probabilities over the choices, whose values lie evenly over [0, 1] in their
            order; 0 for all on the nearest.
        seed: Of the noise.
    """

    def __init__(
        self,
        truth: Callable[[VlmQuery], float],
        form: Callable[[float], str],
        *,
        noise: float = 0.0,
        bias: float = 0.0,
        width: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(self._say, identity=f"noisy-{noise:g}-{bias:g}-{width:g}-{seed}")
        self._truth, self._form = truth, form
        self._noise, self._bias, self._width, self._seed = noise, bias, width, seed

    def value(self, query: VlmQuery) -> float:
        """Return what it holds to be the case, in [0, 1]."""
        draw = np.random.default_rng([self._seed, *query_key(query)]).normal()
        return float(np.clip(self._truth(query) + self._bias + self._noise * draw, 0.0, 1.0))

    def _say(self, query: VlmQuery) -> VlmReply:
        value = self.value(query)
        return VlmReply(
            text=self._form(value),
            probabilities=_spread_over(len(query.choices), value, self._width) if query.choices else None,
            mass=1.0 if query.choices else 0.0,
        )


def query_key(query: VlmQuery) -> bytes:
    """Return a digest of everything in a query that bears on its reply, 16 bytes."""
    digest = xxhash.xxh3_128()
    for part in query.parts:
        if isinstance(part, str):
            digest.update(f"text {len(part)} {part}".encode())
        elif isinstance(part, Clip):
            digest.update(f"clip {part.stamps_s}".encode() + picture_key(*part.frames))
        else:
            digest.update(b"picture " + picture_key(part))
    rest = (query.system, query.reply_start, query.max_tokens, query.stop, query.choices)
    digest.update(repr((*rest, query.alternatives, query.temperature, query.seed)).encode())
    return digest.digest()


def brightness_of_last(query: VlmQuery) -> float:
    """Return the mean brightness of the last picture of a query, in [0, 1]: a truth that a test can draw."""
    return float(query.pictures[-1].mean(dtype=np.float64)) / 255.0


def _spread_over(count: int, value: float, width: float) -> tuple[float, ...]:
    places = np.linspace(0.0, 1.0, count) if count > 1 else np.zeros(1)
    distance = (places - value) ** 2
    if width <= 0.0:
        weights = (np.arange(count) == int(distance.argmin())).astype(float)
    else:
        weights = np.exp(-(distance - distance.min()) / (2 * width**2))
    assert math.isfinite(weights.sum()), "weights of finite distances are finite"
    return tuple((weights / weights.sum()).tolist())
