"""From the words of a reply to a number, or to None: a reply that is not exactly of the asked form is missing.

Nothing is guessed, clamped or filled in. A number that stands for a wrong one does more harm than a missing one: a
silent 0 from a backward comparison would read as a finished task.
"""

from __future__ import annotations

import re

_WHOLE = (
    r"(?:0|[1-9][0-9]{0,2})"  # no leading zeros, no more than three digits: longer ones are runaway digits
)
_NUMBER = rf"{_WHOLE}(?:\.[0-9]{{1,4}})?"
_MARK = re.compile("ANSWER:", re.IGNORECASE)
_SIGNED = re.compile(rf"\s*([+-]?{_NUMBER})\s*(%?)\s*")


def parse_score(text: str) -> int | None:
    r"""Read a whole score from 1 to 5 behind the mark ``ANSWER:``, which may follow other words, or standing alone.

    Returns:
        The score; None where there is none, where it is none of the five, where anything follows it but a full stop,
        or where several marks, in any case, name different ones.

    Example:
        >>> parse_score("ANSWER: 4"), parse_score("The cube is in.\nAnswer: 5."), parse_score("3")
        (4, 5, 3)
        >>> parse_score("ANSWER: 45"), parse_score("ANSWER: 4 or 5"), parse_score("4 out of 5"), parse_score("")
        (None, None, None, None)
    """
    _, *said = _MARK.split(text)
    found = [re.fullmatch(rf"\s*(\**)\s*({_WHOLE})\s*\1\s*\.?\s*", part) for part in said or [text]]
    scores = {int(match[2]) if match else None for match in found}
    if len(scores) != 1:
        return None
    (score,) = scores
    return score if score is not None and 1 <= score <= 5 else None


def parse_signed_percent(
    text: str, *, tag: str = "", unit: bool = True, after_words: bool = False
) -> float | None:
    """Read a percentage from −100 to 100, its sign before it, as a share in [−1, 1].

    Args:
        text: The reply.
        tag: Name of the tags around the number, such as ``score``; empty for none.
        unit: Whether a percent sign has to follow the number; without, it must not.
        after_words: Whether words may stand before the tags, as where a network reasons first.

    Returns:
        The share; None where the reply is not exactly of this form, or beyond the range.

    Example:
        >>> parse_signed_percent("<score>+33.3%</score>", tag="score"), parse_signed_percent("-15", unit=False)
        (0.333, -0.15)
        >>> parse_signed_percent("I see it lifted. <answer>62.5%</answer>", tag="answer", after_words=True)
        0.625
        >>> parse_signed_percent("<score>-25.0.0.5%</score>", tag="score") is None
        True
    """
    content = tag_content(text, tag, after_words=after_words)
    match = None if content is None else _SIGNED.fullmatch(content)
    if match is None or bool(match[2]) is not unit:
        return None
    value = float(match[1])
    return round(value / 100.0, 8) + 0.0 if -100.0 <= value <= 100.0 else None


def parse_flag(text: str) -> bool | None:
    """Read a bare 1 or 0.

    Example:
        >>> parse_flag(" 1"), parse_flag("0"), parse_flag("10"), parse_flag("yes")
        (True, False, None, None)
    """
    return {"1": True, "0": False}.get(text.strip())


def tag_content(text: str, tag: str, *, after_words: bool = False) -> str | None:
    """Return what stands between tags that the reply consists of, or ends with.

    Args:
        text: The reply.
        tag: Name of the tags; empty to return the reply itself.
        after_words: Whether words may stand before the tags; several pairs of tags must then agree.

    Returns:
        The content as it stands; None where the reply is of another form.
    """
    if not tag:
        return text
    opening, closing = f"<{tag}>", f"</{tag}>"
    body = text.strip()
    if not body.endswith(closing) or body.count(opening) != body.count(closing):
        return None
    before, *said = body.split(opening)
    contents = {part.partition(closing)[0].strip() for part in said}
    if len(contents) != 1 or any(closing not in part for part in said):
        return None
    if not after_words and (before or len(said) > 1):
        return None
    return contents.pop()
