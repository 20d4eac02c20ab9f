"""A drawn world in which a bar fills a frame, and a small network that may watch it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from roborl.rewards.adaptation.lessons import FilmedEpisode
from roborl.rewards.dopamine import DopamineConfig
from roborl.rewards.fusion import FusionConfig, Perspective
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.prompts import PromptConfig
from roborl.testing.tiny_vlms import build_tiny_vlm
from roborl.types import Frame, Observation

PX = 32
TASK = "fill the bar"
SEGMENTS = [
    "Do {task}. <score> start",
    " end",
    " before",
    " l",
    " r",
    " after",
    " l",
    " r",
    "{task}: how far?",
]


class Bar:
    """Pictures of a bar that grows over an episode; its brightness is the episode's own, its colour the camera's."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.level = 150 + 10 * (seed % 10)
        self.asked: list[tuple[str, int]] = []

    def picture(self, index: int, camera: str = "front") -> np.ndarray:
        rgb = np.full((PX, PX, 3), 20, np.uint8)
        channels = slice(None) if camera == "front" else 0
        rgb[8:24, : round(PX * index / (self.count - 1)), channels] = self.level
        rgb.flags.writeable = False
        return rgb

    def read(self, wanted: Mapping[str, Sequence[int]]) -> dict[str, dict[int, np.ndarray]]:
        self.asked += [(camera, index) for camera, indices in wanted.items() for index in indices]
        return {camera: {i: self.picture(i, camera) for i in indices} for camera, indices in wanted.items()}


def film(
    count: int, seed: int = 0, *, task: str = TASK, kind: str = "success", **known: object
) -> FilmedEpisode:
    keyframes = (0, count - 1) if kind == "success" else ()
    return FilmedEpisode(
        **{
            "name": f"bar {seed}",
            "tasks": (task,),
            "count": count,
            "kind": kind,
            "keyframes": keyframes,
            "footage": Bar(count, seed),
        }
        | known
    )


def observe(
    episode: FilmedEpisode, indices: Sequence[int], cameras: Sequence[str] = ("front",)
) -> list[Observation]:
    bar = episode.footage
    return [
        Observation(
            frames={c: Frame(rgb=bar.picture(i, c), camera=c, stamp_ns=0, id=i) for c in cameras},
            state=np.zeros(1, np.float32),
            stamp_ns=0,
        )
        for i in indices
    ]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder with a small Qwen3-VL, and the words of its question in a file beside it."""
    folder = tmp_path_factory.mktemp("judge")
    (folder / "words.txt").write_text("<image>".join(SEGMENTS))
    words = [*SEGMENTS, "<score>+50.0%</score> <score>-50.0%</score>"]
    build_tiny_vlm(folder / "tiny", "qwen3_vl", width=64, pixels=PX * PX, words=words)
    return folder / "tiny"


@pytest.fixture(scope="session")
def settings(checkpoint):
    return DopamineConfig(
        checkpoint=str(checkpoint),
        judge=JudgeConfig(device="cpu", dtype="float32", pad_to=1),
        min_pixels=PX * PX,
        max_pixels=PX * PX,
        prompt=PromptConfig(file=str(checkpoint.parent / "words.txt")),
        fusion=FusionConfig(perspectives=(Perspective.FORWARD,)),
    )
