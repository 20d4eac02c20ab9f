"""An account of what actors committed, taken beside them from their rings, and compared with what the store made of it.

Neither the sending nor the storing processes have a part in it: a witness maps the ring as a third party, reads each
record once it is committed and keeps a digest of its pictures, state, command and reward.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from roborl.codec import split
from roborl.data.arena import PAD, ArenaReader
from roborl.data.reader import StoreReader
from roborl.data.ring import Ring
from roborl.errors import DatasetError
from roborl.images import square
from roborl.records import Arrival, End, unpack_record
from roborl.types import EndCause, EpisodeKey


@dataclass
class WitnessedEpisode:
    """What was seen of one episode: a digest per observation in the order of their commitment, and its end."""

    digests: list[tuple[int, bytes]] = field(default_factory=list)
    end: EndCause | None = None


class RingWitness:
    """Follows one actor's ring.

    Args:
        path: The ring file; it may come later.

    Attributes:
        folder: Where the ring is, with what else the actor's processes share.
        episodes: What was committed.
        records: Records read.
        overtaken: Records that were overwritten before they were read; anything but 0 voids the account.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self._path = path
        self._ring: Ring | None = None
        self.episodes: dict[EpisodeKey, WitnessedEpisode] = {}
        self.records = self.overtaken = 0

    def look(self) -> None:
        """Read what was committed since the last look."""
        if self._ring is None:
            if not self._path.exists():
                return
            self._ring = Ring.attach(self._path)
        while self.records + self.overtaken < self._ring.head:
            try:
                record = unpack_record(split(bytes(self._ring.read(self.records + self.overtaken + 1))))
            except DatasetError:
                self.overtaken += 1
                continue
            self.records += 1
            episode = self.episodes.setdefault(record.key, WitnessedEpisode())
            match record:
                case Arrival():
                    episode.digests.append((record.index, digest(record)))
                case End():
                    episode.end = record.cause

    def close(self) -> None:
        """Let go of the ring."""
        if self._ring is not None:
            self._ring.close()


def digest(arrival: Arrival) -> bytes:
    """Return a hash over everything an arrival says: pictures, state, command, reward, stamps."""
    seen, command = arrival.observation, arrival.command
    made = hashlib.blake2b(struct.pack("<qq", arrival.index, seen.stamp_ns), digest_size=16)
    for name, frame in sorted(seen.frames.items()):
        made.update(f"{name} {frame.rgb.shape} {frame.stamp_ns} {frame.id}".encode())
        made.update(np.ascontiguousarray(frame.rgb))
    made.update(np.ascontiguousarray(seen.state))
    if command is not None:
        made.update(np.ascontiguousarray(command.action))
        made.update(np.ascontiguousarray(command.proposed))
        made.update(f"{command.source} {command.policy_version}".encode())
    made.update(struct.pack("<d", arrival.reward) + arrival.reward_source.encode())
    return made.digest()


def compare(witnesses: Iterable[RingWitness], root: Path) -> dict[str, int]:
    """Hold a store that nobody writes to any more against what the witnesses saw.

    Returns:
        Counts of observations with what led to them. ``lost``: committed, not stored. ``doubled``: stored more than once.
        ``foreign``: stored, never committed. ``misplaced``: not in the order of their commitment. ``altered``: with other
        pictures, state, command or reward than were committed, in the recording or in the replay memory. ``overtaken``:
        such as the witnesses could not read. ``ends_differ``: episodes with another end than was committed.
    """
    account = Counter(dict.fromkeys(_COUNTS, 0))
    reader = StoreReader(root)
    infos = {info.key: info for info in reader.episodes()}
    arena = ArenaReader(root)
    for witness in witnesses:
        account["overtaken"] += witness.overtaken
        for key, episode in witness.episodes.items():
            info = infos.pop(key, None)
            account["episodes"] += 1
            account["committed"] += len(episode.digests)
            arrivals = [] if info is None else list(reader.arrivals(key))
            account["ends_differ"] += info is None or info.end is not episode.end
            _compare_episode(account, episode, [(arrival.index, digest(arrival)) for arrival in arrivals])
            account["in_memory"] += _compare_memory(account, arena, key, arrivals)
    account["foreign"] += sum(info.observations for info in infos.values())
    return dict(account)


_COUNTS = (
    *("episodes", "committed", "stored", "in_memory", "lost", "doubled", "foreign", "misplaced", "altered"),
    *("overtaken", "ends_differ"),
)


def _compare_episode(
    account: Counter[str], episode: WitnessedEpisode, stored: list[tuple[int, bytes]]
) -> None:
    committed = dict(episode.digests)
    times = Counter(index for index, _ in stored)
    account["stored"] += len(stored)
    account["lost"] += sum(index not in times for index in committed)
    account["doubled"] += sum(count - 1 for count in times.values()) + len(episode.digests) - len(committed)
    account["foreign"] += sum(index not in committed for index in times)
    account["misplaced"] += sum(index != place for place, (index, _) in enumerate(stored))
    account["altered"] += sum(index in committed and committed[index] != seen for index, seen in stored)


def _compare_memory(
    account: Counter[str], arena: ArenaReader, key: EpisodeKey, arrivals: list[Arrival]
) -> int:
    """Count as altered what the replay memory holds of an episode and its recording does not; return how much it holds."""
    slot = arena.slot(key)
    if slot is None:
        return 0
    entry, columns = arena.table[slot], arena.columns
    start, held = int(entry["start"]), int(entry["observations"])
    account["lost"] += max(0, len(arrivals) - held)
    for arrival, row in zip(arrivals, range(start, start + held), strict=False):
        same = np.array_equal(columns.state[row], arrival.observation.state)
        for name, frame in arrival.observation.frames.items():
            picture = columns.frames[name][row, PAD:-PAD, PAD:-PAD]
            same &= np.array_equal(picture, square(frame.rgb, arena.layout.image_px))
        if arrival.command is not None:
            same &= np.array_equal(columns.action[row - 1], arrival.command.action)
            same &= np.array_equal(columns.proposed[row - 1], arrival.command.proposed)
            same &= bool(columns.reward[row - 1] == np.float32(arrival.reward))
        account["altered"] += not same
    return held
