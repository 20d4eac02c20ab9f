"""Which columns of a dataset are cameras, and what its dimensions are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from roborl.data.lerobot_info import camera_keys, describe
from roborl.testing.episodes import random_episode, write_episodes


@pytest.mark.parametrize(
    "said",
    [
        {"info": {"is_depth_map": True}},
        {"info": {"video.is_depth_map": True}},
        {"info": None, "video_info": {"video.is_depth_map": True}},
    ],
)
def test_a_camera_of_depth_is_none_of_colour_however_the_file_says_so(said: dict[str, Any]) -> None:
    shape = {"dtype": "video", "shape": [32, 48, 3]}
    features = {"observation.images.front": shape, "observation.images.depth": shape | said}
    assert camera_keys(features) == {"front": "observation.images.front"}


@pytest.mark.parametrize(
    "names",
    [
        ["x", "y", "z", "gripper"],
        {"motors": ["x", "y", "z", "gripper"]},
        {"gripper": 3, "x": 0, "y": 1, "z": 2},  # as LeRobot's gamepad and keyboard say them
    ],
)
def test_dimensions_have_their_names_in_order_whichever_way_the_file_lists_them(
    tmp_path: Path, names: object
) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    path = tmp_path / "d" / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"]["action"]["names"] = names
    path.write_text(json.dumps(info))
    assert describe(tmp_path / "d").action_names == ("x", "y", "z", "gripper")
