"""The I/O process of an actor: committed steps to the learner, weights from it. The only one that knows a network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from roborl.clock import Every
from roborl.codec import Part
from roborl.data.ring import Ring
from roborl.errors import ConfigError, DatasetError, HandshakeMismatch
from roborl.loops.actor.act_config import ActConfig, Card, shared_folder
from roborl.loops.actor.inference import await_card, policy_maker
from roborl.loops.actor.shared import inference_bell
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.weights_slot import WeightsSlot
from roborl.loops.architecture import architecture, folder_architecture
from roborl.loops.supervise import Child

if TYPE_CHECKING:
    from roborl.serving.handshake import Handshake
    from roborl.serving.weight_layout import WeightSet

log = logging.getLogger(__name__)

_IDLE_S = 0.004
_SAY_AFTER_S = 1.0
_SAY_AGAIN_S = 60.0
_SAY_S = 0.5


class Sender(Protocol):
    """The sending end of the steps link; :class:`roborl.serving.steps_sender.StepsSender` is one."""

    acknowledged: int

    @property
    def connected(self) -> bool:
        """Whether the learner has welcomed this side."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the learner was heard lately."""
        ...

    @property
    def control(self) -> Mapping[str, Any]:
        """The newest map that the learner wants known."""
        ...

    @property
    def next_sequence(self) -> int:
        """What :meth:`offer` takes next."""
        ...

    def offer(self, seq: int, blob: Part) -> bool:
        """Take a record on its way; False where there is no room or nobody there."""
        ...

    def poll(self, timeout_s: float = 0.0) -> int:
        """Return the last durable sequence number."""
        ...

    def set_status(self, status: Mapping[str, Any]) -> None:
        """Let the learner know ``status``."""
        ...


class Subscriber(Protocol):
    """The receiving end of the weights link; :class:`roborl.serving.weights_subscriber.WeightsSubscriber` is one."""

    def newest(self, timeout_s: float = 0.0) -> WeightSet | None:
        """Return a set that was not returned before, or None."""
        ...


class Nowhere:
    """The sending end of an evaluation that no learner has a part in: every record is done with at once.

    Args:
        acknowledged: The last sequence number that an earlier start was done with.
    """

    connected, alive = False, True

    def __init__(self, acknowledged: int) -> None:
        self.acknowledged = acknowledged
        self.control: Mapping[str, Any] = {}

    @property
    def next_sequence(self) -> int:
        """What :meth:`offer` takes next."""
        return self.acknowledged + 1

    def offer(self, seq: int, blob: Part) -> bool:
        """Let go of a record."""
        self.acknowledged = seq
        return True

    def poll(self, timeout_s: float = 0.0) -> int:
        """Return the last sequence number that was let go, after ``timeout_s``."""
        time.sleep(timeout_s)
        return self.acknowledged

    def set_status(self, status: Mapping[str, Any]) -> None:
        """Nobody wants to know."""

    def close(self) -> None:
        """There is nothing to close."""


class IoLoop:
    """Ships what the ring holds and keeps it there until it is durable elsewhere.

    Args:
        ring: The ring, whose reader this loop is.
        sender: Takes records on their way.
        subscriber: Gives new weights; None where none are published.
        weights: Where inference finds them.
        status: This process's counters.
        wake: Tells inference that there are new ones.
    """

    def __init__(
        self,
        ring: Ring,
        sender: Sender,
        subscriber: Subscriber | None,
        weights: WeightsSlot,
        status: StatusSlot,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._ring, self._sender, self._subscriber = ring, sender, subscriber
        self._weights, self._status, self._wake = weights, status, wake
        self._away_since: float | None = None
        self._say_at = 0.0

    def turn(self, timeout_s: float = _IDLE_S) -> None:
        """Send what may be sent, free what is durable, fetch new weights; sleep up to ``timeout_s`` where idle.

        Raises:
            HandshakeMismatch: If the learner does not fit this actor.
        """
        offered = self._offer()
        durable = self._sender.poll(0.0 if offered else timeout_s)
        # A learner that has more than this ring ever held belongs to another ring; it is told so when it greets.
        self._ring.acknowledge(min(durable, self._ring.head))
        self._fetch()
        self._report(offered)

    def say(self, words: Mapping[str, Any]) -> None:
        """Let the learner know ``words``: a small map, of which only the newest counts."""
        self._sender.set_status(words)

    def _offer(self) -> int:
        head, offered = self._ring.head, 0
        while (sequence := self._sender.next_sequence) <= head:
            if not self._sender.offer(sequence, self._ring.read(sequence)):
                break
            offered += 1
        return offered

    def _fetch(self) -> None:
        newest = None if self._subscriber is None else self._subscriber.newest()
        if newest is not None:
            self._weights.write(newest)
            self._status["weights_version"] = newest.version
            self._status.add("weights_received")
            self._wake()

    def _report(self, offered: int) -> None:
        status, now = self._status, time.monotonic()
        status["heartbeat_ns"] = time.monotonic_ns()
        status.add("sent", offered)
        status["acknowledged"] = self._ring.acknowledged
        status["pending"] = self._ring.head - self._ring.acknowledged
        if self._sender.connected:
            # Until then, what a predecessor of this process was told holds.
            status["paused"] = self._sender.control.get("mode") == "pause"
            status["met"] = 1
        status["connected"] = alive = self._sender.alive
        if alive:
            if self._away_since is not None and now >= self._away_since + _SAY_AFTER_S:
                log.info("The learner is back after %.0f s", now - self._away_since)
            self._away_since = None
        elif self._away_since is None:
            self._away_since, self._say_at = now, now + _SAY_AFTER_S
        elif now >= self._say_at:
            self._say_at = now + _SAY_AGAIN_S
            status.add("link_faults")
            log.warning(
                "The learner is away for %.0f s; %d records wait in the ring, %d more fit",
                now - self._away_since,
                status["pending"],
                self._ring.free_slots,
            )


def _news(control: StatusSlot) -> dict[str, int | bool]:
    counts = {field: control[field] for field in ("episodes", "steps", "person_steps", "waiting_for")}
    return counts | {"control_alive": control.fresh(1.0)}


def weights_handshake(config: ActConfig, card: Card) -> Handshake:
    """Return what the publisher of weights must agree with: the policy that this actor loads its weights into.

    Raises:
        RoborlError: If that policy cannot be made.
    """
    from roborl.serving.handshake import Handshake

    return Handshake(
        action_dim=card.action_dim,
        policy_hz=card.policy_hz,
        scales=card.scales,
        version=folder_architecture(config.policy) or architecture(policy_maker(config)(card.task)),
    )


def main(child: Child, config: ActConfig) -> None:
    """Run the I/O process until it is stopped."""
    began = time.monotonic()
    from roborl.serving.handshake import Handshake
    from roborl.serving.steps_sender import StepsSender
    from roborl.serving.weights_subscriber import WeightsSubscriber

    import_s = time.monotonic() - began
    folder = shared_folder(config.run, config.actor)
    status, control = StatusSlot(folder, "io"), StatusSlot(folder, "control")
    status.begin()
    card = await_card(folder, child)
    if card is None:
        return
    ring = Ring.attach(folder / "ring.bin")
    handshake = Handshake(
        cameras={name: (shape[0], shape[1]) for name, shape in card.cameras.items()},
        state_dim=card.state_dim,
        action_dim=card.action_dim,
        policy_hz=card.policy_hz,
        scales=card.scales,
    )
    keys = config.security.load()
    sender = (
        Nowhere(ring.acknowledged)
        if config.alone
        else StepsSender(
            config.store,
            ring_id=ring.id,
            actor=config.actor,
            handshake=handshake,
            acknowledged=ring.acknowledged,
            head=ring.head,
            keys=keys,
        )
    )
    weights = WeightsSlot(folder)
    subscriber = (
        WeightsSubscriber(
            config.weights,
            name=config.actor,
            handshake=weights_handshake(config, card),
            keys=keys,
            memory=weights,
        )
        if config.weights
        else None
    )
    loop = IoLoop(ring, sender, subscriber, weights, status, inference_bell(folder).ring)
    status.ready(import_s)
    child.ready(import_s)
    try:
        news = Every(_SAY_S)
        while not child.stopping:
            loop.turn()
            child.beat()
            if news.due():
                loop.say(_news(control))
    except HandshakeMismatch as error:
        raise ConfigError(str(error)) from error
    except DatasetError as error:
        # Deliberately not survived: what follows from a damaged ring is for a person to decide.
        raise ConfigError(str(error)) from error
    finally:
        sender.close()
        if subscriber is not None:
            subscriber.close()
