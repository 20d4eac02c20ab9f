"""The newest actions that the policy chose, as the control loop looks at them: never waited for, never trusted."""

from __future__ import annotations

import numpy as np

from roborl.errors import WireError
from roborl.loops.actor.remarks import Remarks
from roborl.loops.actor.shared import Chunk, ChunkSlot
from roborl.loops.actor.status import StatusSlot
from roborl.types import EpisodeKey


class NewestChunk:
    """Keeps the last chunk that can be executed; what is none is counted.

    Args:
        slot: Where inference leaves chunks.
        status: The control process's counters.
        remarks: Takes what is to be said of bad ones.
    """

    def __init__(self, slot: ChunkSlot, status: StatusSlot, remarks: Remarks) -> None:
        self._slot, self._status, self._remarks = slot, status, remarks
        self._chunk: Chunk | None = None

    def forget(self) -> None:
        """Drop what is held, as an episode begins."""
        self._chunk = None

    def look(self) -> None:
        """Take in what inference has left since. Never waits."""
        try:
            chunk = self._slot.newest()
        except WireError as error:
            self._status.add("bad_chunks")
            self._remarks.keep("chunks", str(error))
            return
        if chunk is None:
            return
        if chunk.actions.ndim != 2 or not chunk.actions.size or not np.isfinite(chunk.actions).all():
            self._status.add("bad_chunks")
            return
        self._chunk = chunk

    def usable(self, key: EpisodeKey, index: int, *, person_at: int) -> Chunk | None:
        """Return it where it holds an action for step ``index`` of an episode and was chosen after the person's last one.

        Args:
            key: The episode.
            index: The step.
            person_at: The last step that a person commanded, -1 for none.
        """
        chunk = self._chunk
        if chunk is None or not chunk.covers(key, index) or chunk.first <= person_at:
            return None
        return chunk
