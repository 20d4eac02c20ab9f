"""What the two ends of a score link tell their owners, and how a score travels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from roborl.errors import ShapeError, WireError
from roborl.serving.messages import sendable
from roborl.types import Image, Lane, Score, Vector

__all__ = [
    "ClientEvent",
    "FramePushed",
    "Lane",
    "ScoreOverdue",
    "Scored",
    "ServerEvent",
    "SessionAsked",
    "SessionGone",
    "SessionLost",
    "SessionOpened",
    "SessionRefused",
]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SessionAsked:
    """At the server: a client wants a session; answer with ``accept`` or ``refuse``.

    Attributes:
        session: Its name, unique at this server.
        task: The instruction in words.
        cameras: Camera names whose frames will come.
        model: Name of the reward model; empty for the server's only one.
        lane: How frames are treated.
        references: Plain values or arrays that the model may want, such as pictures of the goal.
    """

    session: str
    task: str
    cameras: tuple[str, ...]
    model: str
    lane: Lane
    references: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FramePushed:
    """At the server: an observation of a session arrived.

    Attributes:
        session: The session.
        frame_id: Index of the observation in its episode, by which it is referred to from now on.
        images: Pictures by camera, uint8 (h, w, 3), read-only views of the message.
        state: Proprioception, float32 (d,), empty where the client sends none.
        score: True where a score is wanted; then one must be sent, valid or not. Otherwise it must be taken.
    """

    session: str
    frame_id: int
    images: Mapping[str, Image]
    state: Vector
    score: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionGone:
    """At the server: a client closed its session, or went away."""

    session: str


type ServerEvent = SessionAsked | FramePushed | SessionGone


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened:
    """At the client: frames may be pushed.

    Attributes:
        session: The session.
        version: Version of model, prompt, views, calibration and judge settings that will judge it.
        credits: How many frames may be under way.
    """

    session: str
    version: str
    credits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRefused:
    """At the client: the server does not judge this; asking again unchanged is of no use, unless there is no room now.

    Attributes:
        session: The session.
        reason: Why.
        full: Whether it is for want of room, of which there may be some later.
    """

    session: str
    reason: str
    full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLost:
    """At the client: the server does not know the session any more; open another and push its frames again."""

    session: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scored:
    """At the client: a score arrived.

    Attributes:
        session: The session.
        score: The answer; ``score.frame_id`` says about which frame.
        round_trip_ms: From push to arrival, on this machine's clock.
    """

    session: str
    score: Score
    round_trip_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOverdue:
    """At the client: a frame has waited longer than the deadline. Said once; the score may still come."""

    session: str
    frame_id: int


type ClientEvent = SessionOpened | SessionRefused | SessionLost | Scored | ScoreOverdue

_FIELDS = tuple(field.name for field in fields(Score))
# Progress columns are float32, in which more would be infinite.
_MOST_SPREAD = float(np.finfo(np.float32).max)


def score_to_wire(score: Score) -> dict[str, Any]:
    """Return a score as plain values, its reply as far as it can be sent."""
    return {name: getattr(score, name) for name in _FIELDS if name != "timings_ms"} | {
        "reply": sendable(score.reply),
        "timings_ms": {name: float(ms) for name, ms in score.timings_ms.items()},
    }


def score_from_wire(wire: object) -> Score:
    """Read what :func:`score_to_wire` wrote.

    Raises:
        WireError: If it is no score.
    """
    if not isinstance(wire, dict) or set(wire) != set(_FIELDS):
        raise WireError("A score is malformed", seen=repr(wire)[:120], allowed=_FIELDS)
    timings = wire["timings_ms"]
    fits = (
        type(wire["frame_id"]) is type(wire["stage"]) is int
        and wire["frame_id"] >= 0
        and all(type(wire[name]) in (float, int) for name in ("progress", "raw", "spread"))
        and (wire["done"] is None or type(wire["done"]) is bool)
        and type(wire["valid"]) is bool
        and type(wire["version"]) is type(wire["reply"]) is str
        and isinstance(timings, dict)
        and all(type(ms) in (float, int) for ms in timings.values())
    )
    usable = fits and math.isfinite(wire["raw"]) and 0.0 <= wire["spread"] <= _MOST_SPREAD
    if not fits or (wire["valid"] and not usable):
        raise WireError("A score is malformed", seen=repr(wire)[:120])
    try:
        return Score(**wire)
    except ShapeError as error:
        raise WireError("A score is out of its range", seen=wire["progress"], allowed="[0, 1]") from error


def images_from_wire(wire: object) -> dict[str, Image]:
    """Check the pictures of a pushed frame.

    Raises:
        WireError: If one is not uint8 (h, w, 3).
    """
    if not isinstance(wire, dict) or not all(
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
        for image in wire.values()
    ):
        raise WireError("Pictures of a frame are malformed", allowed="uint8 (h, w, 3) by camera name")
    return wire
