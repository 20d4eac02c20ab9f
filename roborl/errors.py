"""Every error that roborl raises on purpose, as one tree.

A message has four parts: what is wrong, the value seen, what is allowed, what to do.
"""

from __future__ import annotations


class RoborlError(Exception):
    """Root of all deliberate errors.

    Args:
        problem: What is wrong, one clause.
        seen: The value that was found.
        allowed: What would have been accepted.
        remedy: What the reader should do next.
    """

    def __init__(
        self, problem: str, *, seen: object = None, allowed: object = None, remedy: str = ""
    ) -> None:
        self.problem, self.seen, self.allowed, self.remedy = problem, seen, allowed, remedy
        parts = [problem.rstrip(".") + "."]
        if seen is not None:
            parts.append(f"Found: {' '.join(str(seen).split())}.")  # drivers speak in paragraphs
        if allowed is not None:
            parts.append(f"Allowed: {allowed}.")
        if remedy:
            parts.append(remedy.rstrip(".") + ".")
        super().__init__(" ".join(parts))


def spelt_out(error: BaseException) -> str:
    """Return another's error with its type and with what it was raised from, where drivers hide the true reason."""
    said = f"{type(error).__name__}: {error}"
    return said if error.__cause__ is None else f"{said} ({spelt_out(error.__cause__)})"


class ConfigError(RoborlError):
    """A setting, file or command line that cannot be used."""


class ShapeError(RoborlError, ValueError):
    """An array whose shape or dtype is not the documented one."""


class WireError(RoborlError):
    """A message that does not follow the protocol."""


class HandshakeMismatch(WireError):
    """Two peers that disagree on a field; the message names it and both values."""


class DeadlineExceeded(RoborlError, TimeoutError):
    """A wait that reached its deadline."""


class RobotError(RoborlError):
    """A robot, camera or bus that does not do what was asked."""


class FrozenCamera(RobotError):
    """A camera that shows one picture only, however fresh it says it is, until it is connected anew."""


class SafetyStop(RobotError):
    """The safety filter or a watchdog stopped the arm."""


class DatasetError(RoborlError):
    """A dataset or store that is missing, torn or does not fit."""


class ModelLoadError(RoborlError):
    """A checkpoint that is missing, foreign, incomplete or not finite."""


class TrainingError(RoborlError):
    """A training run that cannot go on, such as one whose numbers are no longer finite."""
