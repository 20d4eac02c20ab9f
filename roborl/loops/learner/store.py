"""The store process: takes records off the wire, makes them durable, and only then acknowledges them."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from roborl.clock import NS, Clock, MonotonicClock
from roborl.codec import Part
from roborl.data.verdict_log import VerdictReader
from roborl.errors import ConfigError, DatasetError, RoborlError
from roborl.paths import same_place
from roborl.types import Episode
from roborl.whole_files import read_json, write_whole

log = logging.getLogger(__name__)

_PAUSE_S = 0.5


class StepsLink(Protocol):
    """The receiving end of the steps of all actors."""

    def poll(self, timeout_s: float) -> Sequence[tuple[str, int, Part]]:
        """Return (ring, sequence number, record), each once and in the order of its ring; wait for the first."""
        ...

    def acknowledge(self, ring_id: str, seq: int) -> None:
        """Tell an actor that all its records up to ``seq`` are durable."""
        ...


class WithVerdicts:
    """The steps of all actors, and between them a judge's verdicts, as one link.

    Args:
        link: The steps.
        verdicts: The verdicts that the store does not have.
    """

    def __init__(self, link: StepsLink, verdicts: VerdictReader) -> None:
        self._link, self._verdicts = link, verdicts
        self._judges: set[str] = set()

    def poll(self, timeout_s: float) -> list[tuple[str, int, Part]]:
        """Return what came of both."""
        steps = list(self._link.poll(timeout_s))
        given = [(entry.ring_id, entry.sequence, entry.blob) for entry in self._verdicts.fresh()]
        self._judges |= {ring_id for ring_id, _, _ in given}
        return steps + given

    def acknowledge(self, ring_id: str, seq: int) -> None:
        """Tell an actor; whoever gave a verdict has it written down and waits for nothing."""
        if ring_id not in self._judges:
            self._link.acknowledge(ring_id, seq)


class RecordSink(Protocol):
    """Where records become durable."""

    def last_sequence(self, ring_id: str) -> int:
        """Return up to which record of a ring everything is here."""
        ...

    def adopt(self, ring_id: str, acknowledged: int) -> None:
        """Take note that a ring's records up to ``acknowledged`` will never be sent again."""
        ...

    def ingest(self, ring_id: str, sequence: int, blob: Part) -> None:
        """Take the next record of a ring, durably.

        Raises:
            DatasetError: If it was not taken.
        """
        ...


class StoreLoop:
    """One turn: receive, write, acknowledge.

    A record that the disk does not take waits here, and those behind it, until it does: it is not acknowledged, so its
    actor keeps it too, and the actor's window bounds how many wait.

    Args:
        link: Where records come from.
        sink: Where they become durable.
        clock: Paces the attempts after a disk fault.
        pause_s: Time between two of them.

    Attributes:
        records: Records made durable since the start.
        faults: Attempts that the disk refused.
    """

    def __init__(
        self, link: StepsLink, sink: RecordSink, *, clock: Clock | None = None, pause_s: float = _PAUSE_S
    ) -> None:
        self._link, self._sink = link, sink
        self._clock: Clock = clock or MonotonicClock()
        self._pause_ns = int(pause_s * NS)
        self._waiting: dict[str, deque[tuple[int, Part]]] = {}
        self._retry_ns = 0
        self.records = self.faults = 0

    @property
    def waiting(self) -> int:
        """Records received and not yet durable."""
        return sum(map(len, self._waiting.values()))

    def turn(self, timeout_s: float = 0.1) -> int:
        """Handle what has come in and return how many records were acknowledged."""
        for ring_id, sequence, blob in self._link.poll(timeout_s):
            self._waiting.setdefault(ring_id, deque()).append((sequence, blob))
        if self._clock.now_ns() < self._retry_ns:
            return 0
        before = self.records
        for ring_id, queue in self._waiting.items():
            durable = self._drain(ring_id, queue)
            if durable:
                self._link.acknowledge(ring_id, durable)
        return self.records - before

    def _drain(self, ring_id: str, queue: deque[tuple[int, Part]]) -> int:
        """Store what waits of one ring; return the last number stored, 0 for none."""
        durable = 0
        while queue:
            sequence, blob = queue[0]
            try:
                # The link leaves out nothing, so whatever lies between was acknowledged to the actor before.
                if sequence > self._sink.last_sequence(ring_id) + 1:
                    self._sink.adopt(ring_id, sequence - 1)
                self._sink.ingest(ring_id, sequence, blob)
            except (DatasetError, OSError) as error:
                self.faults += 1
                self._retry_ns = self._clock.now_ns() + self._pause_ns
                log.error("Record %d of %s waits to be stored: %s", sequence, ring_id, error)
                break
            queue.popleft()
            durable = sequence
            self.records += 1
        return durable


class EpisodeSink(Protocol):
    """Where finished episodes from elsewhere go."""

    def import_episode(self, episode: Episode) -> bool:
        """Take an episode; False where it is there already."""
        ...


def imported(source: str, marker: Path) -> bool:
    """Return whether the import of a source is complete, by the file that :class:`DemoImport` writes.

    Raises:
        ConfigError: If that cannot be read.
    """
    return any(same_place(source, name) for name, held in _imports(marker).items() if held is not None)


def _imports(marker: Path) -> dict[str, list[str] | None]:
    """Return what each source held when it was taken, by content, in the order in which their imports began.

    None for one whose import is not complete, nothing where that is not known, as of earlier releases.
    """
    remedy = 'Write into it which --demos.path are in the store, in their order, such as ["outputs/reach"]'
    found = read_json(marker, remedy=remedy) if marker.exists() else []
    entries = [entry if isinstance(entry, dict) else {"source": entry, "held": []} for entry in found]
    return {entry.get("begun") or entry["source"]: entry.get("held") for entry in entries}


class DemoImport:
    """Takes demonstrations into the store one at a time, once in the life of a run.

    One that the disk does not take waits until it does. A run that is resumed with another source takes that too: its
    episodes are of a further incarnation of their actor, whether or not the import before it was complete. Of a source to
    which episodes were added since, these are taken.

    Args:
        source: What names them; another name, but for the spelling of a path, is another import.
        read: Opens them.
        sink: The store.
        marker: File that tells which imports have begun, and which of them are complete.
        held: Returns the content of all episodes of the source, in their order, whatever of them is taken.
        clock: Paces the attempts after a disk fault.

    Attributes:
        imported: Episodes taken since the start of this process.

    Raises:
        ConfigError: If the first one cannot be used, or there is none: nothing is marked then.
    """

    def __init__(
        self,
        source: str,
        read: Callable[[], Iterator[Episode]],
        sink: EpisodeSink,
        marker: Path,
        held: Callable[[], list[str]] = list,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._sink, self._marker = sink, marker
        self._clock: Clock = clock or MonotonicClock()
        self._retry_ns = 0
        self.imported = 0
        self._imports = _imports(marker)
        self._source = next((name for name in self._imports if same_place(name, source)), source)
        for other, number in self._imports.items():
            if other != self._source and number is None:
                log.warning(
                    "The demonstrations in %s were not all taken; name them again for the rest", other
                )
        self._held = self._contents(held)
        before = self._imports.get(self._source)
        taken = before is not None and not self._gained(before)
        if before == [] and self._held:  # from now on it is known
            self._mark(self._held)
        self._episodes = None if not source or taken else self._opened(read)
        # The first one is read at once: a dataset that does not fit is told before anything is started on it.
        self._next = None if self._episodes is None else self._following(self._episodes)
        if self._episodes is not None and self._next is None:
            raise self._unusable(_no_demonstration())

    @property
    def complete(self) -> bool:
        """True once all are in the store."""
        return self._episodes is None

    def turn(self) -> bool:
        """Take one; return False where there was none to take, or it waits for the disk.

        Raises:
            ConfigError: If it or the next one cannot be used. Another start would come upon it again.
        """
        if self._episodes is None or self._clock.now_ns() < self._retry_ns:
            return False
        try:
            if self._next is None:
                self._mark(self._held)
            else:
                self._take(self._next)
        except OSError as error:
            self._retry_ns = self._clock.now_ns() + int(_PAUSE_S * NS)
            log.error("The demonstrations in %s wait to be stored: %s", self._source, error)
            return False
        if self._next is None:
            self._episodes = None
            return False
        self._next = self._following(self._episodes)
        return True

    def _take(self, episode: Episode) -> None:
        if self._source not in self._imports:
            self._mark(None)
        try:
            self.imported += self._sink.import_episode(episode)
        except RoborlError as error:
            raise self._unusable(error) from error

    def _mark(self, held: list[str] | None) -> None:
        marked = self._imports | {self._source: held}
        entries = [
            {"begun": name} if contents is None else {"source": name, "held": contents}
            for name, contents in marked.items()
        ]
        write_whole(self._marker, json.dumps(entries))
        self._imports = marked

    def _contents(self, held: Callable[[], list[str]]) -> list[str]:
        """Return what the source holds, nothing where that cannot be read: what is in the store may be gone by now."""
        try:
            return held() if self._source else []
        except RoborlError:
            return []

    def _gained(self, before: list[str]) -> bool:
        """Return whether there are episodes behind those that were taken. Others are known by their number alone."""
        if not before or not self._held or self._held == before:
            return False
        if grown := self._held[: len(before)] == before:
            log.info("%s has grown: %d new episodes are taken", self._source, len(self._held) - len(before))
        else:
            log.warning(
                "%s is not what it was when it was taken, for episodes were deleted or recorded anew: nothing of it is taken"
                " again. Name new demonstrations as a dataset of their own, or begin another run",
                self._source,
            )
        return grown

    def _opened(self, read: Callable[[], Iterator[Episode]]) -> Iterator[Episode]:
        try:
            return read()
        except RoborlError as error:
            raise self._unusable(error) from error

    def _following(self, episodes: Iterator[Episode]) -> Episode | None:
        try:
            episode = next(episodes, None)
        except Exception as error:  # A dataset may hold anything, and its reader raise anything.
            raise self._unusable(error) from error
        if episode is None:
            return None
        place = list(self._imports | {self._source: None}).index(self._source)
        return replace(episode, key=replace(episode.key, incarnation=1 + place))

    def _unusable(self, error: Exception) -> ConfigError:
        told = error if isinstance(error, RoborlError) else DatasetError(type(error).__name__, seen=error)
        return ConfigError(
            f"The demonstrations in {self._source} cannot be used: {told.problem}",
            seen=told.seen,
            allowed=told.allowed or "a dataset whose every episode fits the bench",
            remedy=". ".join(filter(None, (told.remedy.rstrip("."), "Start again in a new run folder"))),
        )


def _no_demonstration() -> DatasetError:
    return DatasetError(
        "The dataset holds no demonstration",
        seen="0 episodes that can be taken",
        allowed="at least one that succeeded and lasts longer than a step",
        remedy="If all succeeded but those named with --demos.failed, say --demos.success all; "
        "to learn from its failures alone, --demos.failures true",
    )
