"""The store's end of a steps link."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from roborl.clock import NS, Clock, MonotonicClock
from roborl.codec import Part
from roborl.errors import HandshakeMismatch, WireError
from roborl.serving.handshake import Handshake
from roborl.serving.messages import Message
from roborl.serving.security import Keys
from roborl.serving.server_link import Peer, ServerLink
from roborl.serving.steps_sender import LIMITS

log = logging.getLogger(__name__)

# How long a ring must stay alive until another one of its actor's name is refused: what a dead sender left on the line
# may still come in.
_SAME_NAME_S = 5.0
_RING_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


class ReceivedStep(NamedTuple):
    """A record as it came: which ring, which number, which bytes (of :func:`roborl.codec.join`)."""

    ring_id: str
    seq: int
    blob: Part


@dataclass(slots=True, kw_only=True)
class RingState:
    """What the receiver knows of one ring.

    Attributes:
        actor: What the sender calls itself.
        received: Highest sequence number handed out.
        durable: Highest sequence number acknowledged.
        duplicates: Records that came again and were dropped.
        gaps: Records that came too early and were asked for again.
        alive: Whether its sender was heard within the last second.
        status: Newest status map from its sender.
    """

    actor: str
    received: int
    durable: int
    duplicates: int = 0
    gaps: int = 0
    alive: bool = True
    status: Mapping[str, Any]


class StepsReceiver:
    """The store's end, for any number of actors, each with a name of its own.

    A ring whose actor has the name of another takes its place where that one is silent, as after a new start. Where both
    are alive, the newcomer is refused.

    Args:
        endpoint: Address to listen on; port 0 takes a free one, see :attr:`endpoint`.
        handshake: What actors must agree with.
        last_sequence: Returns the last durable sequence number of a ring, 0 for a new one.
        keys: CURVE keys; None only on one machine.
        clock: For liveness.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        handshake: Handshake,
        last_sequence: Callable[[str], int],
        keys: Keys | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._last_sequence = last_sequence
        self._rings: dict[str, RingState] = {}
        self._peers: dict[str, Peer] = {}
        self._control: dict[str, Mapping[str, Any]] = {}
        self._asked: set[str] = set()
        self._clock: Clock = clock or MonotonicClock()
        self._namesakes: dict[str, int] = {}  # when a ring first greeted whose name another live one has
        self._owed: set[str] = set()  # rings whose last acknowledgement could not be sent yet
        self._link = ServerLink(
            endpoint,
            link="steps",
            handshake=handshake,
            welcome=self._welcome,
            keys=keys,
            limits=LIMITS,
            clock=self._clock,
        )
        self.endpoint = self._link.endpoint
        self.refusals = self._link.refusals

    def poll(self, timeout_s: float, *, most: int = 64) -> list[ReceivedStep]:
        """Return up to ``most`` records, each once and in the order of its ring; wait for the first.

        Their bytes stay valid as long as they are referenced. Call at least five times a second, since the beats that
        tell actors of this side's life are sent from here.
        """
        for ring_id in list(self._owed):
            self.acknowledge(ring_id, self._rings[ring_id].durable)
        steps = []
        for peer, message in self._link.receive(timeout_s, most=most):
            try:
                step = self._step(peer, message)
            except WireError as error:
                self._link.malformed(peer, error)
            else:
                if step is not None:
                    steps.append(step)
        return steps

    def acknowledge(self, ring_id: str, seq: int) -> None:
        """Tell the sender of a ring that everything up to ``seq`` is durable."""
        state = self._rings[ring_id]
        state.durable = max(state.durable, seq)
        if self._link.send(self._peers[ring_id], "ack", seq=state.durable):
            self._owed.discard(ring_id)
        else:
            self._owed.add(ring_id)

    def set_control(self, control: Mapping[str, Any], *, ring_id: str | None = None) -> None:
        """Let one sender, or all present and future ones, know ``control``: a small map such as ``{"mode": "pause"}``.

        It is a state, not a command: it is repeated with every beat, and survives reconnections of either side's link.
        """
        for ring in self._rings if ring_id is None else (ring_id,):
            self._control[ring] = dict(control)
            if ring in self._peers:
                self._link.set_note(self._peers[ring], control)
        if ring_id is None:
            self._control[""] = dict(control)

    @property
    def rings(self) -> Mapping[str, RingState]:
        """What is known of each ring that greeted, with the liveness and status of its sender."""
        for ring_id, peer in self._peers.items():
            self._rings[ring_id].alive = self._link.alive(peer)
            self._rings[ring_id].status = peer.note
        return self._rings

    def counters(self) -> dict[str, int]:
        """Return how often something happened on this link since it was made."""
        return dict(self._link.counters)

    def close(self) -> None:
        """Free the address. Senders keep what was not acknowledged."""
        self._link.close()

    def _welcome(self, peer: Peer, message: Message) -> Mapping[str, Any] | None:
        ring_id, acknowledged = message.take("ring", str), message.count("acknowledged")
        if not _RING_ID.fullmatch(ring_id):
            raise WireError("A ring has a name that cannot stand in a file name", seen=ring_id[:80])
        if not self._may_have_its_name(ring_id, peer.name):
            return None
        state = self._rings.get(ring_id)
        if state is None:
            durable = self._last_sequence(ring_id)
            state = RingState(actor=peer.name, received=durable, durable=durable, status={})
            self._rings[ring_id] = state
        if acknowledged > state.received:
            log.warning(
                "ring %s: records up to %d were acknowledged, but this store has them only up to %d",
                ring_id,
                acknowledged,
                state.received,
            )
            state.received = state.durable = acknowledged
        state.actor = peer.name
        self._peers[ring_id] = peer
        self._asked.discard(ring_id)
        peer.own_note = self._control.get(ring_id, self._control.get("", {}))
        return {"durable": state.durable}

    def _may_have_its_name(self, ring_id: str, name: str) -> bool:
        """Return whether no other live ring has this actor's name; silent ones that have it are taken for gone.

        Raises:
            HandshakeMismatch: If another one that has it stays alive.
        """
        others = [ring for ring, state in self.rings.items() if state.actor == name and ring != ring_id]
        if not any(self._rings[ring].alive for ring in others):
            self._namesakes.pop(ring_id, None)
            for ring in others:
                self._link.forget(self._peers[ring])
            return True
        now_ns = self._clock.now_ns()
        if now_ns - self._namesakes.setdefault(ring_id, now_ns) < _SAME_NAME_S * NS:
            return False
        del self._namesakes[ring_id]
        raise HandshakeMismatch(
            "Another actor of this learner has the same name, and both are alive",
            seen=name,
            allowed="a name of its own for each actor",
            remedy="Start this one under another: --actor left",
        )

    def _step(self, peer: Peer, message: Message) -> ReceivedStep | None:
        ring_id = next((ring for ring, known in self._peers.items() if known is peer), None)
        if message.kind != "step":
            raise WireError("A steps receiver got an unknown message", seen=message.kind, allowed="step")
        if ring_id is None:  # another sender has greeted with the same ring since
            return None
        state, seq, blob = self._rings[ring_id], message.count("seq"), message.payload()
        if seq <= state.received:
            state.duplicates += 1
            return None
        if seq > state.received + 1:
            state.gaps += 1
            if ring_id not in self._asked:
                self._asked.add(ring_id)
                self._link.send(peer, "resume", durable=state.durable)
            return None
        self._asked.discard(ring_id)
        state.received = seq
        return ReceivedStep(ring_id, seq, blob)
