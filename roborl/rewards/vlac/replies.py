"""What the critic's replies say: a signed percentage of the remaining way, or whether the task is done.

Fractions inside, percent in the text: this is the one place where they meet. A reply that does not plainly state one
number within its range, and nothing else, is missing.
"""

from __future__ import annotations

import math

from roborl.rewards.judges.queries import VlmReply
from roborl.rewards.parsing import parse_flag, parse_signed_percent
from roborl.rewards.recurrences import Change
from roborl.rewards.written_numbers import expected_number

YES, NO = "1", "0"


def read_percent(text: str) -> float | None:
    """Read the change that a reply states, in [−1, 1]; None where it does not state exactly one, and nothing else.

    Example:
        >>> read_percent("+60"), read_percent("-15"), read_percent("1.02.0"), read_percent("about 20")
        (0.6, -0.15, None, None)
    """
    said = text.strip().removesuffix("</score>")  # the question opened the tag
    value = parse_signed_percent(said, unit=False)
    return parse_signed_percent(said, unit=True) if value is None else value


def write_percent(change: float) -> str:
    """Return the reply that states a change, as training teaches it: a whole number, and a sign unless it is 0.

    Example:
        >>> write_percent(0.6), write_percent(-0.154), write_percent(0.001)
        ('+60', '-15', '0')
    """
    percent = round(100.0 * change)
    return f"{percent:+d}" if percent else "0"


def read_change(reply: VlmReply, *, probabilities: bool) -> Change | None:
    """Return the change that a reply states; with its expected value and deviation where the judge gives those.

    Args:
        reply: The reply. One that was cut short is missing: more digits might have come.
        probabilities: Whether the probabilities of the tokens refine the value, the sign's among them.
    """
    value = read_percent(reply.text) if reply.ended else None
    if value is None:
        return None
    written = "".join(token.text for token in reply.tokens)
    if probabilities and reply.tokens and read_percent(written) == value:
        expected = expected_number(reply.tokens, read_percent)
        if expected is not None:
            mean, variance = expected
            return Change(mean=min(max(mean, -1.0), 1.0), error=math.sqrt(max(variance, 0.0)))
    return Change(mean=value)


def read_done(reply: VlmReply, *, least_mass: float) -> float | None:
    """Return the probability that the task is done, None where the reply is neither yes nor no.

    Args:
        reply: The reply, with the probabilities of :data:`YES` and :data:`NO` in this order where the judge gives them.
        least_mass: Probability that the two must have together for their ratio to mean anything.
    """
    if reply.probabilities is not None:
        if reply.mass < least_mass:
            return None
        share = reply.probabilities[0]
        return share if math.isfinite(share) else None
    flag = parse_flag(reply.text.strip().removesuffix("</done>")) if reply.ended else None
    return None if flag is None else float(flag)
