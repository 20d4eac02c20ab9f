"""What a judge of hops says: one signed percentage between two tags, read strictly and written as it is taught."""

from __future__ import annotations

import math

from roborl.rewards.fusion import Hop
from roborl.rewards.judges.queries import VlmReply
from roborl.rewards.parsing import parse_signed_percent
from roborl.rewards.written_numbers import expected_number

_TAG = "score"
CLOSING = f"</{_TAG}>"
"""Where a reply ends."""


def hop_of(reply: VlmReply) -> Hop | None:
    """Return the hop that a reply states; None where it cannot be read.

    Where the reply comes with the probabilities of its tokens, it is the expected hop, with its standard deviation.
    """
    value = read_hop(reply.text)
    if value is None:
        return None
    expected = None
    if read_hop("".join(token.text for token in reply.tokens)) == value:
        expected = expected_number(reply.tokens, read_hop, endings=(f"%{CLOSING}", CLOSING))
    if expected is None:
        return Hop(value=value)
    mean, variance = expected
    return Hop(value=min(max(mean, -1.0), 1.0), spread=math.sqrt(variance))


def read_hop(text: str) -> float | None:
    """Read the hop that a reply states, in [-1, 1]; None where it does not state exactly one, and nothing else.

    Example:
        >>> read_hop("<score>+33.5%</score>"), read_hop("<score>-25.0.0.5.6"), read_hop("+20% or so")
        (0.335, None, None)
    """
    return parse_signed_percent(text, tag=_TAG)


def write_hop(hop: float) -> str:
    """Return the reply that states a hop, as training teaches it: one decimal, and a sign unless it is 0.

    Example:
        >>> write_hop(1 / 3), write_hop(-0.5), write_hop(-1e-9)
        ('<score>+33.3%</score>', '<score>-50.0%</score>', '<score>0.0%</score>')
    """
    percent = round(100.0 * hop, 1)
    return f"<{_TAG}>{percent:+.1f}%{CLOSING}" if percent else f"<{_TAG}>0.0%{CLOSING}"
