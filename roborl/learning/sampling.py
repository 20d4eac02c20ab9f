"""Batches from replay memory: n-step or chunked transitions with the potentials of both their observations.

Rewards are the task's own. Potentials are read when a batch is drawn and handed over beside them; the algorithm shapes with
:func:`roborl.rewards.shaping.shaped_reward` and its own discount.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.clock import NS, Clock, MonotonicClock
from roborl.data.arena import DEMO, FAILURE, ONLINE, PAD, ArenaReader
from roborl.data.columns import NO_LABELS, NO_VERDICT, ProgressColumns, active_version
from roborl.data.sealed import SOURCES
from roborl.errors import ConfigError, DatasetError
from roborl.learning.batch import Batch, Bools, Floats, Ints
from roborl.learning.gather import ImageGather
from roborl.learning.index import INDEX_SETS, Drawn, TransitionIndex, measure
from roborl.rewards.shaping import potential
from roborl.types import Image, Source

_PERSON, _POLICY = SOURCES.index(Source.PERSON), SOURCES.index(Source.POLICY)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How transitions are made from stored steps.

    Attributes:
        n_step: Steps a transition spans where nothing cuts it; with ``chunked``, the length of a chunk. Where another source
            takes over it ends, so that no action is credited with what a person did next; a chunk of the policy's also where
            other weights act, and one of a person's where their motions begin or end.
        discount: The learner's γ, for Σγⁱrᵢ.
        chunked: Hand over all the actions of a transition, not only the first.
        shift_px: Random shift of pictures in each direction, 0 to 4 px.
        potential_scale: Reward that full progress is worth; 0: labels that are there are not looked at.
        potential_doubt: Spread of a score at which it counts half; infinite to let every score count fully.
        every_potential: Hand over the potentials inside transitions too, and wait for that of a terminal observation.
        shuffled: Give each observation the label of another one of its episode, the same at every draw once all are there.
            A control: such a reward is as invariant as any, and knows nothing.
        need_labels: Wait for progress labels. False where there is no reward model: then Φ = 0.
        label_deadline_s: After this long since it was seen to end, an episode is sampled with the labels it has; a recorded
            one only while there are no labels at all.
        reuse_arrays: Give the same picture arrays out again at each call, which saves the time to allocate them. A batch
            is then good until the next one is drawn.
    """

    n_step: int = 1
    discount: float = 0.97
    chunked: bool = False
    shift_px: int = PAD
    potential_scale: float = 1.0
    potential_doubt: float = math.inf
    every_potential: bool = False
    shuffled: bool = False
    need_labels: bool = True
    label_deadline_s: float = 30.0
    reuse_arrays: bool = False

    def __post_init__(self) -> None:
        if self.n_step < 1:
            raise ConfigError("A transition needs at least one step", seen=self.n_step, allowed="n_step ≥ 1")
        if not 0.0 < self.discount <= 1.0:
            raise ConfigError("The discount cannot be used", seen=self.discount, allowed="(0, 1]")


class Sampler:
    """Draws batches from a store's replay memory while the store goes on writing.

    Args:
        reader: The replay memory.
        config: How transitions are made.
        seed: Of everything random here.
        clock: For label deadlines.
    """

    def __init__(
        self, reader: ArenaReader, config: SamplingConfig, seed: int, clock: Clock | None = None
    ) -> None:
        self.reader, self.config = reader, config
        self._rng = np.random.default_rng(seed)
        self._clock: Clock = clock or MonotonicClock()
        self._index = TransitionIndex()
        self._labels: ProgressColumns | None = None
        self._waiting: dict[int, int] = {}
        self._buffers: dict[str, Image] = {}
        self._steps = np.arange(config.n_step)[:, None]
        self._factors = config.discount**self._steps
        self._map()
        self.refresh()

    @property
    def version(self) -> str:
        """Version of the labels in use, empty before the first."""
        return self._labels.version if self._labels else ""

    def state_dict(self) -> dict[str, Any]:
        """Return, for a checkpoint, how far random numbers and counts have come: plain values, integers of up to 128 bits."""
        return {"random": self._rng.bit_generator.state, "held_draws": self._index.held_draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Draw on from a checkpoint; from the seed where it says nothing of draws."""
        if "random" in state:
            self._rng.bit_generator.state = state["random"]
        self._index.held_draws = int(state.get("held_draws", 0))

    def refresh(self) -> None:
        """Take in new steps, ends, verdicts and labels, and the active version. Call it as often as steps arrive."""
        if self.reader.refresh():
            self._map()
        version = active_version(self.reader.root)
        if version is not None and version != self.version:
            self._labels = ProgressColumns(self.reader, version)
        table = self.reader.table
        labelled, deadline = self._read_labels(table)
        overdue, config = self._overdue(table, labelled), self.config
        # Once there is a column, its labeller says when a verdict, and labels of what is recorded, are no longer waited for.
        unlabelled = overdue & (self._labels is None)
        given_up = np.where(np.isin(table["kind"], (DEMO, FAILURE)), unlabelled, overdue)
        self._extent = measure(
            table,
            labelled,
            (deadline >= NO_LABELS) | given_up,
            (deadline >= NO_VERDICT) | unlabelled,
            window=config.n_step,
            need_labels=config.need_labels,
            need_terminal=config.every_potential,
        )
        self._verdict_reward: Floats = table["verdict_reward"].copy()
        self._verdicts = bool((self._extent.terminal & ~np.isnan(self._verdict_reward)).any())
        self._kind = table["kind"].copy()
        self._demo: Bools = self._kind == DEMO
        columns = self.reader.columns
        self._index.update(self._extent, table, columns.source, columns.action)
        if config.shuffled:
            self._order = self._shuffled(table, labelled)

    def counts(self) -> dict[str, int]:
        """Return the size of each index set, and how many steps are sampled without the labels they lack, and ever were."""
        return {
            **{name: self._index.count(name) for name in INDEX_SETS},
            "held": int(self._extent.held.sum()),
            "held_draws": self._index.held_draws,
        }

    def count(self, index_set: str) -> int:
        """Return the size of an index set, or of several joined by ``+``."""
        return self._index.count(index_set)

    def online(self) -> tuple[Ints, Ints]:
        """Return the ordinals of the online episodes that can be sampled from, and how many transitions of each, (n,) both."""
        extent = self._extent
        slots = np.flatnonzero((self._kind == ONLINE) & (extent.length > 0))
        return extent.ordinal[slots], extent.length[slots]

    def sample(self, batch_size: int, index_set: str = "all", *, images: bool = True) -> Batch:
        """Draw uniformly, with replacement, from one index set or several joined by ``+``.

        Raises:
            DatasetError: If the set is empty.
            ConfigError: If there is no such set.
        """
        return self.sample_parts({index_set: batch_size}, images=images)

    def sample_parts(
        self,
        parts: Mapping[str, int],
        *,
        images: bool = True,
        look_up: Callable[[Batch], None] | None = None,
    ) -> Batch:
        """Draw a number of transitions from each of several index sets into one batch, in that order.

        Args:
            parts: How many by index set.
            images: Whether the batch brings pictures.
            look_up: Reads from the replay memory, by row, what else is wanted of a batch: what it finds is checked to be of
                the same episodes. Called again where the batch is drawn anew.

        Raises:
            DatasetError: If a set is empty.
            ConfigError: If there is no such set.
        """
        for _ in range(100):
            draws = [self._index.draw(count, name, self._rng) for name, count in parts.items() if count]
            drawn = draws[0] if len(draws) == 1 else _joined(draws)
            batch = self._gather(drawn, images=images)
            if look_up is not None:
                look_up(batch)
            if self.reader.holds(drawn.slots, self._extent.ordinal.take(drawn.slots)):
                self._index.note(drawn)
                return batch
            # The store took rows back while they were being read: what was drawn may be of two episodes, and a set empty now.
            self.refresh()
            parts = self._still_there(parts)
        raise DatasetError(
            "The replay memory changes faster than it can be read",
            remedy="Raise capacity_bytes: it holds too few episodes",
        )

    def _still_there(self, parts: Mapping[str, int]) -> Mapping[str, int]:
        """Return the parts without sets that have become empty; the largest of the others gets what was theirs."""
        there = {name: count for name, count in parts.items() if self._index.count(name)}
        if there and (left := sum(parts.values()) - sum(there.values())):
            there[max(there, key=lambda name: there[name])] += left
        return there or parts

    def _gather(self, drawn: Drawn, *, images: bool) -> Batch:
        # `take` rather than indexing throughout, and few calls: copying pictures empties the processor's caches, so that
        # whatever runs between costs five times what it does alone.
        columns, extent, config = self.reader.columns, self._extent, self.config
        slots, steps = drawn
        start, last = extent.start.take(slots), extent.last.take(slots)
        rows = start + steps
        horizon = self._horizon(rows, last - steps)
        next_rows = rows + horizon
        both = np.array((rows, next_rows))
        terminated = extent.terminal.take(slots) & (next_rows == start + last)
        state, next_state = columns.state.take(both, axis=0)
        now, after = self._potentials(slots, start, both)
        pictures = self._pictures(both) if images else {}
        return Batch(
            images={camera: pair[0] for camera, pair in pictures.items()},
            next_images={camera: pair[1] for camera, pair in pictures.items()},
            state=state,
            next_state=next_state,
            action=columns.action.take(rows, axis=0),
            chunk=self._chunk(rows, horizon) if config.chunked else None,
            reward=self._reward(slots, rows, horizon, terminated),
            potential=now,
            next_potential=after,
            terminated=terminated,
            horizon=horizon,
            person=(columns.source.take(rows) == _PERSON)
            & ~self._index.failed.take(slots)
            & ~self._index.idle(rows),
            demo=self._demo.take(slots),
            rows=rows,
            next_rows=next_rows,
            version=self.version,
            potentials=self._every_potential(slots, start, rows, horizon) if config.every_potential else None,
        )

    def _horizon(self, rows: Ints, remaining: Ints) -> Ints:
        horizon = np.minimum(remaining, self.config.n_step)
        columns = self.reader.columns
        source, version = columns.source.take(rows), columns.policy_version.take(rows)
        acted, idle = source == _POLICY, self._index.idle(rows)
        for step in range(self.config.n_step - 1, 0, -1):
            other = columns.source.take(rows + step, mode="clip") != source
            if self.config.chunked:
                # Of what a person does the version is only that of a proposal, and 0 where there was none.
                other |= acted & (columns.policy_version.take(rows + step, mode="clip") != version)
                other |= self._index.idle(rows + step) != idle
            horizon = np.where(other & (step < horizon), step, horizon)
        return horizon

    def _reward(self, slots: Ints, rows: Ints, horizon: Ints, terminated: Bools) -> Floats:
        # Rows beyond the horizon may be of another episode, or beyond the end: they count 0.
        value = self.reader.columns.reward.take(rows + self._steps, mode="clip")
        if self._verdicts:
            verdict_reward = self._verdict_reward.take(slots)
            judged = np.flatnonzero(terminated & ~np.isnan(verdict_reward))
            value[horizon[judged] - 1, judged] = verdict_reward[judged]
        value = np.where(self._steps < horizon, value, np.float32(0))
        total: Floats = (self._factors * value).sum(axis=0).astype(np.float32)
        return total

    def _chunk(self, rows: Ints, horizon: Ints) -> Floats:
        offsets = np.arange(self.config.n_step)
        inside = offsets < horizon[:, None]
        taken = np.where(inside, rows[:, None] + offsets, rows[:, None])
        chunk: Floats = self.reader.columns.action[taken]
        chunk[~inside] = 0.0
        return chunk

    def _every_potential(self, slots: Ints, start: Ints, rows: Ints, horizon: Ints) -> Floats:
        offsets = np.minimum(np.arange(self.config.n_step + 1)[:, None], horizon)
        return self._potentials(slots, start, rows + offsets).T

    def _potentials(self, slots: Ints, start: Ints, rows: Ints) -> Floats:
        """Return Φ of observations ``rows`` (n, b) in the episodes at ``slots`` (b,)."""
        if self._labels is None or not self.config.potential_scale:
            return np.zeros(rows.shape, np.float32)
        labelled = self._extent.labelled.take(slots)
        # Where the label is late the last one is held; before the first, Φ is 0.
        rows = np.maximum(np.minimum(rows, start + labelled - 1), start)
        if self.config.shuffled:
            rows = self._order.take(rows)
        value: Floats = potential(
            self._labels.progress.take(rows),
            self._labels.spread.take(rows),
            scale=self.config.potential_scale,
            doubt=self.config.potential_doubt,
        )
        if not labelled.all():
            value[:, labelled == 0] = 0.0
        return value

    def _shuffled(self, table: NDArray[Any], labelled: Ints) -> Ints:
        """Return for each row of the replay memory the row that it takes its label from."""
        order = np.arange(self.reader.layout.rows)
        for slot in np.flatnonzero(labelled > 1).tolist():
            start, count = int(table["start"][slot]), int(labelled[slot])
            order[start : start + count] = start + np.random.default_rng(
                int(table["ordinal"][slot])
            ).permutation(count)
        return order

    def _pictures(self, rows: Ints) -> dict[str, Image]:
        """Return the shifted pictures of observations ``rows`` (2, b) by camera, (2, b, h, w, 3)."""
        pictures = {}
        for camera, gather in self._gathers.items():
            out = self._buffers.get(camera)
            if out is None or out.shape[:2] != rows.shape:
                out = gather.empty(rows.shape)
            if self.config.reuse_arrays:
                self._buffers[camera] = out
            pictures[camera] = gather.into(out, rows, self._rng)
        return pictures

    def _map(self) -> None:
        self._gathers = {
            camera: ImageGather(frames, self.config.shift_px)
            for camera, frames in self.reader.columns.frames.items()
        }
        self._labels = None

    def _read_labels(self, table: NDArray[Any]) -> tuple[Ints, Ints]:
        if self._labels is None:
            return np.zeros(table.size, np.int64), np.zeros(table.size, np.int64)
        mapped = self._labels.table
        before = mapped["ordinal"].copy()
        labels = mapped.copy()
        valid = (
            (before == table["ordinal"]) & (mapped["ordinal"] == before) & (labels["start"] == table["start"])
        )
        return np.where(valid, labels["labelled"], 0), np.where(valid, labels["deadline"], 0)

    def _overdue(self, table: NDArray[Any], labelled: Ints) -> Bools:
        """Return the episodes that ended more than the label deadline ago and are not labelled to their end."""
        overdue = np.zeros(table.size, bool)
        waiting: dict[int, int] = {}
        now = self._clock.now_ns()
        late = (table["ordinal"] > 0) & (table["ended"] == 1) & (labelled < table["observations"])
        for slot in np.flatnonzero(late).tolist() if self.config.need_labels else ():
            ordinal = int(table["ordinal"][slot])
            waiting[ordinal] = self._waiting.get(ordinal, now)
            overdue[slot] = now - waiting[ordinal] >= self.config.label_deadline_s * NS
        self._waiting = waiting
        return overdue


def _joined(draws: list[Drawn]) -> Drawn:
    return Drawn(np.concatenate([d.slots for d in draws]), np.concatenate([d.steps for d in draws]))
