"""Pictures out of replay memory are windows of their padded rows, down to the last byte of the last one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from roborl.data.arena import PAD
from roborl.learning.gather import ImageGather
from roborl.types import Image


def padded_rows(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return rows of noise that nobody may write to, as a learner maps them."""
    shape = (count, height + 2 * PAD, width + 2 * PAD, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    frames.flags.writeable = False
    return frames


def windows(frame: NDArray[np.uint8], height: int, width: int) -> set[bytes]:
    """Return every picture that a shift of at most ``PAD`` can make of one row."""
    shifted = sliding_window_view(frame, (height, width, 3))[:, :, 0]
    return {window.tobytes() for line in shifted for window in line}


@pytest.mark.parametrize(("height", "width"), [(4, 4), (13, 7), (64, 64), (97, 120)])
def test_every_picture_is_a_window_of_its_own_row(height: int, width: int) -> None:
    frames = padded_rows(3, height, width)
    gather = ImageGather(frames, PAD)
    rows = np.repeat(np.arange(3), 400).reshape(2, -1)
    taken: Image = gather.into(gather.empty(rows.shape), rows, np.random.default_rng(1))
    assert taken.shape == (*rows.shape, height, width, 3)
    allowed = [windows(frame, height, width) for frame in frames]
    met: list[set[bytes]] = [set() for _ in frames]
    for row, picture in zip(rows.reshape(-1), taken.reshape(-1, height, width, 3), strict=True):
        assert picture.tobytes() in allowed[row]
        met[row].add(picture.tobytes())
    assert min(map(len, met)) > 0.9 * (2 * PAD + 1) ** 2 - 2 * PAD, (
        "nearly all shifts occur in every row, the last too"
    )


def test_without_a_shift_a_picture_is_the_row_without_its_border() -> None:
    frames = padded_rows(5, 32, 32)
    gather = ImageGather(frames, 0)
    rows = np.array([4, 0, 4, 2])
    taken = gather.into(gather.empty(rows.shape), rows, np.random.default_rng(0))
    assert np.array_equal(taken, frames[rows, PAD:-PAD, PAD:-PAD])


def test_threads_change_nothing_and_memory_that_is_only_read_is_no_warning() -> None:
    frames, taken = padded_rows(40, 128, 128), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                gather = ImageGather(frames, PAD)
            rng = np.random.default_rng(3)
            rows = rng.integers(40, size=(2, 64))
            taken.append(gather.into(gather.empty(rows.shape), rows, rng))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*taken)
