"""Bars that the figures of a benchmark or of the demonstration are held to, and how both are said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

type Read = Callable[[Mapping[str, Any]], float]
"""Takes a figure from a result."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a figure must reach.

    Attributes:
        name: The figure, in words.
        read: Takes it from the result.
        least: It must be at least this; None for no such bound.
        most: It must be at most this; None for no such bound.
    """

    name: str
    read: Read
    least: float | None = None
    most: float | None = None

    def check(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figure beside its bar, and whether it is met."""
        found = self.read(result)
        met = (self.least is None or found >= self.least) and (self.most is None or found <= self.most)
        bounds = ((">=", self.least), ("<=", self.most))
        bar = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        return {"name": self.name, "figure": found, "bar": bar, "met": met}


def figure(*path: str) -> Read:
    """Return what takes the figure at a path of names from a result."""

    def read(result: Any) -> float:
        for name in path:
            result = result[name]
        return float(result)

    return read


def bar_row(checked: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a bar is about and how its figure stands to it, for people."""
    said = "met" if checked["met"] else "MISSED"
    return checked["name"], f"{number(checked['figure'])}   (bar {checked['bar']}: {said})"


def lined_up(rows: list[tuple[str, str]]) -> list[str]:
    """Return rows of a name and what is said of it as lines, the second column one below the other."""
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{width}}  {said}" for name, said in rows]


def number(value: Any) -> str:
    """Return a figure for people."""
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e4 else str(value)
