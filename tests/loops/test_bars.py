from __future__ import annotations

import pytest

from roborl.loops.bars import Bar


@pytest.mark.parametrize(("figure", "met"), [(2.9, False), (3.0, True), (4.0, True), (4.1, False)])
def test_a_bar_has_one_or_two_sides(figure: float, met: bool) -> None:
    bar = Bar(name="f", read=lambda result: result["f"], least=3, most=4)
    assert bar.check({"f": figure})["met"] is met


def test_no_figure_at_all_is_no_success() -> None:
    bar = Bar(name="f", read=lambda result: result["f"], most=4)
    assert not bar.check({"f": float("nan")})["met"]
