"""Which columns of a dataset are cameras."""

from __future__ import annotations

from typing import Any

import pytest

from roborl.data.lerobot_info import camera_keys


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
