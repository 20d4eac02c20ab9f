"""What a vision-language judge is asked and what it answers: one user turn of words and pictures, a few words back.

Light to import: the models that ask and the tests that answer need no tensor library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import xxhash

from roborl.errors import RoborlError, ShapeError
from roborl.rewards.model import Judge
from roborl.types import Image

type Cells = tuple[int, int, int]
"""What a network sees of a picture or clip: instants, rows and columns of visual tokens."""


class Refused(RoborlError):
    """A question that a judge does not answer however often it is asked, such as one that is too long for it."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Clip:
    """Pictures that are shown as one video.

    Attributes:
        frames: In time order, all of one size, uint8 (h, w, 3) each.
        stamps_s: Instant of each from the start of the episode, s.
    """

    frames: tuple[Image, ...]
    stamps_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.frames or len(self.frames) != len(self.stamps_s):
            raise ShapeError(
                "A clip has the wrong form",
                seen=f"{len(self.frames)} frames, {len(self.stamps_s)} instants",
                allowed="at least one frame, and an instant for each",
            )
        for frame in self.frames:
            _check_picture(frame)
        if len({frame.shape for frame in self.frames}) > 1:
            raise ShapeError(
                "The frames of a clip differ in size", seen=sorted({frame.shape for frame in self.frames})
            )


type Part = str | Image | Clip


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class VlmQuery:
    """One question: a user turn, and how it is to be answered.

    Attributes:
        parts: Words, pictures uint8 (h, w, 3) and clips, in the order in which the network reads them.
        system: The system turn; where it is empty the network's own chat template decides.
        prefix: How many leading parts stay the same over an episode, so that a judge may keep what it made of them.
        reply_start: Words put into the reply's mouth; they stand at the start of the reply's text.
        max_tokens: Most tokens to write; 0 where only the probabilities of the choices are wanted.
        stop: Texts at which the reply ends; the one that ended it is part of the text.
        choices: Texts of which one comes next, before anything is written, and whose probabilities are wanted.
        alternatives: How many of the likeliest tokens to report at each place of the reply; 0 for none.
        temperature: Of sampling; 0 takes the likeliest token.
        seed: Of sampling.
    """

    parts: tuple[Part, ...]
    system: str = ""
    prefix: int = 0
    reply_start: str = ""
    max_tokens: int = 32
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    alternatives: int = 0
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for part in self.parts:
            if isinstance(part, np.ndarray):
                _check_picture(part)
        if (
            not 0 <= self.prefix <= len(self.parts)
            or self.max_tokens < 0
            or not 0.0 <= self.temperature < math.inf
            or not (self.max_tokens or self.choices)
            or len(set(self.choices)) != len(self.choices)
            or "" in self.choices
        ):
            raise ShapeError(
                "A question cannot be asked in this way",
                seen=f"prefix {self.prefix} of {len(self.parts)} parts, max_tokens {self.max_tokens},"
                f" temperature {self.temperature}, choices {self.choices}",
                allowed="a prefix within the parts, tokens to write or different choices, a temperature ≥ 0",
            )

    @property
    def pictures(self) -> tuple[Image, ...]:
        """All pictures in order, those of clips among them."""
        found: list[Image] = []
        for part in self.parts:
            if isinstance(part, Clip):
                found += part.frames
            elif not isinstance(part, str):
                found.append(part)
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One place of a reply.

    Attributes:
        text: What was written there.
        alternatives: What might have been, with its probability at temperature 1, likeliest first.
    """

    text: str
    alternatives: tuple[tuple[str, float], ...] = ()

    @property
    def chances(self) -> dict[str, float]:
        """Probability of each text; tokens may read alike, as one with and one without the mark of a space do.

        Example:
            >>> Token(text="6", alternatives=(("6", 0.5), ("6", 0.25), ("7", 0.25))).chances
            {'6': 0.75, '7': 0.25}
        """
        found: dict[str, float] = {}
        for text, probability in self.alternatives:
            found[text] = found.get(text, 0.0) + probability
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class VlmReply:
    """One answer.

    Attributes:
        text: The reply as written, with the words it was made to start with.
        probabilities: Of each choice of the query, adding up to 1; None where the judge cannot tell.
        mass: Probability of the choices together, before they were made to add up to 1; 0 where unknown.
        tokens: The places written, where alternatives were asked for.
        ended: Whether the reply came to its end by itself or at a stop; False where it was cut at ``max_tokens``.
        prompt_tokens: Length of the question; 0 where unknown.
        reused_tokens: How many of them had been read before.
        cells: What the network saw of each picture and clip, in order; empty where unknown.
        sent: Frames, height and width in pixels of each picture and clip as it was sent to an endpoint; empty where none
            was sent.
        timings_ms: Named durations, those of a batch for each of its replies.
    """

    text: str
    probabilities: tuple[float, ...] | None = None
    mass: float = 0.0
    tokens: tuple[Token, ...] = ()
    ended: bool = True
    prompt_tokens: int = 0
    reused_tokens: int = 0
    cells: tuple[Cells, ...] = ()
    sent: tuple[tuple[int, int, int], ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)


class VlmJudge(Judge[VlmQuery, VlmReply | None], Protocol):
    """A judge of questions about pictures."""

    @property
    def identity(self) -> str:
        """Hash of weights and of every setting that bears on a reply; part of a model's version."""
        ...

    def answer(self, queries: Sequence[VlmQuery]) -> list[VlmReply | None]:
        """Return one reply per query, in order; None where this one has none, such as for logits that are not finite.

        Raises:
            JudgeDown: If asking again with fewer would not help.
        """
        ...

    def cells(self, query: VlmQuery) -> tuple[Cells, ...] | None:
        """Return what the network would see of each picture and clip, without asking it; None where unknown."""
        ...


def expected_value(values: Sequence[float], probabilities: Sequence[float]) -> tuple[float, float]:
    """Return mean and variance of a value whose possible outcomes have these probabilities.

    Example:
        >>> expected_value([1, 2, 3, 4, 5], [0.0, 0.0, 0.5, 0.5, 0.0])
        (3.5, 0.25)
    """
    p = np.asarray(probabilities, float)
    v = np.asarray(values, float)
    if p.shape != v.shape or p.ndim != 1 or not np.isfinite(p).all() or p.min() < 0 or p.sum() <= 0:
        raise ShapeError(
            "An expected value cannot be formed",
            seen=f"{v.shape} values, probabilities {p.tolist()}",
            allowed="a finite probability ≥ 0 for each value, not all of them 0",
        )
    p = p / p.sum()
    mean = float(p @ v)
    return mean, float(p @ (v - mean) ** 2)


def picture_key(*pictures: Image) -> bytes:
    """Return a digest of pictures, 16 bytes; equal for equal pixels and sizes."""
    digest = xxhash.xxh3_128()
    for picture in pictures:
        digest.update(repr(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).data)
    return digest.digest()


def _check_picture(picture: Image) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ShapeError(
            "A picture of a question has the wrong form",
            seen=f"{picture.dtype} {picture.shape}",
            allowed="uint8 (h, w, 3), not empty",
        )
