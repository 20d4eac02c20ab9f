"""What an actor commits, in the order it happened: the unit of the ring, the wire and the episode log.

An :class:`Arrival` holds an observation together with the command and the task reward that led to it. So every
committed record completes a transition, an episode of T steps has T + 1 arrivals, and an actor that dies loses nothing
that it had committed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from roborl.codec import Part, decode, encode
from roborl.errors import WireError
from roborl.types import (
    Command,
    EndCause,
    EpisodeKey,
    Frame,
    Observation,
    RewardSource,
    Source,
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Begin:
    """An episode starts.

    Attributes:
        key: The episode.
        task: The instruction in words.
        meta: Strings and numbers worth keeping: bench, seed, mode ("train", "evaluate", "demo", "failure").
    """

    key: EpisodeKey
    task: str
    meta: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Arrival:
    """Observation ``index`` of an episode and what led to it.

    Attributes:
        key: The episode.
        index: 0 for the first observation; ``command`` is None there and only there.
        observation: What the robot perceived.
        command: What was executed since observation ``index - 1``.
        reward: Task reward for that.
        reward_source: Who gave it.
    """

    key: EpisodeKey
    index: int
    observation: Observation
    command: Command | None = None
    reward: float = 0.0
    reward_source: RewardSource = RewardSource.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An episode ended at observation ``index``.

    Attributes:
        key: The episode.
        index: Index of its last observation.
        cause: Why.
        discarded: True where the operator asked to keep it out of training.
    """

    key: EpisodeKey
    index: int
    cause: EndCause
    discarded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judgement that the task was done, or spoilt, at observation ``index``; it may come late.

    Attributes:
        key: The episode.
        index: The observation that was judged, which becomes terminal where the verdict :attr:`ends` the task.
        success: The judgement.
        source: Who judged.
        reward: Task reward for reaching it; None for 1 on success and 0 otherwise.
    """

    key: EpisodeKey
    index: int
    success: bool
    source: RewardSource
    reward: float | None = None

    @property
    def ends(self) -> bool:
        """Whether the task ended there.

        A judge that has only not seen the task done by the last observation has seen no end, and a time-out stays one;
        where it pays for the whole episode, the episode ends with the payment.
        """
        return self.success or self.reward is not None or self.source is not RewardSource.JUDGE

    def replaces(self, earlier: Verdict | None) -> bool:
        """Return whether it stands in the place of an earlier one: the last counts, but no judge outvotes others."""
        return (
            earlier is None or self.source is not RewardSource.JUDGE or earlier.source is RewardSource.JUDGE
        )


type Record = Begin | Arrival | End | Verdict


_KINDS = {Begin: "begin", Arrival: "arrival", End: "end", Verdict: "verdict"}

# The replay memory holds rewards as float32, in which more would be infinite.
_LARGEST_REWARD = float(np.finfo(np.float32).max)
# Names of actors and cameras become names of files in the store.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")


def pack_record(record: Record) -> list[Part]:
    """Turn a record into byte parts without copying its images.

    What is packed without an error can be unpacked: a committed record never turns out unreadable at the store.

    Raises:
        WireError: If a name is not a plain file name, a note is neither text nor number, a reward not finite, or an
            integer larger than the store's columns hold.
    """
    message: dict[str, Any] = {"kind": _KINDS[type(record)], "key": _key_text(record.key)}
    match record:
        case Begin():
            message |= {"task": record.task, "meta": _notes(record.meta)}
        case Arrival():
            observation, command = record.observation, record.command
            message |= {
                "index": _count(record.index),
                "stamp_ns": _stamp(observation.stamp_ns),
                "state": observation.state,
                "frames": {
                    _name(name): {
                        "rgb": frame.rgb,
                        "stamp_ns": _stamp(frame.stamp_ns),
                        "id": _count(frame.id),
                    }
                    for name, frame in observation.frames.items()
                },
                "reward": _finite(record.reward),
                "reward_source": record.reward_source.value,
            }
            if command is not None:
                message["command"] = {
                    "action": command.action,
                    "proposed": command.proposed,
                    "source": command.source.value,
                    "policy_version": _count(command.policy_version),
                }
        case End():
            message |= {
                "index": _count(record.index),
                "cause": record.cause.value,
                "discarded": record.discarded,
            }
        case Verdict():
            message |= {
                "index": _count(record.index),
                "success": record.success,
                "source": record.source.value,
                "reward": None if record.reward is None else _finite(record.reward),
            }
    return encode(message)


def unpack_record(parts: Sequence[Part]) -> Record:
    """Rebuild a record; its arrays are read-only views of ``parts``.

    Raises:
        WireError: If the parts are not a record. No other error leaves this function, whatever the bytes.
    """
    message = decode(parts)
    try:
        return _from_message(message)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise WireError("A record is malformed", seen=f"{type(error).__name__}: {error}") from error


def _from_message(message: Mapping[str, Any]) -> Record:
    key = EpisodeKey.parse(_typed(message["key"], str))
    if _key_text(key) != message["key"]:
        raise WireError("An episode key is not in its one form", seen=message["key"], allowed=str(key))
    match message["kind"]:
        case "begin":
            return Begin(key=key, task=_typed(message["task"], str), meta=_notes(message["meta"]))
        case "arrival":
            return _arrival(key, message)
        case "end":
            return End(
                key=key,
                index=_count(message["index"]),
                cause=EndCause(message["cause"]),
                discarded=_typed(message["discarded"], bool),
            )
        case "verdict":
            return Verdict(
                key=key,
                index=_count(message["index"]),
                success=_typed(message["success"], bool),
                source=RewardSource(message["source"]),
                # Logs of earlier releases have no such field.
                reward=_reward_or_none(message.get("reward")),
            )
        case unknown:
            raise WireError("A record is of an unknown kind", seen=unknown, allowed=sorted(_KINDS.values()))


def _arrival(key: EpisodeKey, message: Mapping[str, Any]) -> Arrival:
    frames = {
        _name(name): Frame(
            rgb=_typed(frame["rgb"], np.ndarray),
            camera=name,
            stamp_ns=_stamp(frame["stamp_ns"]),
            id=_count(frame["id"]),
        )
        for name, frame in _typed(message["frames"], dict).items()
    }
    raw = None if message.get("command") is None else _typed(message["command"], dict)
    command = (
        None
        if raw is None
        else Command(
            action=raw["action"],
            proposed=raw["proposed"],
            source=Source(raw["source"]),
            policy_version=_count(raw["policy_version"]),
        )
    )
    return Arrival(
        key=key,
        index=_count(message["index"]),
        observation=Observation(frames=frames, state=message["state"], stamp_ns=_stamp(message["stamp_ns"])),
        command=command,
        reward=_finite(_typed(message["reward"], float)),
        reward_source=RewardSource(message["reward_source"]),
    )


def _typed[T](value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise WireError("A field has the wrong type", seen=type(value).__name__, allowed=kind.__name__)
    return value


def _count(value: Any) -> int:
    number = -1 if isinstance(value, bool) else operator.index(value)
    if not 0 <= number < 1 << 63:
        raise WireError(
            "A count is out of range",
            seen=value,
            allowed="0 to 2**63 - 1",
            remedy="Count from 0 at the actor, or start it again under a new incarnation",
        )
    return number


def _stamp(value: Any) -> int:
    number = 1 << 63 if isinstance(value, bool) else operator.index(value)
    if not -1 << 63 <= number < 1 << 63:
        raise WireError(
            "A time stamp is out of range",
            seen=value,
            allowed="nanoseconds from -2**63 to 2**63 - 1",
            remedy="Stamp with the monotonic clock of the actor's machine, in whole nanoseconds",
        )
    return number


def _finite(value: float) -> float:
    number = float(value)
    if not abs(number) <= _LARGEST_REWARD:
        raise WireError(
            "A reward is not finite",
            seen=value,
            allowed=f"a number from {-_LARGEST_REWARD:g} to {_LARGEST_REWARD:g}",
        )
    return number


def _reward_or_none(value: object) -> float | None:
    return None if value is None else _finite(_typed(value, float))


def _name(text: str) -> str:
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise WireError(
            "A name cannot stand in a file name", seen=repr(text)[:80], allowed="letters, digits, _ - and ."
        )
    return text


def _key_text(key: EpisodeKey) -> str:
    _name(key.actor), _count(key.incarnation), _count(key.episode)
    return str(key)


def _notes(meta: Mapping[str, Any]) -> dict[str, str | int | float]:
    notes = {name: v.item() if isinstance(v, np.generic) else v for name, v in meta.items()}
    for name, value in notes.items():
        if type(name) is not str or type(value) not in (str, int, float, bool):
            raise WireError(
                "A note of an episode is neither text nor number",
                seen=f"{name!r}: {type(value).__name__}",
                allowed="str, int or float under a str",
            )
    return notes
