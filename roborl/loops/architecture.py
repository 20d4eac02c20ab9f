"""What published weights rest on and do not bring along: the shape of their policy, and its parts that never learn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray


def architecture(policy: object, published: Mapping[str, NDArray[Any]] | None = None) -> str | None:
    """Return the shape of a policy in words and a hash, equal on two sides exactly where weights mean the same on both.

    The hash covers that shape, the values of what is frozen (encoder and remaining way), and names and shapes of what is
    published. Values of what is published are left out: they are what changes.

    Args:
        policy: A policy. Of another kind than roborl's small one nothing is known.
        published: What is sent under this architecture; None for the policy's own actor.

    Returns:
        One line such as ``cameras=('front',) ... width=256 #0f3a...``; None where nothing is known.
    """
    from roborl.policies.small import SmallPolicy, to_arrays

    if not isinstance(policy, SmallPolicy):
        return None
    sent = to_arrays(policy.actor) if published is None else published
    words = " ".join(f"{name}={value}" for name, value in asdict(policy.config).items())
    digest = hashlib.sha256(words.encode())
    for module in (policy.encoder, policy.remaining):
        for name, array in sorted(to_arrays(module).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    for name, array in sorted(sent.items()):
        digest.update(f"{name} {tuple(array.shape)}".encode())
    return f"{words} #{digest.hexdigest()[:16]}"
