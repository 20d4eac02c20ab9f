"""The conformance check of reward models: run it on your own.

Example:
    In a test file of yours::

        pytest_plugins = ["roborl.testing.check_reward_model"]

        def test_my_model(reward_model_check):
            reward_model_check(MyModel())
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from roborl.clock import FakeClock
from roborl.errors import RoborlError, WireError
from roborl.rewards.model import Fold, Judge, References, RewardModel, observation_id, score_episode
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.pool import SessionPool
from roborl.rewards.pool_config import PoolConfig
from roborl.testing.observations import contents
from roborl.types import Frame, Observation, Score

type Model = RewardModel[Any, Any]


class ConformanceError(RoborlError, AssertionError):
    """A part that does not keep the contract of its role."""


def random_observations(
    model: Model, *, count: int = 12, state_dim: int = 6, seed: int = 0
) -> list[Observation]:
    """Return an episode of noise with the views that a model wants, its pixels read-only.

    Args:
        model: The model that will look.
        count: T + 1.
        state_dim: Size of the proprioception.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    px = model.info.image_px or 64

    def frame(camera: str, index: int) -> Frame:
        rgb = rng.integers(0, 256, (px, px, 3), np.uint8)
        rgb.flags.writeable = False
        return Frame(rgb=rgb, camera=camera, stamp_ns=index * 100_000_000, id=index)

    return [
        Observation(
            frames={camera: frame(camera, i) for camera in model.info.cameras or ("front",)},
            state=rng.normal(size=state_dim).astype(np.float32),
            stamp_ns=i * 100_000_000,
        )
        for i in range(count)
    ]


def check_reward_model(
    model: Model,
    *,
    task: str = "put the cube into the bowl",
    observations: Sequence[Observation] | None = None,
    references: References | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Run the whole conformance check on a reward model and its judge.

    Args:
        model: The model.
        task: An instruction that it understands.
        observations: An episode of at least six observations to show it; noise unless given.
        references: What the model needs besides the task.
        tolerance: Most by which progress may differ between a batch and single queries.

    Raises:
        ConformanceError: With the first clause of the contract that it breaks.
    """
    shown = list(observations) if observations is not None else random_observations(model)
    references = references or {}

    def scores(episode: Sequence[Observation], **options: Any) -> list[Score]:
        return score_episode(model, task, episode, references=references, **options)

    _check_description(model)
    for part, base in ((model.judge, Judge), (model.start(task, references), Fold)):
        lacking = sorted(name for name in _members(base) if not hasattr(part, name))
        _require(
            not lacking,
            f"has a {base.__name__.lower()} that lacks what {base.__name__} has: name that as its base",
            lacking,
        )
    before = [contents(observation) for observation in shown]
    first = scores(shown)
    _require([contents(observation) for observation in shown] == before, "writes into what it is shown")
    _check_scores(model, shown, first)
    _require_equal("scores an episode otherwise the second time", first, scores(shown), tolerance)
    _require_equal(
        "answers a batch otherwise than single queries", first, scores(shown, max_batch=1), tolerance
    )
    half = len(shown) // 2
    mixed = [*shown[:half], *_reversed(shown[half:])]
    _require_equal(
        "lets later observations change earlier scores", first[:half], scores(mixed)[:half], tolerance
    )
    strided = scores(shown, stride=3)
    wanted = [i for i in range(len(shown)) if i % 3 == 0 or i == len(shown) - 1]
    _require(
        [s.frame_id for s in strided] == [observation_id(shown[i]) for i in wanted],
        "loses its place at a stride",
    )
    _require_equal(
        "scores otherwise in the server's lanes",
        first,
        _through_pool(model, task, shown, references),
        tolerance,
    )
    _check_two_folds(model, task, shown, references, first, tolerance)
    _check_missing_replies(model, task, shown, references)
    _check_refusals(model, task, shown, references, _halved, tolerance)
    if model.info.cameras:
        asked = _check_refusals(model, task, shown, references, _renamed, tolerance)
        _require(asked is None, "asks about an observation without the views that it names", asked)


@pytest.fixture(name="reward_model_check")
def reward_model_check() -> Callable[..., None]:
    """Give :func:`check_reward_model` to a test."""
    return check_reward_model


def _check_description(model: Model) -> None:
    info: Any = model.info
    _require(isinstance(info, ModelInfo), "does not say what it is as a ModelInfo", type(info).__name__)
    _require(isinstance(info.version, str) and bool(info.version), "has no version", info.version)
    _require(
        isinstance(info.cameras, tuple) and all(isinstance(name, str) for name in info.cameras),
        "does not name its views as a tuple of strings",
        info.cameras,
    )
    try:
        ModelInfo.from_wire(info.to_wire())
    except WireError as error:
        raise ConformanceError(
            "What the reward model says of itself cannot be sent", seen=str(error)
        ) from error


def _check_scores(model: Model, shown: Sequence[Observation], scores: Sequence[Score]) -> None:
    _require(
        [score.frame_id for score in scores] == [observation_id(o) for o in shown],
        "does not give each observation its score, in order",
        [score.frame_id for score in scores],
    )
    for score in scores:
        _require(score.version == model.info.version, "puts another version on its scores", score.version)
        _require(
            not score.valid or (math.isfinite(score.spread) and score.spread >= 0.0),
            "has an impossible spread",
            score.spread,
        )
    _require(any(score.valid for score in scores), "gives no valid score at all", scores[0].reply)
    said = any(score.done is not None for score in scores)
    says_done = model.info.says_done
    _require(says_done or not said, "says of a task whether it is done, and that it never does", said)
    _require(
        said or not says_done,
        "never says whether a task is done; such a model says `says_done=False` of itself",
        said,
    )


def _check_two_folds(
    model: Model,
    task: str,
    shown: Sequence[Observation],
    references: References,
    expected: Sequence[Score],
    tolerance: float,
) -> None:
    """Two episodes side by side, one of them backwards, asked one observation at a time."""
    ours, other = model.start(task, references), model.start(task, references)
    results = []
    for here, there in zip(shown, _reversed(shown), strict=True):
        other.fold(observation_id(there), model.judge.answer(other.queries(there)))
        results.append(ours.fold(observation_id(here), model.judge.answer(ours.queries(here))))
    _require_equal(
        "mixes up two episodes, or asks otherwise once replies are in", expected, results, tolerance
    )


def _check_missing_replies(
    model: Model, task: str, shown: Sequence[Observation], references: References
) -> None:
    """Lose all replies of the first observation from the middle on that is asked about."""
    fold = model.start(task, references)
    lost: Score | None = None
    for index, observation in enumerate(shown):
        queries = fold.queries(observation)
        loses = lost is None and index >= len(shown) // 2 and bool(queries)
        score = fold.fold(
            observation_id(observation), [None] * len(queries) if loses else model.judge.answer(queries)
        )
        if loses:
            lost = score
            _require(not score.valid, "makes a number of replies that never came", score.progress)
    _require(lost is not None, "asks nothing in the second half of an episode")
    _require(score is lost or score.valid, "does not recover from one missing reply", score.reply)


def _check_refusals(
    model: Model,
    task: str,
    shown: Sequence[Observation],
    references: References,
    spoil: Callable[[Observation], Observation],
    tolerance: float,
) -> int | None:
    """Spoil every second observation: those refused leave no trace, and the others are scored as without them.

    Returns:
        Index of the first spoilt one that is asked about all the same, where the check ends; None where all are refused.
    """
    fold = model.start(task, references)
    results = []
    for place, observation in enumerate(shown):
        index = observation_id(observation)
        if place % 2:
            try:
                queries = fold.queries(spoil(observation))
            except RoborlError:
                fold.lose(index)
                continue
            _require_answers(model, queries)
            return index
        try:
            queries = fold.queries(observation)
        except RoborlError as error:
            raise ConformanceError(
                "The reward model refuses a good observation once it has refused another", seen=str(error)
            ) from error
        results.append(fold.fold(index, model.judge.answer(queries)))
    expected = score_episode(model, task, shown[::2], references=references)
    _require_equal("scores otherwise once it has refused an observation", expected, results, tolerance)
    return None


def _require_answers(model: Model, queries: Sequence[Any]) -> None:
    try:
        model.judge.answer(queries)
    except Exception as error:
        raise ConformanceError(
            "The reward model asks about an observation what its judge chokes on",
            seen=f"{type(error).__name__}: {error}",
            remedy="Refuse the observation, before anything of it is kept",
        ) from error


def _halved(observation: Observation) -> Observation:
    """The observation with pictures of half the size."""
    frames = {
        name: replace(frame, rgb=np.ascontiguousarray(frame.rgb[::2, ::2]))
        for name, frame in observation.frames.items()
    }
    return replace(observation, frames=frames)


def _renamed(observation: Observation) -> Observation:
    """The observation with a picture of a camera that no model names, and no other."""
    frame = next(iter(observation.frames.values()))
    return replace(observation, frames={"another": replace(frame, camera="another")})


def _through_pool(
    model: Model, task: str, shown: Sequence[Observation], references: References
) -> list[Score]:
    pool = SessionPool({"model": model}, PoolConfig(max_batch=4), clock=FakeClock())
    pool.open("check", model="model", task=task, cameras=list(shown[0].frames), references=references)
    for observation in shown:
        pool.push("check", observation)
    while pool.step("model"):
        pass
    return [outcome.score for outcome in pool.collect()]


def _reversed(observations: Sequence[Observation]) -> list[Observation]:
    """The pictures and states in reverse, at the ids and stamps of the originals."""
    return [
        Observation(
            frames={
                name: Frame(rgb=frame.rgb, camera=name, stamp_ns=at.stamp_ns, id=observation_id(at))
                for name, frame in source.frames.items()
            },
            state=source.state,
            stamp_ns=at.stamp_ns,
        )
        for at, source in zip(observations, reversed(observations), strict=True)
    ]


def _members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


def _require_equal(problem: str, expected: Sequence[Score], got: Sequence[Score], tolerance: float) -> None:
    for one, other in zip(expected, got, strict=True):
        _require(
            one.frame_id == other.frame_id
            and one.valid == other.valid
            and (not one.valid or abs(one.progress - other.progress) <= tolerance),
            problem,
            f"{other.progress} instead of {one.progress} at observation {one.frame_id}",
        )


def _require(holds: bool, problem: str, seen: object = None) -> None:
    if not holds:
        raise ConformanceError(f"The reward model {problem}", seen=seen)
