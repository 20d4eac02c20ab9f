"""What published weights rest on and do not bring along: the shape of their policy, and its parts that never learn."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray


def architecture(policy: object, published: Mapping[str, NDArray[Any]] | None = None) -> str | None:
    """Return the shape of a policy in words and a hash, equal on two sides exactly where weights mean the same on both.

    The hash covers that shape, the values of what is frozen (encoder and remaining way; of a LeRobot policy all that does not
    learn, its statistics too), and names and shapes of what is published. Values of what is published are left out: they are
    what changes.

    Args:
        policy: A policy. Of another kind than roborl's small one and the LeRobot policy of a run nothing is known.
        published: What is sent under this architecture; None for what of the policy learns.

    Returns:
        One line such as ``cameras=('front',) ... width=256 #0f3a...``; None where nothing is known.
    """
    found = _lerobot(policy) or _small(policy)
    if found is None:
        return None
    words, frozen, own = found
    digest = hashlib.sha256(words.encode())
    for name, array in frozen:
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    for name, shape in sorted((own if published is None else _shapes(published)).items()):
        digest.update(f"{name} {shape}".encode())
    return f"{words} #{digest.hexdigest()[:16]}"


type _Form = tuple[str, Iterable[tuple[str, NDArray[Any]]], dict[str, tuple[int, ...]]]
"""Words, what is frozen, and the shapes of what learns."""


def _small(policy: object) -> _Form | None:
    from roborl.policies.small import SmallPolicy, to_arrays

    if not isinstance(policy, SmallPolicy):
        return None
    words = " ".join(f"{name}={value}" for name, value in asdict(policy.config).items())
    parts = [sorted(to_arrays(module).items()) for module in (policy.encoder, policy.remaining)]
    return words, [item for part in parts for item in part], _shapes(to_arrays(policy.actor))


def _lerobot(policy: object) -> _Form | None:
    # Imported by whoever made such a policy; for others it would take seconds.
    module = sys.modules.get("roborl.policies.lerobot_policy")
    if module is None or not isinstance(policy, module.LeRobotPolicy) or policy.online is None:
        return None
    shape = {"kind": policy.kind, "cameras": policy.cameras, **asdict(policy.online)}
    words = " ".join(f"{name}={value}" for name, value in shape.items())
    return words, policy.frozen(), {name: tuple(p.shape) for name, p in policy.learnt.items()}


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}
