"""What published weights rest on and do not bring along: the shape of their policy, and its parts that never learn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from roborl.policies.lerobot_files import ONLINE, is_lerobot_policy, is_runs_policy
from roborl.pretrained import WEIGHTS, read_description


def architecture(policy: object, published: Mapping[str, NDArray[Any]] | None = None) -> str | None:
    """Return the shape of a policy in words and a hash, equal on two sides exactly where weights mean the same on both.

    The hash covers that shape, the values of what is frozen (encoder and remaining way), and names and shapes of what is
    published. Values of what is published are left out: they are what changes.

    Args:
        policy: A policy. Of another kind than roborl's small one nothing is known; for LeRobot's see below.
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


def folder_architecture(folder: Path) -> str | None:
    """Return the same for the LeRobot policy of a run, from its files alone: no network is built to say what it is.

    The hash covers what is made of it, the weights that it started from and the statistics that it normalises by; not its
    settings, which name devices and folders of one computer.

    Args:
        folder: A policy's folder.

    Returns:
        One line such as ``kind=act image_px=64 ... #0f3a...``; None where it is no such policy.

    Raises:
        ModelLoadError: If it has no readable description.
        OSError: If a file cannot be read.
    """
    if not (is_lerobot_policy(folder) and is_runs_policy(folder)):
        return None
    told = {"kind": read_description(folder)["type"]} | json.loads((folder / ONLINE).read_text())
    words = " ".join(f"{name}={value}" for name, value in told.items())
    digest = hashlib.sha256(words.encode())
    for path in sorted([folder / WEIGHTS, *folder.glob("policy_*.safetensors")]):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"{words} #{digest.hexdigest()[:16]}"
