"""What the numbers of a bench's states and actions stand for, kept with them wherever they are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from roborl.data.lerobot_columns import ACTION, STATE
from roborl.errors import DatasetError

_SCALE = "scale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """The robot's model, what a state of -1 and of 1 stands for, and how much an action of 1 moves.

    Attributes:
        model: Folder under ``robots/``.
        state_low: What -1 stands for in each dimension of the state: degrees, gripper parts of 100, or metres.
        state_high: What 1 stands for.
        action_unit: How much an action of 1 changes in each of its dimensions, in the same units.
    """

    model: str
    state_low: tuple[float, ...]
    state_high: tuple[float, ...]
    action_unit: tuple[float, ...]

    @classmethod
    def of(cls, features: Mapping[str, Mapping[str, Any]]) -> Self | None:
        """Return the scales that a dataset's columns name, None where they name none.

        Raises:
            DatasetError: If what they name cannot be read.
        """
        state, action = (dict(features.get(name) or {}).get(_SCALE) for name in (STATE, ACTION))
        if state is None or action is None:
            return None
        try:
            found = cls(
                model=str(action["model"]),
                state_low=tuple(map(float, state["low"])),
                state_high=tuple(map(float, state["high"])),
                action_unit=tuple(map(float, action["unit"])),
            )
            lengths = [len(found.state_low), len(found.state_high), len(found.action_unit)]
            if lengths != [math.prod(features[name]["shape"]) for name in (STATE, STATE, ACTION)]:
                raise ValueError(f"for {lengths} dimensions")
            return found
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                "The scales of the dataset's states and actions cannot be read",
                seen=f"{type(error).__name__}: {error} in {state} and {action}",
                allowed="low and high of each dimension of the state, model, and unit of each dimension of the action",
                remedy="Restore the dataset's meta/info.json",
            ) from error

    def written(self, features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return a dataset's columns with these scales in them.

        They stand with the columns, since LeRobot carries these over as they are when a dataset is cut, split or merged,
        while it drops whatever else ``info.json`` holds.
        """
        state = {"low": list(self.state_low), "high": list(self.state_high)}
        action = {"model": self.model, "unit": list(self.action_unit)}
        named = {name: dict(feature) for name, feature in features.items()}
        return named | {STATE: named[STATE] | {_SCALE: state}, ACTION: named[ACTION] | {_SCALE: action}}

    def picked(self, columns: Sequence[int]) -> Scales:
        """Return the scales of these dimensions of the state."""
        return replace(
            self,
            state_low=tuple(self.state_low[column] for column in columns),
            state_high=tuple(self.state_high[column] for column in columns),
        )

    def differing(self, other: Scales) -> dict[str, Any]:
        """Return those of its fields that ``other`` has otherwise."""
        return {name: value for name, value in asdict(self).items() if value != getattr(other, name)}

    def rescaled_state(self, state: NDArray[np.float32], to: Scales) -> NDArray[np.float32]:
        """Return states (n, s) of these scales in those of another bench."""
        (centre, half), (new_centre, new_half) = _middle(self), _middle(to)
        values: NDArray[np.float32] = ((state * half + centre - new_centre) / new_half).astype(np.float32)
        return values

    def rescaled_action(self, action: NDArray[np.float32], to: Scales) -> NDArray[np.float32]:
        """Return actions (n, a) of these scales in those of another bench, cut to [-1, 1]."""
        ratio = np.array(self.action_unit) / np.array(to.action_unit)
        values: NDArray[np.float32] = np.clip(action * ratio, -1.0, 1.0).astype(np.float32)
        return values


def _middle(scales: Scales) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = np.array(scales.state_low), np.array(scales.state_high)
    return 0.5 * (low + high), 0.5 * (high - low)
