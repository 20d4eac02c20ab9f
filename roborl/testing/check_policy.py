"""The conformance check of policies: run it on your own.

Example:
    In a test file of yours::

        pytest_plugins = ["roborl.testing.check_policy"]

        def test_my_policy(policy_check):
            policy_check(MyPolicy, cameras={"front": (64, 64)}, state_dim=6, action_dim=4)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from roborl.errors import RoborlError
from roborl.roles import Policy
from roborl.testing.observations import contents
from roborl.types import Frame, Observation


class PolicyConformanceError(RoborlError, AssertionError):
    """A policy that does not keep the contract of its role."""


def noise_observations(
    cameras: Mapping[str, tuple[int, int]], state_dim: int, *, count: int = 6, seed: int = 0
) -> list[Observation]:
    """Return observations of noise, pixels and state read-only.

    Args:
        cameras: Height and width by camera name.
        state_dim: Size of the state.
        count: How many.
        seed: Of the noise.
    """
    random = np.random.default_rng(seed)

    def frame(name: str, index: int) -> Frame:
        rgb = random.integers(0, 256, (*cameras[name], 3), np.uint8)
        rgb.flags.writeable = False
        return Frame(rgb=rgb, camera=name, stamp_ns=index * 100_000_000, id=index)

    def state() -> NDArray[np.float32]:
        values = random.uniform(-1.0, 1.0, state_dim).astype(np.float32)
        values.flags.writeable = False
        return values

    return [
        Observation(
            frames={name: frame(name, i) for name in cameras}, state=state(), stamp_ns=i * 100_000_000
        )
        for i in range(count)
    ]


def check_policy(
    make: Callable[[], Policy],
    *,
    cameras: Mapping[str, tuple[int, int]],
    state_dim: int,
    action_dim: int,
    draws: bool = False,
    tolerance: float = 1e-5,
) -> None:
    """Run the whole conformance check on a policy.

    Args:
        make: Makes it, each time as it was at first; called twice.
        cameras: Height and width of the pictures to show it, by camera name.
        state_dim: Size of the state to show it.
        action_dim: Size of an action.
        draws: Whether its actions are drawn, so that it answers otherwise the second time.
        tolerance: Most by which the same answer may differ.

    Raises:
        PolicyConformanceError: With the first clause of the contract that it breaks.
    """
    policy, shown = make(), noise_observations(cameras, state_dim)
    version = policy.version
    _require(
        isinstance(version, int) and not isinstance(version, bool) and version >= 0,
        "has a version that is no count",
        version,
    )
    first = _episode(policy, shown, action_dim)
    again = _episode(policy, shown, action_dim)
    _require(policy.version == version, "changes its version by acting", policy.version)
    anew = _episode(make(), shown, action_dim)
    _require(_alike(first, anew, tolerance), "acts otherwise when it is made anew, with the same seed")
    if not draws:
        _require(_alike(first, again, tolerance), "remembers an episode beyond its reset")


@pytest.fixture(name="policy_check")
def policy_check() -> Callable[..., None]:
    """Give :func:`check_policy` to a test."""
    return check_policy


def _episode(policy: Policy, shown: Sequence[Observation], action_dim: int) -> list[NDArray[np.float32]]:
    """Return the chunks that a policy answers an episode with, having looked at each."""
    policy.reset()
    chunks: list[NDArray[np.float32]] = []
    kept: list[NDArray[np.float32]] = []
    for observation in shown:
        before = contents(observation)
        try:
            chunk = policy.act(observation)
        except ValueError as error:
            if "read-only" in str(error):
                raise PolicyConformanceError("The policy writes into what it is shown") from error
            raise
        # A tensor made of an array does not know that it must not be written to.
        _require(contents(observation) == before, "writes into what it is shown")
        _check_chunk(chunk, action_dim)
        chunks.append(chunk)
        kept.append(chunk.copy())
    _require(_alike(chunks, kept, 0.0), "changes a chunk that it has given away")
    return kept


def _check_chunk(chunk: NDArray[np.float32], action_dim: int) -> None:
    _require(isinstance(chunk, np.ndarray), "answers with something else than an array", type(chunk).__name__)
    _require(chunk.dtype == np.float32, "answers with another type of numbers", chunk.dtype, "float32")
    _require(
        chunk.ndim == 2 and len(chunk) > 0 and chunk.shape[1] == action_dim,
        "answers with another shape",
        chunk.shape,
        f"(h, {action_dim}), h at least 1",
    )
    _require(bool(np.isfinite(chunk).all()), "answers with numbers that are not finite", chunk)
    _require(bool((np.abs(chunk) <= 1.0).all()), "leaves the limits", float(np.abs(chunk).max()), "[-1, 1]")


def _alike(
    some: Sequence[NDArray[np.float32]], others: Sequence[NDArray[np.float32]], tolerance: float
) -> bool:
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=0.0, atol=tolerance)
        for a, b in zip(some, others, strict=True)
    )


def _require(holds: bool, problem: str, seen: object = None, allowed: object = None) -> None:
    if not holds:
        raise PolicyConformanceError(f"The policy {problem}", seen=seen, allowed=allowed)
