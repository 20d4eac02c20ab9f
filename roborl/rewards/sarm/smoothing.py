"""How opensarm's inference steadies the progress that it reads: a mean of the latest sure readings.

Source: opensarm, utils/pred_smoother.py, with the settings that its evaluation and its labelling use.
"""

from __future__ import annotations

from collections import deque

_FRAMES = 100  # ten readings, ten frames apart
_SURE = 0.9
_POWER = 3
_EPSILON = 1e-6


def smoothing_span(*, trained_hz: float, observation_hz: float) -> int:
    """Return how many observations last as long as the frames over which opensarm averages.

    Args:
        trained_hz: Frames per second of what the network was trained on.
        observation_hz: Observations per second.

    Example:
        >>> [smoothing_span(trained_hz=30.0, observation_hz=hz) for hz in (10.0, 30.0)]
        [33, 100]
    """
    return max(1, round(_FRAMES * observation_hz / trained_hz))


class SureMean:
    """The mean of the latest sure readings, weighted by the third power of how sure they are.

    A reading that is not sure leaves no trace: the last mean is held. Before the first sure one, the very first reading
    is. It looks back over time, however often it reads: opensarm keeps its ten latest sure readings, which last as long
    where all are sure.

    Args:
        span: How long a reading counts, in observations.

    Example:
        >>> mean = SureMean(100)
        >>> [round(mean.read(10 * i, v, c), 4) for i, (v, c) in enumerate(((0.2, 1.0), (0.8, 0.5), (0.4, 0.9)))]
        [0.2, 0.2, 0.2843]
    """

    def __init__(self, span: int) -> None:
        self._span = span
        self._sure: deque[tuple[int, float, float]] = deque()
        self._held: float | None = None

    def read(self, index: int, value: float, confidence: float) -> float:
        """Take the next reading and return the mean.

        Args:
            index: Number of its observation, larger than the one before.
            value: Progress in [0, 1].
            confidence: How sure the network is of the stage, in [0, 1].
        """
        if confidence >= _SURE:
            while self._sure and self._sure[0][0] <= index - self._span:
                self._sure.popleft()
            self._sure.append((index, value, confidence**_POWER))
            total = sum(weight for _, _, weight in self._sure) + _EPSILON
            self._held = sum(value * weight for _, value, weight in self._sure) / total
        elif self._held is None:
            self._held = value
        return self._held
