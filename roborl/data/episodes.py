"""What is known about an episode from its records so far: a small fold that store, reader and sealed episodes share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from roborl.records import Arrival, Begin, End, Record, Verdict
from roborl.types import EndCause, EpisodeKey, RewardSource

type Kind = Literal["online", "demo", "evaluation", "failure"]
KINDS: tuple[Kind, ...] = ("online", "demo", "evaluation", "failure")
"""What acted online, a demonstration, an evaluation, a failure that was recorded to learn from."""
_IMPORT = "import-"
_KIND_OF_MODE: dict[str, Kind] = {"demo": "demo", "evaluate": "evaluation", "failure": "failure"}


def import_ring(key: str, content: str) -> str:
    """Return the name of the ring on which an episode of a dataset comes into a store."""
    return f"{_IMPORT}{key}-{content}"


def is_actors(ring_id: str) -> bool:
    """Return whether a ring is an actor's, who is in one episode at a time; a dataset's episodes have one each."""
    return not ring_id.startswith(_IMPORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeInfo:
    """Everything about an episode but its observations and steps.

    Attributes:
        key: Identity.
        ordinal: Its place in the order in which the store met episodes, from 1.
        task: The instruction in words.
        kind: ``demo`` and ``failure`` episodes are never evicted; ``evaluation`` episodes are kept and never sampled.
        meta: What its ``Begin`` said.
        observations: How many are stored: T + 1 once it has ended.
        end: Why it ended, None while it is open.
        discarded: The operator asked to keep it out of training.
        verdict: The last judgement on it, None where there is none.
        sequences: The highest sequence number taken from each ring; the first is the one that it began on.
    """

    key: EpisodeKey
    ordinal: int
    task: str
    kind: Kind = "online"
    meta: Mapping[str, str | int | float] = field(default_factory=dict)
    observations: int = 0
    end: EndCause | None = None
    discarded: bool = False
    verdict: Verdict | None = None
    sequences: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_begin(cls, begin: Begin, ordinal: int) -> EpisodeInfo:
        """Start from an episode's first record; its ``mode`` says of which kind it is."""
        mode = begin.meta.get("mode")
        kind = _KIND_OF_MODE.get(str(mode), "online")
        return cls(key=begin.key, ordinal=ordinal, task=begin.task, kind=kind, meta=dict(begin.meta))

    @property
    def steps(self) -> int:
        """T, the number of transitions stored."""
        return max(0, self.observations - 1)

    @property
    def recorded(self) -> bool:
        """Whether it came from a dataset, not from what acts now."""
        return self.kind in ("demo", "failure")

    @property
    def ring_id(self) -> str:
        """The ring that it began on and that alone goes on with it; empty where it was imported."""
        return next(iter(self.sequences), "")

    @property
    def terminal_index(self) -> int | None:
        """The observation at which the task itself ended, None where it did not.

        That is the one a verdict judged that ends the task; without one, the last of an episode that ended in success or
        failure. Steps after it are kept and never sampled.
        """
        verdict = self.verdict
        if verdict is not None and verdict.ends and 0 < verdict.index < self.observations:
            return verdict.index
        return self.steps if self.end is not None and self.end.terminated and self.steps else None

    @property
    def success(self) -> bool | None:
        """The verdict, else what the end says; None where nobody judged."""
        if self.verdict is not None:
            return self.verdict.success
        return {EndCause.SUCCESS: True, EndCause.FAILURE: False}.get(self.end) if self.end else None

    @property
    def awaits_verdict(self) -> bool:
        """Whether its outcome is left to a judge that has not spoken; nobody judges an episode without a step."""
        over = self.end is not None and not self.steps
        return self.meta.get("outcome") == "judge" and self.verdict is None and not over

    def with_record(self, record: Record) -> EpisodeInfo | None:
        """Return what is known after one more record, or None where the record does not belong here.

        An arrival belongs where it continues the count of an open episode, an end where the episode is open, a verdict
        always, though it may not count, see :meth:`roborl.records.Verdict.replaces`.
        """
        if record.key != self.key:
            return None
        match record:
            case Arrival() if self.end is None and record.index == self.observations:
                if (record.command is None) != (record.index == 0):
                    return None
                return replace(self, observations=self.observations + 1)
            case End() if self.end is None:
                return replace(self, end=record.cause, discarded=record.discarded)
            case Verdict():
                return replace(self, verdict=record) if record.replaces(self.verdict) else self
            case _:
                return None

    def taken(self, ring_id: str, sequence: int) -> EpisodeInfo:
        """Note that a record came from a ring."""
        if not ring_id:
            return self
        highest = max(sequence, self.sequences.get(ring_id, 0))
        return replace(self, sequences={**self.sequences, ring_id: highest})

    def to_attributes(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        verdict = self.verdict
        return {
            "key": str(self.key),
            "ordinal": self.ordinal,
            "task": self.task,
            "kind": self.kind,
            "meta": dict(self.meta),
            "observations": self.observations,
            "end": None if self.end is None else self.end.value,
            "discarded": self.discarded,
            "verdict": None
            if verdict is None
            else {
                "index": verdict.index,
                "success": verdict.success,
                "source": verdict.source.value,
                "reward": verdict.reward,
            },
            "terminal_index": self.terminal_index,
            "success": self.success,
            "sequences": dict(self.sequences),
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> EpisodeInfo:
        """Read what :meth:`to_attributes` wrote.

        Raises:
            KeyError, TypeError, ValueError: If it is something else.
        """
        key, verdict = EpisodeKey.parse(attributes["key"]), attributes["verdict"]
        if attributes["kind"] not in KINDS:
            raise ValueError(f"kind {attributes['kind']!r}")
        return cls(
            key=key,
            ordinal=int(attributes["ordinal"]),
            task=str(attributes["task"]),
            kind=attributes["kind"],
            meta=dict(attributes["meta"]),
            observations=int(attributes["observations"]),
            end=None if attributes["end"] is None else EndCause(attributes["end"]),
            discarded=bool(attributes["discarded"]),
            verdict=None
            if verdict is None
            else Verdict(
                key=key,
                index=int(verdict["index"]),
                success=bool(verdict["success"]),
                source=RewardSource(verdict["source"]),
                reward=None if verdict.get("reward") is None else float(verdict["reward"]),
            ),
            sequences={str(ring): int(n) for ring, n in attributes["sequences"].items()},
        )
