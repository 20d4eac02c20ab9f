from __future__ import annotations

import numpy as np
import pytest

from roborl.envs.robot_model import load_robot_model
from roborl.envs.scene import Scene
from roborl.envs.tasks.registry import TASKS, make_task
from roborl.errors import ConfigError


def places(spread_m: float, body: str, task: str = "PickPlace") -> np.ndarray:
    scene = Scene(make_task(task, spread_m), load_robot_model("so101_sim"))
    found = []
    for seed in range(40):
        scene.reset(seed)
        found.append(scene.position(body)[:2])
    scene.close()
    return np.array(found)


@pytest.mark.parametrize(
    ("task", "body"),
    [(task, body) for task in ("PickPlace", "PushCube") for body in ("red_cube", "green_pad")]
    + [("ClearTable", body) for body in ("red_cube", "yellow_cube", "purple_cube")],
)
def test_objects_that_matter_start_near_their_usual_places_and_all_over_that_patch(
    body: str, task: str
) -> None:
    away = places(0.03, body, task) - TASKS[task].usual[body]
    assert np.abs(away).max() <= 0.03 + 1e-9
    assert np.ptp(away, axis=0).min() > 0.045


def test_what_is_to_be_left_alone_starts_anywhere() -> None:
    assert np.ptp(places(0.03, "blue_cube"), axis=0).min() > 0.1


def test_without_a_spread_objects_start_anywhere() -> None:
    assert np.ptp(places(0.0, "red_cube"), axis=0).min() > 0.1


def test_a_task_without_usual_places_says_so() -> None:
    with pytest.raises(ConfigError, match="usual places") as caught:
        make_task("Reach", 0.03)
    assert "PickPlace" in str(caught.value)


@pytest.mark.parametrize("spread_m", [-0.01, float("nan"), float("inf")])
def test_a_spread_that_is_no_distance_is_refused(spread_m: float) -> None:
    with pytest.raises(ConfigError, match="spread_m is out of range"):
        make_task("PickPlace", spread_m)
