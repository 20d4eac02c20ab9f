"""Background sealing, so that taking records in never waits for compression."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from roborl.errors import RoborlError
from roborl.types import EpisodeKey

_log = logging.getLogger(__name__)


class Sealer:
    """Runs ``seal`` on episodes in the order given, in one thread.

    An episode whose sealing fails, for whatever reason, keeps its log and is tried again together with the next one.

    Args:
        seal: Seals one episode; called in the thread.
    """

    def __init__(self, seal: Callable[[EpisodeKey], None]) -> None:
        self._seal = seal
        self._changed = threading.Condition()
        self._waiting: list[EpisodeKey] = []
        self._failed: list[EpisodeKey] = []
        self._busy = self._closing = False
        self._thread = threading.Thread(target=self._run, name="sealer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Do nothing while the thread lives.

        Raises:
            RoborlError: If it has ended: nothing would be sealed any more.
        """
        if not self._thread.is_alive() and not self._closing:
            raise RoborlError(
                "Finished episodes are not sealed any more: the thread that does it has ended",
                seen=f"{self.pending} of them wait",
                allowed="a thread that lives as long as the store",
                remedy="See its traceback above, and start the store again: it seals what the logs hold",
            )

    def submit(self, key: EpisodeKey) -> None:
        """Queue an episode.

        Raises:
            RoborlError: If the thread has ended.
        """
        self.check()
        with self._changed:
            self._waiting += [*self._failed, key]
            self._failed.clear()
            self._changed.notify_all()

    @property
    def pending(self) -> int:
        """How many episodes are not sealed yet."""
        with self._changed:
            return len(self._waiting) + len(self._failed) + self._busy

    @property
    def failed(self) -> int:
        """How many of those failed when last tried."""
        with self._changed:
            return len(self._failed)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the queue is empty; return False where that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self) -> None:
        """Finish the queue and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                key, self._busy = self._waiting.pop(0), True
            failed = False
            try:
                self._seal(key)
            except (OSError, RoborlError) as error:
                failed = True
                _log.warning("episode %s is not sealed yet and keeps its log: %s", key, error)
            except Exception:  # What one episode holds must not keep the others from being sealed.
                failed = True
                _log.exception("episode %s is not sealed yet and keeps its log", key)
            with self._changed:
                self._busy = False
                self._failed += [key] * failed
                self._changed.notify_all()
