"""How far the score of a row can be told from half of it: from the words alone, or from the video alone.

A small linear classifier learns from the rows of some episodes and is asked about those of others. Its figure is the mean
over the scores of the share that it tells right, so that guessing is worth one over the number of scores, however many rows
each has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roborl.images import resized
from roborl.rewards.instructions import stem, words_of
from roborl.rewards.relabelling.cheap import drawn_at
from roborl.types import Image

type Features = NDArray[np.float64]

_FOLDS = 5
_MOST_TERMS = 400
_CELLS = (6, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What half a row tells.

    Attributes:
        accuracy: Mean over the scores of the share told right, in [0, 1]; NaN where it cannot be measured.
        chance: What guessing is worth.
        low: Lower bound of the 95 % bootstrap interval over episodes.
        high: Its upper bound.
        rows: How many rows it is of.
    """

    accuracy: float
    chance: float
    low: float
    high: float
    rows: int


def words_probe(texts: Sequence[str], levels: Sequence[int], episodes: Sequence[str]) -> ProbeResult:
    """Return how far scores can be told from instructions alone: their words, pairs of words, lengths and spelling.

    Args:
        texts: An instruction per row.
        levels: Its score.
        episodes: The episode that it is from: no episode is both learnt from and asked about.
    """
    counts = [_terms(text) for text in texts]

    def features(known: NDArray[np.bool_]) -> Features:
        seen = Counter(term for count, use in zip(counts, known, strict=True) if use for term in count)
        terms = [term for term, _ in sorted(seen.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_TERMS]]
        place = {term: at for at, term in enumerate(terms)}
        found = np.zeros((len(texts), len(terms) + 6))
        for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
            for term in count & place.keys():
                found[row, place[term]] = 1.0
            found[row, -6:] = len(text.split()) / 8.0, len(text) / 40.0, *_spelling(text)
        return found

    return _probe(features, levels, episodes)


def video_probe(looks: Sequence[Features], levels: Sequence[int], episodes: Sequence[str]) -> ProbeResult:
    """Return how far scores can be told from videos alone.

    Args:
        looks: What :func:`look_of` returns, for each row.
        levels: Its score.
        episodes: As of :func:`words_probe`.
    """
    whole = np.stack(looks) if looks else np.zeros((0, 1))
    return _probe(lambda known: whole, levels, episodes)


def look_of(first: Image, last: Image, frames: int) -> Features:
    """Return what a video looks like at a glance: its first and last picture, coarsely, and its length."""
    ends = [np.asarray(resized(picture, _CELLS), np.float64).ravel() / 255.0 for picture in (first, last)]
    return np.concatenate([ends[0], ends[1] - ends[0], [np.log(frames) / 4.0]])


def _terms(text: str) -> set[str]:
    words = [stem(word) for word in words_of(text)]
    return {*words, *(f"{a} {b}" for a, b in zip(["<", *words], [*words, ">"], strict=True))}


def _spelling(text: str) -> tuple[float, float, float, float]:
    """Return how a text is written, of which its words say nothing: first letter, last mark, other marks, capitals within."""
    rest = text[1:-1]
    marks = sum(not (letter.isascii() and (letter.isalpha() or letter == " ")) for letter in rest)
    return (
        float(text[:1].isupper()),
        float(not text[-1:].isalnum()),
        float(marks > 0),
        float(any(letter.isupper() for letter in rest)),
    )


def _probe(
    features: Callable[[NDArray[np.bool_]], Features], levels: Sequence[int], episodes: Sequence[str]
) -> ProbeResult:
    truth, owner = np.asarray(levels, int), np.asarray(episodes)
    classes = sorted(set(levels))
    # Spread evenly, and the same for an episode wherever it stands.
    order = sorted(set(episodes), key=lambda name: drawn_at(f"fold {name}"))
    fold = {name: at % _FOLDS for at, name in enumerate(order)}
    folds = np.array([fold[name] for name in episodes], int)
    chance = 1.0 / len(classes) if classes else float("nan")
    told = np.full(len(truth), -1)
    for number in range(min(_FOLDS, len(order)) if len(order) > 1 and len(classes) > 1 else 0):
        known = folds != number
        told[~known] = _classify(features(known), truth, known)
    if not len(told) or (told < 0).any():
        nothing = float("nan")
        return ProbeResult(accuracy=nothing, chance=chance, low=nothing, high=nothing, rows=len(truth))
    rights = np.zeros((len(order), len(classes)))
    asked = np.zeros_like(rights)
    for row, name in enumerate(owner):
        at = order.index(name), classes.index(int(truth[row]))
        asked[at] += 1
        rights[at] += told[row] == truth[row]
    draws = np.random.default_rng(0).multinomial(len(order), np.full(len(order), 1 / len(order)), 1000)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.quantile(np.nanmean((draws @ rights) / (draws @ asked), axis=1), [0.025, 0.975])
    accuracy = float((rights.sum(axis=0) / asked.sum(axis=0)).mean())
    return ProbeResult(accuracy=accuracy, chance=chance, low=float(low), high=float(high), rows=len(truth))


def _classify(features: Features, truth: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the scores told for what is not known: the nearest mean in the metric of the spread about the means."""
    x, y = features[known], truth[known]
    classes = np.unique(y)
    means = np.stack([x[y == level].mean(axis=0) for level in classes])
    away = x - means[np.searchsorted(classes, y)]
    spread = away.T @ away / len(x)
    # Few rows say little of the spread: it is drawn towards an even one.
    even = 0.1 * np.trace(spread) / len(spread) + 1e-6
    towards = np.linalg.solve(spread + even * np.eye(len(spread)), means.T)
    told = features[~known] @ towards - 0.5 * np.einsum("kd,dk->k", means, towards)
    return np.asarray(classes[np.argmax(told, axis=1)], int)
