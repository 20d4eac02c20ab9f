"""From the body of an endpoint's answer to a reply: its text, its probabilities, and what it says about itself."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from roborl.rewards.judges.queries import Token, VlmQuery, VlmReply

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a body of another form than agreed can raise, whatever stands where in it."""

LARGEST = 4 << 20
"""Most bytes of an answer."""

_ROUNDING = 1e-3  # by which a probability may exceed 1


def read_reply(
    query: VlmQuery,
    content: bytes,
    *,
    prefilled: bool,
    sent: tuple[tuple[int, int, int], ...],
    took_ms: float,
) -> VlmReply:
    """Read the body of an answer.

    Args:
        query: What was asked.
        content: The body.
        prefilled: Whether the endpoint was made to start the reply with the query's own words; if not, the network has
            to write them before the choice.
        sent: Sizes of the pictures as they were sent.
        took_ms: How long the answer took.

    Raises:
        Exception: One of :data:`UNREADABLE`, if the body is of another form.
    """
    answered = json.loads(content)
    (choice,) = answered["choices"]
    text = choice["message"]["content"] or ""
    if not isinstance(text, str):
        raise ValueError("a reply that is no text")
    text = _whole(text)
    text += _trimmed_stop(query, choice, text)
    # Of an endpoint that was not told the stop, a reply may go on behind it.
    stops = [text.find(stop) + len(stop) for stop in query.stop if stop in text]
    text = text[: min(stops, default=len(text))]
    places = (choice.get("logprobs") or {}).get("content") or []
    tokens = _spelling(text, [_token(place) for place in places])
    probabilities, mass = _weigh(query.choices, tokens if prefilled else _behind(query.reply_start, tokens))
    usage = answered.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    if not query.max_tokens:
        text = query.reply_start
    elif prefilled:
        text = query.reply_start.rstrip() + text
    return VlmReply(
        text=text,
        probabilities=probabilities,
        mass=mass,
        tokens=tokens if query.alternatives else (),
        ended=bool(stops) or choice.get("finish_reason") != "length",
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        reused_tokens=int(details.get("cached_tokens") or 0),
        sent=sent,
        timings_ms={"endpoint": took_ms},
    )


def _trimmed_stop(query: VlmQuery, choice: dict[str, Any], text: str) -> str:
    """Return the stop that ended a reply, where the endpoint names it and has left it out of the text."""
    stop = choice.get("stop_reason") or choice.get("matched_stop")  # vLLM's name, SGLang's
    return stop if isinstance(stop, str) and stop in query.stop and not text.endswith(stop) else ""


def _whole(text: str) -> str:
    """Return text with a "?" for each half of a character: JSON may hold such, and no file or message can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _token(place: dict[str, Any]) -> Token:
    others = [
        (_whole(str(other["token"])), math.exp(float(other["logprob"]))) for other in place["top_logprobs"]
    ]
    if not all(p <= 1.0 + _ROUNDING for _, p in others):
        raise ValueError("probabilities that are none")
    return Token(
        text=_whole(str(place["token"])), alternatives=tuple(sorted(others, key=lambda pair: -pair[1]))
    )


def _spelling(text: str, tokens: Sequence[Token]) -> tuple[Token, ...]:
    """Return the tokens without those behind the text: an endpoint may name the one that ended it, which is not told."""
    said = ""
    for place, token in enumerate(tokens):
        if text and said == text:
            return tuple(tokens[:place])
        said += token.text
    return tuple(tokens)


def _behind(start: str, tokens: Sequence[Token]) -> Sequence[Token]:
    """Return the tokens behind those that spell some words; none where the reply begins otherwise."""
    said = ""
    for place, token in enumerate(tokens):
        if said.strip() == start.strip():
            return tokens[place:]
        said += token.text
    return ()


def _weigh(choices: Sequence[str], tokens: Sequence[Token]) -> tuple[tuple[float, ...] | None, float]:
    """Return the probability of each choice as first word among those reported, and of all of them together.

    A network may write a space first. Then a choice has a probability at that place too, instead of the space, and behind it.
    """
    found, before = [0.0] * len(choices), 1.0
    for token in tokens if choices else ():
        for place, choice in enumerate(choices):
            found[place] += before * sum(p for text, p in token.alternatives if text.strip() == choice)
        if token.text.strip():
            break
        before *= token.chances.get(token.text, 1.0)
    mass = sum(found)
    return (tuple(p / mass for p in found) if mass > 0 else None), min(mass, 1.0)
