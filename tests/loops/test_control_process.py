"""What an actor's control process makes of its bench file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from roborl.clock import MonotonicClock
from roborl.envs.bench import load_bench
from roborl.loops.actor import ActConfig
from roborl.loops.control_process import make_operator, make_settings


class Scene:
    """A scene in which the task is done from the start."""

    succeeded = True

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    def reset(self, seed: int | None) -> None:
        self.seeds.append(seed)


@pytest.mark.parametrize(
    ("outcome", "mode", "said", "told"),
    [
        ("auto", "train", True, None),
        ("judge", "train", None, "judge"),
        # The reward model is shown no evaluation episodes.
        ("judge", "evaluate", True, None),
    ],
)
def test_a_simulation_keeps_its_verdict_to_itself_where_a_judge_gives_it(
    outcome: str, mode: str, said: bool | None, told: str | None
) -> None:
    bench = load_bench("so101_sim", [f"--outcome={outcome}"])
    config, scene = ActConfig(mode=mode), Scene()
    nothing: Any = None
    robot: Any = SimpleNamespace(scene=scene)
    operator = make_operator(config, bench, robot, nothing, nothing, MonotonicClock(), lambda: False)
    operator.reset(7)
    assert scene.seeds == [7]
    assert operator.verdict() is said
    assert make_settings(config, bench).meta.get("outcome") == told
