"""The expected value of a number that a network writes token by token, and its variance.

A network that may choose among a few words gives a probability for each. One that writes ``+33.3`` digit by digit gives
probabilities for each place only, given what stands before it: what it would have written after another first digit is
not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from roborl.rewards.judges.queries import Token, expected_value

# The variance of a number about which nothing is known but that it lies in [-1, 1], around 0.
_UNKNOWN = 1 / 3


def expected_number(
    tokens: Sequence[Token], read: Callable[[str], float | None], *, endings: Sequence[str] = ("",)
) -> tuple[float, float] | None:
    """Return mean and variance of a written number, over the reply and those that differ from it in one place.

    The reply counts with the probability of all its tokens. One that differs at some place counts with the probability
    of the tokens before it times that of the other token, and stands for all that begin so: the places after it are
    taken as they were written or, where that is no number, as if the reply ended there, as it does behind a token without
    text. What is no number in either way might be any: it leaves the mean alone, and counts as doubt. All is made to add
    up to 1.

    Args:
        tokens: The places of the reply, with their alternatives.
        read: Reads the number in a reply, in [-1, 1], None where there is none.
        endings: What may stand behind a number at the end of a reply.

    Returns:
        Mean and variance, or None where the reply itself is no number or alternatives are lacking.

    Example:
        >>> sign = Token(text="+", alternatives=(("+", 0.75), ("-", 0.25)))
        >>> expected_number([sign, Token(text="1", alternatives=(("1", 1.0),))], float)
        (0.5, 0.75)
    """
    written = [token.text for token in tokens]
    value = read("".join(written))
    if value is None:
        return None
    values, weights, reached, unread = [], [], 1.0, 0.0
    for place, token in enumerate(tokens):
        chances = token.chances
        if token.text not in chances:
            return None
        for text, probability in chances.items():
            if text == token.text:
                continue
            begun = "".join([*written[:place], text])
            ways = ("".join(written[place + 1 :]), *endings) if text else endings
            other = next((number for way in ways if (number := read(begun + way)) is not None), None)
            if other is None:
                unread += reached * probability
            else:
                values.append(other)
                weights.append(reached * probability)
        reached *= chances[token.text]
    mean, variance = expected_value([*values, value], [*weights, reached])
    read_mass = sum(weights) + reached
    return mean, (read_mass * variance + unread * (_UNKNOWN + mean**2)) / (read_mass + unread)
