"""What the numbers of a bench's states and actions stand for, for datasets, stores, checkpoints and both ends of a link."""

from __future__ import annotations

from roborl.data.scales import Scales
from roborl.envs.bench import Bench
from roborl.envs.bench_maps import action_map, workspace
from roborl.envs.robot_model import load_robot_model


def scales(bench: Bench) -> Scales:
    """Return the scales of a bench's states and actions."""
    model = load_robot_model(bench.model)
    low, high = workspace(bench)
    return Scales(
        model=model.name,
        state_low=(*model.lower.tolist(), *low.tolist()),
        state_high=(*model.upper.tolist(), *high.tolist()),
        action_unit=tuple(action_map(bench).unit.tolist()),
    )
