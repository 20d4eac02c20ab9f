"""The size in which pictures are sent: the one in which a network's own preprocessing would take them in."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roborl.rewards.judges.picture_sizes import PictureSizes, fitting_size
from roborl.rewards.judges.queries import Clip, VlmQuery


@example(height=34, width=34, least=12_544, most=76_800, cell_px=28)
@given(
    height=st.integers(32, 1200),
    width=st.integers(32, 1200),
    least=st.sampled_from([0, 4_096, 12_544, 65_536]),
    most=st.sampled_from([76_800, 921_984]),
    cell_px=st.sampled_from([28, 32]),
)
def test_a_size_is_that_of_the_librarys_processors_which_leave_it_alone(height, width, least, most, cell_px):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    size = fitting_size(height, width, min_pixels=least, max_pixels=most, cell_px=cell_px)
    limits = {"factor": cell_px, "min_pixels": least, "max_pixels": most}
    assert size == smart_resize(height, width, **limits)
    if least <= size[0] * size[1] <= most:
        assert smart_resize(*size, **limits) == size


@given(height=st.integers(1, 2000), width=st.integers(1, 2000))
def test_without_known_cells_the_most_holds_to_the_pixel(height, width):
    rows, columns = fitting_size(height, width, max_pixels=76_800)
    assert rows * columns <= 76_800
    if height * width <= 76_800:
        assert (rows, columns) == (height, width)


@pytest.mark.parametrize(
    ("size", "limits", "fitting"),
    [
        ((480, 640), {"max_pixels": 76_800, "cell_px": 32}, (224, 320)),
        ((192, 320), {"max_pixels": 76_800, "cell_px": 32}, (192, 320)),
        ((224, 224), {"max_pixels": 76_800, "cell_px": 32}, (224, 224)),
        ((100, 100), {"min_pixels": 12_544, "max_pixels": 76_800, "cell_px": 28}, (112, 112)),
        ((10, 10), {"max_pixels": 76_800, "cell_px": 32}, (32, 32)),
        ((64, 64), {"min_pixels": 65_536, "max_pixels": 4_096, "cell_px": 32}, (64, 64)),
    ],
)
def test_sizes(size, limits, fitting):
    assert fitting_size(*size, **limits) == fitting


def sizes(**options):
    return PictureSizes(**({"min_pixels": 0, "max_pixels": 0, "cell_px": 0, "video": False} | options))


def test_pictures_and_clips_are_brought_to_the_size_and_the_grid_follows():
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    query = VlmQuery(parts=("a", picture, Clip(frames=(picture,) * 3, stamps_s=(0.0, 1.0, 2.0))))
    limited = sizes(max_pixels=76_800, cell_px=32)
    assert limited.fitted(picture).shape == (224, 320, 3)
    assert limited.sent(query) == ((1, 224, 320), (3, 224, 320))
    assert limited.cells(query) == ((1, 7, 10), (3, 7, 10))
    assert sizes(max_pixels=76_800, cell_px=32, video=True).cells(query) == ((1, 7, 10), (2, 7, 10))
    assert sizes(max_pixels=76_800).cells(query) is None
    assert sizes(cell_px=32).cells(query) is None
    assert sizes(cell_px=32).fitted(picture) is picture
    assert [str(of) for of in (sizes(), limited, sizes(min_pixels=4_096))] == [
        "as they come",
        "with 0 to 76800 pixels, in multiples of 32 px",
        "with 4096 or more pixels, in any multiple, since judge.cell_px is not set",
    ]
