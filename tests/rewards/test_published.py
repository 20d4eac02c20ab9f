"""Published judges by name: the right number of weights, and questions as long as their models ask them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roborl.errors import ConfigError
from roborl.rewards.judges.blueprint import Blueprint
from roborl.rewards.published import KINDS, PUBLISHED, question_of, read_judge
from roborl.rewards.sole import SoleConfig, compose

# VLAC's is, in bfloat16, the 4.41 GB of its one published file. Qwen3-VL-8B is published as one of 8.77 billion,
# Qwen2.5-VL-7B as one of 8.29. The others keep a typing mistake from going unseen.
PARAMETERS = {
    "roboreward-4b": 4_437_815_808,
    "roboreward-8b": 8_767_123_696,
    "dopamine-3b": 3_754_622_976,
    "dopamine-4b": 4_437_815_808,
    "dopamine-8b": 8_767_123_696,
    "dopamine-v1-8b": 8_292_166_656,
    "sole-r1-8b": 8_767_123_696,
    "vlac-2b": 2_205_754_368,
    "vlac-8b": 8_075_365_376,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_network_has_as_many_weights_as_the_published_one(name: str) -> None:
    assert Blueprint(PUBLISHED[name].network).parameters == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "per_picture", "least", "most"),
    [
        # Eight pictures of 640 x 480: 560 tokens and some 700 of words, or 704 with the older network's larger cells.
        ("dopamine-8b", 70, 1260, 1500),
        ("dopamine-3b", 88, 1404, 1650),
        ("dopamine-v1-8b", 88, 1404, 1650),
        # One picture of three columns of 392 px, and 512 tokens of reasoning.
        ("sole-r1-8b", 12 * 37, 956, 1200),
        # Six pictures of a demonstration beside the pair and the first: some 2.5 thousand.
        ("vlac-2b", 256, 2400, 2600),
    ],
)
def test_questions_are_as_long_as_those_of_the_authors(
    name: str, per_picture: int, least: int, most: int
) -> None:
    blueprint = Blueprint(PUBLISHED[name].network)
    question = question_of(KINDS[PUBLISHED[name].kind](), height_px=480, width_px=640)
    seen = blueprint.visual_tokens(
        question.height_px,
        question.width_px,
        min_pixels=question.min_pixels,
        max_pixels=question.max_pixels,
    )
    assert seen == per_picture
    assert least <= seen * question.pictures + question.words <= most


@pytest.mark.parametrize("cameras", [(), ("front",), ("front", "wrist")])
@pytest.mark.parametrize("size", [(240, 320), (480, 640)])
def test_sole_is_planned_with_the_picture_that_it_is_shown(
    size: tuple[int, int], cameras: tuple[str, ...]
) -> None:
    views = [np.zeros((*size, 3), np.uint8)] * max(1, len(cameras))
    question = question_of(SoleConfig(cameras=cameras), height_px=size[0], width_px=size[1])
    assert (question.height_px, question.width_px) == compose([views] * 3).shape[:2]


def test_a_file_of_settings_changes_the_question(tmp_path: Path) -> None:
    file = tmp_path / "watch.yaml"
    file.write_text("checkpoint: somewhere\nframes: 4\nmax_tokens: 8\n")
    kind, settings, published = read_judge(f"roboreward:{file}")
    assert (kind, published) == ("roboreward", None)
    short = question_of(settings, height_px=240, width_px=320)
    long = question_of(KINDS["roboreward"](), height_px=240, width_px=320)
    assert (short.pictures, long.pictures) == (2, 8)
    assert short.words < long.words


@pytest.mark.parametrize("place", ["gpt", "sarm:folder", ""])
def test_a_judge_that_cannot_be_planned_with_is_refused_with_those_that_can(place: str) -> None:
    with pytest.raises(ConfigError, match="roboreward-8b"):
        read_judge(place)
