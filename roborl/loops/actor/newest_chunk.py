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
        replan_steps: After how many steps of a chunk another one is asked for.
        patience_steps: How many steps more it serves while the other one does not come.

    Attributes:
        heard: How many have come.
    """

    def __init__(
        self,
        slot: ChunkSlot,
        status: StatusSlot,
        remarks: Remarks,
        *,
        replan_steps: int,
        patience_steps: int,
    ) -> None:
        self._slot, self._status, self._remarks = slot, status, remarks
        self._replan_steps, self._patience_steps = replan_steps, patience_steps
        self._chunk: Chunk | None = None
        self._came_at = self.heard = 0

    def forget(self) -> None:
        """Drop what is held, as an episode begins."""
        self._chunk = None

    def look(self, index: int) -> None:
        """Take in what inference has left since, before step ``index``. Never waits."""
        try:
            chunk = self._slot.unseen()
        except WireError as error:
            self._status.add("bad_chunks")
            self._remarks.keep("chunks", str(error))
            return
        if chunk is None:
            return
        if chunk.actions.ndim != 2 or not chunk.actions.size or not np.isfinite(chunk.actions).all():
            self._status.add("bad_chunks")
            return
        self._chunk, self._came_at = chunk, index
        self.heard += 1

    def covering(self, key: EpisodeKey, index: int) -> Chunk | None:
        """Return it where it holds an action for step ``index`` of episode ``key``, whenever that was chosen."""
        return self._chunk if self._chunk is not None and self._chunk.covers(key, index) else None

    def usable(self, key: EpisodeKey, index: int, *, person_at: int) -> Chunk | None:
        """Return it where the arm may act on it: chosen after the person's last step, and not overdue.

        A chunk is overdue once the one that was asked for in its place has not come for ``patience_steps``: whoever chose
        it is silent, and the arm must not go on blindly to its end.

        Args:
            key: The episode.
            index: The step.
            person_at: The last step that a person commanded, -1 for none.
        """
        chunk = self.covering(key, index)
        if chunk is None or chunk.first <= person_at:
            return None
        asked_at = max(chunk.first + self._replan_steps, self._came_at)
        return chunk if index - asked_at < self._patience_steps else None

    def wanted(self, key: EpisodeKey, index: int, *, person_at: int) -> bool:
        """Return whether another one is to be asked for at step ``index``. The arguments are those of :meth:`usable`."""
        chunk = self.usable(key, index, person_at=person_at)
        return chunk is None or index - chunk.first >= self._replan_steps
