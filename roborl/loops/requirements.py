"""Bars such as ``success>=0.8``: read from a command line or a file, and held against measured figures."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from roborl.errors import ConfigError

_COMPARATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
_REQUIREMENT = re.compile(
    r"^\s*([a-z][a-z0-9_]*)\s*(>=|<=|==|>|<)\s*([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A bar such as ``success>=0.8``.

    Attributes:
        name: Of the figure.
        comparator: ``>=  <=  >  <  ==``.
        bound: The number.
    """

    name: str
    comparator: str
    bound: float

    @classmethod
    def parse(cls, text: str, figures: Collection[str], *, option: str = "--require") -> Requirement:
        """Read a bar; nothing in it is ever executed.

        Args:
            text: The bar.
            figures: Names that it may speak of.
            option: What it was given with.

        Raises:
            ConfigError: If it is not a figure, a comparator and a number.

        Example:
            >>> Requirement.parse("success >= 0.8", ["success"]).holds({"success": 0.82})
            True
        """
        match = _REQUIREMENT.match(text)
        if match is None or match[1] not in figures:
            raise ConfigError(
                "A requirement cannot be read",
                seen=text,
                allowed=f"one of {', '.join(figures)}, then one of {' '.join(_COMPARATORS)}, then a number",
                remedy=f"For example: {option} '{next(iter(figures))}>=0.8'",
            )
        return cls(name=match[1], comparator=match[2], bound=float(match[3]))

    def holds(self, figures: Mapping[str, float]) -> bool:
        """Return whether the figures meet the bar; NaN meets none."""
        return _COMPARATORS[self.comparator](figures[self.name], self.bound)
