"""What two peers must agree on before anything else is said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roborl.errors import HandshakeMismatch, WireError

PROTOCOL_VERSION = 3
_REMEDIES = {
    "version": "Give the actor a copy of the folder policy that the learner's run holds: --policy",
    "link": "Check the address: another kind of server listens there",
}


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """One side's view of the facts that a link rests on; None where a side does not care.

    Attributes:
        cameras: Camera name to (height_px, width_px) of the frames that travel.
        state_dim: Size of the state vector.
        action_dim: Size of the action vector.
        policy_hz: Steps per second.
        scales: What the numbers of states and actions stand for, by what is said of them: a word, or a number for each
            dimension.
        version: Whatever else both sides must share, with its hash; on a weights link the policy's architecture.
        protocol: Version of the protocol spoken; never None.

    Example:
        >>> ours = Handshake(cameras={"front": (128, 128)}, state_dim=6)
        >>> ours.check(Handshake(cameras={"front": (128, 128)}, action_dim=4), peer="the actor")
    """

    cameras: Mapping[str, tuple[int, int]] | None = None
    state_dim: int | None = None
    action_dim: int | None = None
    policy_hz: float | None = None
    scales: Mapping[str, str | tuple[float, ...]] | None = None
    version: str | None = None
    protocol: int = PROTOCOL_VERSION

    def check(self, theirs: Handshake, *, peer: str) -> None:
        """Compare with the other side's view; a field that either side leaves open fits.

        Raises:
            HandshakeMismatch: Naming the first field that differs and both values.
        """
        for field in ("protocol", "cameras", "state_dim", "action_dim", "policy_hz", "version"):
            mine, other = getattr(self, field), getattr(theirs, field)
            if mine is not None and other is not None and mine != other:
                raise mismatch(field, ours=mine, theirs=other, peer=peer)
        for name in sorted((self.scales or {}).keys() & (theirs.scales or {}).keys()):
            mine, other = (self.scales or {})[name], (theirs.scales or {})[name]
            if not _alike(mine, other):
                raise mismatch(name, ours=mine, theirs=other, peer=peer)

    def to_wire(self) -> dict[str, Any]:
        """Return plain values for a message."""
        cameras = None if self.cameras is None else {n: list(size) for n, size in self.cameras.items()}
        return {
            "protocol": self.protocol,
            "cameras": cameras,
            "state_dim": self.state_dim,
            "action_dim": self.action_dim,
            "policy_hz": self.policy_hz,
            "scales": self.scales
            and {n: v if isinstance(v, str) else list(v) for n, v in self.scales.items()},
            "version": self.version,
        }

    @classmethod
    def from_wire(cls, fields: object) -> Handshake:
        """Read what :meth:`to_wire` wrote.

        Of another protocol version only that version is read, so that the mismatch can be told.

        Raises:
            WireError: If the fields are not a handshake.
        """
        if not isinstance(fields, dict) or type(fields.get("protocol")) is not int:
            raise WireError("A handshake is malformed", seen=repr(fields)[:200])
        if fields["protocol"] != PROTOCOL_VERSION:
            return cls(protocol=fields["protocol"])
        cameras, dims = fields.get("cameras"), (fields.get("state_dim"), fields.get("action_dim"))
        version, policy_hz, scales = (fields.get(name) for name in ("version", "policy_hz", "scales"))
        if (
            not (cameras is None or (isinstance(cameras, dict) and all(map(_is_size, cameras.values()))))
            or not all(dim is None or type(dim) is int for dim in dims)
            or not (version is None or type(version) is str)
            or not (policy_hz is None or type(policy_hz) in (int, float))
            or not (scales is None or (isinstance(scales, dict) and all(map(_is_scale, scales.values()))))
        ):
            raise WireError("A handshake is malformed", seen=repr(fields)[:200])
        return cls(
            cameras=None if cameras is None else {n: (s[0], s[1]) for n, s in cameras.items()},
            state_dim=dims[0],
            action_dim=dims[1],
            policy_hz=policy_hz,
            scales=scales and {n: v if isinstance(v, str) else tuple(v) for n, v in scales.items()},
            version=version,
        )


def mismatch(field: str, *, ours: object, theirs: object, peer: str) -> HandshakeMismatch:
    """Return the error for one field that differs."""
    return HandshakeMismatch(
        f"This side and {peer} disagree on {field}",
        seen=f"{field} = {theirs!r} at {peer}",
        allowed=f"{field} = {ours!r}, as here",
        remedy=_REMEDIES.get(
            field, "Start both sides from the same bench file and the same release of roborl"
        ),
    )


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)


def _is_scale(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(type(n) in (int, float) for n in value))


def _alike(ours: str | tuple[float, ...], theirs: str | tuple[float, ...]) -> bool:
    """Return whether two say the same, up to what two computers make of the same file."""
    if isinstance(ours, str) or isinstance(theirs, str):
        return ours == theirs
    return len(ours) == len(theirs) and all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(ours, theirs, strict=True)
    )
