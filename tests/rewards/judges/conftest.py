"""Tiny checkpoints, built once, and one thread for the small matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.testing.tiny_vlms import TINY_KINDS, build_tiny_vlm


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {kind: build_tiny_vlm(folder / kind, kind) for kind in TINY_KINDS}


@pytest.fixture(scope="session")
def judge_of(tiny: dict[str, Path]) -> Callable[..., TransformersJudge]:
    def make(kind: str, *, min_pixels: int = 0, max_pixels: int = 0, **options: object) -> TransformersJudge:
        config = JudgeConfig(device="cpu", **options)
        return TransformersJudge.load(config, str(tiny[kind]), min_pixels=min_pixels, max_pixels=max_pixels)

    return make
