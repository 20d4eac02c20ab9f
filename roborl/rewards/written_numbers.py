"""The expected value of a number that a network writes token by token, and its variance.

A network that may choose among a few words gives a probability for each. One that writes ``+33.3`` digit by digit gives
probabilities for each place only, given what stands before it: what it would have written after another first digit is
not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from roborl.rewards.judges.queries import Token, expected_value


def expected_number(
    tokens: Sequence[Token], read: Callable[[str], float | None]
) -> tuple[float, float] | None:
    """Return mean and variance of a written number, over the reply and those that differ from it in one place.

    The reply counts with the probability of all its tokens. One that differs at some place counts with the probability
    of the tokens before it times that of the other token, and stands for all that begin so: the places after it are
    taken as they were written. What cannot be read as a number has no part, and the rest is made to add up to 1.

    Args:
        tokens: The places of the reply, with their alternatives.
        read: Reads the number in a reply, None where there is none.

    Returns:
        Mean and variance, or None where the reply itself is no number or alternatives are lacking.

    Example:
        >>> sign = Token(text="+", alternatives=(("+", 0.75), ("-", 0.25)))
        >>> expected_number([sign, Token(text="2", alternatives=(("2", 1.0),))], float)
        (1.0, 3.0)
    """
    written = [token.text for token in tokens]
    value = read("".join(written))
    if value is None:
        return None
    values, weights, reached = [], [], 1.0
    for place, token in enumerate(tokens):
        probabilities = dict(token.alternatives)
        if token.text not in probabilities:
            return None
        for text, probability in token.alternatives:
            other = (
                None if text == token.text else read("".join([*written[:place], text, *written[place + 1 :]]))
            )
            if other is not None:
                values.append(other)
                weights.append(reached * probability)
        reached *= probabilities[token.text]
    return expected_value([*values, value], [*weights, reached])
