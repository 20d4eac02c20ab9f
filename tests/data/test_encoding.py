from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from roborl.data.encoding import scheduled_as_before


def test_the_scheduling_of_before_comes_back_also_after_an_error() -> None:
    def encode() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # which everybody may
        raise ValueError("torn")

    before = os.sched_getscheduler(0)
    with pytest.raises(ValueError, match="torn"), scheduled_as_before():
        encode()
    assert os.sched_getscheduler(0) == before


def test_an_encoder_that_takes_real_time_for_itself_does_not_keep_it(tmp_path: Path) -> None:
    """As root it takes it; for anybody else nothing is to be given back."""
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    with scheduled_as_before(), av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("libsvtav1", rate=Fraction(10))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == before
