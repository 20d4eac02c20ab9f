"""What an actor commits, in the order it happened: the unit of the ring, the wire and the episode log.

An :class:`Arrival` holds an observation together with the command and the task reward that led to it. So every
committed record completes a transition, an episode of T steps has T + 1 arrivals, and an actor that dies loses nothing
that it had committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
        meta: Strings and numbers worth keeping: bench, seed, mode ("train", "evaluate", "demo").
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
        index: The observation that was judged, which becomes terminal.
        success: The judgement.
        source: Who judged.
    """

    key: EpisodeKey
    index: int
    success: bool
    source: RewardSource


type Record = Begin | Arrival | End | Verdict


_KINDS = {Begin: "begin", Arrival: "arrival", End: "end", Verdict: "verdict"}


def pack_record(record: Record) -> list[Part]:
    """Turn a record into byte parts without copying its images.

    Raises:
        WireError: If a frame or vector has a dtype that is not sent.
    """
    message: dict[str, Any] = {"kind": _KINDS[type(record)], "key": str(record.key)}
    match record:
        case Begin():
            message |= {"task": record.task, "meta": dict(record.meta)}
        case Arrival():
            observation, command = record.observation, record.command
            message |= {
                "index": record.index,
                "stamp_ns": observation.stamp_ns,
                "state": observation.state,
                "frames": {
                    name: {"rgb": frame.rgb, "stamp_ns": frame.stamp_ns, "id": frame.id}
                    for name, frame in observation.frames.items()
                },
                "reward": record.reward,
                "reward_source": record.reward_source.value,
            }
            if command is not None:
                message["command"] = {
                    "action": command.action,
                    "proposed": command.proposed,
                    "source": command.source.value,
                    "policy_version": command.policy_version,
                }
        case End():
            message |= {"index": record.index, "cause": record.cause.value, "discarded": record.discarded}
        case Verdict():
            message |= {"index": record.index, "success": record.success, "source": record.source.value}
    return encode(message)


def unpack_record(parts: Sequence[Part]) -> Record:
    """Rebuild a record; its arrays are read-only views of ``parts``.

    Raises:
        WireError: If the parts are not a record. No other error leaves this function, whatever the bytes.
    """
    message = decode(parts)
    try:
        return _from_message(message)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WireError("A record is malformed", seen=f"{type(error).__name__}: {error}") from error


def _from_message(message: Mapping[str, Any]) -> Record:
    key = EpisodeKey.parse(message["key"])
    match message["kind"]:
        case "begin":
            return Begin(key=key, task=str(message["task"]), meta=dict(message["meta"]))
        case "arrival":
            frames = {
                str(name): Frame(rgb=f["rgb"], camera=str(name), stamp_ns=int(f["stamp_ns"]), id=int(f["id"]))
                for name, f in message["frames"].items()
            }
            raw = message.get("command")
            command = (
                None
                if raw is None
                else Command(
                    action=raw["action"],
                    proposed=raw["proposed"],
                    source=Source(raw["source"]),
                    policy_version=int(raw["policy_version"]),
                )
            )
            return Arrival(
                key=key,
                index=int(message["index"]),
                observation=Observation(
                    frames=frames, state=message["state"], stamp_ns=int(message["stamp_ns"])
                ),
                command=command,
                reward=float(message["reward"]),
                reward_source=RewardSource(message["reward_source"]),
            )
        case "end":
            return End(
                key=key,
                index=int(message["index"]),
                cause=EndCause(message["cause"]),
                discarded=bool(message["discarded"]),
            )
        case "verdict":
            return Verdict(
                key=key,
                index=int(message["index"]),
                success=bool(message["success"]),
                source=RewardSource(message["source"]),
            )
        case unknown:
            raise ValueError(f"unknown kind of record {unknown!r}")
