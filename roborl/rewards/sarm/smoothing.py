"""How opensarm's inference steadies the progress that it reads: a mean of the latest sure readings.

Source: opensarm, utils/pred_smoother.py, with the settings that its evaluation and its labelling use.
"""

from __future__ import annotations

from collections import deque

_READINGS = 10
_SURE = 0.9
_POWER = 3
_EPSILON = 1e-6


class SureMean:
    """The mean of the latest sure readings, weighted by the third power of how sure they are.

    A reading that is not sure leaves no trace: the last mean is held. Before the first sure one, the very first reading
    is. It looks back over readings, not seconds: ten of them, which opensarm takes ten frames apart.

    Example:
        >>> mean = SureMean()
        >>> [round(mean.read(v, c), 4) for v, c in ((0.2, 1.0), (0.8, 0.5), (0.4, 0.9))]
        [0.2, 0.2, 0.2843]
    """

    def __init__(self) -> None:
        self._sure: deque[tuple[float, float]] = deque(maxlen=_READINGS)
        self._held: float | None = None

    def read(self, value: float, confidence: float) -> float:
        """Take the next reading and return the mean.

        Args:
            value: Progress in [0, 1].
            confidence: How sure the network is of the stage, in [0, 1].
        """
        if confidence >= _SURE:
            self._sure.append((value, confidence**_POWER))
            total = sum(weight for _, weight in self._sure) + _EPSILON
            self._held = sum(value * weight for value, weight in self._sure) / total
        elif self._held is None:
            self._held = value
        return self._held
