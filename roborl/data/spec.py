"""The form of a store's data, and what does not fit it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roborl.data.scales import Scales
from roborl.errors import DatasetError
from roborl.records import Arrival
from roborl.whole_files import write_whole


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """The form of a store's data and the size of its replay memory.

    Attributes:
        cameras: Camera name to (height, width) at recording resolution, px.
        image_px: Side of the square pictures in the replay memory, px.
        state_dim: Length of the state.
        action_dim: Length of an action.
        max_steps: Longest online episode, steps.
        capacity_bytes: Size of the replay memory.
        scales: What the numbers of states and actions stand for; None where nobody says.
    """

    cameras: dict[str, tuple[int, int]]
    image_px: int
    state_dim: int
    action_dim: int
    max_steps: int
    capacity_bytes: int = 2 << 30
    scales: Scales | None = None


def check_form(root: Path, spec: StoreSpec) -> None:
    """Make sure that a store's folder is of this form, and note the form where it is new. Scales that either does not name fit.

    Raises:
        DatasetError: Naming the field that differs and both values.
    """
    path = root / "store.json"
    form = json.loads(json.dumps({"format": 1, **asdict(spec)}))
    if path.exists():
        before = _read_form(path)
        for name in ("format", "cameras", "state_dim", "action_dim"):
            if before.get(name) != form[name]:
                raise DatasetError(
                    f"This store was made with another {name}",
                    seen=f"{name} {form[name]}",
                    allowed=before.get(name),
                    remedy="Use the bench it was made with or another folder",
                )
        held, scales = before.get("scales") or {}, form["scales"] or {}
        for name in sorted(held.keys() & scales.keys()):
            if held[name] != scales[name]:
                raise DatasetError(
                    f"This store's states and actions were stored with another {name}",
                    seen=scales[name],
                    allowed=held[name],
                    remedy="Set the bench's workspace and action steps back, or begin another run: that one takes "
                    "demonstrations of either",
                )
        form["scales"] = scales or held or None
    write_whole(path, json.dumps(form, indent=2).encode())


def stored_scales(root: Path) -> Scales | None:
    """Return what the numbers of a store's states and actions stand for, None where it does not say.

    Raises:
        DatasetError: If the form cannot be read.
    """
    path = root / "store.json"
    held = _read_form(path).get("scales") if path.exists() else None
    if not held:
        return None
    low, high, unit = (tuple(held[name]) for name in ("state_low", "state_high", "action_unit"))
    return Scales(model=held["model"], state_low=low, state_high=high, action_unit=unit)


def _read_form(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DatasetError(
            "The form of a store cannot be read",
            seen=f"{path}: {error}",
            allowed="the JSON that the store wrote when it was made",
            remedy="Delete this file if bench and image sizes are those the store was made with",
        ) from error


def misfit(spec: StoreSpec, arrival: Arrival) -> str | None:
    """Say how an arrival differs from the form of the store, None where it does not."""
    found: dict[str, object] = {
        "cameras": {name: frame.rgb.shape[:2] for name, frame in sorted(arrival.observation.frames.items())},
        "state_dim": arrival.observation.state.size,
    }
    wanted: dict[str, object] = {
        "cameras": {name: tuple(size) for name, size in sorted(spec.cameras.items())},
        "state_dim": spec.state_dim,
    }
    if arrival.command is not None:
        found["action_dim"], wanted["action_dim"] = arrival.command.action.size, spec.action_dim
        if not np.isfinite(arrival.command.action).all():
            return "its action is not finite"
        if not np.isfinite(arrival.reward):
            return "its reward is not finite"
    if not np.isfinite(arrival.observation.state).all():
        return "its state is not finite"
    for name, value in found.items():
        if value != wanted[name]:
            return f"its {name} is {value}, the store's is {wanted[name]}"
    return None
