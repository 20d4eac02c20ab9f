"""Which transitions can be sampled, kept up to date from the replay memory's episode table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roborl.data.arena import DEMO, EVALUATION, FAILURE, ONLINE
from roborl.data.sealed import SOURCES
from roborl.errors import ConfigError, DatasetError
from roborl.learning.batch import Bools, Ints
from roborl.types import Source

REST = 0.05
"""Largest number of an action that is no motion: what an arm does by itself, and a hand that lies on its device."""

INDEX_SETS = ("all", "online", "demo", "failure", "person", "success")
_PERSON = SOURCES.index(Source.PERSON)


class Drawn(NamedTuple):
    """Transitions that were drawn: entry of the episode and index of the step in it, (b,) each."""

    slots: Ints
    steps: Ints


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Extent:
    """How far the steps of each episode can be used, as arrays over the entries (episodes,).

    Attributes:
        ordinal: 0 where the entry is free.
        start: First row.
        last: Index of the last observation that counts: the terminal one, else the last stored.
        terminal: Whether reaching ``last`` ends the task.
        length: Steps 0 to ``length - 1`` can be sampled.
        labelled: Observations that have a label.
        held: Sampleable steps whose labels are missing and were given up on.
    """

    ordinal: Ints
    start: Ints
    last: Ints
    terminal: Bools
    length: Ints
    labelled: Ints
    held: Ints


def measure(
    table: NDArray[Any],
    labelled: Ints,
    given_up: Bools,
    unjudged: Bools,
    *,
    window: int,
    need_labels: bool,
    need_terminal: bool = False,
) -> Extent:
    """Work out the usable extent of each episode.

    A step of an open episode waits until its whole window is there; a finished one cuts windows at its end. A step waits
    for the labels of both its observations, unless they were given up on; a terminal observation's is needed only where the
    form of reward looks at it. An episode whose outcome comes from a judge waits for the verdict, unless it is over and that
    was given up on.

    Args:
        table: Entries of :data:`roborl.data.arena.EPISODE`, (episodes,).
        labelled: Observations labelled, (episodes,).
        given_up: Where missing labels are not waited for, (episodes,).
        unjudged: Where a missing verdict is not waited for, (episodes,).
        window: Longest transition, steps.
        need_labels: False where there is no reward model.
        need_terminal: Whether the label of a terminal observation is waited for too.
    """
    observations, terminal_at = table["observations"], table["terminal"]
    terminal = (terminal_at > 0) & (terminal_at < observations)
    last = np.where(terminal, terminal_at, np.maximum(observations - 1, 0))
    over = terminal | (table["ended"] == 1)
    usable = (table["ordinal"] > 0) & (table["discarded"] == 0) & (table["kind"] != EVALUATION)
    needed = last + np.where(terminal, need_terminal, 1)
    complete = over & (labelled >= needed)
    undecided = (table["awaits_verdict"] == 1) & ~terminal & ~(unjudged & over)
    present = np.where(over, last, np.maximum(observations - window, 0))
    present = np.where(usable & ~undecided, present, 0)
    if not need_labels:
        return Extent(
            ordinal=table["ordinal"],
            start=table["start"],
            last=last,
            terminal=terminal,
            length=present,
            labelled=labelled,
            held=np.zeros_like(present),
        )
    reached = np.where(complete, present, np.minimum(present, np.maximum(labelled - window, 0)))
    length = np.where(given_up, present, reached)
    return Extent(
        ordinal=table["ordinal"],
        start=table["start"],
        last=last,
        terminal=terminal,
        length=length,
        labelled=labelled,
        held=length - reached,
    )


def idle_ends(person: Bools, action: NDArray[np.float32]) -> Bools:
    """Return the steps of a person before their first and after their last motion of each span, (t,).

    A person who takes over by a button first reaches for the device, and lets go of it before giving back; one who takes
    over by motion keeps the arm for a while after it. None of that is meant. What the gripper does is a motion, too.

    Args:
        person: Whether a person commanded, (t,).
        action: What was executed, (t, a).
    """
    moves = np.abs(action).max(axis=1, initial=0.0) > REST
    idle = person.copy()
    for first, end in np.flatnonzero(np.diff(person, prepend=False, append=False)).reshape(-1, 2):
        motion = np.flatnonzero(moves[first:end])
        if motion.size:
            idle[first + motion[0] : first + motion[-1] + 1] = False
    return idle


class TransitionIndex:
    """Named sets of sampleable transitions over one store, each transition once.

    Sets: ``all``, ``online``, ``demo``, ``failure`` (recorded failures),
    ``success`` (online episodes that succeeded) and ``person`` (steps a person commanded in online episodes that are not known
    to have failed, from their first motion to their last), or several joined by ``+``.

    Attributes:
        failed: Which entries hold recorded failures, or online episodes that failed by their newest verdict, (episodes,).
        held_draws: Transitions ever drawn while their labels were missing, of those that :meth:`note` was told of.
    """

    def __init__(self) -> None:
        self.failed: Bools = np.zeros(0, bool)
        self.held_draws = 0
        self._any_held = False
        self._persons: dict[int, Ints] = {}
        self._idle: Bools = np.zeros(0, bool)
        self._marked: dict[int, slice] = {}
        self._looked_at: tuple[Ints, Ints] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._cache: dict[str, tuple[Ints, Ints, Drawn]] = {}

    def update(
        self,
        extent: Extent,
        table: NDArray[Any],
        source: NDArray[np.uint8],
        action: NDArray[np.float32],
    ) -> None:
        """Take over a new extent; only episodes that changed are looked at step by step."""
        self._extent, self._table = extent, table
        self.failed = (table["kind"] == FAILURE) | ((table["kind"] == ONLINE) & (table["success"] == 0))
        self._any_held = bool(extent.held.any())
        self._cache.clear()
        online = (extent.length > 0) & (table["kind"] == ONLINE)
        ordinal, length = np.where(online, extent.ordinal, 0), np.where(online, extent.length, 0)
        before = self._looked_at
        if (before[0].size, self._idle.size) != (ordinal.size, source.size):
            self._persons.clear()
            self._marked.clear()
            self._idle = np.zeros(source.size, bool)
            before = (np.zeros_like(ordinal), np.zeros_like(length))
        changed = np.flatnonzero((ordinal != before[0]) | (length != before[1])).tolist()
        for slot in changed:
            # All of them first: another episode may have these rows by now.
            self._persons.pop(slot, None)
            self._idle[self._marked.pop(slot, slice(0))] = False
        for slot in changed:
            start = int(extent.start[slot])
            rows = slice(start, start + int(length[slot]))
            person = source[rows] == _PERSON
            if not person.any():
                continue
            self._marked[slot] = rows
            self._idle[rows] = idle = idle_ends(person, action[rows])
            if (steps := np.flatnonzero(person & ~idle)).size:
                self._persons[slot] = steps
        self._looked_at = (ordinal, length)

    def idle(self, rows: Ints) -> Bools:
        """Return which rows hold steps of a person before their first or after their last motion; see :func:`idle_ends`."""
        return self._idle.take(rows, mode="clip")

    def count(self, index_set: str) -> int:
        """Return how many transitions a set has."""
        _, ends, extra = self._resolve(index_set)
        return int(ends[-1] if ends.size else 0) + extra.slots.size

    def draw(self, count: int, index_set: str, rng: np.random.Generator) -> Drawn:
        """Draw uniformly, with replacement.

        Raises:
            DatasetError: If the set is empty.
            ConfigError: If there is no such set.
        """
        slots, ends, extra = self._resolve(index_set)
        whole = int(ends[-1]) if ends.size else 0
        total = whole + extra.slots.size
        if not total:
            raise DatasetError(
                "There is nothing to sample yet",
                seen=f"index set {index_set!r} is empty",
                remedy="Wait for episodes",
            )
        picks = rng.integers(total, size=count)
        if not whole:
            return Drawn(extra.slots.take(picks), extra.steps.take(picks))
        which = np.searchsorted(ends, picks, side="right")
        if extra.slots.size:
            beyond = np.flatnonzero(picks >= whole)
            which[beyond] = 0
        out_slots = slots.take(which)
        out_steps = picks - ends.take(which) + self._extent.length.take(out_slots)
        if extra.slots.size:
            out_slots[beyond] = extra.slots.take(picks[beyond] - whole)
            out_steps[beyond] = extra.steps.take(picks[beyond] - whole)
        return Drawn(out_slots, out_steps)

    def note(self, drawn: Drawn) -> None:
        """Count those of the transitions drawn whose labels are missing and were given up on."""
        if self._any_held:
            reached = (self._extent.length - self._extent.held).take(drawn.slots)
            self.held_draws += int(np.count_nonzero(drawn.steps >= reached))

    def _resolve(self, index_set: str) -> tuple[Ints, Ints, Drawn]:
        if index_set not in self._cache:
            self._cache[index_set] = self._build(set(index_set.split("+")))
        return self._cache[index_set]

    def _build(self, names: set[str]) -> tuple[Ints, Ints, Drawn]:
        unknown = names - set(INDEX_SETS)
        if unknown:
            raise ConfigError("There is no such index set", seen=sorted(unknown), allowed=INDEX_SETS)
        table, length = self._table, self._extent.length
        chosen = np.zeros(length.size, bool)
        if "all" in names:
            chosen[:] = True
        if "online" in names:
            chosen |= table["kind"] == ONLINE
        if "demo" in names:
            chosen |= table["kind"] == DEMO
        if "failure" in names:
            chosen |= table["kind"] == FAILURE
        if "success" in names:
            chosen |= (table["kind"] == ONLINE) & (table["success"] == 1) & (table["ended"] == 1)
        slots = np.flatnonzero(chosen & (length > 0))
        extra = [
            (slot, steps)
            for slot, steps in sorted(self._persons.items())
            if "person" in names and not chosen[slot] and not self.failed[slot]
        ]
        return (
            slots,
            np.cumsum(length[slots]),
            Drawn(
                np.repeat(
                    np.array([slot for slot, _ in extra], np.int64), [steps.size for _, steps in extra]
                ),
                np.concatenate([np.zeros(0, np.int64), *(steps for _, steps in extra)]),
            ),
        )
