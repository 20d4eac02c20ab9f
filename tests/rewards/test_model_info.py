"""What a model says of itself arrives as it was said, whoever is at the other end."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.codec import decode, encode
from roborl.errors import WireError
from roborl.rewards.batching import BatchAsker
from roborl.rewards.fake import BrightnessJudge, BrightnessModel
from roborl.rewards.model_info import ModelInfo, names_folder
from roborl.rewards.references import digest, told
from roborl.rewards.verdicts import DoneRule
from roborl.rewards.viewing import Viewer

rates = st.none() | st.floats(min_value=0.0, max_value=1e3)
infos = st.builds(
    ModelInfo,
    version=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,66}", fullmatch=True),
    cameras=st.lists(st.text()).map(tuple),
    most_views=st.none() | st.integers(1, 9),
    image_px=st.none() | st.integers(1, 4096),
    says_done=st.booleans(),
    done_rule=st.none() | st.builds(DoneRule, progress=st.floats(0.1, 1.0), readings=st.integers(1, 9)),
    done_holds=st.booleans(),
    about=st.dictionaries(st.text(), st.integers(-9, 9) | st.text()),
    observation_hz=rates,
    trained_hz=rates,
    looks_back=st.booleans(),
)


@given(infos)
def test_what_is_said_is_what_is_read(info: ModelInfo) -> None:
    read = ModelInfo.from_wire(decode(encode({"said": info.to_wire()}))["said"])
    assert (read, read.about) == (info, info.about)


def test_an_older_server_says_less_and_a_newer_one_more() -> None:
    assert ModelInfo.from_wire({"version": "v", "hue": 3}) == ModelInfo(version="v")
    whole = ModelInfo(version="v", done_rule=DoneRule()).to_wire()
    assert set(whole) == {field.name for field in fields(ModelInfo)}


@pytest.mark.parametrize(
    "wire",
    [
        None,
        ["version"],
        {},
        {"version": ""},
        {"version": 3},
        {"version": "my model v1"},
        {"version": "a/b"},
        {"version": ".."},
        {"version": "x" * 68},
        *(
            {"version": "v"} | changes
            for changes in (
                {"cameras": "front"},
                {"cameras": [1]},
                {"most_views": 0},
                {"most_views": "one"},
                {"image_px": 0},
                {"image_px": True},
                {"image_px": 64.0},
                {"says_done": 1},
                {"done_rule": {"progress": 2.0}},
                {"done_rule": {"progress": "high"}},
                {"done_rule": {"hue": 1}},
                {"done_rule": [0.9]},
                {"done_holds": "always"},
                {"about": "a model"},
                {"observation_hz": -1.0},
                {"observation_hz": "often"},
                {"trained_hz": float("nan")},
                {"looks_back": 1},
                {"trained_hz": float("inf")},
            )
        ),
    ],
)
def test_what_cannot_be_used_is_named(wire: Any) -> None:
    name = "version" if not wire or len(wire) == 1 else list(wire)[-1]
    with pytest.raises(WireError, match=f"cannot be used: {name}.*Found: .*Allowed: .*same release"):
        ModelInfo.from_wire(wire)


def test_a_version_has_room_for_the_references_that_a_session_brings() -> None:
    shown = digest({"goal": np.zeros((4, 4, 3), np.uint8)})
    version = told(ModelInfo.from_wire({"version": "x" * 67}).version, shown)
    assert names_folder(version)
    assert not names_folder(version + "x")


class Narrow(BrightnessJudge):
    at_once = 3

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def answer(self, queries: Any) -> list[tuple[float, float]]:
        self.sizes.append(len(queries))
        return super().answer(queries)


def test_a_judge_with_a_limit_is_asked_no_more_at_once_in_a_benchmark_either(random_video: Any) -> None:
    judge = Narrow()
    assert BatchAsker(judge, 64).max_batch == 3
    assert BatchAsker(BrightnessJudge(), 64).max_batch == 64
    Viewer(BrightnessModel(judge=judge), max_batch=64).show("t", random_video, range(8), {})
    assert judge.sizes == [3, 3, 2]


@pytest.fixture
def random_video() -> Any:
    from roborl.testing.check_reward_model import random_observations

    return random_observations(BrightnessModel(), count=8)
