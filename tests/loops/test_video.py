from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roborl.errors import ConfigError
from roborl.loops.video import write_video


def test_the_same_pictures_make_the_same_file(tmp_path: Path) -> None:
    """Relabelled rows are known by their video's bytes, which a run that goes on has to find again."""
    for height, width in ((40, 40), (96, 96)):
        pictures = [np.full((height, width, 3), 30, np.uint8) for _ in range(12)]
        for t, picture in enumerate(pictures):
            picture[:, : width * t // 12] = 200
        written = set()
        for number in range(25):
            path = tmp_path / f"{number}.mp4"
            assert write_video(path, pictures, fps=10.0) == 12
            written.add(path.read_bytes())
        assert len(written) == 1, (height, width)


def test_a_video_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one frame"):
        write_video(tmp_path / "none.mp4", [], fps=10.0)
    assert not list(tmp_path.iterdir())
