"""A drawn world in which a claw carries a block to a tray: enough for a reward model to learn from in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from roborl.rewards.sarm.config import SarmConfig, SarmTraining
from roborl.rewards.sarm.model import SarmModel
from roborl.rewards.sarm.training import train_sarm
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.types import Frame, Observation

PX = 32
TASK = "put the red block on the tray"


def draw(claw: np.ndarray, closed: float, block: np.ndarray, tray: np.ndarray) -> dict[str, np.ndarray]:
    """Two views: the whole board, and the surroundings of the claw."""
    ys, xs = np.mgrid[0:PX, 0:PX]

    def view(centre: np.ndarray, zoom: float) -> np.ndarray:
        picture = np.full((PX, PX, 3), 90, np.uint8)

        def box(at: np.ndarray, half: tuple[float, float], colour: tuple[int, int, int]) -> None:
            x, y = (at - centre) * zoom + PX / 2
            picture[(abs(xs - x) <= half[0] * zoom) & (abs(ys - y) <= half[1] * zoom)] = colour

        box(tray, (3.0, 2.0), (60, 60, 200))
        box(block, (1.5, 1.5), (220, 40, 40))
        for side in (-1, 1):
            box(claw + np.array([side * (3.5 - 1.5 * closed), 0.0]), (0.6, 2.5), (230, 230, 230))
        return picture

    return {"front": view(np.array([PX / 2, PX / 2]), 1.0), "wrist": view(claw, 2.0)}


def play(kind: str, seed: int) -> TrainingEpisode:
    """Play one episode: "success", or a way to fail."""
    rng = np.random.default_rng(seed)
    block, tray = rng.uniform((5, 17), (26, 27)), rng.uniform((6, 5), (26, 9))
    claw, closed, held, progress = rng.uniform((8, 4), (24, 12)), 0.0, False, 0.0
    pictures, states, truth, spans = [], [], [], []

    def look() -> None:
        pictures.append(draw(claw, closed, block, tray))
        states.append(np.array([*claw, closed], np.float32))
        truth.append(progress)

    def move(goal: np.ndarray, until: float, steps: int) -> None:
        nonlocal claw, block, progress
        start, base = claw.copy(), progress
        for i in range(1, steps + 1):
            claw = start + (goal - start) * i / steps
            block = claw.copy() if held else block
            progress = base + (until - base) * i / steps
            look()

    def span(name: str, start: int) -> None:
        spans.append((name, start, len(pictures) - 1))

    def pace() -> int:
        return int(rng.integers(7, 11))

    look()
    side = rng.choice([-1, 1]) * 6.0 if kind == "miss" else 0.0
    move(block + np.array([side, 0.0]), 0.0 if kind == "miss" else 0.4, pace())
    span("reach", 0)
    closed = 1.0
    if kind == "miss":
        move(tray, 0.0, pace())
    else:
        held, at = True, len(pictures) - 1
        if kind == "drop":
            move((claw + tray) / 2, 0.7, pace() // 2)
            span("carry", at)
            held, closed, block, progress, at = (
                False,
                0.0,
                rng.uniform((5, 17), (26, 27)),
                0.1,
                len(pictures) - 1,
            )
            move(tray, 0.1, 4)
            span("reach", at)
        else:
            move(tray, 1.0, pace())
            span("carry", at)
            if kind == "undo":
                at = len(pictures) - 1
                move(rng.uniform((5, 17), (26, 27)), 0.4, pace())
                span("carry", at)
    return TrainingEpisode(
        images={name: np.stack([p[name] for p in pictures]) for name in ("front", "wrist")},
        state=np.stack(states),
        task=TASK,
        success=kind == "success",
        subtasks=spans,
        kind=kind,
        benchmark=np.array(truth, np.float32),
    )


def observations(episode: TrainingEpisode) -> list[Observation]:
    """The episode as a robot would show it."""
    return [
        Observation(
            frames={n: Frame(rgb=v[t], camera=n, stamp_ns=t, id=t) for n, v in episode.images.items()},
            state=episode.state[t],
            stamp_ns=t,
        )
        for t in range(episode.frames)
    ]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine the small matrices here wait for a second thread longer than they take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def world() -> Callable[[str, int], TrainingEpisode]:
    """``play``."""
    return play


@pytest.fixture(scope="session")
def as_observations() -> Callable[[TrainingEpisode], list[Observation]]:
    """``observations``."""
    return observations


@pytest.fixture(scope="session")
def toy_config() -> SarmConfig:
    """A small model for the drawn world."""
    return SarmConfig(image_px=PX, frame_dim=48, dim=48, members=2)


@pytest.fixture(scope="session")
def trained(toy_config: SarmConfig) -> SarmModel:
    """A model that has seen 20 demonstrations and 24 failures for some seconds.

    It first tells the stages apart and for a while gives each its mean progress. How long that lasts depends on the seed:
    with half as many steps the learning rate has run out before four seeds of six are past it, with these none is left.
    """
    episodes = [play("success", seed) for seed in range(20)]
    episodes += [play(kind, 100 + seed) for kind in ("miss", "drop", "undo") for seed in range(8)]
    training = SarmTraining(
        steps=440,
        budget_s=3600.0,
        episodes_per_step=4,
        windows_per_episode=12,
        learning_rate=2e-3,
        shift_px=1,
    )
    return train_sarm(episodes, toy_config, training).model
